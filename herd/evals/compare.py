"""Two runs side by side, item by item: which of them is better, how sure that is, and how many items would tell."""

from collections.abc import Sequence
from pathlib import Path

from herd.errors import ConfigError
from herd.evals.run import Figure, Result, results_of
from herd.evals.task import Task, all_tasks
from herd.report import Report
from herd.statistics import Paired, paired


def compared(first: Path, second: Path) -> dict[str, Paired]:
    """For each task of both runs, over the items that both have."""
    a, b = results_of(first), results_of(second)
    found = {}
    for name in a:
        if name not in b:
            continue
        both = [key for key in a[name] if key in b[name]]
        metric = metric_of(name, a[name][both[0]]) if both else ""
        if not both or metric in ("bits_per_byte", "judged"):
            continue
        clusters = [a[name][key].cluster or key for key in both] if any(a[name][key].cluster for key in both) else None
        found[name] = paired(
            [a[name][k].scores.get(metric, 0.0) for k in both], [b[name][k].scores.get(metric, 0.0) for k in both], clusters
        )  # fmt: skip
    if not found:
        raise ConfigError(f"{first} and {second} have no task in common")
    return found


def metric_of(name: str, result: Result) -> str:
    """The metric that stands for a task; for one that herd does not have, its first."""
    task = all_tasks().get(name)
    return task.main_metric if task is not None else next(iter(result.scores), "")


def page(
    folder: Path,
    figures: Sequence[Figure],
    tasks: Sequence[Task],
    out: Path,
    other: Path | None = None,
    most: int = 2000,
) -> None:
    """One HTML page: the figures, and every item's prompt, reply and verdict, filtered by task, verdict, category and disagreement."""
    results = results_of(folder)
    against = results_of(other) if other is not None else {}
    report = Report(f"Evaluation: {folder.name}", "Intervals hold 95%. An item that failed counts as wrong.")
    report.table(
        ["task", "metric", "value", "low", "high", "items", "failed", "seconds", "tokens", ""],
        [
            [f.task, f.metric, f.value, f.low, f.high, f.items, f.failed, round(f.seconds, 1), f.tokens, f.absent]
            for f in figures
        ],
    )
    report.heading("Where the tasks come from")
    report.table(
        ["task", "source", "licence", "figure it reproduces"],
        [[t.name, t.source, t.licence, t.reproduces] for t in tasks],
    )
    report.heading("Items")
    examples = []
    for name, items in results.items():
        for key, result in items.items():
            value = result.scores.get(metric_of(name, result), 0.0)
            twin = against.get(name, {}).get(key)
            apart = "" if twin is None else "differs" if twin.scores != result.scores else "same"
            verdict = (
                "failed"
                if result.error
                else "not judged"
                if not result.scores
                else "right"
                if value == 1
                else "wrong"
                if value == 0
                else "in part"
            )
            body = f"{result.prompt}\n\n=== reply\n{result.reply or result.error}\n\n=== wanted\n{result.gold}"
            if twin is not None:
                body += f"\n\n=== the other run\n{twin.reply}"
            examples.append(((name, verdict, result.category or "-", apart or "-"), f"{name} {key}: {verdict}", body))
    if len(examples) > most:
        report.note(
            f"{len(examples):,} items; the wrong ones come first and {most:,} are shown. All are in items.jsonl."
        )
        examples.sort(key=lambda example: example[0][1] == "right")
    report.examples(["task", "verdict", "category", "other run"], examples[:most])
    report.write(out)
