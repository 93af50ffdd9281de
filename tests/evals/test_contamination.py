import json
import random
import subprocess
import sys

import numpy as np
import pytest

from herd.data.overlap import GRAM, Index, Match, grams, tokens
from herd.errors import ConfigError, FormatError
from herd.evals.contamination import best, split
from herd.evals.corpus import documents_of, files_of
from herd.evals.overlap import line, questions
from herd.evals.source import Places
from herd.evals.task import choose

generator = random.Random(11)
VOCABULARY = ["".join(generator.choices("abcdefghijklmnop", k=generator.randint(2, 8))) for _ in range(3000)]


def prose(count):
    return " ".join(generator.choices(VOCABULARY, k=count))


def naive(text):
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}


def test_words_are_told_without_case_and_marks():
    one, starts = tokens("the cat’s hat, 3.5 — élan".encode())
    two, _ = tokens(b"The Cat s hat 3 5 ".lower() + "élan".encode())
    assert one.tolist() == two.tolist()
    assert starts.tolist()[:2] == [0, 4]
    assert len(set(one.tolist())) == len(one) == 7
    assert len(tokens("私は猫。です".encode())[0]) == 5
    assert tokens(b"")[0].size == tokens(b" .,")[0].size == 0
    assert len(grams(one)) == 0


def test_shares_are_those_of_a_plain_count():
    texts = [("t", str(i), prose(generator.randint(9, 60))) for i in range(60)]
    corpus = []
    for _, _, text in texts[:30]:
        words = text.split()
        start = generator.randint(0, len(words) - 8)
        corpus.append(f"{prose(30)} {' '.join(words[start : start + generator.randint(5, 40)])}, {prose(30)}")
    index = Index(texts)
    assert sum(index.scan(corpus)) > 0
    everything = set().union(*(naive(document) for document in corpus))
    for (_, key, text), match in zip(texts, index.matches()["t"], strict=True):
        words = text.split()
        covered = set()
        for i in range(len(words) - GRAM + 1):
            if tuple(words[i : i + GRAM]) in everything:
                covered |= set(range(i, i + GRAM))
        assert (match.id, match.tokens) == (key, len(words))
        assert match.share == pytest.approx(len(covered) / len(words))
        assert match.longest >= (GRAM if covered else 0)


def test_verbatim_leaks_are_all_found_and_nothing_else_is():
    texts = [("t", str(i), prose(120)) for i in range(400)]
    leaked = set(generator.sample(range(400), 100))
    corpus = [prose(400) for _ in range(300)]
    for number in leaked:
        start = generator.randint(0, 70)
        piece = " ".join(texts[number][2].split()[start : start + 50])
        corpus[generator.randrange(300)] += f"\n{piece.title().replace(' ', ', ', 3)}\n{prose(5)}"
    generator.shuffle(corpus)
    index = Index(texts)
    for _ in index.scan(corpus):
        pass
    found = index.matches()["t"]
    assert {int(m.id) for m in found if m.verbatim} == leaked
    assert all(50 <= found[number].longest <= 52 for number in leaked)
    assert not [m for m in found if m.share > 0 and int(m.id) not in leaked]


def test_runs_do_not_go_over_the_ends_of_documents_but_over_pieces_of_a_long_one(monkeypatch):
    text = prose(60)
    words = text.split()
    index = Index([("t", "0", text)])
    for _ in index.scan([" ".join(words[:30]), " ".join(words[30:])]):
        pass
    assert index.matches()["t"][0].longest == 30
    monkeypatch.setattr("herd.data.overlap._BATCH", 64)
    index = Index([("t", "0", text)])
    for _ in index.scan([f"{prose(200)} {text} {prose(200)}"]):
        pass
    assert index.matches()["t"][0] == Match("0", 60, 1.0, 60)


