"""A recipe -> a trainer: its model, its data, its objective, where it was."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from herd.errors import ConfigError
from herd.family import ModelConfig, shape
from herd.model.llama import Transformer
from herd.model.load import fill, fresh, from_checkpoint, without_weights
from herd.text.tokenizer import Tokenizer
from herd.text.train_tokenizer import train_tokenizer
from herd.train.checkpoint import Keeper, load, newest
from herd.train.context import gather_keys
from herd.train.grpo import GRPO
from herd.train.known import Known, reference_logprobs, teacher_logprobs
from herd.train.layout import Layout
from herd.train.lora import add_adapters, fresh_adapter, keep_stored
from herd.train.objectives import DPO, Distillation, NextToken, Objective, Reward
from herd.train.packing import Packer
from herd.train.pipeline import Pipeline, is_copy, named_parameters
from herd.train.recipe import Grpo, Model, Recipe, Source
from herd.train.rewards import Worth, make_reward
from herd.train.rollouts import Actor, Rollouts
from herd.train.samples import Corpus, plain_texts, read_source
from herd.train.tasks import Tasks, read_tasks
from herd.train.trainer import Log, Trainer, make_optimizer
from herd.weights.checkpoint import Checkpoint
from herd.weights.dialog_files import Dialog, read_dialog
from herd.weights.sidecars import read_tokenizer

Find = Callable[[str], Checkpoint]
"""The checkpoint of a path or a name."""


@dataclass
class Opened:
    """What a recipe asks for, before anything is trained."""

    recipe: Recipe
    config: ModelConfig
    start: Checkpoint | None
    tokenizer: Tokenizer
    dialog: Dialog
    sources: list[Corpus]
    validation: list[Corpus]
    prompts: list[Tasks] = field(default_factory=list)
    held_out: list[Tasks] = field(default_factory=list)
    rewards: list[tuple[str, float, Worth]] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Steps of the run."""
        if self.recipe.schedule.steps is not None:
            return self.recipe.schedule.steps
        if self.recipe.grpo is not None and self.prompts:
            rounds = (self.recipe.schedule.epochs or 0) * sum(map(len, self.prompts)) / self.recipe.grpo.prompts
            return max(1, math.ceil(rounds)) * self.recipe.grpo.updates
        wanted = (self.recipe.schedule.epochs or 0) * sum(source.tokens for source in self.sources)
        steps = seen = 0
        while seen < wanted:
            length, rows = self.recipe.at(seen)
            seen += length * rows
            steps += 1
        return max(1, steps)


def open_recipe(
    recipe: Recipe, folder: Path, find: Find, run: Path | None = None, layout: Layout | None = None
) -> Opened:
    """Find the model and read the data; paths are from `folder`, where the recipe lies. `run` has the tokenizer if one was learned.

    What `layout` cannot do is said before anything long is read.
    """
    recipe.check()
    start = None
    if recipe.model.start is not None:
        start = find(recipe.model.start)
        tokenizer, dialog = start.tokenizer, Dialog.of(start)
    else:
        tokenizer, dialog = tokenizer_of(recipe, folder, find, run)
    config = config_of(recipe, None if start is None else start.config, tokenizer.vocab_size)
    check_layout(recipe, config, layout or Layout())

    if recipe.grpo is not None and recipe.objective == "grpo":
        assert start is not None
        return _open_prompts(recipe, recipe.grpo, folder, start, find)

    def read(sources: Sequence[Source]) -> list[Corpus]:
        return [
            read_source(
                source, folder / source.path, tokenizer, dialog.chat_template, recipe.data.length,
                plain_answers=recipe.objective == "dpo", whole=recipe.objective == "reward",
            )
            for source in sources
        ]  # fmt: skip

    return Opened(recipe, config, start, tokenizer, dialog, read(recipe.data.sources), read(recipe.data.validation))


def _open_prompts(recipe: Recipe, settings: Grpo, folder: Path, start: Checkpoint, find: Find) -> Opened:
    def read(sources: Sequence[Source]) -> list[Tasks]:
        room = recipe.data.length - settings.max_tokens
        return [read_tasks(one, folder / one.path, start.tokenizer, start.chat_template, room) for one in sources]

    prompts, held_out = read(recipe.data.sources), read(recipe.data.validation)
    tasks = [task for source in (*prompts, *held_out) for task in source.tasks]
    rewards = [(term.name, term.weight, make_reward(term, folder, tasks, find)) for term in settings.rewards]
    return Opened(recipe, start.config, start, start.tokenizer, Dialog.of(start), [], [], prompts, held_out, rewards)


