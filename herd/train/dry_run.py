"""What a step of a recipe needs, without taking it: the step itself runs on tensors that have shapes and no memory, as one process of as
many as the layout says, whose messages go nowhere. Every part must fit together, and the bytes of all tensors are counted.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from herd.errors import ConfigError, HerdError
from herd.family import ModelConfig
from herd.model.load import without_weights
from herd.train.checkpoint import trained
from herd.train.grpo import GRPO, Facts
from herd.train.layout import Layout
from herd.train.memory import Memory, key
from herd.train.objectives import DPO, Distillation, NextToken, Objective, Reward, Top
from herd.train.open import Find, build, check_layout, config_of, dtype_of, materialize, open_recipe, tokenizer_of
from herd.train.packing import Batch, Packer
from herd.train.pipeline import Pipeline, named_parameters
from herd.train.recipe import Recipe
from herd.train.samples import Corpus
from herd.train.trainer import Trainer, make_optimizer
from herd.weights.checkpoint import Checkpoint

PARTS = ("weights", "gathered", "gradients", "optimizer", "activations", "logits")
"""What bytes hold: weights as they are kept; those gathered from other processes, or narrowed, to compute with; ..."""


@dataclass(frozen=True)
class Needs:
    """Bytes of tensors in a process at the fullest moment of a step, by what they hold; `place` is its stage of the pipeline."""

    parts: dict[str, int]
    peak: int
    place: int
    parameters: int  # of the whole model
    learning: int


def needs(
    recipe: Recipe, config: ModelConfig, start: Checkpoint | None = None, teacher: ModelConfig | None = None
) -> Needs:
    """What the fullest process of a recipe needs. ConfigError names what does not fit together. Nothing is read or allocated.

    Of a pipeline the first and last places are tried: the first holds most micro-batches at once and the embedding, the last the logits.
    """
    world = recipe.layout.processes
    places = sorted({0, recipe.layout.pp - 1})
    found = []
    for place in places:
        with _pretended(world, place * world // recipe.layout.pp):
            layout = Layout.of(recipe.layout)
            check_layout(recipe, config, layout)
            found.append(_step(_short(recipe, layout), config, layout, place, start, teacher))
    return max(found, key=lambda one: one.peak)


RUNTIME = 4e9
"""Bytes of an accelerator's memory for the runtime, its libraries and what the allocator cannot use (as `herd plan` takes it)."""


def describe(recipe: Recipe, folder: Path, find: Find, memory: float | None = None) -> dict[str, str]:
    """Rows of a table for people. What a recipe names that is not here is listed and not read: its model by `model.shape` then.

    ConfigError where `memory`, bytes of a process, does not hold the step.
    """
    start, config, missing = _here(recipe, folder, find)
    missing += [
        f"data: {folder / one.path}"
        for one in (*recipe.data.sources, *recipe.data.validation)
        if not (folder / one.path).exists()
    ]
    opened = None if missing else open_recipe(recipe, folder, find)
    config = config if opened is None else opened.config
    teaches = recipe.distil is not None and recipe.objective == "distil" and recipe.distil.top_k is None
    teacher = find(recipe.distil.teacher).config if teaches and recipe.distil is not None else None
    found = needs(recipe, config, start, teacher)
    length, rows = recipe.at(0)
    steps = opened.steps if opened is not None else recipe.schedule.steps
    count, layout = recipe.layout.processes, recipe.layout
    told = {
        "parameters": f"{found.parameters:,}" + (f", {found.learning:,} of them in adapters learn" if recipe.lora else ""),
        "steps": f"{steps:,} of {rows} rows of {length} tokens" if steps else f"{recipe.schedule.epochs} epochs, {rows} rows of {length} a step",
        "operations a step": f"{3 * config.flops_per_token(length // 2) * length * rows:.3g}",
    }  # fmt: skip
    if count > 1:
        told["processes"] = f"{count:,}: tp {layout.tp}, cp {layout.cp}, pp {layout.pp}, dp {layout.dp or 1}"
        told["the fullest"] = (
            f"place {found.place} of {layout.pp} of the pipeline; bytes are one process's"
            if layout.pp > 1
            else "all alike"
        )
    told |= {name: _size(size) for name, size in found.parts.items() if size}
    told["in all"] = _size(found.peak)
    if memory is not None:
        told["memory"] = f"{_size(memory)}, {RUNTIME / 1e9:.0f} GB of it for the runtime: it fits"
        if found.peak + RUNTIME > memory:
            most = max(found.parts, key=lambda name: found.parts[name])
            raise ConfigError(
                f"a process needs {_size(found.peak)}, {_size(found.parts[most])} of it {most}, and {RUNTIME / 1e9:.0f} GB for the "
                f"runtime; it has {_size(memory)}: {_ADVICE[most]}"
            )
    return told | {f"not here ({i})": one for i, one in enumerate(missing, 1)}


