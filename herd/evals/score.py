"""Replies -> right or wrong: one function a metric, each a number from 0 to 1 for one item."""

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from herd.evals.prompts import Item, choices_of
from herd.evals.task import Task
from herd.text.messages import ToolCall
from herd.tools.check import numeric, refuses


def extracted(task: Task, reply: str) -> str:
    """What a task's expressions find in a reply: the first that matches, its first or last match; without any, the reply."""
    for pattern in task.extract:
        found = re.findall(pattern, reply)
        if found:
            match = found[-1 if task.pick == "last" else 0]
            return next((part for part in match if part), "").strip() if isinstance(match, tuple) else match.strip()
    return "" if task.extract else reply.strip()


def choice(item: Item, logprobs: Sequence[float]) -> dict[str, float]:
    """Which answer is likeliest, by log-likelihood and by log-likelihood a character, as lm-evaluation-harness has them."""
    lengths = [
        max(1, len(text))
        for text in (
            (item.row["ending"],) * len(item.contexts) if len(item.contexts) > 1 else choices_of(item.task, item.row)
        )
    ]
    best = max(range(len(logprobs)), key=lambda i: logprobs[i])
    normed = max(range(len(logprobs)), key=lambda i: logprobs[i] / lengths[i])
    return {"acc": float(best == item.gold), "acc_norm": float(normed == item.gold)}


def rolling(text: str, logprob: float) -> dict[str, float]:
    """Bits a byte of one text, and what perplexities need: they are sums over a task, not means of items."""
    size = len(text.encode())
    words = max(1, len(re.split(r"\s+", text)))
    return {
        "bits_per_byte": -logprob / size / math.log(2),
        "bytes": float(size),
        "words": float(words),
        "logprob": logprob,
    }


_ARTICLE = re.compile(r"\b(a|an|the)\b")
_MINUS = re.compile(r"(?<![^\W_])[-\u2212](?=\.?\d)")  # of a number; between two it is a dash


def normalized(text: str) -> str:
    """SQuAD's normal form (Rajpurkar et al., 2016): small letters, no articles, no punctuation, single spaces; for all scripts.

    Where that would make unlike texts alike, it is not followed: a number keeps its sign, and a text of nothing but articles or
    punctuation (the answers (A) and ] ] of BIG-Bench Hard) keeps them.
    """
    text = unicodedata.normalize("NFKC", text).lower()
    kept = {found.start() for found in _MINUS.finditer(text)}
    plain = "".join(
        "-" if i in kept else " " if c in string.punctuation or unicodedata.category(c).startswith("P") else c
        for i, c in enumerate(text)
    )
    return next(filter(None, (" ".join(one.split()) for one in (_ARTICLE.sub(" ", plain), plain, text))), "")


def _pieces(text: str) -> list[str]:
    """Words, or characters where a script has no spaces between words."""
    found: list[str] = []
    for word in normalized(text).split():
        spaceless = any("\u0e00" <= c <= "\u0e7f" or "\u3040" <= c <= "\u9fff" for c in word)
        found += list(word) if spaceless else [word]
    return found


def f1(reply: str, wanted: str) -> float:
    """Harmonic mean of precision and recall over words."""
    a, b = _pieces(reply), _pieces(wanted)
    same = sum((Counter(a) & Counter(b)).values())
    return 2 * same / (len(a) + len(b)) if same else float(not a and not b)


def _wanted(gold: Any) -> list[str]:
    return [str(one) for one in gold] if isinstance(gold, list) else [str(gold)]


def _number(item: Item, reply: str) -> float:
    found, wanted = numeric(extracted(item.task, reply)), numeric(str(item.gold).split("####")[-1])
    return float(found is not None and wanted is not None and math.isclose(found, wanted, rel_tol=1e-6))


def _letter(item: Item, reply: str) -> float:
    found = extracted(item.task, reply)[:1].upper()
    gold = item.gold if isinstance(item.gold, str) else "ABCDEFGHIJ"[item.gold]
    return float(found == gold.strip("()")[:1].upper())


GENERATED: dict[str, Callable[[Item, str], float]] = {
    "exact": lambda item, reply: max(
        float(normalized(extracted(item.task, reply)) == normalized(w)) for w in _wanted(item.gold)
    ),
    "contains": lambda item, reply: max(float(normalized(w) in normalized(reply)) for w in _wanted(item.gold)),
    "recall": lambda item, reply: (
        sum(normalized(w) in normalized(reply) for w in _wanted(item.gold)) / len(_wanted(item.gold))
    ),
    "f1": lambda item, reply: max(f1(extracted(item.task, reply), w) for w in _wanted(item.gold)),
    "number": _number,
    "letter": _letter,
    "refusal": lambda _, reply: float(not refuses(reply)),
    "refusal_wanted": lambda _, reply: float(refuses(reply)),
}


# Calls, by syntax tree as BFCL's checker does (Patil et al., gorilla).


def calls(item: Item, made: Sequence[ToolCall]) -> float:
    """Whether the calls are those that are wanted, in any order: names, no unknown or missing argument, each value one of those allowed."""
    if item.task.main_metric == "irrelevance":
        return float(not made)
    wanted = list(item.gold or ())
    if len(made) != len(wanted):
        return 0.0
    left = list(made)
    for want in wanted:
        ((name, allowed),) = want.items()
        fits = next((call for call in left if call.name == name and _arguments_fit(call.arguments, allowed)), None)
        if fits is None:
            return 0.0
        left.remove(fits)
    return 1.0


def _arguments_fit(given: dict[str, Any], allowed: dict[str, list[Any]]) -> bool:
    """An allowed value "" means that the argument may be left out."""
    if not set(given) <= set(allowed):
        return False
    return all(
        any(_same(given[name], value) for value in values) if name in given else "" in values
        for name, values in allowed.items()
    )


def _same(given: Any, wanted: Any) -> bool:
    if isinstance(given, str) and isinstance(wanted, str):
        return _plain(given) == _plain(wanted)
    if isinstance(given, bool) or isinstance(wanted, bool):
        return given is wanted
    if isinstance(given, int | float) and isinstance(wanted, int | float):
        return math.isclose(given, wanted, rel_tol=1e-9)
    if isinstance(given, list) and isinstance(wanted, list | tuple):
        return len(given) == len(wanted) and all(map(_same, given, wanted))
    if isinstance(given, dict) and isinstance(wanted, dict):  # an allowed dict lists the values of each key
        return _arguments_fit(given, {k: v if isinstance(v, list) else [v] for k, v in wanted.items()})
    return bool(given == wanted)


def _plain(text: str) -> str:
    """BFCL compares strings without case, spaces and most punctuation."""
    return re.sub(r"[ \,\.\/\-\_\*\^]", "", text).lower().replace("'", '"')
