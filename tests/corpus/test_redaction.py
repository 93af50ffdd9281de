"""Personal data in a labelled set: how much of it is found, and how much of what is found is some.

The lines of tests/data/redaction.txt mark what must go as «kind:text»; the others are there to be left alone. They were written before they were
tried, the second set before the patterns were, too.
"""

import re
from collections import Counter
from pathlib import Path

import pytest

from herd.data.redact import redact

DATA = Path(__file__).parents[1] / "data"
MARK = re.compile("«([a-z]+):([^»]+)»")


def measured(lines):
    """(expected, found, right) of each kind; what is found in a line counts as right if the whole line is as it should be."""
    expected: Counter[str] = Counter()
    found: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for line in lines:
        kinds = Counter(mark[1] for mark in MARK.finditer(line))
        text, counts = redact(MARK.sub(lambda mark: mark[2], line))
        expected.update(kinds)
        found.update(counts)
        if text == MARK.sub(lambda mark: f"<{mark[1].upper()}>", line):
            right.update(kinds)
    return expected, found, right


@pytest.mark.parametrize("name, least", [("redaction", 0.99), ("redaction-held-out", 0.93)])
def test_precision_and_recall_on_the_labelled_sets(name, least):
    """The first set is what the patterns were tuned on. The second was written just before them by the same hand, and one rule drew on
    it: its figures are kinder than a stranger's text would be.
    """
    lines = (DATA / f"{name}.txt").read_text("utf-8").splitlines()
    expected, found, right = measured(lines)
    precision, recall = right.total() / found.total(), right.total() / expected.total()
    print(f"{name}: precision {precision:.3f}, recall {recall:.3f} of {expected.total()} in {len(lines)} lines")
    assert precision >= least
    assert recall >= least
    for kind in ("card", "iban", "key"):  # those whose shape or check digits tell
        assert expected[kind] == found[kind] == right[kind] >= 3


def test_sections_and_versions_are_no_addresses():
    for text in (
        "6.2.9.1. Generators",
        "• 2.1.3.4. Recap",
        "version 4.2.1.7",
        "see section 2.1.3.4",
        "a::b::c at 12:30:45",
    ):
        assert redact(text) == (text, {})
