"""A recipe -> a trainer: its model, its data, its objective, where it was."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from herd.errors import ConfigError
from herd.family import ModelConfig, shape
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint, load_weights, without_weights
from herd.text.tokenizer import Tokenizer
from herd.text.train_tokenizer import train_tokenizer
from herd.train.checkpoint import Keeper, load, newest
from herd.train.context import gather_keys
from herd.train.grpo import GRPO
from herd.train.known import Known, reference_logprobs, teacher_logprobs
from herd.train.layout import Layout
from herd.train.lora import add_adapters, keep_stored
from herd.train.objectives import DPO, Distillation, NextToken, Objective, Reward
from herd.train.packing import Packer
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


def open_recipe(recipe: Recipe, folder: Path, find: Find, run: Path | None = None) -> Opened:
    """Find the model and read the data; paths are from `folder`, where the recipe lies. `run` has the tokenizer if one was learned."""
    recipe.check()
    start = None
    if recipe.model.start is not None:
        start = find(recipe.model.start)
        tokenizer, dialog, config = start.tokenizer, Dialog.of(start), start.config
    else:
        tokenizer, dialog = _tokenizer(recipe, folder, find, run)
        config = _shape(recipe.model, tokenizer.vocab_size)
    if recipe.objective == "reward":
        config = replace(config, classes=1, tied=False)
    if recipe.data.length > config.context:
        raise ConfigError(f"data.length is {recipe.data.length}; the model's context is {config.context}")

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


def _tokenizer(recipe: Recipe, folder: Path, find: Find, run: Path | None) -> tuple[Tokenizer, Dialog]:
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


def _shape(model: Model, vocab: int) -> ModelConfig:
    import msgspec

    if isinstance(model.shape, str):
        return replace(shape(model.shape), vocab=vocab)
    values = {"vocab": vocab, **(model.shape or {})}
    names = ModelConfig.__dataclass_fields__
    if unknown := sorted(set(values) - set(names)):
        raise ConfigError(f"model.shape: unknown key {unknown[0]}; expected one of {', '.join(names)}")
    try:
        return msgspec.convert(values, ModelConfig)
    except msgspec.ValidationError as error:
        raise ConfigError(f"model.shape: {error}") from error


def make_model(opened: Opened) -> Transformer:
    """The model to train, in float32: the checkpoint's weights or fresh ones, adapters beside them where they are wanted."""
    recipe = opened.recipe
    generator = torch.Generator().manual_seed(recipe.seed)
    if opened.start is None:
        model = without_weights(opened.config)
        model.materialize("cpu", torch.float32)
        model.init_weights(generator)
    elif opened.config.classes and not opened.start.config.classes:
        model = without_weights(opened.config)
        model.materialize("cpu", torch.float32)
        assert model.score is not None
        with torch.no_grad():
            model.score.weight.normal_(0.0, 1 / (opened.config.dim + 1) ** 0.5, generator=generator)
        tensors = {**opened.start.tensors, "score.weight": _stored(model.score.weight)}
        load_weights(model, tensors)
    elif recipe.lora is not None and recipe.lora.base == "stored":
        model = without_weights(opened.config)
        keep_stored(model, opened.start.tensors)
        model.materialize("cpu", torch.float32)
        load_weights(model, opened.start.tensors)
    else:
        model = from_checkpoint(opened.config, opened.start.tensors, torch.float32)
    if recipe.lora is not None:
        add_adapters(model, recipe.lora, generator)
        if model.score is not None:
            raise ConfigError("lora: adapters and a new head of classes together are not built yet; leave lora out")
    if recipe.recompute:
        recompute_layers(model)
    return model


def _stored(tensor: Tensor) -> Any:
    from herd.weights.checkpoint import StoredTensor

    return StoredTensor.of(tensor.detach().numpy())


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
    _check_layout(recipe, layout)
    model = make_model(opened)
    dtype = dtype_of(recipe.model)
    rollouts = None if recipe.objective != "grpo" else _rollouts(opened, model, dtype, log)
    objective = _objective(opened, model, find, run) if rollouts is None else _grpo(rollouts, recipe)
    if layout.cp > 1 and isinstance(objective, Distillation) and objective.teacher is not None:
        gather_keys(objective.teacher, layout.group("cp"))
    share = layout.apply(model)
    optimizer = make_optimizer(share, recipe)
    keeper = None if run is None else Keeper(run, recipe.checkpoints.keep, layout=layout)
    also: dict[str, Any] = {}
    if recipe.lora is not None and opened.start is not None:
        also = {"base": str(opened.start.path.resolve()), "scale": recipe.lora.alpha / recipe.lora.rank}
    trainer = Trainer(
        share, rollouts or Packer(opened.sources, recipe.seed), objective, recipe, opened.steps, optimizer, log, dtype,
        keeper, also, Packer(opened.validation, 0) if opened.validation else None, stop, layout=layout,
    )  # fmt: skip
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


def _rollouts(opened: Opened, model: Transformer, dtype: torch.dtype, log: Log) -> Rollouts:
    """The stream of the model's own answers, with a frozen copy of the model where a divergence from it is wanted."""
    settings, start = opened.recipe.grpo, opened.start
    assert settings is not None
    assert start is not None
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


def _check_layout(recipe: Recipe, layout: Layout) -> None:
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
    for length, tokens in [(recipe.data.length, recipe.batch.tokens), *recipe.stages()]:
        rows = tokens // length
        if rows % layout.dp:
            raise ConfigError(
                f"batch.tokens {tokens} are {rows} rows of {length}, which {layout.dp} processes cannot share evenly; "
                f"{-(-tokens // (length * layout.dp)) * length * layout.dp} would do"
            )
        if layout.cp > 1 and length % (2 * layout.cp):
            raise ConfigError(
                f"layout.cp: rows of {length} tokens cannot be cut into {2 * layout.cp} chunks; change data.length"
            )
        if layout.pp > 1 and rows // layout.dp % recipe.batch.rows:
            raise ConfigError(
                f"batch.rows: {rows // layout.dp} rows of a process are no whole number of micro-batches of {recipe.batch.rows}; "
                "a pipeline needs equal ones"
            )


def dtype_of(model: Model) -> torch.dtype:
    """What products are computed in; `auto` is bfloat16 where a short trial is faster in it."""
    if model.dtype != "auto":
        return torch.bfloat16 if model.dtype == "bfloat16" else torch.float32
    times = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(384, 384, dtype=dtype)
        trials = []
        for _ in range(6):
            began = time.perf_counter()
            a @ a
            trials.append(time.perf_counter() - began)
        times[dtype] = min(trials)
    return torch.bfloat16 if times[torch.bfloat16] < 0.8 * times[torch.float32] else torch.float32


def _objective(opened: Opened, model: Transformer, find: Find, run: Path | None) -> Objective:
    recipe, known = opened.recipe, Known(None if run is None else run.parent / ".logprobs")
    if recipe.objective == "dpo":
        corpora = (opened.sources, opened.validation)
        return DPO(
            reference_logprobs(model, opened.config, corpora, recipe.data.length, known),
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
