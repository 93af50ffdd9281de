"""Which of two replies is better, by a judge: any model or URL. As MT-Bench and Arena-Hard do it (Zheng et al., arXiv 2306.05685; Li et al., arXiv
2406.11939), in words of our own: both orders are asked, since judges like a place, and every verdict is kept with the judge's words.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from herd.errors import ConfigError
from herd.evals.prompts import Item
from herd.evals.task import Task
from herd.statistics import Interval, mean
from herd.text.messages import Message
from herd.text.verdict import last_verdict

if TYPE_CHECKING:
    from herd.evals.run import Result

SECOND = " turn 2"
SCORES = {"A>>B": 1.0, "A>B": 1.0, "A": 1.0, "A=B": 0.5, "C": 0.5, "B=A": 0.5, "B>A": 0.0, "B>>A": 0.0, "B": 0.0, "B<A": 1.0, "B<<A": 1.0, "A<B": 0.0, "A<<B": 0.0}  # fmt: skip
SYSTEM = """You compare two assistants' answers to the same person and say which one serves that person better. First work out what a good answer would be. \
Then look at both for mistakes, for what is missing, for what was not asked, and for clarity. Length, order and tone are no merits in themselves. Give your \
reasons in a few sentences, then end with exactly one of:
[[A>>B]] A is much better
[[A>B]] A is a little better
[[A=B]] they are equally good
[[B>A]] B is a little better
[[B>>A]] B is much better"""
_ASK = (
    "<conversation with A>\n{first}\n</conversation with A>\n\n<conversation with B>\n{second}\n</conversation with B>"
)


def second_turns(items: Sequence[Item], replies: Mapping[str, str]) -> list[Item]:
    """The second question of each dialog that has one, after the reply to the first."""
    found = []
    for one in items:
        turns: Sequence[str] = one.row.get("turns") or ()
        if len(turns) > 1 and one.id in replies:
            messages = (*one.messages, Message("assistant", replies[one.id]), Message("user", turns[1]))
            found.append(_again(one, f"{one.id}{SECOND}", messages))
    return found


def _again(one: Item, key: str, messages: tuple[Message, ...]) -> Item:
    """An item under another id, with other messages."""
    return Item(one.task, key, one.row, messages=messages, gold=one.gold, stop=one.stop)


def verdict(text: str) -> float | None:
    """A's score in the judge's last verdict: 1 better, 0.5 equal, 0 worse; None where there is none."""
    found = last_verdict(text, SCORES)
    return None if found is None else SCORES[found]


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """The first run against the second on one task: its share of wins (an equal one counts half) with a 95% interval by question."""

    task: str
    value: float
    low: float
    high: float
    wins: int
    equal: int
    losses: int
    questions: int
    agree: float  # of questions, those on which both orders give the same
    first_place: float  # how often whoever stands first wins; 0.5 is fair
    unreadable: int  # replies of the judge without a verdict; they count as equal
    failed: int


def questions(
    task: Task, first: Mapping[str, "Result"], second: Mapping[str, "Result"], limit: int = 1024
) -> list[Item]:
    """What the judge is asked: each question that both runs have a reply to, in both orders. ConfigError if they were asked differently."""
    judged = msgspec.structs.replace(task, max_tokens=limit)
    found = []
    for key, one in first.items():
        other = second.get(key)
        if other is None or one.error or other.error:
            continue
        if not key.endswith(SECOND) and one.prompt != other.prompt:
            raise ConfigError(f"{task.name} {key}: the two runs were asked differently; give both the same --system")
        talks = [f"{result.prompt}\nassistant: {result.reply}" for result in (one, other)]
        for order, (a, b) in (("AB", talks), ("BA", talks[::-1])):
            messages = (Message("system", SYSTEM), Message("user", _ASK.format(first=a, second=b)))
            found.append(Item(judged, f"{key} {order}", {"question": key}, messages=messages))
    if not found:
        raise ConfigError(f"{task.name}: no question that both runs have a reply to")
    return found


def scores(item: Item, reply: str) -> dict[str, float]:
    """Of one look: the first run's score, whether the verdict could be read, and the score of who stood first."""
    found = verdict(reply)
    place = 0.5 if found is None else found
    return {
        "judged": place if item.id.endswith("AB") else 1 - place,
        "readable": float(found is not None),
        "first_place": place,
    }


def judged(task: str, results: Sequence["Result"]) -> Judged:
    """The table's row of one task, over all looks."""
    good = [result for result in results if not result.error]
    by_question: dict[str, list[float]] = {}
    for result in good:
        by_question.setdefault(result.id.rpartition(" ")[0], []).append(result.scores["judged"])
    if not by_question:
        raise ConfigError(
            f"{task}: the judge answered nothing ({results[0].error if results else 'it was asked nothing'})"
        )
    means = {key: sum(values) / len(values) for key, values in by_question.items()}
    clusters = [key.removesuffix(SECOND) for key in means]
    interval: Interval = mean(list(means.values()), clusters)
    both = [values for values in by_question.values() if len(values) == 2]
    return Judged(
        task=task, value=interval.value, low=max(0.0, interval.low), high=min(1.0, interval.high),
        wins=sum(v > 0.5 for v in means.values()), equal=sum(v == 0.5 for v in means.values()), losses=sum(v < 0.5 for v in means.values()),
        questions=len(means), agree=sum(a == b for a, b in both) / len(both) if both else 0.0,
        first_place=sum(r.scores["first_place"] for r in good) / len(good),
        unreadable=sum(not r.scores["readable"] for r in good), failed=len(results) - len(good),
    )  # fmt: skip


def page(
    first: Path, second: Path, found: Sequence[Judged], results: Mapping[str, Mapping[str, "Result"]], out: Path
) -> None:
    """One HTML page: the table, and every look with both replies and the judge's words."""
    from herd.report import Report

    report = Report(
        f"{first.name} against {second.name}",
        "Values are the first run's share of wins. Every pair was judged in both orders.",
    )
    report.table(Judged.__struct_fields__, [msgspec.structs.astuple(one) for one in found])
    report.heading("Verdicts")
    examples = []
    for task, looks in results.items():
        for key, look in looks.items():
            value = look.scores.get("judged", -1.0)
            said = {1.0: "first", 0.0: "second", 0.5: "equal"}.get(value, "failed")
            examples.append(
                ((task, said), f"{task} {key}: {said}", f"{look.prompt}\n\n=== judge\n{look.reply or look.error}")
            )
    report.examples(["task", "better"], examples[:2000])
    report.write(out)
