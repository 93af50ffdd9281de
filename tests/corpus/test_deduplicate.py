import random
from pathlib import Path

import numpy as np
import pytest

from herd.data.deduplicate import Buckets, band_keys, frequent_lines, jaccard, shingles, similar, without

UDHR = Path(__file__).parents[1] / "data" / "udhr"


def variants(language):
    """Texts of about 1,200 characters, each with some that differ from it in one place or in several."""
    source = (UDHR / f"{language}.txt").read_text("utf-8").replace("\n", " ")
    chance = random.Random(7)
    texts = []
    for start in range(0, len(source) - 1200, 1100):
        base = source[start : start + 1200]
        texts.append(base)
        for edits in (1, 1, 2, 3, 5, 8, 13):
            text = base
            for _ in range(edits):
                at = chance.randrange(len(text) - 30)
                length = chance.randrange(1, 12)
                text = text[:at] + text[at + length :]
            texts.append(text)
    return texts


@pytest.mark.parametrize("language", ["en", "de", "fr", "it", "pt", "hi", "es", "th"])
def test_recall_and_precision_against_all_pairs(language, tmp_path):
    sets = [shingles(text, language) for text in variants(language)]
    true = {(i, j) for j in range(len(sets)) for i in range(j) if jaccard(sets[i], sets[j]) >= 0.8}
    assert len(true) > 20
    buckets = Buckets(tmp_path, len(sets) * 20, 1 << 20)
    for i, one in enumerate(sets):
        buckets.add(band_keys(one), i)
    candidates = {(int(a), int(b)) for _, group in buckets.groups() for n, b in enumerate(group) for a in group[:n]}
    assert len(true & candidates) >= 0.97 * len(true)
    # clusters of brute force and ours
    parents = [*range(len(sets))]
    for i, j in sorted(true):
        a, b = sorted((top(parents, i), top(parents, j)))
        parents[b] = a
    expected = {i for i in range(len(sets)) if top(parents, i) != i}
    again = Buckets(tmp_path, len(sets) * 20, 1 << 20)
    for i, one in enumerate(sets):
        again.add(band_keys(one), i)
    found = similar(again.groups(), len(sets), sets.__getitem__, 0.8)
    assert len(expected & set(found)) >= 0.97 * len(expected)
    assert len(expected & set(found)) >= 0.99 * len(found)


def top(parents, i):
    while parents[i] != i:
        i = parents[i]
    return i


def test_texts_without_words_are_not_like_one_another():
    assert len(band_keys(shingles("", "en"))) == 0
    assert len(band_keys(shingles("!!! ...", "th"))) == 0
    assert jaccard(shingles("", "en"), shingles("", "en")) == 0


def test_what_keys_say_does_not_depend_on_memory(tmp_path):
    chance = np.random.default_rng(1)
    rows = [(chance.integers(0, 4000, 3, dtype=np.uint64), i) for i in range(3000)]

    def groups(memory, expected):
        buckets = Buckets(tmp_path / str(expected), expected, memory)
        for keys, i in rows:
            buckets.add(keys, i)
        return {key: list(map(int, found)) for key, found in buckets.groups()}

    assert groups(1 << 30, 100) == groups(1 << 20, 10_000_000)
    assert not list(tmp_path.rglob("*.keys"))


def test_lines_over_six_times_go_and_code_stays(tmp_path):
    code = ">>> f(1)\nTrue\n\nif __name__ == '__main__':\n    main()\n\nreturn 0\n}"
    documents = [f"Read our newsletter\nText {i} is of its own.\n\n{code}" for i in range(7)]
    lines = frequent_lines(documents, tmp_path, 1 << 20)
    assert without(documents[3], lines) == f"Text 3 is of its own.\n\n{code}"
    assert frequent_lines(documents[:6], tmp_path, 1 << 20) == frozenset()
    assert without("a\n\n\nb\n", lines) == "a\n\n\nb\n"
