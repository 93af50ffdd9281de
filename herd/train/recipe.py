"""What a recipe says: every setting of a training run, checked before anything is read. See docs/how-to/train.md."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec

from herd.config import read
from herd.errors import ConfigError
from herd.runs import Run

Objective = Literal["next-token", "dpo", "reward", "distil", "grpo"]
Kind = Literal["text", "tokens", "messages", "pairs", "ranked", "prompts"]
NEEDED: dict[str, tuple[Kind, ...]] = {
    # objective -> kinds of samples it learns from
    "next-token": ("text", "tokens", "messages"), "distil": ("text", "tokens", "messages"), "dpo": ("pairs",), "reward": ("pairs", "ranked"),
    "grpo": ("prompts",),
}  # fmt: skip


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a recipe."""


class Model(Section, frozen=True, kw_only=True):
    """What is trained: `start` is a checkpoint by path or name; or a `shape` by name or by its numbers is begun anew, with the
    `tokenizer` of a folder or of a pulled model, or one of `vocab` tokens that is learned from the sources first. Both: the start's
    weights with the shape's context and rotary embedding (`context`, `rope_theta`, `rope_scaling`).

    `dtype`: float32, bfloat16 (products in bfloat16, weights kept in
    float32), or auto: bfloat16 where this machine computes faster in it.
    """

    start: str | None = None
    shape: str | dict[str, Any] | None = None
    tokenizer: str | None = None
    vocab: int | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"


class Source(Section, frozen=True, kw_only=True):
    """Samples from a file (or a folder of text files, or of packed tokens), drawn in proportion to `weight`, in tokens.

    `long`: what becomes of a dialog longer than a row. Text is always cut where a row ends and goes on in the next.
    """

    path: str
    kind: Kind = "text"
    weight: float = 1.0
    name: str = ""
    long: Literal["drop", "cut"] = "drop"


class Data(Section, frozen=True, kw_only=True):
    """`sources` to learn from, `validation` to measure with; rows are `length` tokens."""

    sources: tuple[Source, ...]
    validation: tuple[Source, ...] = ()
    length: int = 1024


class Stage(Section, frozen=True, kw_only=True):
    """From `after` tokens on: rows of `length`, steps of `tokens`."""

    after: int
    length: int | None = None
    tokens: int | None = None


class Batch(Section, frozen=True, kw_only=True):
    """`tokens` a step over all processes, computed `rows` packed rows at a time by each; `stages` change both as training goes on."""

    tokens: int = 8192
    rows: int = 1
    stages: tuple[Stage, ...] = ()


class Schedule(Section, frozen=True, kw_only=True):
    """How long and how fast: `steps`, or `epochs` over all sources. The rate rises over `warmup` steps to `peak` and falls
    by `decay` to `final` (constant: only over the last `anneal` steps, linearly).
    """

    steps: int | None = None
    epochs: float | None = None
    peak: float
    final: float = 0.0
    warmup: int = 0
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    anneal: int = 0


class Optimizer(Section, frozen=True, kw_only=True):
    """AdamW with decoupled decay of matrices (Loshchilov and Hutter, arXiv 1711.05101); gradients are clipped to norm `clip`.

    `nonfinite`: what a step whose gradient is not finite does: stop the run, or be skipped.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    decay: float = 0.1
    clip: float = 1.0
    nonfinite: Literal["stop", "skip"] = "stop"


class Lora(Section, frozen=True, kw_only=True):
    """Low-rank adapters beside the named matrices, which stay as they are (arXiv 2106.09685).

    `base`: the frozen matrices in float32, or as the checkpoint stores them (QLoRA, arXiv 2305.14314): less memory, more time.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    base: Literal["float32", "stored"] = "float32"
    targets: tuple[Literal["wq", "wk", "wv", "wo", "w1", "w2", "w3"], ...] = ("wq", "wk", "wv", "wo", "w1", "w2", "w3")


class Preference(Section, frozen=True, kw_only=True):
    """DPO (arXiv 2305.18290): `beta`, and `nll` times the chosen answers' loss a target token, as Llama 3 adds it."""

    beta: float = 0.1
    nll: float = 0.2


