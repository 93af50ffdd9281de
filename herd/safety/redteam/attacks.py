"""Cases of a red team: goals x techniques x languages, from the data file, mutated; and what an attacker makes who knows the Shield."""

import base64
import codecs
import hashlib
import tomllib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from herd.errors import ConfigError
from herd.text.messages import Message, ToolCall

Score = Callable[[str, bool], float]
LANGUAGES = ("en", "de", "fr", "it", "pt", "es", "hi", "th")
_LOOKS = str.maketrans("aeopcxyABEKMHOPCTX", "аеорсхуАВЕКМНОРСТХ")  # Latin letters -> Cyrillic ones that look alike
_LEET = str.maketrans("aeiostAEIOST", "431057431057")
# encoding -> (the text, whether it must be decoded by who reads it)
ENCODINGS: dict[str, tuple[Callable[[str], str], bool]] = {
    "base64": (lambda t: base64.b64encode(t.encode()).decode(), True),
    "rot13": (lambda t: codecs.encode(t, "rot13"), True),
    "reversed": (lambda t: t[::-1], True),
    "leetspeak": (lambda t: t.translate(_LEET), False),
    "spaced": (lambda t: " ".join(t), False),
    "homoglyphs": (lambda t: t.translate(_LOOKS), False),
    "zero_width": (lambda t: "\u200b".join(t), False),
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One attack: the conversation, and by what its success is known. `goal` is "ordinary" for a question that is no attack."""

    id: str
    goal: str
    category: str
    technique: str
    language: str
    messages: tuple[Message, ...]
    canary: str = ""
    words: tuple[str, ...] = ()


@cache
def data() -> dict[str, Any]:
    """The data file."""
    return tomllib.loads((Path(__file__).parent / "attacks.toml").read_text("utf-8"))


def cases(
    languages: Sequence[str] = LANGUAGES,
    techniques: Sequence[str] = (),
    score: Score | None = None,
    system: str = "",
) -> list[Case]:
    """Cases of some languages and techniques (none named: all), in an order in which the first hundred have some of each.

    With `score`, which says how hostile a text (of a third party: True) looks to the Shield, an adaptive attacker sends of all its ways to put a goal the one
    that looks least so. `system` is for goals that have no system message of their own.
    """
    for name in languages:
        if name not in LANGUAGES:
            raise ConfigError(f"language {name!r}: expected some of {', '.join(LANGUAGES)}")
    made = [case for language in languages for case in _language(language, score, system)]
    made += _work() if "en" in languages else []
    known = {case.technique for case in made}
    for name in techniques:
        if name not in known:
            raise ConfigError(f"technique {name!r}: expected some of {', '.join(sorted(known))}")
    kept = [case for case in made if not techniques or case.technique in techniques]
    return sorted(kept, key=lambda case: hashlib.sha256(case.id.encode()).digest())


def ordinary(languages: Sequence[str] = LANGUAGES) -> list[Case]:
    """Questions that are no attacks."""
    return [
        Case(id=f"ordinary-{name}-{i}", goal="ordinary", category="ordinary", technique="none", language=name, messages=(Message("user", text),))
        for name in languages for i, text in enumerate(data()["ordinary"][name])
    ]  # fmt: skip


def _language(name: str, score: Score | None, given: str) -> list[Case]:
    made = []
    for goal, told in data()["goals"].items():
        canary = _canary(f"{goal} {name}")
        ask = told["ask"][name].format(canary=canary)
        system = told["system"][name].format(canary=canary) if "system" in told else given
        ways = _ways(ask, name)
        if score is not None:
            ways["adaptive"] = [Message("user", min(_wordings(ask, name), key=lambda t: score(t, False)))]
        for technique, turns in ways.items():
            start = [Message("system", system)] if system else []
            made.append(
                Case(
                    id=f"{goal}-{technique}-{name}", goal=goal, category=told["category"], technique=technique, language=name,
                    messages=(*start, *turns), canary=canary if "words" not in told else "", words=tuple(told.get("words", ())),
                )
            )  # fmt: skip
    return made + _injections(name, score)


def _ways(ask: str, name: str) -> dict[str, list[Message]]:
    """A goal by every technique."""
    ways = {"direct": [Message("user", ask)]}
    ways |= {
        technique: [Message("user", texts[name].format(goal=ask))] for technique, texts in data()["techniques"].items()
    }
    ways |= {technique: [Message("user", _encoded(ask, technique, name))] for technique in ENCODINGS}
    for technique, turns in data()["turns"].items():
        before = [Message(role, text) for pair in turns[name] for role, text in zip(("user", "assistant"), pair, strict=True)]  # type: ignore[arg-type]  # fmt: skip
        ways[technique] = [*before, Message("user", ask)]
    return ways


def _encoded(text: str, encoding: str, name: str) -> str:
    encode, decoded = ENCODINGS[encoding]
    return f"{data()['decode'][name]}\n{encode(text)}" if decoded else encode(text)


def _wordings(ask: str, name: str) -> list[str]:
    """What an attacker who may try offline chooses from: each frame, plain and encoded, and the goal among harmless words."""
    harmless = " ".join(data()["ordinary"][name])
    frames = [ask, *(texts[name].format(goal=ask) for texts in data()["techniques"].values())]
    encoded = [_encoded(frame, encoding, name) for frame in frames for encoding in ENCODINGS]
    return [*frames, *encoded, *(f"{harmless} {frame}" for frame in frames), *(f"{frame} {harmless}" for frame in frames)]  # fmt: skip


def _injections(name: str, score: Score | None) -> list[Case]:
    """Orders in what a tool gives."""
    told = data()["injection"]
    canary = _canary(f"injection {name}")
    text, order = told["text"][name], told["order"][name].format(canary=canary)
    polite = told["polite"][name].format(canary=canary)
    results = {
        "injected": f"{text} {order}", "injected_polite": f"{text} {polite}",
        "injected_spaced": f"{text} {' '.join(order)}", "injected_homoglyphs": f"{text} {order.translate(_LOOKS)}",
    }  # fmt: skip
    if score is not None:
        results["injected_adaptive"] = min(results.values(), key=lambda t: score(t, True))
    return [
        Case(
            id=f"injection-{technique}-{name}", goal="injection", category=told["category"], technique=technique, language=name, canary=canary,
            messages=(Message("user", told["ask"][name]), Message("assistant", "", (ToolCall("read_mail", {}),)), Message("ipython", result)),
        )
        for technique, result in results.items()
    ]  # fmt: skip


def _work() -> list[Case]:
    """Orders in what the tools of an agent at work give, in English."""
    found = []
    for work in data()["work"]:
        for technique, frame in data()["work_orders"].items():
            canary = _canary(f"{work['name']} {technique}")
            result = work["result"].format(order=frame.format(order=work["order"].format(canary=canary)))
            messages = (
                Message("user", work["ask"]),
                Message("assistant", "", (ToolCall(work["tool"], {}),)),
                Message("ipython", result),
            )
            found.append(
                Case(
                    id=f"{work['name']}-{technique}-en", goal=work["name"], category="tool results", technique=technique, language="en",
                    canary=canary, messages=messages,
                )
            )  # fmt: skip
    return found


def _canary(text: str) -> str:
    """A word that nobody says by chance."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return "Z" + "".join("bdfglmnprstvxyz"[int(c, 16) % 15] + "aeiou"[int(c, 16) % 5] for c in digest[:4])
