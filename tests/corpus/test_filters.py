from pathlib import Path

import pytest

from herd.data.filters import Rules, judge
from herd.data.identify import identify
from herd.data.redact import redact

UDHR = Path(__file__).parents[1] / "data" / "udhr"
LANGUAGES = ["en", "de", "fr", "it", "pt", "hi", "es", "th"]
GOOD = " ".join((UDHR / "en.txt").read_text("utf-8").split("\n")[10:40])


@pytest.mark.parametrize("language", LANGUAGES)
def test_good_text_of_every_language_is_known_and_kept(language):
    text = "\n".join((UDHR / f"{language}.txt").read_text("utf-8").split("\n")[:40])
    found, score = identify(text)
    assert found == language
    assert score > 0.5
    assert judge(text, language, Rules()) is None


@pytest.mark.parametrize(
    "text, rule",
    [
        ("too short", "min_words"),
        (GOOD + " lorem ipsum dolor", "drop_phrases"),
        ("\n".join(f"• {line}." for line in GOOD.split(". ")), "max_bullet_lines"),
        ("\n".join(f"{line} ..." for line in GOOD.split(". ")), "max_ellipsis_lines"),
        ("\n".join(["A line that is the same as all of the others are in here."] * 9 + GOOD.split(". ")[:3]), "max_duplicate_lines"),
        ("\n".join(dict.fromkeys(" ".join(GOOD.split()[i : i + 4]) for i in range(0, 240, 4))), "max_short_lines"),
        (GOOD.replace(" ", ""), "min_words"),
        (" ".join("x" * 30 + str(i) for i in range(90)), "mean_word_length"),
        (GOOD + " #" * 200, "max_symbol_ratio"),
        (" ".join(str(1000 + i) for i in range(90)), "min_alphabetic_words"),
        (" ".join(f"word{i} buy now cheap" for i in range(60)), "max_top_2gram"),
        (GOOD[:400] + " " + GOOD[:400], "max_duplicate_5gram"),
        (GOOD[:600] + " fuck" * 1 + " shit" * 2, "max_dirty_words"),
    ],
)  # fmt: skip
def test_each_rule_drops_what_it_is_for(text, rule):
    drop = judge(text, "en", Rules())
    assert drop is not None
    assert drop.rule == rule


def test_thai_is_counted_in_characters():
    text = "".join((UDHR / "th.txt").read_text("utf-8").split("\n")[:40])
    assert judge(text[:100], "th", Rules()).rule == "min_characters"
    assert judge(text[:800] * 2, "th", Rules()).rule.startswith("max_duplicate")


@pytest.mark.parametrize(
    "text, kinds",
    [
        ("write to jane.doe+x@mail.example.org today", {"email": 1}),
        ("card 4111 1111 1111 1111, not 4111 1111 1111 1112", {"card": 1}),
        ("IBAN DE89 3704 0044 0532 0130 00 and not DE88 3704 0044 0532 0130 00", {"iban": 1}),
        ("from 8.8.8.8, not 127.0.0.1 nor 192.168.0.1 nor 999.1.1.1", {"ip": 1}),
        ("call +49 30 1234567 or (212) 555-0100", {"phone": 2}),
        ("key AKIAIOSFODNN7EXAMPLE and ghp_" + "a" * 36, {"key": 2}),
        ("in 2024 there were 1,234,567 of them; version 3.11.7; ISBN 978-3-16-148410-0; 10:30-11:45", {}),
        ("@decorator and a @ b, f(x)@y, 12345678901234567890", {}),
    ],
)
def test_personal_data_is_redacted_and_numbers_are_not(text, kinds):
    clean, counts = redact(text)
    assert counts == kinds
    assert clean == text if not kinds else all(f"<{kind.upper()}>" in clean for kind in kinds)
