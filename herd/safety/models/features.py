"""Text as numbers for the embedded classifiers: tricks undone, hashed n-grams, ideas that are one feature in every language.

Only numpy. A text gives the indices of its features and their values; a classifier is one row of weights a head.
"""

import base64
import binascii
import re
import tomllib
import unicodedata
import zlib
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

BITS = 18
SIZE = 1 << BITS
WINDOW, STEP = 1200, 900  # characters; longer texts are looked at in windows
_HERE = Path(__file__).parent
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u206a-\u206f\ufe00-\ufe0f\ufeff\U000e0000-\U000e007f]"
)
_SPACED = re.compile(r"(?<!\w)(?:\w[ \t._*|\-]{1,2}){4,}\w(?!\w)")
_LOOKALIKES = str.maketrans(
    "асеорхуіјѕԁһοАВЕКМНОРСТХІЈЅΑΒΕΖΗΙΚΜΝΟΡΤΥΧανρτιεκ", "aceopxyijsdhoABEKMHOPCTXIJSABEZHIKMNOPTYXavptiek"
)
_LEET = str.maketrans("0134578@$!|", "oieastbasil")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}")
_WORDS = re.compile(
    r"(?:[^\W_]|[\u0300-\u036f\u0900-\u0963\u0980-\u09e3\u0e31-\u0e4e])+(?:['-][^\W_]+)*|[<>{}\[\]#$€₹!?]{1,3}"
)


def plain(text: str) -> str:
    """The text without tricks: invisible characters, look-alikes, spaced-out letters, leetspeak, base64; in lower case."""
    text = _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if not text.isascii():
        text = re.sub(r"\w+", _one_script, text)
    hidden = [_decoded(m[0]) for m in list(_BASE64.finditer(text))[:8]]
    text = text.casefold()
    text = _SPACED.sub(lambda m: re.sub(r"[ \t._*|\-]", "", m[0]), text)
    if re.search(r"[a-z][0134578@$!|]+[a-z]|\b[0134578@$]+[a-z]{2}", text):
        text = re.sub(r"\b\w*(?:[a-z][0134578@$!|]+|[0134578@$]+[a-z])[\w@$!|]*", lambda m: m[0].translate(_LEET), text)
    return re.sub(r"\s+", " ", " ".join([text, *(h.casefold() for h in hidden if h)])).strip()


def _one_script(match: re.Match[str]) -> str:
    word = match[0]
    if re.search(r"[A-Za-z]", word) and re.search(r"[\u0370-\u03ff\u0400-\u04ff]", word):
        return word.translate(_LOOKALIKES)
    return word


def _decoded(text: str) -> str:
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return ""
    return found if found.isprintable() and " " in found else ""


@lru_cache(maxsize=1)
def _concepts() -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """Beginning of a word -> idea, and first character -> lengths of the beginnings with it."""
    table = tomllib.loads((_HERE / "concepts.toml").read_text(encoding="utf-8"))
    starts: dict[str, int] = {}
    lengths: dict[str, set[int]] = {}
    for i, words in enumerate(table.values()):
        for word in words.split():
            word = unicodedata.normalize("NFKC", word).casefold().replace("_", " ")
            starts[word] = i
            lengths.setdefault(word[0], set()).add(len(word))
    return starts, {c: tuple(sorted(n)) for c, n in lengths.items()}


_BEGINS = re.compile(r"(?<![^\W_])\S|[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")


def ideas(text: str) -> list[int]:
    """The ideas of a plain text, each once, in order of their first word."""
    starts, lengths = _concepts()
    padded = f"{text} "
    found: dict[int, None] = {}
    for match in _BEGINS.finditer(padded):
        at = match.start()
        for length in lengths.get(padded[at], ()):
            index = starts.get(padded[at : at + length])
            if index is not None:
                found.setdefault(index)
    return list(found)


def features(text: str) -> tuple[Any, Any]:
    """Indices (int64) and values (float32) of the hashed features of a text that is plain already."""
    indices, values = [], []
    points = np.frombuffer(f" {text} ".encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    for n, salt in ((3, 7), (4, 5)):
        if len(points) < n:
            continue
        hashed = np.full(len(points) - n + 1, salt, np.uint64)
        for i in range(n):
            hashed = (hashed * np.uint64(0x100000001B3)) ^ points[i : len(points) - n + 1 + i]
        hashed = (hashed * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - BITS)
        unique = np.unique(hashed.astype(np.int64))
        indices.append(unique)
        values.append(np.full(len(unique), 1 / np.sqrt(len(unique)), np.float32))
    words = [m[0] for m in _WORDS.finditer(text)]
    names = ideas(text)
    pairs = [f"i {min(a, b)} {max(a, b)}" for i, a in enumerate(names) for b in names[i + 1 :]][:60]
    for grams, weight in (
        ([f"w {w}" for w in words] + [f"w {a} {b}" for a, b in pairwise(words)], 0.0),
        ([f"i {a}" for a in names] + pairs, 0.5),
    ):
        unique = np.unique(np.array([_slot(g) for g in grams], np.int64))
        indices.append(unique)
        values.append(np.full(len(unique), weight or 1.5 / np.sqrt(max(len(unique), 1)), np.float32))
    return np.concatenate(indices), np.concatenate(values)


def _slot(text: str) -> int:
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) & (SIZE - 1)


def windows(text: str) -> list[str]:
    """A plain text in overlapping pieces: itself when it is short."""
    if len(text) <= WINDOW:
        return [text]
    return [text[i : i + WINDOW] for i in range(0, len(text) - WINDOW + STEP, STEP)]


def sentences(text: str) -> list[str]:
    """The sentences of a text as it was written, each with what follows it, since an order often takes two."""
    parts = [p for p in re.split(r"(?<=[.!?।。！？])\s+|\n+|[|<>]+", text[:200_000]) if len(p.strip()) > 2]
    return parts or [text]
