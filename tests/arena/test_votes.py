import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from herd.arena.votes import Vote, Votes, read_csv, style_difference
from herd.errors import ConfigError, FormatError

DATA = Path(__file__).parents[1] / "data" / "llmfao.csv"
_POSTGRES = (
    next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"))), None)
    if Path("/usr/lib/postgresql").exists()
    else None
)

_VOTER = """
import sys
from herd.arena.votes import Vote, Votes
with Votes(sys.argv[1]) as votes:
    for i in range(100_000):
        votes.add([Vote(voter="v", first="a", second="b", winner="left", prompt=str(i))])
        print(i, flush=True)
"""


@pytest.fixture(params=["sqlite", "postgres"])
def place(request, tmp_path):
    if request.param == "sqlite":
        yield str(tmp_path / "votes.db")
        return
    if _POSTGRES is None or (os.geteuid() == 0 and shutil.which("runuser") is None):
        pytest.skip("no Postgres server here")
    with tempfile.TemporaryDirectory(prefix="herd-postgres-") as root:  # pytest's own folders are closed to other users
        yield from _postgres(Path(root))


def _postgres(root):
    root.chmod(0o755)
    folder = root / "cluster"
    folder.mkdir()
    run = []
    if os.geteuid() == 0:
        shutil.chown(folder, "nobody")
        run = ["runuser", "-u", "nobody", "--"]
    subprocess.run(
        [*run, _POSTGRES / "initdb", "-D", folder, "-U", "herd", "--auth=trust"], check=True, capture_output=True
    )
    socket = root / "s"
    socket.mkdir()
    socket.chmod(0o777)
    options = f"-k {socket} -c listen_addresses=''"
    subprocess.run([*run, _POSTGRES / "pg_ctl", "-D", folder, "-o", options, "-w", "-l", folder / "log", "start"], check=True, capture_output=True)  # fmt: skip
    try:
        yield f"postgresql://herd@/postgres?host={socket}"
    finally:
        subprocess.run(
            [*run, _POSTGRES / "pg_ctl", "-D", folder, "-m", "fast", "stop"], check=True, capture_output=True
        )


def test_votes_come_back_as_counts(place):
    with Votes(place) as votes:
        votes.add(
            [
                Vote(voter="x", first="a", second="b", winner="left", language="de"),
                Vote(voter="x", first="b", second="a", winner="left", language="de", kind="code"),
                Vote(voter="y", first="a", second="c", winner="both bad", style=(0.1, 0, 0, 0)),
            ]
        )
    with Votes(place) as votes:
        table = votes.table()
        assert (table.names, table.votes) == (("a", "b", "c"), 3)
        assert table.wins().tolist() == [[0, 1, 0.5], [1, 0, 0], [0.5, 0, 0]]
        assert votes.table(language="de").votes == 2
        assert votes.table(language="de", kind="code").names == ("a", "b")
        assert votes.kinds("language") == {"de": 2, "": 1}
        names, rows = votes.rows(style=True)
        assert names == ["a", "b", "c"]
        assert rows["characters"].tolist() == [0, 0, 0.1]
        with pytest.raises(ConfigError):
            votes.add(
                [
                    Vote(voter="x", first="a", second="b", winner="left"),
                    Vote(voter="x", first="a", second="a", winner="left"),
                ]
            )
        assert votes.table().votes == 3  # all or none
        assert votes.exclude(["x"], "test") == 2
        assert votes.table().names == ("a", "c")
        votes.withdraw("c", "asked to")
        assert [e["event"] for e in votes.ledger()] == ["model", "model", "model", "excluded", "withdrawn"]


def test_the_ledger_shows_what_was_changed(tmp_path):
    place = str(tmp_path / "votes.db")
    with Votes(place) as votes:
        votes.add([Vote(voter="x", first="a", second="b", winner="left")])
        votes.withdraw("a", "reason")
        assert len(votes.ledger()) == 3
    with sqlite3.connect(place) as raw:
        raw.execute('update ledger set entry = \'{"event": "model", "name": "z", "private": false}\' where id = 2')
    with Votes(place) as votes, pytest.raises(FormatError, match="entry 2 was changed"):
        votes.ledger()


def test_a_vote_that_was_acknowledged_survives_kill_9(tmp_path):
    place = str(tmp_path / "votes.db")
    process = subprocess.Popen([sys.executable, "-c", _VOTER, place], stdout=subprocess.PIPE, text=True)
    seen = -1
    for line in process.stdout:
        seen = int(line)
        if seen == 40:
            os.kill(process.pid, signal.SIGKILL)
            break
    for line in process.stdout:
        if line.endswith("\n"):
            seen = int(line)
    process.wait(10)
    with Votes(place) as votes:
        assert votes.table().votes >= seen + 1


def test_fifty_voters_at_once_lose_no_vote(tmp_path):
    place = str(tmp_path / "votes.db")
    Votes(place).close()
    failures = []

    def vote(number):
        try:
            with Votes(place) as votes:
                for _ in range(4):
                    votes.add([Vote(voter=str(number), first="a", second="b", winner="right")])
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=vote, args=(i,)) for i in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failures == []
    with Votes(place) as votes:
        assert votes.table().votes == 200


def test_csv_and_what_is_not(tmp_path):
    votes = list(read_csv(DATA))
    assert len(votes) == 8931
    assert len({v.first for v in votes} | {v.second for v in votes}) == 59
    (tmp_path / "a.csv").write_text("model_a,model_b,winner\nx,y,model_b\nx,y,tie (bothbad)\n")
    assert [v.winner for v in read_csv(tmp_path / "a.csv")] == ["right", "both bad"]
    for text, message in (("a,b\n1,2\n", "expected left, right"), ("left,right,winner\nx,y,maybe\n", ":2: 'maybe'")):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ConfigError, match=message):
            list(read_csv(tmp_path / "b.csv"))
    with pytest.raises(ConfigError, match="cannot be read"):
        list(read_csv(tmp_path / "missing.csv"))


def test_style_of_two_replies():
    found = style_difference("# Title\n\n- **one**\n- two\n", "Plain text of some length here")
    assert found[1:] == (1, 1, 1)
    assert -1 < found[0] < 0
    assert style_difference("same", "same") == (0, 0, 0, 0)
    assert np.isfinite(style_difference("", "")).all()


def test_versions_are_entered_once_and_the_secret_lasts(place):
    with Votes(place) as votes:
        votes.enter([("a", "1"), ("b", "1")])
        secret = votes.secret()
    with Votes(place) as votes:
        votes.enter([("a", "2"), ("b", "1")])
        assert votes.secret() == secret
        assert len(secret) == 64
        versions = [(e["name"], e["version"]) for e in votes.ledger() if e["event"] == "version"]
        assert versions == [("a", "1"), ("b", "1"), ("a", "2")]


def test_the_commands_that_write_and_read_the_log(tmp_path):
    def herd(*arguments):
        return subprocess.run([sys.executable, "-m", "herd", "arena", *arguments, "--votes", str(tmp_path / "v.db")], capture_output=True, text=True)  # fmt: skip

    assert herd("log").returncode == 2
    with Votes(str(tmp_path / "v.db")) as votes:
        votes.add([Vote(voter="x", first="a", second="b", winner="left")])
    assert "1 votes are left out" in herd("exclude", "x", "--reason", "paid").stderr
    assert herd("withdraw", "a", "--reason", "retired").returncode == 0
    assert '"reason":"retired"' in herd("log").stdout.splitlines()[-1]