class Distil(Section, frozen=True, kw_only=True):
    """Learn from a `teacher` (a checkpoint with the same vocabulary): `weight` of its divergence beside the data's own loss.

    `top_k`: only its likeliest tokens are told apart, and what it says is kept on the disk for the next run; None: all, computed anew.
    """

    teacher: str
    top_k: int | None = None
    weight: float = 1.0
    data_weight: float = 0.0
    temperature: float = 1.0


class RewardTerm(Section, frozen=True, kw_only=True):
    """`weight` times what an answer is worth by one of: `check`, by name (number, gsm8k, code: see `herd.train.rewards`; format: the
    whole answer matches `pattern`); a `function(answer, line)` of a Python `file`; a reward `model`, a path or a name.
    """

    check: Literal["number", "gsm8k", "code", "format"] | None = None
    pattern: str | None = None
    file: str | None = None
    function: str = "reward"
    model: str | None = None
    weight: float = 1.0

    @property
    def name(self) -> str:
        """What it is called in the log."""
        return self.check or (self.function if self.file is not None else "model")


class Grpo(Section, frozen=True, kw_only=True):
    """Learn from rewards of the model's own answers (GRPO, arXiv 2402.03300): a step takes `prompts` of them, `group` answers each, of at
    most `max_tokens`, drawn from the model's own distribution by the native engine with weights in `weights`; `updates` cuts
    them into so many updates one after another.

    An advantage is the reward less its group's mean, over the standard deviation of the group (+1e-4), of the batch, or of none
    (`std`). Ratios of the policy to what it was before the first update are clipped to 1 - `clip_low` and 1 + `clip_high`. `truncate`
    caps the weights that correct for the engine's probabilities (0: no correction). `kl` times an estimate of the divergence
    from the start is added. `divisor`: the loss is a mean over all tokens (arXiv 2503.14476), over answers of the means of their
    tokens (as in the first paper), or a sum over answers times `max_tokens` (Dr. GRPO, arXiv 2503.20783).
    """

    rewards: tuple[RewardTerm, ...]
    prompts: int = 8
    group: int = 8
    max_tokens: int = 128
    updates: int = 1
    std: Literal["group", "batch", "none"] = "group"
    divisor: Literal["tokens", "answers", "length"] = "tokens"
    clip_low: float = 0.2
    clip_high: float = 0.2
    truncate: float = 2.0
    kl: float = 0.0
    weights: Literal["F32", "F16", "BF16"] = "BF16"

    def check(self) -> None:
        """ConfigError naming the first key that cannot be."""
        for key, value, low in (
            ("prompts", self.prompts, 1), ("group", self.group, 2), ("max_tokens", self.max_tokens, 1), ("updates", self.updates, 1),
            ("clip_low", self.clip_low, 0), ("clip_high", self.clip_high, 0), ("truncate", self.truncate, 0), ("kl", self.kl, 0),
        ):  # fmt: skip
            if not value >= low:
                raise ConfigError(f"grpo.{key} is {value}; expected {low} or more")
        if self.prompts % self.updates:
            raise ConfigError(f"grpo.prompts {self.prompts} cannot be cut into {self.updates} equal updates")
        check_rewards(self.rewards, "grpo.rewards")


def check_rewards(terms: tuple[RewardTerm, ...], key: str) -> None:
    """ConfigError naming the first reward that cannot be."""
    if not terms:
        raise ConfigError(f'{key} is empty; name at least one, as in check = "number"')
    for term in terms:
        if sum(value is not None for value in (term.check, term.file, term.model)) != 1:
            raise ConfigError(f"{key}: give each either check, file or model")
        if (term.pattern is not None) != (term.check == "format"):
            raise ConfigError(f'{key}: check = "format" and a pattern go together')
        if term.pattern is not None:
            try:
                re.compile(term.pattern)
            except re.error as error:
                raise ConfigError(f"{key}: pattern {term.pattern!r} is no regular expression ({error})") from error
    names = [term.name for term in terms]
    if len(set(names)) < len(names):
        raise ConfigError(f"{key}: two are called {max(names, key=names.count)}; each needs its own name in the log")


