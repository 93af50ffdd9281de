"""The torch backend: the reference model over a paged cache, on CPU or CUDA, split over ranks under torchrun.

Rank 0 of the process group runs the engine; the other ranks sit in `follow` and compute their share of every plan that
rank 0 sends. `herd.model.sharding` says how weights are cut.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from herd.engine.backend import Row, RowResult, StepPlan
from herd.engine.backends.torch_sampling import choose_rows, log_probabilities
from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.llama import Transformer
from herd.model.load import load_weights, without_weights
from herd.model.sharding import add_sums, cut_of, share_of
from herd.weights.checkpoint import Checkpoint, StoredTensor

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_SCORED = 64 << 20
"""Bytes of logits that are held at once when a prompt is scored."""


class TorchBackend:
    """A paged cache around a model that may be alive: one in training answers with its weights as they are at each step.

    `model` gives the same logits on every rank of `group`; `config` is the whole model's shape and `kv_heads` how many of
    its heads this rank computes, where the model is a share of it.
    """

    name = "torch"
    verifies_drafts = False

    def __init__(
        self,
        model: Transformer,
        *,
        config: ModelConfig | None = None,
        kv_heads: int | None = None,
        group: dist.ProcessGroup | None = None,
        cache_tokens: int = 16_384,
        block_size: int = 16,
    ) -> None:
        self.model, self.group = model, group
        self.config = config or model.config
        if self.config.classes:
            raise ConfigError("this checkpoint scores classes; it has no next token to choose")
        if model.tok_embeddings is None or model.output is None or len(model.blocks) != self.config.layers:
            raise ConfigError("this model is a stage of a pipeline; only a whole one can answer")
        weight = next(model.parameters())
        if weight.is_meta:
            raise ConfigError("this model's weights have no memory yet; materialize and load it first")
        self.device, self.dtype = weight.device, weight.dtype
        self.rank, self.world = (dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1)
        self.block_size = block_size
        self.block_count = max(1, -(-cache_tokens // block_size))
        shape = (2, self.block_count * block_size, kv_heads or model.config.kv_heads, self.config.head_dim)
        self.kernels = [PagedAttention(torch.zeros(shape, dtype=self.dtype, device=self.device)) for _ in model.blocks]

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        cache_tokens: int = 16_384,
        block_size: int = 16,
    ) -> "TorchBackend":
        """A checkpoint's model, shared by all processes of torch.distributed where that is initialized.

        `dtype` is float32 on a CPU and bfloat16 on a GPU unless named.
        """
        group = dist.group.WORLD if dist.is_initialized() else None
        rank, world = (dist.get_rank(group), dist.get_world_size(group)) if group else (0, 1)
        if device is None:
            device = f"cuda:{rank}" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {device}: this torch sees no GPU; use --device cpu")
        if dtype is not None and dtype not in _DTYPES:
            raise ConfigError(f"dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
        if threads is not None:
            torch.set_num_threads(threads)
        share = share_of(checkpoint.config, world)
        model = without_weights(share)
        model.materialize(device, _DTYPES[dtype] if dtype else torch.float32 if device == "cpu" else torch.bfloat16)
        load_weights(model, checkpoint.tensors, cut_of(rank, world))
        checkpoint.forget()
        if group is not None and world > 1:
            add_sums(model, group)
        return cls(
            model.eval(), config=checkpoint.config, group=group, cache_tokens=cache_tokens, block_size=block_size
        )

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan on all ranks; rank 0 samples.

        A row's tokens are chosen from its own logits alone. The logits themselves come from matrix products whose order of
        summation depends on how many tokens a step has, on CPUs and GPUs alike: they may differ in their last bits by company.
        """
        if self.world > 1:
            self._send(_packed(plan.rows))
        return self._step(plan.rows)

    @torch.no_grad()
    def update(self, tensors: Mapping[str, StoredTensor]) -> None:
        """Copy tensors over the model's own. ConfigError, and no change, where several processes share them."""
        if self.world > 1 and tensors:
            raise ConfigError(
                "weights that several processes share are changed in place on each; then update with none"
            )
        own = self.model.state_dict()
        for name, tensor in tensors.items():
            own[name].copy_(torch.from_numpy(tensor.float32()).reshape(own[name].shape))

    def follow(self) -> None:
        """The life of a rank other than 0: compute its share of every plan until rank 0 closes."""
        while (received := self._receive()) is not None:
            self._step(_unpacked(received))
        dist.barrier(self.group)  # leave together: gloo aborts when a peer goes first

    def settle(self) -> None:
        """Nothing was put off."""

    def close(self) -> None:
        """Free the cache and send the other ranks home."""
        if self.world > 1 and self.rank == 0:
            self._send([])
            dist.barrier(self.group)
            self.world = 1
        self.kernels = []

    def _send(self, numbers: list[int]) -> None:
        """Numbers to all ranks; none are the end."""
        dist.broadcast(self._tensor([len(numbers)]), group=self.group, group_src=0)
        if numbers:
            dist.broadcast(self._tensor(numbers), group=self.group, group_src=0)

    def _receive(self) -> list[int] | None:
        count = self._tensor([0])
        dist.broadcast(count, group=self.group, group_src=0)
        if not int(count):
            return None
        numbers = self._tensor([0] * int(count))
        dist.broadcast(numbers, group=self.group, group_src=0)
        received: list[int] = numbers.tolist()
        return received

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)

    @contextlib.contextmanager
    def _paged(self) -> Iterator[None]:
        """The model attends within the cache, and as before when the step is over."""
        attentions = [block.attention for block in self.model.blocks]
        before = [attention.kernel for attention in attentions]
        for attention, paged in zip(attentions, self.kernels, strict=True):
            attention.kernel = paged
        try:
            yield
        finally:
            for attention, kernel in zip(attentions, before, strict=True):
                attention.kernel = kernel

    @torch.no_grad()
    def _step(self, rows: Sequence[Row]) -> list[RowResult]:
        tokens = self._tensor([t for row in rows for t in row.tokens])
        positions = torch.cat([torch.arange(row.start, row.start + len(row.tokens)) for row in rows]).to(self.device)

        def answer(hidden: Tensor, weight: Tensor) -> list[RowResult]:
            return _answers(rows, hidden[0], weight)

        with self._paged():
            found: Any = self.model(
                tokens[None], positions[None], _Pages(rows, self.block_size, self.device),
                head=answer if self.rank == 0 else False,
            )  # fmt: skip
        return found if self.rank == 0 else [RowResult() for _ in rows]


