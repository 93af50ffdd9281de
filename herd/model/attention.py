"""Who attends to whom, and the plain attention kernel. Other kernels take its place from outside: `Attention.kernel`.

No mask is ever a matrix: a batch is causal, or it says how long its documents are and each is attended to alone, so memory
grows with the length and not with its square.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from herd.errors import ConfigError

Kernel = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""(queries [.., heads, head_dim], keys and values [.., kv_heads, head_dim], mask) -> [.., heads, head_dim].

The mask is what was given to `Transformer.forward`; what it may be is between its maker and the kernel."""


@dataclass(frozen=True)
class Documents:
    """A batch of packed documents: the `lengths` in tokens, one after the other through all rows.

    Tokens attend to earlier tokens of their own document, and positions start anew in each.
    """

    lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if min(self.lengths, default=1) < 1:
            raise ConfigError(f"a document has {min(self.lengths)} tokens; expected 1 or more")

    @classmethod
    def of(cls, ids: Iterable[int]) -> "Documents":
        """From the number of each token's document; a document is a run of one number."""
        lengths: list[int] = []
        last: int | None = None
        for one in ids:
            if one == last:
                lengths[-1] += 1
            else:
                lengths.append(1)
            last = one
        return cls(tuple(lengths))

    def check(self, count: int) -> None:
        """ConfigError when a batch of `count` tokens is not what the documents fill."""
        if sum(self.lengths) != count:
            raise ConfigError(f"the documents have {sum(self.lengths):,} tokens; the batch has {count:,}")

    def numbers(self) -> Tensor:
        """The number of each token's document, [tokens]."""
        return torch.arange(len(self.lengths)).repeat_interleave(
            torch.tensor(self.lengths), output_size=sum(self.lengths)
        )

    def positions(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The position of each token of a batch of `shape` within its document."""
        self.check(shape.numel())
        lengths = torch.tensor(self.lengths, device=device)
        first = (lengths.cumsum(0) - lengths).repeat_interleave(lengths, output_size=shape.numel())
        return (torch.arange(len(first), device=device) - first).view(shape)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Documents | None = None) -> Tensor:
    """Causal attention within each row of q, k, v [batch, length, heads, head_dim], or within each of `mask`'s documents."""
    if mask is None:
        return _causal(q, k, v)
    count = q.shape[:-2].numel()
    mask.check(count)
    packed = [x.reshape(count, *x.shape[-2:]) for x in (q, k, v)]
    if len(set(mask.lengths)) == 1:
        mixed = _causal(*(x.view(-1, mask.lengths[0], *x.shape[1:]) for x in packed)).flatten(0, 1)
    else:
        ends = list(accumulate(mask.lengths))
        spans = [slice(end - length, end) for end, length in zip(ends, mask.lengths, strict=True)]
        mixed = torch.cat([_causal(*(x[span].unsqueeze(0) for x in packed))[0] for span in spans])
    return mixed.view(q.shape)


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)
