"""What runs have logged, as curves in one HTML page."""

from collections.abc import Sequence
from pathlib import Path

from herd.report import Report
from herd.runs import Run

Curve = list[tuple[float, float]]


def curve(run: Run, event: str, value: str, source: str | None = None) -> Curve:
    """(tokens seen, value) of a run's events; of a step that was computed again after a kill the last."""
    found = {
        line["tokens"]: line[value]
        for line in run.events()
        if line.get("event") == event and line.get("source") == source and isinstance(line.get(value), int | float)
    }
    return sorted(found.items())


def plot(folders: Sequence[Path], out: Path) -> None:
    """Write a page with loss, validation by source, gradient norm and learning rate of training runs."""
    runs = [Run.open(folder, "train") for folder in folders]
    names = [str(folder) for folder in folders]
    report = Report("Training: " + ", ".join(names), "A point a step; the horizontal axis is tokens seen.")
    report.table(
        ("run", "status", "results"),
        [(n, r.status, ", ".join(f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in r.record.results.items())) for n, r in zip(names, runs, strict=True)],
    )  # fmt: skip
    for title, value in (
        ("Loss", "loss"),
        ("Distance of the engine's log-probabilities", "gap"),
        ("Gradient norm", "norm"),
        ("Learning rate", "rate"),
    ):
        shown = {n: points for n, r in zip(names, runs, strict=True) if (points := curve(r, "step", value))}
        if shown:
            report.heading(title)
            report.lines(shown, x="tokens", y=value)
    sources = sorted({line["source"] for run in runs for line in run.events() if line.get("event") == "validation"})
    for value, title in (
        ("loss", "Validation"),
        ("reward", "Reward of greedy answers"),
        ("bits_per_byte", "Bits per byte"),
    ):
        shown = {
            f"{n}: {s}": curve(r, "validation", value, s) for n, r in zip(names, runs, strict=True) for s in sources
        }
        if any(shown.values()):
            report.heading(title)
            report.lines({name: points for name, points in shown.items() if points}, x="tokens", y=value)
    for name, run in zip(names, runs, strict=True):
        report.fold(f"Recipe of {name}", run.recipe.read_text("utf-8"))
    report.write(out)
