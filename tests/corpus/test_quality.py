"""Classifiers of quality and the distance of words, as recipes use them: real text beside advertising and noise."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from herd.cli.data import command
from herd.config import read
from herd.data.pipeline import Recipe
from herd.data.quality import count, divergence, features, score
from herd.errors import ConfigError, FormatError

UDHR = Path(__file__).parents[1] / "data" / "udhr"
ENGLISH = [line for line in (UDHR / "en.txt").read_text("utf-8").split("\n") if len(line) > 60]
THAI = [line for line in (UDHR / "th.txt").read_text("utf-8").split("\n") if len(line) > 60]


def advertising(seed, lines=1):
    words = [
        "buy",
        "cheap",
        "now",
        "click",
        "here",
        "best",
        "price",
        "win",
        "free",
        "offer",
        "casino",
        "bonus",
        "deal",
        "save",
        "today",
        "order",
        "shop",
        "sale",
    ]
    return "\n".join(" ".join(random.Random(seed + i).choices(words, k=30)) for i in range(lines))


@pytest.fixture
def labels(tmp_path):
    rows = [{"text": f"{a} {b}", "label": 4} for a in ENGLISH[:15] for b in ENGLISH[15:20]]
    rows += [{"text": advertising(i), "label": 1} for i in range(60)]
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def run(*words):
    command.main(list(map(str, words)), standalone_mode=False)


def test_a_classifier_and_a_reference_drop_documents(tmp_path, labels, capsys):
    run("learn", labels, "--at", "3", "--out", tmp_path / "quality.npz")
    assert float(capsys.readouterr().out.split("curve ")[1].split()[0]) > 0.95
    file = str(tmp_path / "quality.npz")
    assert score(" ".join(ENGLISH[30:34]), "en", file) > 0.5 > score(advertising(900), "en", file)
    run("count", UDHR, "--out", tmp_path / "words.npz")
    texts = ["\n".join(ENGLISH[20:30]), advertising(500, 4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for rule, lines in {
        "min_quality": 'quality = "quality.npz"\nmin_quality = 0.5', "max_divergence": 'reference = "words.npz"\nmax_divergence = 5.0',
    }.items():  # fmt: skip
        head = 'inputs = ["in.jsonl"]\n[rules]\nmax_top_ngram = [1.0, 1.0, 1.0]\nlanguage_score = 0.0\nmin_words = 10\n'
        (tmp_path / "r.toml").write_text(f"{head}{lines}\n")
        run(tmp_path / "r.toml", "--out", tmp_path / rule)
        told = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("dropped ")]
        assert {words[1]: int(words[2]) for words in told} == {rule: 1}
        assert "protection by society" in (tmp_path / rule / "texts" / "00000.jsonl").read_text()


def test_divergence_is_the_sum_that_its_formula_says(tmp_path):
    count([("one two two three three three", "en")], tmp_path / "words.npz")
    file = str(tmp_path / "words.npz")
    whole = 6 + 0.5 * 65536
    wanted = 0.5 * np.log(0.5 / (2.5 / whole)) + 0.5 * np.log(0.5 / (3.5 / whole))
    assert divergence("two three", "en", file) == pytest.approx(wanted)
    assert divergence("", "en", file) == 0
    assert divergence("four five", "en", file) > wanted


def test_languages_without_spaces_have_features_too():
    one, other = features(THAI[0], "th")[0], features(THAI[1], "th")[0]
    assert len(one) > 50
    assert len(np.intersect1d(one, other)) > 5
    assert len(features("?!", "en")[0]) == 0


def test_what_cannot_be_is_told(tmp_path, labels):
    with pytest.raises(ConfigError, match="expected more of both kinds"):
        run("learn", labels, "--at", "9", "--out", tmp_path / "q.npz")
    assert not (tmp_path / "q.npz").exists()
    labels.write_text('{"text": "a", "label": "good"}\n')
    with pytest.raises(FormatError, match=r"labels\.jsonl:1: expected"):
        run("learn", labels, "--out", tmp_path / "q.npz")
    (tmp_path / "noise.npz").write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(FormatError, match="cannot be read"):
        score("a b c", "en", str(tmp_path / "noise.npz"))
    np.savez(tmp_path / "other.npz", weights=np.zeros(3), bias=0.0)
    with pytest.raises(FormatError, match="holds no weights of 262,144 numbers"):
        score("a b c", "en", str(tmp_path / "other.npz"))
    with pytest.raises(ConfigError, match="learn LABELS"):
        run("learn")
    for change, words in (
        ('quality = "gone.npz"\nmin_quality = 0.5', "no such file"),
        ("min_quality = 0.5", "together"),
    ):
        (tmp_path / "r.toml").write_text(f'inputs = ["labels.jsonl"]\n[rules]\n{change}')
        with pytest.raises(ConfigError, match=words):
            read(Recipe, tmp_path / "r.toml", values={"folder": str(tmp_path)}).check()