def test_the_wording_of_prompts_is_not_a_leak():
    head = "the following are multiple choice questions with answers about the world "
    texts = [("t", str(i), head + prose(20)) for i in range(10)]
    index = Index(texts)
    for _ in index.scan([head * 3]):
        pass
    assert {m.share for m in index.matches()["t"]} == {0.0}
    assert {m.longest for m in index.matches()["t"]} == {0}
    for _ in index.scan([texts[3][2], f"x {head}{' '.join(texts[4][2].split()[11:19])} y"]):
        pass
    assert [m.longest for m in index.matches()["t"]] == [0, 0, 0, 31, 19, 0, 0, 0, 0, 0]


def test_the_threshold_is_where_the_gain_is_largest():
    matches = [Match(str(i), 40, share, 0) for i, share in enumerate(np.linspace(0, 1, 200))]
    scores = {m.id: float(m.share >= 0.6) for m in matches}
    chosen = best([split(matches, scores, t / 10) for t in range(1, 11)])
    assert (chosen.threshold, chosen.significant) == (0.6, True)
    assert chosen.contaminated_score.value > chosen.clean_score.value
    assert chosen.gain == pytest.approx(chosen.score.value - chosen.clean_score.value)
    even = best([split(matches, dict.fromkeys(scores, 1.0), t / 10) for t in range(1, 11)])
    assert (even.gain, even.significant) == (0, False)
    nothing = split([Match("0", 40, 0.0, 0)], {"0": 1.0}, 0.5)
    assert (nothing.contaminated, nothing.contaminated_score) == (0, None)
    with pytest.raises(ConfigError, match="no question has a score"):
        split(matches, {}, 0.5)


def test_real_questions_are_found_in_what_they_are_in(tmp_path):
    texts, absent = questions(choose(["small_arc", "small_gsm8k", "small_mmlu", "hellaswag"]), Places())
    assert [reason.split(":")[0] for reason in absent] == ["hellaswag"]
    leaked = [text for task, _, text in texts if task == "small_gsm8k"]
    index = Index(texts)
    for _ in index.scan(leaked):
        pass
    found = index.matches()
    assert all(m.verbatim for m in found["small_gsm8k"])
    assert not any(m.verbatim for task in ("small_arc", "small_mmlu") for m in found[task])


def test_corpora_of_all_kinds_and_damaged_ones(tmp_path):
    import gzip

    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n\n{"content": "three"}\n')
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"text": "four"}'))
    (tmp_path / "d.bin").write_text("")
    files = files_of([tmp_path])
    assert [text for file in files for text in documents_of(file)] == ["one", "two", "three", "four"]
    for body, message in (("[", "b.jsonl:1"), ('{"body": "x"}', "no .text."), ('{"text": 3}', "b.jsonl:1")):
        (tmp_path / "b.jsonl").write_text(body)
        with pytest.raises(FormatError, match=message):
            list(documents_of(tmp_path / "b.jsonl"))
    (tmp_path / "c.jsonl.gz").write_bytes(b"no gzip")
    with pytest.raises(FormatError, match=r"c\.jsonl\.gz"):
        list(documents_of(tmp_path / "c.jsonl.gz"))
    with pytest.raises(ConfigError, match=r"expected \.txt"):
        files_of([tmp_path / "d.bin"])


def test_without_scores_the_table_shows_half():
    row = line("t", [Match("0", 40, 0.6, 50), Match("1", 5, 0.1, 0)], None)
    assert row == ["t", "2", "1", "1", "0.5", "50.0%", "", "", "", ""]


def test_the_command(tmp_path):
    (row,) = [t for t in questions(choose(["small_gsm8k"]), Places())[0] if t[1] == "0"]
    (tmp_path / "corpus.jsonl").write_text(json.dumps({"text": f"before {row[2]} after"}) + "\n")
    command = [sys.executable, "-m", "herd", "eval", "contamination", "--tasks", "small_gsm8k", "--corpus"]
    page = tmp_path / "page.html"
    done = subprocess.run(
        [*command, str(tmp_path / "corpus.jsonl"), "--json", "--page", str(page)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    items = json.loads(done.stdout)["small_gsm8k"]["items"]
    assert [m["id"] for m in items if m["share"] == 1] == ["0"]
    assert "Longest run" in page.read_text()
    done = subprocess.run([*command, str(tmp_path / "no")], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
