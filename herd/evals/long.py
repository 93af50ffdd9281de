"""Questions about long texts, made from text: needles, chains of variables, common words, as RULER has them (Hsieh et al., arXiv 2404.06654).

Rows are drawn with a seed and need no data: the hay is the sentences of the Universal Declaration of Human Rights, in an order that is drawn anew
for each row. Sizes are in tokens of Llama 3's kind, estimated from characters; another tokenizer makes them longer or shorter.
"""

import json
import random
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from herd.evals.task import Made

_CHARACTERS = 4.4  # a token of English prose
_THINGS = (
    "apple", "anchor", "basket", "bridge", "candle", "castle", "desert", "engine", "feather", "forest", "garden", "hammer", "island", "jacket", "kettle",
    "ladder", "lantern", "mirror", "needle", "orchard", "paddle", "pencil", "pillow", "rabbit", "ribbon", "saddle", "shovel", "spider", "ticket", "tunnel",
    "turtle", "umbrella", "valley", "violin", "walnut", "whistle", "window", "winter", "yogurt", "zipper",
)  # fmt: skip


@lru_cache(maxsize=1)
def _sentences() -> list[str]:
    for line in (Path(__file__).parent / "data" / "small_text.jsonl").read_text("utf-8").splitlines():
        row = json.loads(line)
        if row["language"] == "en":
            text = " ".join(row["page"].split())
            return [part.strip(" .") + "." for part in text.split(". ") if len(part) > 20]
    raise AssertionError("small_text.jsonl has no English page")


def _hay(draw: random.Random, tokens: int) -> list[str]:
    """Sentences of about `tokens` tokens in all, every pass over them in another order."""
    found: list[str] = []
    left = tokens * _CHARACTERS
    while left > 0:
        for sentence in draw.sample(_sentences(), len(_sentences())):
            found.append(sentence)
            left -= len(sentence) + 1
            if left <= 0:
                break
    return found


def _numbers(draw: random.Random, count: int) -> list[str]:
    return [str(number) for number in draw.sample(range(1_000_000, 10_000_000), count)]


def _needle(draw: random.Random, tokens: int, depth: float) -> dict[str, Any]:
    """One sentence with a number at a given depth."""
    thing, number = draw.choice(_THINGS), _numbers(draw, 1)[0]
    hay = _hay(draw, tokens - 80)
    hay.insert(round(depth * len(hay)), f"The special number of the {thing} is {number}.")
    ask = f"What is the special number of the {thing} in the text above?"
    return {
        "text": " ".join(hay),
        "question": ask,
        "begin": f"The special number of the {thing} is",
        "answer": [number],
    }


def _needles(draw: random.Random, tokens: int, depth: float) -> dict[str, Any]:
    """Four sentences with numbers, two of which are asked for (Meta's multi-needle); they stand anywhere, the first that is wanted at `depth`."""
    things, numbers = draw.sample(_THINGS, 4), _numbers(draw, 4)
    hay = _hay(draw, tokens - 140)
    places = [round(depth * len(hay)), *(draw.randint(0, len(hay)) for _ in range(3))]
    needles = [f"The special number of the {thing} is {number}." for thing, number in zip(things, numbers, strict=True)]
    for place, needle in sorted(zip(places, needles, strict=True), reverse=True):
        hay.insert(place, needle)
    wanted = f"the {things[0]} and of the {things[1]}"
    return {"text": " ".join(hay), "question": f"What are the special numbers of {wanted} in the text above?", "begin": f"The special numbers of {wanted} are", "answer": numbers[:2]}  # fmt: skip


def _variables(draw: random.Random, tokens: int, depth: float) -> dict[str, Any]:
    """A chain of four assignments among another chain (RULER's variable tracking): which variables have the first one's value?"""
    names = draw.sample([f"{a}{b}{c}" for a in "BCDFGHJKLM" for b in "NPQRSTVWXZ" for c in "BCDFG"], 8)
    values = _numbers(draw, 2)
    hay = _hay(draw, tokens - 200)
    spots = sorted(draw.randint(0, len(hay)) for _ in range(8))
    chains = [[f"VAR {c[0]} = {value}.", *(f"VAR {b} = VAR {a}." for a, b in pairwise(c))] for c, value in zip((names[:4], names[4:]), values, strict=True)]  # fmt: skip
    order = draw.sample([0] * 4 + [1] * 4, 8)
    for spot, chain in zip(reversed(spots), reversed(order), strict=True):
        hay.insert(spot, chains[chain].pop())
    ask = f"Which four variables have the value {values[0]}, directly or through another variable?"
    return {
        "text": " ".join(hay),
        "question": ask,
        "begin": f"The four variables with the value {values[0]} are",
        "answer": names[:4],
    }


def _common_words(draw: random.Random, tokens: int, depth: float) -> dict[str, Any]:
    """A list in which five words stand far more often than the others (RULER's common words)."""
    words = draw.sample(_THINGS, len(_THINGS))
    often, seldom = words[:5], words[5:]
    count = max(40, int(tokens / 1.3))
    many = max(4, count // 16)
    rest = count - 5 * many
    listed = often * many + [seldom[i % len(seldom)] for i in range(min(rest, len(seldom) * (many // 2 or 1)))]
    draw.shuffle(listed)
    ask = "Which five words stand most often in the list of words above?"
    return {
        "text": " ".join(listed),
        "question": ask,
        "begin": "The five words that stand most often are",
        "answer": often,
    }


_KINDS: dict[str, Callable[[random.Random, int, float], dict[str, Any]]] = {
    "needle": _needle, "needles": _needles, "variables": _variables, "common_words": _common_words,
}  # fmt: skip


def rows(made: "Made") -> list[dict[str, Any]]:
    """The rows of a task, the same for the same settings everywhere; `depth` goes evenly from the beginning to the end in ten steps."""
    found = []
    for number in range(made.rows):
        depth = (number % 10) / 9
        draw = random.Random(f"{made.seed} {made.kind} {made.tokens} {number}")
        found.append({"id": str(number), "depth": f"{depth:.0%}", **_KINDS[made.kind](draw, made.tokens, depth)})
    return found