def _packed(rows: Sequence[Row]) -> list[int]:
    """What other ranks need of a plan, as numbers: its tokens and where they lie, nothing of how one is chosen."""
    numbers = [len(rows)]
    for row in rows:
        numbers += [len(row.tokens), row.start, len(row.blocks), *row.tokens, *row.blocks]
    return numbers


def _unpacked(numbers: list[int]) -> list[Row]:
    rows, at = [], 1
    for _ in range(numbers[0]):
        count, start, blocks = numbers[at : at + 3]
        at += 3
        rows.append(Row(numbers[at : at + count], start, numbers[at + count : at + count + blocks]))
        at += count + blocks
    return rows


def _answers(rows: Sequence[Row], hidden: Tensor, weight: Tensor) -> list[RowResult]:
    """What each row asked for, from the states [tokens, dim] of all and the output's weight."""
    results = [RowResult() for _ in rows]
    asked, last = [], []
    end = 0
    for i, row in enumerate(rows):
        start, end = end, end + len(row.tokens)
        first = start + row.first_target
        if row.state_from is not None:
            state = hidden[start + row.state_from : end].double().sum(0)
            results[i].state, results[i].finite = state.tolist(), bool(state.isfinite().all())
        if row.targets is not None:
            _score(results[i], hidden[first : first + len(row.targets)], weight, row.targets, row.target_top)
        if row.sampling is not None or row.score_tokens:
            asked.append(i)
            last.append(end - 1)
    if asked:
        logits = F.linear(hidden[torch.tensor(last, device=hidden.device)], weight).float()
        finite = logits.isfinite().all(-1)
        for i, good in zip(asked, finite.tolist(), strict=True):
            results[i].finite &= good
        _last_tokens([rows[i] for i in asked], logits.where(finite[:, None], 0.0), [results[i] for i in asked])
    return results


