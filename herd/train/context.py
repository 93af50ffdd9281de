"""Context parallelism: processes share rows, and each gathers all keys and values (arXiv 2407.21783, section 3.3.2).

A row is cut into 2 * cp chunks; process i computes chunks i and 2 * cp - 1 - i, so that all have about as much to attend to.
The model knows nothing of it: its attention kernel is another, and the mask that it is given says which tokens are here.
"""

from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from herd.model.attention import Documents, attend
from herd.model.llama import Transformer
from herd.train.packing import Batch


@dataclass(frozen=True)
class Share(Documents):
    """The documents of whole rows [rows, length], of which the chunks of process `rank` of `cp` are here."""

    rows: int
    length: int
    cp: int
    rank: int

    @cached_property
    def index(self) -> Tensor:
        """The place in its row of each token that is here, [length / cp]."""
        chunk = self.length // (2 * self.cp)
        own = [torch.arange(i * chunk, (i + 1) * chunk) for i in (self.rank, 2 * self.cp - 1 - self.rank)]
        return torch.cat(own)

    def positions(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The position within its document of each token that is here, [rows, length / cp]."""
        whole = super().positions(torch.Size((self.rows, self.length)), device)
        return whole[:, self.index.to(device)]

    def numbers(self) -> Tensor:
        """The number of the document of each token that is here."""
        return super().numbers().view(self.rows, self.length)[:, self.index].flatten()

    @cached_property
    def segments(self) -> list[tuple[slice, slice]]:
        """(queries among the tokens here, the keys of the whole batch that the last of them sees): one document and chunk each."""
        chunk = self.length // (2 * self.cp)
        chunks = [
            (row * self.length + i * chunk, (2 * row + half) * chunk)  # first in the batch, first among those here
            for row in range(self.rows)
            for half, i in enumerate((self.rank, 2 * self.cp - 1 - self.rank))
        ]
        spans = [(end - length, end) for end, length in zip(accumulate(self.lengths), self.lengths, strict=True)]
        found, at = [], 0
        for first, here in chunks:
            while spans[at][1] <= first:
                at += 1
            document = at
            while document < len(spans) and spans[document][0] < first + chunk:
                begin, end = spans[document]
                start, stop = max(begin, first), min(end, first + chunk)
                found.append((slice(here + start - first, here + stop - first), slice(begin, stop)))
                document += 1
        return found


def part_of(batch: Batch, cp: int, rank: int, group: Any) -> Batch:
    """What process `rank` of `cp` has of a batch; sums over documents are added over the group."""
    rows, length = batch.tokens.shape
    share = Share(batch.documents.lengths, rows, length, cp, rank)
    own = share.index
    return replace(
        batch, tokens=batch.tokens[:, own], targets=batch.targets[:, own], weights=batch.weights[:, own],
        documents=share, together=partial(_added, group),
    )  # fmt: skip


def gather_keys(model: Transformer, group: Any) -> None:
    """Let a model attend over the keys and values of all processes of a group."""
    for block in model.blocks:
        block.attention.kernel = partial(_attend, group)


def _attend(group: Any, q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
    """q [rows, length / cp, heads, head_dim], k and v [.., kv_heads, head_dim] of the tokens here -> as q."""
    if not isinstance(mask, Share):
        return attend(q, k, v, mask)
    both = _Gather.apply(torch.cat((k, v), -1), group)  # type: ignore[no-untyped-call]
    k, v = both.flatten(0, 1).split(k.shape[-1], -1)
    queries = q.flatten(0, 1)
    mixed = [_causal(queries[here], k[seen], v[seen]) for here, seen in mask.segments]
    return torch.cat(mixed).view(q.shape)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries [n, heads, head_dim] that are the last n of the keys' positions."""
    same = len(q) == len(k)
    # the last query sees all keys; on a CPU torch's causal_lower_right makes this same mask
    bias = None if same else torch.ones(len(q), len(k), dtype=torch.bool, device=q.device).tril(len(k) - len(q))
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, bias, is_causal=same, enable_gqa=True)[0].transpose(0, 1)


class _Gather(torch.autograd.Function):
    """[rows, length / cp, ..] of each process -> [rows, length, ..] in the order of the row; gradients are added."""

    @staticmethod
    def forward(ctx: Any, here: Tensor, group: Any) -> Tensor:
        ctx.group, cp = group, dist.get_world_size(group)
        found = here.new_empty((cp * here.shape[0], *here.shape[1:]))
        dist.all_gather_into_tensor(found, here.contiguous(), group=group)
        early, late = found.view(cp, *here.shape).chunk(2, 2)
        return torch.cat([*early.unbind(), *late.flip(0).unbind()], 1)

    @staticmethod
    def backward(ctx: Any, whole: Tensor) -> tuple[Tensor, None]:
        cp = dist.get_world_size(ctx.group)
        pieces = whole.chunk(2 * cp, 1)
        sent = torch.stack([torch.cat((pieces[i], pieces[2 * cp - 1 - i]), 1) for i in range(cp)])
        here = torch.empty_like(sent[0])
        dist.reduce_scatter_tensor(here, sent.flatten(0, 1), group=ctx.group)
        return here, None


class _Added(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, group: Any) -> Tensor:
        ctx.group = group
        total = values.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor, None]:
        total = scale.clone()
        dist.all_reduce(total, group=ctx.group)
        return total, None


def _added(group: Any, values: Tensor) -> Tensor:
    """The sum over a group's processes; each one's gradient is the sum of what all make of it."""
    found: Tensor = _Added.apply(values, group)  # type: ignore[no-untyped-call]
    return found
