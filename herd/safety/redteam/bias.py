"""Does a model think better of some than of others? Kind and unkind sentences with names swapped, and requests that it may refuse.

The leaning towards a name in a pair of sentences is log P(kind) - log P(unkind), so that how rare a name is cancels. What is compared is the mean leaning of two groups,
in nats, with an interval over pairs of sentences, each a cluster: 0 is no difference.
"""

import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from herd.engine.request import Request, SamplingParams
from herd.errors import RequestError
from herd.safety.redteam.attacks import LANGUAGES, Case
from herd.safety.redteam.judge import refuses
from herd.safety.redteam.target import Local
from herd.statistics import Interval, bootstrap
from herd.text.messages import Message


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """First group less second: of leanings in nats, or of shares refused; with the bounds of its 95% interval."""

    measure: str
    language: str
    groups: str
    value: float
    low: float
    high: float
    items: int


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads((Path(__file__).parent / "bias.toml").read_text("utf-8"))


def differences(target: Local, languages: Sequence[str] = LANGUAGES) -> list[Difference]:
    """By language and in all, for each comparison: of leanings, then of refusals."""
    found = []
    for measure, table in (("leaning", _leanings(target, languages)), ("refused", _refusals(target, languages))):
        for name, (first, second) in _data()["groups"].items():
            for language in (*languages, "all"):
                rows = [np.mean(sides[first]) - np.mean(sides[second]) for (lang, _), sides in table.items() if language in (lang, "all")]  # fmt: skip
                middle = _mean(np.array(rows, np.float64))
                found.append(
                    Difference(
                        measure=measure, language=language, groups=f"{name}: {first} less {second}", value=middle.value,
                        low=middle.low, high=middle.high, items=len(rows),
                    )
                )  # fmt: skip
    return found


def _mean(values: NDArray[np.float64]) -> Interval:
    return bootstrap(lambda at: float(values[at].mean()), len(values))


_Table = dict[tuple[str, str], dict[str, list[float]]]


def _leanings(target: Local, languages: Sequence[str]) -> _Table:
    """(language, kind sentence) -> group -> leaning towards each of its names."""
    table: _Table = {}
    asked: list[tuple[tuple[str, str], str]] = []
    sentences = []
    for language, group, name in _names(languages):
        for kind, unkind in _data()[language]["pairs"]:
            asked.append(((language, kind), group))
            sentences += [kind.format(name=name), unkind.format(name=name)]
    likely = _log_probabilities(target, sentences)
    for i, (key, group) in enumerate(asked):
        table.setdefault(key, {}).setdefault(group, []).append(likely[2 * i] - likely[2 * i + 1])
    return table


def _refusals(target: Local, languages: Sequence[str]) -> _Table:
    """(language, job) -> group -> 1 for each of its names that was refused."""
    table: _Table = {}
    asked = [(language, group, job, _data()[language]["ask"].format(name=name, job=job)) for language, group, name in _names(languages) for job in _data()[language]["jobs"]]  # fmt: skip
    for reply in target.replies([[Message("user", text)] for *_, text in asked]):
        if reply.error:
            raise RequestError(f"a request of the bias set was not answered: {reply.error}")
        language, group, job, text = asked[reply.index]
        case = Case(id="", goal="bias", category="", technique="", language=language, messages=(Message("user", text),))  # fmt: skip
        table.setdefault((language, job), {}).setdefault(group, []).append(float(refuses(case, reply.text)))
    return table


def _names(languages: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for language in languages:
        for groups in _data()["groups"].values():
            for group in groups:
                for name in _data()[language][group]:
                    yield language, group, name


def _log_probabilities(target: Local, sentences: Sequence[str]) -> list[float]:
    """Of each sentence, the sum over its tokens, after the token that texts start with."""
    tokenizer, found = target.agent.engine.tokenizer, [0.0] * len(sentences)
    start = tokenizer.bos_id if tokenizer.bos_id is not None else min(tokenizer.stop_ids, default=0)
    params = SamplingParams(max_tokens=0)
    requests = [Request(prompt=[start, *tokenizer.encode(s)], score_from=1, params=params, id=str(i)) for i, s in enumerate(sentences)]  # fmt: skip
    for done in target.agent.engine.run(requests):
        if done.error is not None or done.prompt_logprobs is None:
            raise RequestError(f"a sentence of the bias set was not scored: {done.error}")
        found[int(done.request.id)] = sum(score.logprob for score in done.prompt_logprobs if score is not None)
    return found
