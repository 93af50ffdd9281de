"""What stages can be: for each kind its settings and the function of its room that makes it. A function goes on where a kill left it."""

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from herd import __version__
from herd.atomic import atomic_folder
from herd.config import read
from herd.data import pipeline
from herd.data.recipe import Recipe as Corpus
from herd.errors import ConfigError
from herd.life import measure, package, preferences, synthesis
from herd.life.recipe import Stage
from herd.life.work import StoppedError, Work
from herd.runs import Run
from herd.synth import recipe as writing
from herd.train import recipe as training
from herd.weights.quantize import ALIASES
from herd.weights.sidecars import tokenizer_of


@dataclass(frozen=True)
class Kind:
    """Settings, what makes the stage (its results), whether `made` is a model that can be asked, and whether all before must be done: it tells of them."""

    settings: type[Any]
    make: Callable[[Stage, Any, Work], dict[str, Any]]
    model: bool = False
    last: bool = False


class Tokenizer(msgspec.Struct, frozen=True, kw_only=True):
    """A byte-level BPE of `vocab` tokens from `files`."""

    files: tuple[str, ...]
    vocab: int


class Quantize(msgspec.Struct, frozen=True, kw_only=True):
    """`model` in number format `format`, as `made/model.gguf` or for FP8 `made/hf`; `calibrate` is a text that it is rounded for."""

    model: str
    format: str = "Q8_0"
    calibrate: str | None = None


def make_data(stage: Stage, settings: Corpus, work: Work) -> dict[str, Any]:
    """A corpus."""
    settings = msgspec.structs.replace(settings, folder=str(work.base)).check()
    run = pipeline.open_run(settings, stage.made, __version__, ["herd", "run"])
    results = dict(run.record.results)
    if run.status != "done":
        results = pipeline.make(run, settings, show=work.show, tokenizer_of=lambda name: tokenizer_of(name, work.find))
    return {**results, "again": f"herd data {shlex.quote(str(run.recipe))} --out again"}


def make_tokenizer(stage: Stage, settings: Tokenizer, work: Work) -> dict[str, Any]:
    """A tokenizer.json."""
    from herd.text.documents import read_documents
    from herd.text.train_tokenizer import train_tokenizer
    from herd.weights.sidecars import write_tokenizer

    texts = [text for file in settings.files for text, _ in read_documents(Path(file))]
    tokenizer = train_tokenizer(texts, settings.vocab)
    if not stage.made.exists():
        with atomic_folder(stage.made) as folder:
            write_tokenizer(folder, tokenizer, 131_072)
    characters, tokens = sum(map(len, texts)), len(tokenizer.encode_batch(texts)[0])
    command = ["herd", "train-tokenizer", *settings.files, "--vocab", str(settings.vocab), "--out", "again"]
    return {"tokens": settings.vocab, "characters": characters, "characters a token": characters / tokens, "again": shlex.join(command)}  # fmt: skip


def make_training(stage: Stage, settings: training.Recipe, work: Work) -> dict[str, Any]:
    """A training run, or the rest of it."""
    from herd.train.run import train

    run = Run.open(stage.made, "train") if (stage.made / "model" / "config.json").exists() else None
    if run is None and stage.made.exists():  # killed before its folder was whole: nothing was trained
        import shutil

        shutil.rmtree(stage.made)
    if run is None or run.status != "done":
        asked = training.Asked(settings.check(), work.base, run)
        _, done = train(asked, stage.made, work.find, work.step, work.stop, ["herd", "run"])
        if not done:
            raise StoppedError(f"{stage.name}: saved")
        run = Run.open(stage.made, "train")
    results = dict(run.record.results)
    if rewards := [line["reward"] for line in run.events() if line.get("event") == "answers"]:
        del results["loss"]  # of answers that are rewarded it says nothing
        results |= {"reward at first": rewards[0], "reward": rewards[-1]}
    return {**results, "again": f"herd train {shlex.quote(str(run.recipe))} --out again"}


def make_quantized(stage: Stage, settings: Quantize, work: Work) -> dict[str, Any]:
    """A smaller model."""
    from herd.engine.batch import Prompter
    from herd.engine.calibrated import write

    source = work.find(settings.model)
    out = stage.made / ("hf" if ALIASES.get(settings.format, settings.format) == "F8_E4M3" else "model.gguf")
    stage.made.mkdir(exist_ok=True)
    text = None if settings.calibrate is None else Prompter.read_prompt(Path(settings.calibrate))
    if not out.exists():
        write(source, out, settings.format, text, progress=work.show)
    size = out.stat().st_size if out.is_file() else sum(path.stat().st_size for path in out.iterdir())
    again = "again.gguf" if out.is_file() else "again"
    command = ["herd", "quantize", settings.model, again, "--format", settings.format]
    command += [] if settings.calibrate is None else ["--calibrate", settings.calibrate]
    return {"bytes": size, "bytes before": source.weight_bytes, "again": shlex.join(command)}


KINDS: dict[str, Kind] = {
    "data": Kind(Corpus, make_data),
    "tokenizer": Kind(Tokenizer, make_tokenizer),
    "train": Kind(training.Recipe, make_training, model=True),
    "synth": Kind(writing.Recipe, synthesis.make),
    "preferences": Kind(preferences.Preferences, preferences.make),
    "quantize": Kind(Quantize, make_quantized, model=True),
    "evals": Kind(measure.Evals, measure.evaluate_stages),
    "arena": Kind(measure.Arena, measure.judge_stages),
    "redteam": Kind(measure.RedTeam, measure.attack_stages),
    "package": Kind(package.Package, package.make, model=True, last=True),
}


def typed(stage: Stage) -> Any:
    """A stage's settings as its room has them; ConfigError naming stage and key."""
    if stage.kind not in KINDS:
        raise ConfigError(f"stages.{stage.name}.kind is {stage.kind!r}; expected one of {', '.join(KINDS)}")
    try:
        settings = read(KINDS[stage.kind].settings, values=stage.settings)
        return settings.check() if hasattr(settings, "check") else settings
    except ConfigError as error:
        raise ConfigError(f"stages.{stage.name}: {error}") from error


def is_model(stage: Stage, settings: Any) -> bool:
    """Whether a stage's result can be talked with: a reward model cannot."""
    return KINDS[stage.kind].model and getattr(settings, "objective", "") != "reward"