def tokenizer_of(recipe: Recipe, folder: Path, find: Find, run: Path | None) -> tuple[Tokenizer, Dialog]:
    """The tokenizer of a new model, with the templates of the checkpoint that it is from."""
    model = recipe.model
    if model.vocab is None:
        name = model.tokenizer or ""
        path = folder / name
        if (path / "tokenizer.json").exists():
            return read_tokenizer(path), Dialog(**read_dialog(path)).templates
        checkpoint = find(str(path) if path.is_dir() else name)
        return checkpoint.tokenizer, Dialog.of(checkpoint).templates
    if run is not None:
        return read_tokenizer(run / "model"), Dialog()
    texts = (text for source in recipe.data.sources for text in plain_texts(source.kind, folder / source.path))
    return train_tokenizer(texts, model.vocab), Dialog()


def config_of(recipe: Recipe, start: ModelConfig | None, vocab: int | None) -> ModelConfig:
    """The shape that is trained: the start's, or the recipe's. Where it gives both, they differ in how positions are told at most."""
    config = start if recipe.model.shape is None else _shape(recipe.model, vocab)
    assert config is not None
    if start is not None and config is not start:
        told = {"context", "rope_theta", "rope_scaling"}
        for name in ModelConfig.__dataclass_fields__:
            if name not in told and getattr(config, name) != getattr(start, name):
                raise ConfigError(
                    f"model.shape: {name} is {getattr(config, name)}; {recipe.model.start} has {getattr(start, name)}; "
                    f"beside model.start a shape may change {', '.join(sorted(told))} alone"
                )
    if recipe.objective == "reward":
        config = replace(config, classes=1, tied=False)
    longest = max(length for length, _ in [(recipe.data.length, 0), *recipe.stages()])
    if longest > config.context:
        key = "data.length" if longest == recipe.data.length else "batch.stages.length"
        raise ConfigError(f"{key} is {longest}; the model's context is {config.context}")
    return config


def _shape(model: Model, vocab: int | None) -> ModelConfig:
    import msgspec

    if isinstance(model.shape, str):
        named = shape(model.shape)
        return named if vocab is None else replace(named, vocab=vocab)
    values = {**({} if vocab is None else {"vocab": vocab}), **(model.shape or {})}
    if "vocab" not in values:
        raise ConfigError("model.shape: vocab is missing, and no tokenizer is here that would tell it")
    names = ModelConfig.__dataclass_fields__
    if unknown := sorted(set(values) - set(names)):
        raise ConfigError(f"model.shape: unknown key {unknown[0]}; expected one of {', '.join(names)}")
    try:
        return msgspec.convert(values, ModelConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"model.shape: {error}") from error


def build(
    recipe: Recipe, config: ModelConfig, layout: Layout, dtype: torch.dtype, start: Checkpoint | None
) -> Transformer | Pipeline:
    """This process's share of the model, adapters beside it where they are wanted: shapes alone, no memory."""
    model = without_weights(config)
    if recipe.lora is not None:
        if recipe.lora.base == "stored" and start is not None:
            keep_stored(model, start.tensors)
        add_adapters(model, recipe.lora)
        if model.score is not None:
            raise ConfigError("lora: adapters and a new head of classes together are not built yet; leave lora out")
    if recipe.recompute:
        recompute_layers(model)
    return layout.apply(model, dtype)


def materialize(share: Transformer | Pipeline) -> None:
    """Give a share memory, not yet filled."""
    for part in share.parts if isinstance(share, Pipeline) else [share]:
        part.materialize("cpu", torch.float32)


@torch.no_grad()
def fill_share(share: Transformer | Pipeline, start: Checkpoint | None, config: ModelConfig, seed: int) -> None:
    """The checkpoint's weights, a part of a tensor at a time, and fresh ones where it has none: in all layouts the same."""
    for name, parameter in named_parameters(share):
        source = "tok_embeddings.weight" if is_copy(share, name) else name.replace(".base.", ".")
        if ".lora_" in name:
            fresh_adapter(name, parameter, seed)
        elif start is None:
            fresh(source, parameter, config.layers, seed)
        elif source == "score.weight" and not start.config.classes:
            fresh(source, parameter, config.layers, seed, 1 / (config.dim + 1) ** 0.5)
        elif (stored := start.tensors.get(source)) is not None:
            fill(source, parameter, stored)
        else:
            raise ConfigError(f"{start.path}: has no tensor {source}; the model needs it")


def recompute_layers(model: Transformer) -> None:
    """Keep only each layer's input for the backward pass, and compute the rest again there."""
    from torch.utils.checkpoint import checkpoint

    for block in model.blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False)  # type: ignore[method-assign]


