"""The torch backend: the reference model over a paged cache, on CPU or CUDA, split over ranks under torchrun.

Under torchrun rank 0 runs the engine; the other ranks sit in `follow` and compute their share of every plan that
rank 0 broadcasts. Weights are cut as Megatron-LM does (arXiv 1909.08053): heads and feed-forward columns over ranks,
one all-reduce after attention and one after the feed-forward.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from herd.engine.backend import RowResult, StepPlan
from herd.engine.sampling import choose, log_probability
from herd.errors import ConfigError
from herd.model.llama import Transformer, load_weights, rope_frequencies
from herd.weights.checkpoint import Checkpoint

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_BY_ROWS = ("wq.weight", "wk.weight", "wv.weight", "w1.weight", "w3.weight")
_BY_COLUMNS = ("wo.weight", "w2.weight")


class TorchBackend:
    """One model in torch. `dtype` is float32 on a CPU and bfloat16 on a GPU unless named."""

    name = "torch"

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        device: str | None = None,
        dtype: str | None = None,
        cache_tokens: int = 16_384,
        block_size: int = 16,
        threads: int | None = None,
    ) -> None:
        config = checkpoint.config
        self.rank, self.world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        if config.kv_heads % self.world or config.ffn_dim % self.world:
            raise ConfigError(
                f"{self.world} processes cannot share {config.kv_heads} kv heads and {config.ffn_dim} feed-forward columns "
                "evenly; start fewer"
            )
        if device is None:
            device = f"cuda:{self.rank}" if torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ConfigError(f"device {device}: this torch sees no GPU; use --device cpu")
        if dtype is not None and dtype not in _DTYPES:
            raise ConfigError(f"dtype {dtype!r}: expected one of {', '.join(_DTYPES)}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        self.dtype = _DTYPES[dtype] if dtype else (torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        self.config, self.block_size = config, block_size
        self.block_count = max(1, -(-cache_tokens // block_size))
        share = replace(
            config,
            heads=config.heads // self.world,
            kv_heads=config.kv_heads // self.world,
            ffn_dim=config.ffn_dim // self.world,
        )
        with torch.device("meta"):
            model = Transformer(share)
        model = model.to(self.dtype).to_empty(device=self.device)
        frequencies = rope_frequencies(config.head_dim, config.rope_theta, config.rope_scaling)
        model.frequencies = frequencies.to(self.device)
        if config.tied:
            model.output.weight = model.tok_embeddings.weight
        load_weights(model, checkpoint.tensors, self._cut)
        checkpoint.forget()
        self.model = model.eval()
        if self.world > 1:
            for name, module in model.named_modules():
                if name.endswith((".wo", ".w2")):
                    module.register_forward_hook(_all_reduce)
        shape = (config.layers, 2, self.block_count * block_size, share.kv_heads, config.head_dim)
        self.cache = torch.zeros(shape, dtype=self.dtype, device=self.device)

    def _cut(self, name: str, tensor: Tensor) -> Tensor:
        """This rank's share of a whole tensor."""
        if name.endswith(_BY_ROWS):
            return tensor.chunk(self.world, dim=0)[self.rank]
        return tensor.chunk(self.world, dim=1)[self.rank] if name.endswith(_BY_COLUMNS) else tensor

    def step(self, plan: StepPlan) -> list[RowResult]:
        """Compute a plan on all ranks; rank 0 samples."""
        if self.world > 1:
            dist.broadcast_object_list([plan], src=0)
        return self._step(plan)

    def follow(self) -> None:
        """The life of a rank other than 0: compute its share of every plan until rank 0 closes."""
        while True:
            received: list[Any] = [None]
            dist.broadcast_object_list(received, src=0)
            if received[0] is None:
                dist.barrier()  # leave together: gloo aborts when a peer goes first
                return
            self._step(received[0])

    def close(self) -> None:
        """Free the cache and send the other ranks home."""
        if self.world > 1 and self.rank == 0:
            dist.broadcast_object_list([None], src=0)
            dist.barrier()
            self.world = 1
        self.cache = self.cache[:0]

    @torch.inference_mode()
    def _step(self, plan: StepPlan) -> list[RowResult]:
        rows, device = plan.rows, self.device
        tokens = torch.tensor([t for row in rows for t in row.tokens], device=device)
        positions = torch.cat([torch.arange(row.start, row.start + len(row.tokens)) for row in rows]).to(device)
        hidden = self.model.hidden(tokens, positions, self._attention(plan))
        wanted: list[int] = []
        end = 0
        for row in rows:
            first, end = end, end + len(row.tokens)
            if row.targets is not None:
                wanted += range(first, first + len(row.targets))
            if row.sampling is not None:
                wanted.append(end - 1)
        if not wanted or self.rank:
            return [RowResult() for _ in rows]
        logits = self.model.logits(hidden[torch.tensor(wanted, device=device)]).cpu().numpy()
        results = []
        at = 0
        for row in rows:
            result = RowResult()
            if row.targets is not None:
                count = len(row.targets)
                scored = zip(logits[at : at + count], row.targets, strict=True)
                result.scores = [log_probability(one, target, row.target_top) for one, target in scored]
                at += count
            if row.sampling is not None:
                result.token = choose(logits[at], row.sampling)
                if row.sampling.params.logprobs is not None:
                    result.logprob = log_probability(logits[at], result.token, row.sampling.params.logprobs)
                at += 1
            results.append(result)
        return results

    def _attention(self, plan: StepPlan) -> Any:
        """The `attend` function of a plan: write keys and values to the cache, read each row's back."""
        rows, size, device = plan.rows, self.block_size, self.device
        slots = []
        for row in rows:
            table = torch.tensor(row.blocks)
            position = torch.arange(row.start + len(row.tokens))
            slots.append((table[position // size] * size + position % size).to(device))
        written = torch.cat([slot[row.start :] for slot, row in zip(slots, rows, strict=True)])
        single = [i for i, row in enumerate(rows) if len(row.tokens) == 1]
        offsets = [0]
        for row in rows:
            offsets.append(offsets[-1] + len(row.tokens))
        batch = _Decodes([slots[i] for i in single], torch.tensor([offsets[i] for i in single], device=device))
        masks = [_causal(row.start, len(row.tokens), device) for row in rows]

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.cache[layer]
            keys[written], values[written] = k, v
            out = torch.empty_like(q)
            if single:
                out[batch.rows] = batch.attend(q, keys, values)
            for i, row in enumerate(rows):
                if len(row.tokens) > 1:
                    span = slice(offsets[i], offsets[i + 1])
                    out[span] = _attend(q[span].unsqueeze(0), keys[slots[i]], values[slots[i]], masks[i])[0]
            return out

        return attend


class _Decodes:
    """All rows of one token, padded to the longest, attended to in one call."""

    def __init__(self, slots: list[Tensor], rows: Tensor) -> None:
        self.rows = rows
        if slots:
            self.slots = nn.utils.rnn.pad_sequence(slots, batch_first=True)
            lengths = torch.tensor([len(slot) for slot in slots], device=rows.device)
            inside = torch.arange(self.slots.shape[1], device=rows.device) < lengths.unsqueeze(1)
            self.mask = None if inside.all() else inside[:, None, None, :]

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return _attend(q[self.rows].unsqueeze(1), keys[self.slots], values[self.slots], self.mask)[:, 0]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Grouped attention of q [batch, n, heads, d] over k and v [(batch,) length, kv_heads, d]."""
    if k.dim() == 3:
        k, v = k.unsqueeze(0), v.unsqueeze(0)
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)


def _causal(start: int, count: int, device: torch.device) -> Tensor | None:
    """Which of start + count positions each of the last `count` may see; None for a single one, which sees all."""
    if count == 1:
        return None
    return torch.ones(count, start + count, dtype=torch.bool, device=device).tril(diagonal=start)


def _all_reduce(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    dist.all_reduce(output)
    return output