def config_here(recipe: Recipe, folder: Path, find: Find) -> ModelConfig:
    """The shape that a recipe trains; where its checkpoint or tokenizer is not here, by `model.shape`."""
    return _here(recipe, folder, find)[1]


def _here(recipe: Recipe, folder: Path, find: Find) -> tuple[Checkpoint | None, ModelConfig, list[str]]:
    """The start if it is here, the shape, and what of both is missing."""
    start, vocab, missing = None, recipe.model.vocab, []
    try:
        if recipe.model.start is not None:
            start = find(recipe.model.start)
        elif vocab is None:
            vocab = tokenizer_of(recipe, folder, find, None)[0].vocab_size
    except HerdError as error:
        if recipe.model.shape is None:
            raise
        missing.append(f"model: {error}")
    return start, config_of(recipe, None if start is None else start.config, vocab), missing


_ADVICE = {
    "activations": "set recompute = true, lower batch.rows, or raise layout.tp or layout.cp",
    "logits": "raise layout.pp or layout.cp, or lower batch.rows",
} | dict.fromkeys(
    ("weights", "gathered", "gradients", "optimizer"), "raise layout.tp, layout.pp or layout.dp, or use [lora]"
)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 2**20:,.0f} MiB"


@contextlib.contextmanager
def _pretended(world: int, rank: int) -> Iterator[None]:
    """This process as one of many that are not there."""
    if world == 1:
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _short(recipe: Recipe, layout: Layout) -> Recipe:
    """A step of the longest rows, without micro-batches that would hold no more at once."""
    length = max(length for length, _ in [(recipe.data.length, 0), *recipe.stages()])
    rows = min(
        tokens // n for n, tokens in [(recipe.data.length, recipe.batch.tokens), *recipe.stages()] if n == length
    )
    if recipe.grpo is not None and recipe.objective == "grpo":
        rows = -(-recipe.grpo.prompts * recipe.grpo.group // recipe.grpo.updates)
    count = -(-rows // layout.dp // recipe.batch.rows)
    if layout.pp == 1:  # a pipeline has buffers for each, and gradients of some while others are in flight
        count = min(count, 2)
    return msgspec.structs.replace(
        recipe,
        data=msgspec.structs.replace(recipe.data, length=length),
        batch=msgspec.structs.replace(
            recipe.batch, tokens=length * layout.dp * count * recipe.batch.rows, rows=recipe.batch.rows, stages=()
        ),
    )


def _step(
    recipe: Recipe,
    config: ModelConfig,
    layout: Layout,
    place: int,
    start: Checkpoint | None,
    teacher: ModelConfig | None,
) -> Needs:
    dtype = dtype_of(recipe.model)
    share = build(recipe, config, layout, dtype, start)
    teaches = None if teacher is None else without_weights(teacher).requires_grad_(False)
    if isinstance(share, Pipeline):
        share.told = lambda: (1.0, {})  # type: ignore[method-assign]  # nobody is there to tell
    shapes = {tuple(p.shape) for _, p in named_parameters(share) if p.dim() > 1}
    shapes |= {(p.shape[0], p.shape[1] // layout.tp) for _, p in named_parameters(share) if p.dim() > 1}
    shapes |= {(p.shape[0] // layout.tp, p.shape[1]) for _, p in named_parameters(share) if p.dim() > 1}
    kept: dict[int, str] = {}

    def known() -> dict[int, str]:
        gathered = {key(p): "gathered" for _, p in named_parameters(share)}
        gradients = {key(p.grad): "gradients" for _, p in named_parameters(share) if p.grad is not None}
        return {**gathered, **gradients, **kept}

    def guess(shape: tuple[int, ...], kind: torch.dtype, backward: bool) -> str:
        if shape in shapes:
            return "gradients" if backward or kind == torch.float32 else "gathered"
        return "logits" if shape and shape[-1] == config.vocab and len(shape) > 1 else "activations"

    memory = Memory(known, guess)
    with FakeTensorMode(allow_non_fake_inputs=True), memory, _Numbers():  # type: ignore[no-untyped-call]
        materialize(share)
        if teaches is not None:
            teaches.materialize("cpu", torch.float32)
            kept.update((key(p), "weights") for p in teaches.parameters())
        kept.update((key(p), "weights") for _, p in named_parameters(share))
        optimizer = make_optimizer(share, recipe)
        for _, p in trained(share):
            p.grad = torch.zeros_like(p)
        optimizer.step()
        optimizer.zero_grad()
        kept.update((key(t), "optimizer") for state in optimizer.state.values() for t in state.values())
        memory.reset()
        objective = _objective(recipe, teaches)
        trainer = Trainer(
            share, Packer([_corpus(recipe)], 0), objective, recipe, 2, optimizer, lambda **_: None, dtype, layout=layout
        )
        trainer.step()
    parts = {name: memory.parts[name] for name in PARTS}
    parts["activations"] += memory.peak - sum(memory.parts.values())
    if recipe.lora is not None and recipe.lora.base == "stored" and start is not None:
        stored = sum(t.nbytes for name, t in start.tensors.items() if name.startswith("layers.") and len(t.shape) == 2)
        parts["weights"] += stored
    learning = sum(math.prod(p.shape) for _, p in trained(share)) if layout.pp == 1 else config.parameters
    return Needs(parts, sum(parts.values()), place, config.parameters, learning)


_COUNTED = (torch.ops.aten.arange.default, torch.ops.aten.triu_indices.default)


class _Numbers(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What a step asks of numbers that are not there is 1; tensors that are there (tokens, lengths of documents) stay there."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
            return {torch.bool: True, torch.int64: 1}.get(args[0].dtype, 1.0)
        given = [one for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)]
        here = bool(given) and not any(isinstance(one, FakeTensor) or one.device.type == "meta" for one in given)
        if func in _COUNTED:
            here = args[0] <= 1024  # numbers of micro-batches, pairs of answers
        if func is torch.ops.aten.index.Tensor and not here:
            with unset_fake_temporarily():
                places = [i.nonzero()[:, 0] if _is_mask(i) else i for i in args[1]]
            args = (args[0], places)
        if not here:
            return func(*args, **kwargs)
        with unset_fake_temporarily():
            return func(*args, **kwargs)


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and not isinstance(index, FakeTensor) and index.dtype == torch.bool


def _corpus(recipe: Recipe) -> Corpus:
    """Samples that fill rows, of two documents where each is a sample."""
    length, kinds = recipe.data.length, {source.kind for source in recipe.data.sources}
    several = {"pairs": 2, "ranked": 3}.get(next(iter(kinds)), 0)
    if several:
        sizes = [length // several] * (several - 1)
        sizes.append(length - sum(sizes))
    else:
        sizes = [length - 3 * length // 8, 3 * length // 8]
    offsets = np.concatenate([[0], np.cumsum([size + 1 for size in sizes * 64])])
    documents = np.arange(0, len(offsets), several or 1)
    return Corpus(
        "documents", 1.0, np.zeros(int(offsets[-1]), np.uint32), offsets, None, documents, str, may_be_cut=not several
    )


def _objective(recipe: Recipe, teacher: Any) -> Objective:
    """The recipe's objective; what others would say beforehand is zero."""
    if recipe.objective == "dpo":
        return DPO(lambda batch: torch.zeros(len(batch.owner)), recipe.preference.beta, recipe.preference.nll)
    if recipe.objective == "reward":
        return Reward()
    if recipe.objective == "distil" and recipe.distil is not None:
        settings, k = recipe.distil, recipe.distil.top_k

        def top(batch: Batch) -> Top:
            count = int(batch.weights.count_nonzero())
            return Top(torch.zeros(count, k or 0, dtype=torch.int64), torch.zeros(count, (k or 0) + 1))

        weights = (settings.weight, settings.data_weight, settings.temperature)
        return Distillation(None, *weights, top) if k is not None else Distillation(teacher, *weights)
    if recipe.objective == "grpo" and recipe.grpo is not None:

        def facts(batch: Batch) -> Facts:
            each = torch.zeros(batch.weights.numel())
            return Facts(each, each, each, each, each if recipe.grpo and recipe.grpo.kl else None)

        return GRPO(facts, recipe.grpo)
    return NextToken()