def make_trainer(
    opened: Opened,
    find: Find,
    run: Path | None,
    log: Log,
    stop: Callable[[], bool] = lambda: False,
    layout: Layout | None = None,
) -> Trainer:
    """The trainer of a recipe, where its run is (at its newest whole state) or at the beginning."""
    recipe = opened.recipe
    layout = layout or Layout()
    check_layout(recipe, opened.config, layout)
    dtype = dtype_of(recipe.model)
    share = build(recipe, opened.config, layout, dtype, opened.start)
    materialize(share)
    fill_share(share, opened.start, opened.config, recipe.seed)
    rollouts = None if recipe.objective != "grpo" else _rollouts(opened, share, dtype, log)
    objective = _objective(opened, share, layout, dtype, find, run) if rollouts is None else _grpo(rollouts, recipe)
    if layout.cp > 1 and isinstance(objective, Distillation) and objective.teacher is not None:
        gather_keys(objective.teacher, layout.group("cp"))
    optimizer = make_optimizer(share, recipe)
    keeper = None if run is None else Keeper(run, recipe.checkpoints.keep, layout=layout)
    also: dict[str, Any] = {}
    if recipe.lora is not None and opened.start is not None:
        also = {"base": str(opened.start.path.resolve()), "scale": recipe.lora.alpha / recipe.lora.rank}
    trainer = Trainer(
        share, rollouts or Packer(opened.sources, recipe.seed), objective, recipe, opened.steps, optimizer, log, dtype,
        keeper, also, Packer(opened.validation, 0) if opened.validation else None, stop, layout=layout,
    )  # fmt: skip
    # of frozen matrices no gradient is computed
    passes, world = 3 if recipe.lora is None else 2, layout.dp * layout.cp * layout.tp * layout.pp
    trainer.operations = lambda length: passes * opened.config.flops_per_token(length // 2)
    trainer.peak = 0.0 if run is None else matmul_rate(dtype) * world
    if rollouts is not None:
        trainer.measure, trainer.close = rollouts.measure, rollouts.close
    if isinstance(objective, NextToken):
        special = set(opened.tokenizer.special_tokens.values())
        sizes = [0 if i in special else len(opened.tokenizer.token_bytes(i)) for i in range(opened.config.vocab)]
        trainer.token_bytes = torch.tensor(sizes, dtype=torch.float32)
    found = None if run is None else newest(run)
    if found is not None:
        folder, state = found
        load(folder, state, share, optimizer)
        trainer.progress.step, trainer.progress.updates, trainer.progress.tokens = (
            state.step,
            state.updates,
            state.tokens,
        )
        trainer.packer.restore(state.loader)
    return trainer


def _rollouts(opened: Opened, model: Transformer | Pipeline, dtype: torch.dtype, log: Log) -> Rollouts:
    """The stream of the model's own answers, with a frozen copy of the model where a divergence from it is wanted."""
    settings, start = opened.recipe.grpo, opened.start
    assert settings is not None
    assert start is not None
    assert isinstance(model, Transformer)  # one process computes it
    reference = None
    if settings.kl and opened.recipe.lora is None:
        reference = from_checkpoint(start.config, start.tensors, torch.float32).requires_grad_(False)
    actor = Actor(start, model, settings, opened.recipe.data.length)
    return Rollouts(
        opened.prompts, opened.held_out, opened.rewards, settings, opened.recipe.seed, opened.recipe.data.length, actor,
        model, reference, dtype, log,
    )  # fmt: skip


def _grpo(rollouts: Rollouts, recipe: Recipe) -> Objective:
    assert recipe.grpo is not None
    return GRPO(rollouts.facts, recipe.grpo)


def check_layout(recipe: Recipe, config: ModelConfig, layout: Layout) -> None:
    """ConfigError naming the key that processes cannot share a recipe by, and what would do."""
    if recipe.objective == "grpo":
        if layout.mesh is not None:
            raise ConfigError("objective grpo is computed by one process as yet; start it without torchrun")
        return
    if layout.cp > 1 and recipe.distil is not None and recipe.distil.top_k is not None:
        raise ConfigError("layout.cp: distil.top_k keeps whole rows; leave layout.cp at 1, or distil.top_k out")
    for degree, value in (("tp", layout.tp), ("pp", layout.pp)):
        if recipe.lora is not None and value > 1:
            raise ConfigError(
                f"layout.{degree}: adapters are not shared like that yet; leave layout.{degree} at 1, or lora out"
            )
    both = math.gcd(config.kv_heads, config.ffn_dim)
    if both % layout.tp:
        fits = ", ".join(str(i) for i in range(1, both + 1) if both % i == 0 and i <= 64)
        raise ConfigError(
            f"layout.tp is {layout.tp}; {config.kv_heads} kv heads and {config.ffn_dim} feed-forward columns can be shared by {fits}"
        )
    if layout.pp * layout.virtual > config.layers + 2:
        raise ConfigError(
            f"layout.pp is {layout.pp}, with {layout.virtual} stages each; {config.layers} layers, embedding and output make "
            f"{config.layers + 2} at most: layout.pp of {(config.layers + 2) // layout.virtual} or less would do"
        )
    for length, tokens in [(recipe.data.length, recipe.batch.tokens), *recipe.stages()]:
        _check_rows(recipe, layout, length, tokens)


def _check_rows(recipe: Recipe, layout: Layout, length: int, tokens: int) -> None:
    rows, of = tokens // length, recipe.batch.rows
    if rows % layout.dp:
        raise ConfigError(
            f"batch.tokens {tokens} are {rows} rows of {length}, which {layout.dp} processes cannot share evenly; "
            f"{-(-tokens // (length * layout.dp)) * length * layout.dp} would do"
        )
    if layout.cp > 1 and length % (2 * layout.cp):
        raise ConfigError(
            f"layout.cp: rows of {length} tokens cannot be cut into {2 * layout.cp} chunks; change data.length"
        )
    if layout.pp == 1:
        return
    if rows // layout.dp % of:
        raise ConfigError(
            f"batch.rows: {rows // layout.dp} rows of a process are no whole number of micro-batches of {of}; "
            "a pipeline needs equal ones"
        )
    count, step = rows // layout.dp // of, of * layout.dp * length
    least = layout.pp if layout.schedule == "1f1b" else 1  # as torch's schedules want them
    rounds = max(1, count // layout.pp) if layout.schedule in ("interleaved", "zero-bubble") else 1
    if count < least or count % rounds:
        fit = max(least, -(-count // layout.pp) * layout.pp)
        raise ConfigError(
            f"layout.schedule {layout.schedule}: {count} micro-batches do not fill {layout.pp} places of a pipeline; "
            f"batch.tokens {fit * step} would do, or a smaller batch.rows or layout.dp"
        )


def dtype_of(model: Model) -> torch.dtype:
    """What products are computed in; `auto` is bfloat16 where a short trial is faster in it."""
    if model.dtype != "auto":
        return torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    narrow, wide = (matmul_rate(dtype, 384) for dtype in (torch.bfloat16, torch.float32))
    return torch.bfloat16 if narrow > 1.25 * wide else torch.float32


def matmul_rate(dtype: torch.dtype, size: int = 512) -> float:
    """Operations a second of a product of two square matrices on this process's threads, the best of six, or of fewer within 0.2 s."""
    a = torch.ones(size, size, dtype=dtype)
    trials: list[float] = []
    while len(trials) < 6 and sum(trials) < 0.2:
        began = time.perf_counter()
        a @ a
        trials.append(time.perf_counter() - began)
    return 2 * size**3 / min(trials)


def _objective(
    opened: Opened, share: Transformer | Pipeline, layout: Layout, dtype: torch.dtype, find: Find, run: Path | None
) -> Objective:
    recipe, known = opened.recipe, Known(None if run is None else run.parent / ".logprobs")
    if recipe.objective == "dpo":
        corpora = (opened.sources, opened.validation)
        return DPO(
            reference_logprobs(
                share, layout, dtype, opened.start, (opened.config, recipe.seed), corpora, recipe.data.length, known
            ),
            recipe.preference.beta,
            recipe.preference.nll,
        )
    if recipe.objective == "reward":
        return Reward()
    if recipe.distil is not None and recipe.objective == "distil":
        teacher = find(recipe.distil.teacher)
        if teacher.config.vocab != opened.config.vocab:
            raise ConfigError(
                f"distil.teacher has a vocabulary of {teacher.config.vocab:,}; the student's is {opened.config.vocab:,}"
            )
        settings = recipe.distil
        if settings.top_k is not None and settings.top_k >= teacher.config.vocab:
            raise ConfigError(
                f"distil.top_k is {settings.top_k}; the vocabulary is {teacher.config.vocab:,}: leave it out"
            )
        weights = (settings.weight, settings.data_weight, settings.temperature)
        if settings.top_k is not None:
            return Distillation(None, *weights, teacher_logprobs(teacher, settings.top_k, settings.temperature, known))
        return Distillation(
            from_checkpoint(teacher.config, teacher.tensors, torch.float32).requires_grad_(False), *weights
        )
    return NextToken()
