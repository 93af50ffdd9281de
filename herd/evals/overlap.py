"""What is looked for in a corpus, and how it is told: questions of tasks, scores of a run, the table and the page with its curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from herd.data.overlap import GRAM, VERBATIM, Match
from herd.errors import ConfigError
from herd.evals.compare import metric_of
from herd.evals.contamination import THRESHOLDS, Split, split
from herd.evals.prompts import item
from herd.evals.run import results_of
from herd.evals.source import AbsentError, Places, rows_of
from herd.evals.task import Task
from herd.report import Report

COLUMNS = (
    "task",
    "items",
    "too short",
    "verbatim",
    "threshold",
    "contaminated",
    "all",
    "clean",
    "contaminated score",
    "gain",
)


def questions(tasks: Sequence[Task], places: Places) -> tuple[list[tuple[str, str, str]], list[str]]:
    """(task, id, text) of every question with its right answer, without examples; and why tasks are not among them."""
    found, absent = [], []
    for task in tasks:
        try:
            rows = rows_of(task, places)
        except AbsentError as error:
            absent.append(str(error))
            continue
        bare = msgspec.structs.replace(task, description="")
        found += [(task.name, row["id"], _text(bare, row)) for row in rows]
    if not found:
        raise ConfigError(f"no task's data is here: {'; '.join(absent[:3])}")
    return found, absent


def _text(task: Task, row: dict[str, object]) -> str:
    one = item(task, row, [], chat=False)
    if one.messages:
        return "\n".join(message.content for message in one.messages)
    gold = one.gold if task.kind == "choice" else 0
    context = one.contexts[gold if len(one.contexts) > 1 else 0] if one.contexts else ""
    return context + (one.continuations[gold] if one.continuations else "")


def scores_of(run: Path) -> dict[str, dict[str, float]]:
    """Each task's scores by question; tasks whose figure is no mean of questions are left out."""
    found = {}
    for task, results in results_of(run).items():
        metric = metric_of(task, next(iter(results.values())))
        if metric not in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
            found[task] = {key: result.scores.get(metric, 0.0) for key, result in results.items()}
    if not found:
        raise ConfigError(f"{run}: no task with right and wrong answers")
    return found


def line(task: str, found: Sequence[Match], chosen: Split | None) -> list[str]:
    """A task's row of the table."""
    short = sum(m.tokens < GRAM for m in found)
    head = [task, str(len(found)), str(short or ""), str(sum(m.verbatim for m in found))]
    if chosen is None:
        return [*head, "0.5", f"{sum(m.share >= 0.5 for m in found) / len(found):.1%}", "", "", "", ""]
    gain = f"{chosen.gain:+.4f}" + ("" if chosen.significant else " (chance)")
    parts = [
        f"{one.value:.4f}" if one else "none" for one in (chosen.score, chosen.clean_score, chosen.contaminated_score)
    ]
    share = f"{chosen.contaminated / (chosen.contaminated + chosen.clean):.1%}"
    return [*head, f"{chosen.threshold:.1f}", share, *parts, gain]


def report(
    matches: Mapping[str, Sequence[Match]], scores: Mapping[str, Mapping[str, float]], chosen: Mapping[str, Split], corpus: Sequence[str]
) -> Report:  # fmt: skip
    """The page: the table, and curves over the share that was found and over the longest run."""
    made = Report(
        "Contamination",
        f"Looked for in {', '.join(corpus)}. A question is contaminated if at least the threshold's share of its tokens lies in runs of {GRAM} tokens "
        f"that the corpus has too; verbatim: {VERBATIM} tokens in a row, or all of it. The threshold is where the gain (all - clean) is largest; a "
        "gain marked (chance) is not significant at 5%. Questions under 8 tokens cannot be looked for.",
    )
    made.table(COLUMNS, [line(task, found, chosen.get(task)) for task, found in matches.items()])
    made.heading("Contaminated questions by threshold")
    made.lines(
        {task: [(t, sum(m.share >= t for m in found) / len(found)) for t in THRESHOLDS] for task, found in matches.items()},
        x="share of tokens found", y="contaminated",
    )  # fmt: skip
    gains = {
        task: [(t, split(found, scores[task], t).gain) for t in THRESHOLDS] for task, found in matches.items() if task in scores
    }  # fmt: skip
    if gains:
        made.heading("Gain by threshold")
        made.lines(gains, x="share of tokens found", y="score of all - of clean")
    made.heading("Longest run in common")
    lengths = (8, 10, 13, 16, 20, 25, 30, 40, 50, 70, 100)
    made.lines(
        {task: [(n, sum(m.longest >= n for m in found) / len(found)) for n in lengths] for task, found in matches.items()},
        x="tokens in a row", y="questions", log_x=True,
    )  # fmt: skip
    return made
