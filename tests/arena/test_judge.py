import itertools
import json
import sqlite3
import subprocess
import sys

import pytest

from herd.arena.judge import agreed, rule_judge
from herd.arena.replies import Prompt, read_prompts
from herd.errors import FormatError
from tests.arena.server import replies


def judge(folder, *arguments):
    command = [sys.executable, "-m", "herd", "arena", "judge", *map(str, arguments), "--votes", str(folder / "j.db"), "--replies", str(folder / "r.jsonl")]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture
def three(tmp_path):
    answers = {"short": "4", "long": "It is 4, I think.", "wrong": "It is 4.5!"}
    return [replies(tmp_path / f"{name}.jsonl", Two_and_two=text, Again="x" + text) for name, text in answers.items()]


def test_a_rule_votes_on_every_pair_once_and_goes_on(three, tmp_path):
    first = judge(tmp_path, *three, "--rule", "longer")
    assert first.returncode == 0, first.stderr
    assert "6 votes kept" in first.stderr
    again = judge(tmp_path, *three, "--rule", "longer")
    assert "0 votes kept" in again.stderr
    assert "6 were there" in again.stderr
    rows = sqlite3.connect(tmp_path / "j.db").execute(
        "select a.name, b.name, winner from votes join models a on a.id = first join models b on b.id = second where prompt = 'Two and two'"
    )
    assert {(a, b): w for a, b, w in rows} == {("short", "long"): 2, ("short", "wrong"): 2, ("long", "wrong"): 0}
    ranked = subprocess.run([sys.executable, "-m", "herd", "arena", "rank", "--votes", str(tmp_path / "j.db"), "--prior", "0.5", "--json"], capture_output=True, text=True)  # fmt: skip
    assert [r["name"] for r in json.loads(ranked.stdout)["ratings"]] == ["long", "wrong", "short"]


def test_the_answer_is_found_as_a_whole(three, tmp_path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "Two and two", "answer": "4", "kind": "math"}\n')
    assert "3 votes kept" in judge(tmp_path, *three, "--rule", "answer", "--prompts", prompts).stderr
    winners = sqlite3.connect(tmp_path / "j.db").execute("select winner, kind from votes order by id").fetchall()
    assert sorted(winners) == [(0, "math"), (0, "math"), (1, "math")]  # `wrong` says 4.5 and loses twice


def test_a_real_model_judges_in_both_orders(three, tmp_path):
    done = judge(tmp_path, *three[:2], "--judge", "smollm2-135m", "--judge-tokens", "24")
    assert done.returncode == 0, done.stderr
    kept = sqlite3.connect(tmp_path / "j.db").execute("select count(*) from votes").fetchone()[0]
    unread = int(done.stderr.split(" had no verdict")[0].split()[-1])
    assert kept + unread == 2


def test_what_changes_with_the_order_is_a_tie():
    for one, two in itertools.product(("left", "right", "both good", "both bad"), repeat=2):
        winner, changed = agreed(one, two)
        if {one, two} == {"left", "right"} or (one == two and one.startswith("both")):
            assert (winner, changed) == (one, False)
        else:
            assert winner == "both good"
            assert changed == bool({one, two} & {"left", "right"})


def test_rules_do_not_depend_on_the_order():
    import asyncio

    for name, (a, b) in itertools.product(("longer", "shorter", "answer"), itertools.product(("4", "four, or 4", "5"), repeat=2)):  # fmt: skip
        prompt = Prompt("x", answer="4")
        one, two = (asyncio.run(rule_judge(name)(prompt, *pair)) for pair in ((a, b), (b, a)))
        assert not agreed(one, two)[1]


def test_mistakes_are_one_line(three, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n{"text": "y"}\n')
    with pytest.raises(FormatError, match=r"bad\.jsonl:2"):
        read_prompts(bad)
    for arguments in ([three[0], "--rule", "longer"], three, [*three, "--rule", "longer", "--prompts", tmp_path / "no"]):  # fmt: skip
        done = judge(tmp_path, *arguments)
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1