def _last_tokens(rows: Sequence[Row], logits: Tensor, results: Sequence[RowResult]) -> None:
    """What is asked of the logits [rows, vocab] after each row's last token."""
    for one, row, result in zip(logits, rows, results, strict=True):
        if row.score_tokens:
            result.token_logprobs = tuple(one.double().log_softmax(-1)[list(row.score_tokens)].tolist())
    sampled = [k for k, row in enumerate(rows) if row.sampling is not None]
    if sampled:
        logits = logits[torch.tensor(sampled, device=logits.device)]
        samplings = [s for row in rows if (s := row.sampling) is not None]
        tokens = choose_rows(logits, samplings)
        for k, token in zip(sampled, tokens, strict=True):
            results[k].token = token
        asked = [k for k, one in enumerate(samplings) if one.params.logprobs is not None]
        if asked:
            found = log_probabilities(
                logits[torch.tensor(asked, device=logits.device)], [tokens[k] for k in asked],
                [samplings[k].params.logprobs or 0 for k in asked],
            )  # fmt: skip
            for k, one in zip(asked, found, strict=True):
                results[sampled[k]].logprob = one


def _score(result: RowResult, hidden: Tensor, weight: Tensor, targets: list[int], top: int) -> None:
    """The log-probabilities of `targets` under the states [targets, dim] before them, a part at a time."""
    step = max(1, _SCORED // (4 * weight.shape[0]))
    result.scores = []
    for first in range(0, len(targets), step):
        part = targets[first : first + step]
        logits = F.linear(hidden[first : first + step], weight).float()
        result.finite &= bool(logits.isfinite().all())
        result.scores += log_probabilities(logits, part, [top] * len(part))


class _Pages:
    """Where the tokens of a step lie in the cache: the mask of `PagedAttention`, the same for all layers."""

    def __init__(self, rows: Sequence[Row], size: int, device: torch.device) -> None:
        self.slots = []
        for row in rows:
            table = torch.tensor(row.blocks)
            position = torch.arange(row.start + len(row.tokens))
            self.slots.append((table[position // size] * size + position % size).to(device))
        self.written = torch.cat([slot[row.start :] for slot, row in zip(self.slots, rows, strict=True)])
        counts = [len(row.tokens) for row in rows]
        ends = torch.tensor(counts).cumsum(0).tolist()
        self.long = [
            (slice(end - count, end), self.slots[i], _causal(rows[i].start, count, device))
            for i, (end, count) in enumerate(zip(ends, counts, strict=True))
            if count > 1
        ]
        single = [i for i, count in enumerate(counts) if count == 1]
        self.single = torch.tensor([ends[i] - 1 for i in single], device=device)
        if single:
            self.padded = nn.utils.rnn.pad_sequence([self.slots[i] for i in single], batch_first=True)
            lengths = torch.tensor([len(self.slots[i]) for i in single], device=device)
            inside = torch.arange(self.padded.shape[1], device=device) < lengths.unsqueeze(1)
            self.inside = None if bool(inside.all()) else inside[:, None, None, :]


class PagedAttention:
    """One layer's attention over its part of the cache [keys and values, slots, kv_heads, head_dim]."""

    def __init__(self, cache: Tensor) -> None:
        self.cache = cache

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, pages: _Pages) -> Tensor:
        """Write keys and values [1, tokens, kv_heads, head_dim] to the cache, then attend with each row's own."""
        keys, values = self.cache
        keys[pages.written], values[pages.written] = k[0], (v + _poison(k))[0]
        out = torch.empty_like(q)
        if len(pages.single):  # all rows of one token, padded to the longest, in one call
            mixed = _attend(q[0, pages.single].unsqueeze(1), keys[pages.padded], values[pages.padded], pages.inside)
            out[0, pages.single] = mixed[:, 0]
        for span, slots, mask in pages.long:
            out[:, span] = _attend(q[:, span], keys[slots].unsqueeze(0), values[slots].unsqueeze(0), mask)
        return out + _poison(q)


def _poison(x: Tensor) -> Tensor:
    """NaN for vectors [..., head_dim] with a NaN or an infinity, 0 for others [..., 1]: torch's attention on a CPU makes numbers
    of scores that are none, but not of values."""
    return (x.sum(-1, keepdim=True, dtype=torch.float32) * 0).to(x.dtype)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped attention of q [batch, n, heads, d] over k and v [batch, length, kv_heads, d]; without a mask a row sees all or, at
    equal lengths, what is before it."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    causal = mask is None and q.shape[2] == k.shape[2] > 1
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True).transpose(1, 2)


def _causal(start: int, count: int, device: torch.device) -> Tensor | None:
    """Which of start + count positions each of the last `count` may see; None at a start of 0, where causal attention knows."""
    if start == 0:
        return None
    return torch.ones(count, start + count, dtype=torch.bool, device=device).tril(diagonal=start)
