"""The report of a life: what each stage took and gave, curves, figures with intervals, samples before and after, how to repeat a part."""

from pathlib import Path
from typing import Any

from herd import __version__
from herd.config import dump
from herd.life.recipe import Recipe, Stage
from herd.report import Report, number
from herd.runs import Run
from herd.safety.redteam.report import shown
from herd.train.curves import curve

Marks = dict[str, dict[str, Any]]


def write_report(
    path: Path, recipe: Recipe, stages: list[Stage], done: Marks, samples: dict[str, list[tuple[str, str]]]
) -> None:
    """Write the page; `done` are the stages' records, `samples` what their models said."""
    wall, cpu = (sum(mark[key] for mark in done.values()) / 60 for key in ("seconds", "cpu"))
    note = f"herd {__version__}. {len(stages)} stages, {wall:.1f} minutes, {cpu:.1f} of the processor; time lost to kills is not in them."
    report = Report(recipe.title, note)
    report.heading("Stages and what they cost")
    report.table(
        ("stage", "kind", "from", "minutes", "budget", "CPU minutes", "tokens", "gave"),
        [_row(stage, done[stage.name]) for stage in stages],
    )
    _curves(report, [stage for stage in stages if stage.kind == "train"])
    for stage in stages:
        if stage.kind == "evals":
            _figures(report, stage.name, done[stage.name]["results"])
        if stage.kind == "arena":
            _standings(report, stage.name, done[stage.name]["results"])
        if stage.kind == "redteam":
            _attacks(report, stage.name, done[stage.name]["results"]["red team"])
    _samples(report, stages, samples)
    report.heading("Every command to repeat a part")
    report.note("From the folder in which the whole was run; `again` is where the part is made anew.")
    report.code("\n".join(f"# {s.name}\n{done[s.name]['results'].get('again', '')}" for s in stages))
    report.fold("The recipe", dump(recipe))
    report.write(path)


def _row(stage: Stage, mark: dict[str, Any]) -> list[Any]:
    results = mark["results"]
    gave = {
        k: v
        for k, v in results.items()
        if isinstance(v, int | float) and not isinstance(v, bool) and k not in ("tokens", "steps")
    }
    shown = ", ".join(f"{key} {number(value)}" for key, value in list(gave.items())[:4])
    return [
        stage.name, stage.kind, ", ".join(stage.needs), f"{mark['seconds'] / 60:.2f}", stage.minutes, f"{mark['cpu'] / 60:.2f}",
        results.get("tokens"), shown,
    ]  # fmt: skip


def _curves(report: Report, stages: list[Stage]) -> None:
    runs = {stage.name: Run.open(stage.made, "train") for stage in stages}
    report.heading("Training")
    rewards = {name: [e["reward"] for e in run.events() if e.get("event") == "answers"] for name, run in runs.items()}
    rewards = {name: found for name, found in rewards.items() if found}
    report.lines({name: curve(run, "step", "loss") for name, run in runs.items() if name not in rewards}, x="tokens of the stage", y="loss", title="Loss a step. Objectives differ, so only a curve's own course means something.")  # fmt: skip
    found = {}
    for name, run in runs.items():
        for source in dict.fromkeys(e["source"] for e in run.events() if e.get("event") == "validation"):
            found[f"{name}: {source}"] = curve(run, "validation", "loss", source)
    if rewards:
        points = {name: [(float(i), value) for i, value in enumerate(found, 1)] for name, found in rewards.items()}
        report.lines(
            points, x="rollout", y="reward", title="Mean reward of the answers that reinforcement learning samples."
        )
    if found:
        report.lines(found, x="tokens of the stage", y="loss", title="Loss on what is held back.")


def _figures(report: Report, name: str, results: dict[str, Any]) -> None:
    report.heading(f"Evaluation: {name}")
    columns = ("task", "metric", "value", "low", "high", "items")
    rows = [[model, *(one[key] for key in columns)] for model, figures in results["figures"].items() for one in figures]
    report.table(("model", *columns), rows, "Intervals hold 95%.")
    if results["steps"]:
        report.table(
            ("task", "from", "to", "difference", "low", "high"),
            [[s["task"], s["from"], s["to"], s["value"], s["low"], s["high"]] for s in results["steps"]],
            "What a stage changed, paired on the same items. An interval that holds zero tells of no difference.",
        )


def _standings(report: Report, name: str, results: dict[str, Any]) -> None:
    report.heading(f"Arena: {name}")
    rows = [[f"{r['best']}-{r['worst']}", r["name"], r["points"], r["low"], r["high"], r["votes"]] for r in results["standings"]]  # fmt: skip
    note = "Bradley-Terry, 95% intervals." + (" Half a tied vote a pair was added." if results["helped"] else "")
    report.table(("ranks", "model", "points", "low", "high", "votes"), rows, f"{results['prompts']} prompts. {note}")


def _attacks(report: Report, name: str, found: dict[str, Any]) -> None:
    report.heading(f"Red team: {name}")
    rows = [[model, one["attacks"], *(shown(one[key]) for key in ("without", "with", "ordinary_stopped")), one["errors"]] for model, one in found.items()]  # fmt: skip
    columns = ("model", "attacks", "succeed", "with the Shield", "ordinary questions stopped", "errors")
    report.table(columns, rows, "95% intervals. The transcripts are in the stage's folder.")


def _samples(report: Report, stages: list[Stage], samples: dict[str, list[tuple[str, str]]]) -> None:
    if not any(samples.values()):
        return
    report.heading("Samples before and after each stage")
    report.note(
        "Sampled, with one seed. Before is the model that the stage started from; a new model had no weights yet."
    )
    by_name = {stage.name: stage for stage in stages}
    for stage in stages:
        if not samples[stage.name]:
            continue
        start = _start(stage)
        before = dict(samples[start]) if start in by_name else {}
        report.text(stage.name + (f", from {start}" if start else ""))
        report.table(("prompt", "before", "after"), [[p, before.get(p, ""), reply] for p, reply in samples[stage.name]])


def _start(stage: Stage) -> str | None:
    """The stage whose model a stage started from."""
    model = stage.said.get("model")
    said = model.get("start") if isinstance(model, dict) else model
    return said[1:].split("/")[0] if isinstance(said, str) and said.startswith("@") else None