class Parallel(Section, frozen=True, kw_only=True):
    """How processes that torchrun starts share the work: `tp` share the heads and columns of each layer, `cp` the tokens of each row,
    `pp` the layers; the rest, `dp` if it is given, compute different rows.

    `schedule`: the order in which a pipeline computes, `virtual` stages a process (1; 2 where the schedule wants several). `auto`: all
    of these are chosen anew at each start, for the processes that there are, as though each were a `gpu`.
    """

    auto: bool = False
    gpu: str = "h100"

    tp: int = 1
    cp: int = 1
    pp: int = 1
    dp: int | None = None
    schedule: Literal["gpipe", "1f1b", "interleaved", "zero-bubble", "zbv"] = "1f1b"
    virtual: int | None = None

    @property
    def processes(self) -> int:
        """How many processes this names; dp, where it is not given, is 1."""
        return self.tp * self.cp * self.pp * (self.dp or 1)

    def check(self) -> None:
        """ConfigError naming the key that cannot be."""
        for key in ("tp", "cp", "pp", "dp", "virtual"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"layout.{key} is {value}; expected 1 or more")
        single, fixed = self.schedule in ("gpipe", "1f1b"), {"gpipe": 1, "1f1b": 1, "zbv": 2}.get(self.schedule)
        if not single and self.pp == 1:
            raise ConfigError(
                f"layout.schedule {self.schedule} needs a pipeline; give layout.pp, or leave the schedule out"
            )
        if self.virtual is not None and fixed is not None and self.virtual != fixed:
            raise ConfigError(
                f"layout.virtual is {self.virtual}; schedule {self.schedule} has {fixed} a process (interleaved may have more)"
            )


class Keep(Section, frozen=True, kw_only=True):
    """Checkpoints `every` so many steps (0: only at the end), the last `keep` of them; those that are averaged are kept too."""

    every: int = 0
    keep: int = 2


