"""Do the stages of a recipe in order, each once for what it is made from, and write the report.

    RUN/recipe.toml                     the recipe as it was last asked for
    RUN/stages/NAME-KEY/made            what the stage made
    RUN/stages/NAME-KEY/stage.json      that it is done: results, time
    RUN/stages/NAME-KEY/samples-*.json  what its model says to the recipe's prompts
    RUN/report.html

A changed recipe makes anew the stages whose keys changed; what is left from others stays until the folder is removed.
"""

import hashlib
import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from herd import __version__
from herd.atomic import atomic_file, whole_lines
from herd.config import dump
from herd.engine.batch import Prompter
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import ConfigError, FormatError
from herd.life.kinds import KINDS, is_model, typed
from herd.life.package import folder_of
from herd.life.recipe import Recipe, Samples, Stage, stages
from herd.life.report import write_report
from herd.life.work import StoppedError, Work, save_json
from herd.progress import Progress, silent
from herd.runs import Run
from herd.weights.checkpoint import Checkpoint


def live(
    recipe: Recipe,
    base: Path,
    out: Path,
    find: Callable[[str], Checkpoint],
    command: list[str],
    *,
    show: Progress = silent,
    step: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Make what is not made yet; the report's path. `base` is where the recipe's files start from. StoppedError when `stop` says so."""
    asked = stages(recipe, base, out)
    settings = {stage.name: typed(stage) for stage in asked}
    for stage in asked:
        if stage.missing:
            raise ConfigError(f"stages.{stage.name}: {stage.missing[0]}: no such file beside the recipe; herd run --dry-run shows the plan without it")  # fmt: skip
    run = Run.open(out, "life") if (out / "run.json").exists() else Run.create(out, "life", dump(recipe), version=__version__, command=command)  # fmt: skip
    with run.working():
        with atomic_file(run.recipe) as temporary:
            temporary.write_text(dump(recipe), "utf-8")
        work = Work(find, show, step, stop, {stage.name: stage for stage in asked}, {}, base)
        if recipe.cluster.ray:
            from herd.life.cluster import Plan, make_all

            make_all(Plan(recipe, base.resolve(), out.resolve(), find), asked, say, stop)
            work.done.update({stage.name: mark for stage in asked if (mark := made(stage))})
        else:
            _make_here(asked, settings, recipe.samples, work, say)
        for stage in asked:
            seconds = work.done[stage.name]["seconds"]
            if stage.minutes is not None and seconds > 60 * stage.minutes:
                say(f"{stage.name}: took {seconds / 60:.1f} minutes; its budget is {stage.minutes:g}")
        report = out / "report.html"
        write_report(report, recipe, asked, work.done, {s.name: samples_of(s, recipe.samples) for s in asked})
        seconds = sum(mark["seconds"] for mark in work.done.values())
        model = folder_of(asked)
        run.finish(stages=len(asked), seconds=round(seconds, 1), **({} if model is None else {"model": str(model)}))
    return report


def _make_here(
    asked: list[Stage], settings: Mapping[str, Any], samples: Samples, work: Work, say: Callable[[str], None]
) -> None:
    """One stage after another in this process."""
    for stage in asked:
        say(f"{stage.name} ({stage.kind})" + (": made before" if made(stage) else " ..."))
        work.done[stage.name] = made(stage) or make(stage, settings[stage.name], work)
        if is_model(stage, settings[stage.name]):
            sample(stage, samples, work)
        if work.stop():
            raise StoppedError(f"{stage.name}: saved")


def made(stage: Stage) -> dict[str, Any] | None:
    """The record of a stage that is done."""
    try:
        return msgspec.json.decode((stage.folder / "stage.json").read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError as error:
        raise FormatError(
            f"{stage.folder}/stage.json: not a stage's record ({error}); remove {stage.folder}"
        ) from error


def make(stage: Stage, settings: Any, work: Work) -> dict[str, Any]:
    """Make a stage, or what a kill left to do of it; its record, which says that it is done."""
    stage.folder.mkdir(parents=True, exist_ok=True)
    starts = stage.folder / "starts.jsonl"
    whole_lines(starts)  # cuts off what a kill left of a last line
    began, cpu = time.monotonic(), _cpu()
    before = _spent(starts)
    try:
        results = KINDS[stage.kind].make(stage, settings, work)
    finally:
        spent = {"seconds": time.monotonic() - began, "cpu": _cpu() - cpu}
        with starts.open("ab") as file:
            file.write(msgspec.json.encode(spent) + b"\n")
    total = {key: before[key] + value for key, value in spent.items()}
    mark = {
        "name": stage.name,
        "kind": stage.kind,
        "key": stage.key,
        "version": __version__,
        **total,
        "results": results,
    }
    save_json(stage.folder / "stage.json", mark)
    return mark


def _spent(starts: Path) -> dict[str, float]:
    """Seconds of earlier starts; those that were killed outright are not known."""
    lines = [msgspec.json.decode(line, type=dict[str, float]) for line in whole_lines(starts)]
    return {key: sum(line[key] for line in lines) for key in ("seconds", "cpu")}


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _place(stage: Stage, samples: Samples) -> Path:
    digest = hashlib.sha256(msgspec.json.encode(samples)).hexdigest()[:8]
    return stage.folder / f"samples-{digest}.json"


def samples_of(stage: Stage, samples: Samples) -> list[tuple[str, str]]:
    """(prompt, reply) of a stage's model; none where it has none."""
    path = _place(stage, samples)
    return msgspec.json.decode(path.read_bytes(), type=list[tuple[str, str]]) if path.exists() else []


def sample(stage: Stage, samples: Samples, work: Work) -> None:
    """Ask a stage's model the recipe's prompts, once."""
    path = _place(stage, samples)
    if path.exists() or not (samples.texts or samples.questions):
        return
    place = next((one for one in (stage.made / "model.gguf", stage.made / "hf") if one.exists()), stage.made)
    checkpoint = work.find(str(place))
    params = SamplingParams(temperature=samples.temperature, max_tokens=samples.tokens, seed=0)
    kinds = ((samples.texts, Prompter(checkpoint, raw=True)), (samples.questions, Prompter(checkpoint)))
    asked = [prompter.request(text, params=params, name=text) for texts, prompter in kinds for text in texts]
    engine = open_engine(checkpoint)
    try:
        replies: Mapping[str, str] = {
            c.request.id: c.text if c.error is None else str(c.error) for c in engine.run(asked)
        }
    finally:
        engine.close()
    save_json(path, [(request.id, replies[request.id]) for request in asked])
