"""A model or a rule votes: every pair of contestants on every prompt, seen in both orders.

What a judge prefers only in one order it does not prefer (Zheng et al., arXiv 2306.05685): such a vote is a tie, and is counted apart.
"""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from herd.arena.contestants import Contestant, ContestantError
from herd.arena.kinds import reveals
from herd.arena.replies import Prompt, Replies
from herd.arena.votes import Vote, Votes, Winner, style_difference
from herd.progress import Progress, silent
from herd.text.verdict import last_verdict

Verdict = Winner | None  # None: the judge said nothing that is a verdict
Judge = Callable[[Prompt, str, str], Awaitable[Verdict]]
"""From a prompt and its left and right replies, which is better."""

_ASK = """Two assistants answered the same message. Decide which answer is better. Look at whether it is correct, does what was asked, \
and is clear; not at its length, nor at which comes first. Think briefly, then end with one line that is exactly one of:
[[A]] if answer A is better
[[B]] if answer B is better
[[C]] if both are equally good
[[D]] if both are equally bad

<message>
{prompt}
</message>
{reference}
<answer_A>
{left}
</answer_A>

<answer_B>
{right}
</answer_B>"""
_VERDICTS: dict[str, Winner] = {"A": "left", "B": "right", "C": "both good", "D": "both bad"}
_SWAPPED: dict[Winner, Winner] = {
    "left": "right",
    "right": "left",
    "both good": "both good",
    "both bad": "both bad",
}


def model_judge(contestant: Contestant) -> Judge:
    """A judge that asks a model; its last [[A]], [[B]], [[C]] or [[D]] counts."""

    async def judge(prompt: Prompt, left: str, right: str) -> Verdict:
        reference = f"\n<reference>\n{prompt.answer}\n</reference>\n" if prompt.answer else ""
        asked = _ASK.format(prompt=prompt.prompt, reference=reference, left=left, right=right)
        said = "".join([piece async for piece in contestant.reply(asked)])
        found = last_verdict(said, _VERDICTS)
        return None if found is None else _VERDICTS[found]

    return judge


def _more(left: float, right: float, *, alike: Winner = "both good") -> Winner:
    return alike if left == right else ("left" if left > right else "right")


def _has_answer(reply: str, answer: str) -> bool:
    """Whether an answer stands in a reply as whole words."""
    return bool(answer.strip()) and bool(
        re.search(rf"(?<!\w){re.escape(answer.strip())}(?!\w|[.,]\d)", reply, re.IGNORECASE)
    )


def _by_answer(prompt: Prompt, left: str, right: str) -> Verdict:
    if not prompt.answer.strip():
        return None
    has = [_has_answer(reply, prompt.answer) for reply in (left, right)]
    return _more(*has, alike="both good" if has[0] else "both bad")


RULES: dict[str, Callable[[Prompt, str, str], Verdict]] = {
    "longer": lambda _, left, right: _more(len(left), len(right)),
    "shorter": lambda _, left, right: _more(len(right), len(left)),
    "answer": _by_answer,
}
"""Rules by name: the longer or shorter reply, or the one that has the prompt's `answer` in it."""


def rule_judge(name: str) -> Judge:
    """A rule of RULES as a judge."""

    async def judge(prompt: Prompt, left: str, right: str) -> Verdict:
        return RULES[name](prompt, left, right)

    return judge


@dataclass
class Judged:
    """What came of it: votes kept, those there were before, those that changed with the order, and those without a verdict."""

    votes: int = 0
    before: int = 0
    changed: int = 0
    unread: int = 0
    first: int = 0  # verdicts for the reply that was shown first, of `decided`
    decided: int = 0
    failed: list[str] = field(default_factory=list)


def agreed(one: Winner, swapped: Winner) -> tuple[Winner, bool]:
    """The vote of two verdicts, the second on swapped replies; and whether the order changed it."""
    other = _SWAPPED[swapped]
    if one == other:
        return one, False
    return "both good", "left" in (one, other) or "right" in (one, other)


async def judge_all(
    contestants: Sequence[Contestant],
    prompts: Sequence[Prompt],
    judge: Judge,
    name: str,
    votes: Votes,
    replies: Replies,
    *,
    at_once: int = 8,
    progress: Progress = silent,
) -> Judged:
    """Let a judge called `name` vote on every pair and prompt; each vote is kept when it is made, and none is made twice."""
    voter, found, gate = f"judge: {name}", Judged(), asyncio.Semaphore(at_once)
    votes.enter((one.name, one.version) for one in contestants)
    seen = votes.seen(voter)
    pairs = list(itertools.combinations(contestants, 2))
    names = [one.name for one in contestants]
    total, done = len(pairs) * len(prompts), 0

    async def vote(prompt: Prompt, a: Contestant, b: Contestant) -> None:
        left, right = await replies.get(a, prompt.prompt), await replies.get(b, prompt.prompt)
        verdicts = [await judge(prompt, left, right), await judge(prompt, right, left)]
        decided = [v for v in verdicts if v in ("left", "right")]
        found.decided += len(decided)
        found.first += decided.count("left")
        if verdicts[0] is None or verdicts[1] is None:
            found.unread += 1
            return
        winner, changed = agreed(verdicts[0], verdicts[1])
        found.changed += changed
        excluded = "reveals" if reveals(left, names) or reveals(right, names) else ""
        kept = Vote(
            voter=voter, first=a.name, second=b.name, winner=winner, language=prompt.language, kind=prompt.kind,
            style=style_difference(left, right), excluded=excluded, prompt=prompt.prompt,
        )  # fmt: skip
        found.votes += votes.add([kept])

    async def one(prompt: Prompt, a: Contestant, b: Contestant) -> None:
        nonlocal done
        async with gate:
            if (a.name, b.name, prompt.prompt) in seen or (b.name, a.name, prompt.prompt) in seen:
                found.before += 1
            else:
                try:
                    await vote(prompt, a, b)
                except ContestantError as error:
                    found.failed.append(str(error))
        done += 1
        progress("votes", done, total)

    await asyncio.gather(*(one(prompt, a, b) for prompt in prompts for a, b in pairs))
    return found