class Recipe(Section, frozen=True, kw_only=True):
    """One training run. `recompute` gives up the activations of layers and computes them again when they are needed."""

    objective: Objective = "next-token"
    seed: int = 0
    model: Model
    data: Data
    batch: Batch = Batch()
    schedule: Schedule
    optimizer: Optimizer = Optimizer()
    lora: Lora | None = None
    preference: Preference = Preference()
    distil: Distil | None = None
    grpo: Grpo | None = None
    layout: Parallel = Parallel()
    checkpoints: Keep = Keep()
    validate_every: int = 0
    recompute: bool = False

    def check(self) -> "Recipe":
        """The recipe; ConfigError naming the first key that cannot be."""
        for key, value, low in (
            ("data.length", self.data.length, 2), ("batch.tokens", self.batch.tokens, 2), ("batch.rows", self.batch.rows, 1),
            ("schedule.warmup", self.schedule.warmup, 0), ("schedule.anneal", self.schedule.anneal, 0),
            ("schedule.peak", self.schedule.peak, 0), ("optimizer.clip", self.optimizer.clip, 1e-9),
            ("optimizer.decay", self.optimizer.decay, 0), ("checkpoints.keep", self.checkpoints.keep, 1),
            ("checkpoints.every", self.checkpoints.every, 0), ("validate_every", self.validate_every, 0),
        ):  # fmt: skip
            if not value >= low:
                raise ConfigError(f"{key} is {value}; expected {low:g} or more")
        self.layout.check()
        if (self.schedule.steps is None) == (self.schedule.epochs is None):
            raise ConfigError("schedule: give either steps or epochs")
        if self.model.start is None and self.model.shape is None:
            raise ConfigError("model: give start (a checkpoint) or shape (to begin anew)")
        if self.model.start is None and (self.model.tokenizer is None) == (self.model.vocab is None):
            raise ConfigError(
                "model: a new one needs a tokenizer: give either tokenizer or vocab, to learn one of so many tokens"
            )
        if self.objective == "distil" and self.distil is None:
            raise ConfigError("distil.teacher is missing; name the checkpoint to learn from")
        if self.distil is not None and self.distil.top_k is not None and self.distil.top_k < 1:
            raise ConfigError(f"distil.top_k is {self.distil.top_k}; expected 1 or more, or leave it out")
        if self.objective == "grpo":
            self._check_grpo()
        if self.lora is not None and self.model.start is None:
            raise ConfigError("lora: adapters need a model to adapt; give model.start")
        if self.lora is not None and not (self.lora.rank > 0 and 0 <= self.lora.dropout < 1 and self.lora.targets):
            raise ConfigError(f"lora: rank {self.lora.rank}, dropout {self.lora.dropout}, {len(self.lora.targets)} targets; "
                              "expected a rank above 0, a dropout below 1 and one target or more")  # fmt: skip
        for i, source in enumerate((*self.data.sources, *self.data.validation)):
            if source.kind not in NEEDED[self.objective]:
                raise ConfigError(
                    f"data: source {source.name or source.path} is of kind {source.kind}; "
                    f"{self.objective} learns from {' or '.join(NEEDED[self.objective])}"
                )
            if not source.weight > 0 and i < len(self.data.sources):
                raise ConfigError(f"data: source {source.path} has weight {source.weight}; expected a number above 0")
        for length, tokens in [(self.data.length, self.batch.tokens), *self.stages()]:
            if tokens % length and self.objective != "grpo":
                near = max(length, round(tokens / length) * length)
                raise ConfigError(f"batch.tokens {tokens} is no whole number of rows of {length}; {near} would do")
        return self

    def _check_grpo(self) -> None:
        if self.grpo is None:
            raise ConfigError(
                'grpo.rewards is missing; say what an answer is worth, as in [[grpo.rewards]] check = "number"'
            )
        self.grpo.check()
        if self.model.start is None or self.model.shape is not None:
            raise ConfigError("grpo needs a model that answers: give model.start, without model.shape")
        if self.batch.tokens != Batch().tokens or self.batch.stages:
            raise ConfigError(
                "batch.tokens, batch.stages: a step of grpo is grpo.prompts times grpo.group answers; leave them out"
            )
        if self.lora is not None and self.lora.dropout:
            raise ConfigError(
                f"lora.dropout is {self.lora.dropout}; grpo compares probabilities, which dropout changes: leave it at 0"
            )
        if self.data.length <= self.grpo.max_tokens:
            raise ConfigError(
                f"data.length {self.data.length} has no room for a prompt and grpo.max_tokens {self.grpo.max_tokens}"
            )

    def stages(self) -> list[tuple[int, int]]:
        """(length, tokens) of each stage."""
        found, length, tokens = [], self.data.length, self.batch.tokens
        for stage in self.batch.stages:
            length, tokens = stage.length or length, stage.tokens or tokens
            found.append((length, tokens))
        return found

    def at(self, seen: int) -> tuple[int, int]:
        """(length of a row, rows of a step) after `seen` tokens."""
        length, tokens = self.data.length, self.batch.tokens
        for stage, shape in zip(self.batch.stages, self.stages(), strict=True):
            if seen >= stage.after:
                length, tokens = shape
        return length, tokens // length


BESIDE = "paths.json"
"""Where a run remembers from which folder its recipe's paths are read."""


class Asked(NamedTuple):
    """A recipe, the folder that its paths start from, and its run if there is one already."""

    recipe: Recipe
    folder: Path
    run: Run | None


def resolve(path: Path, flags: Mapping[str, Any]) -> Asked:
    """A recipe's file or a run's folder -> the recipe, the folder that its paths start from, and the run if there is one."""
    if path.is_dir():
        if any(value is not None for value in flags.values()):
            raise ConfigError(f"{path}: a run goes on with the recipe it was made with; leave --set out")
        run = Run.open(path, "train")
        return Asked(read(Recipe, run.recipe).check(), Path(json.loads((path / BESIDE).read_text())["folder"]), run)
    return Asked(read(Recipe, path, flags).check(), path.parent.resolve(), None)
