"""The arena over HTTP, against a real server process."""

import json
import signal
import sqlite3
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler

import httpx
import pytest

from herd.arena.votes import Votes
from tests.arena.server import ArenaServer, Voter, arena, replies, said
from tests.listening import listening

NAMES = ("zebrafish", "wolverine", "albatross")
ANSWERS = {
    "zebrafish": "It is **short**.", "wolverine": "- a list\n- of two", "albatross": "# A header\n\nand a good deal of text after it.",
}  # fmt: skip


def files(folder, names=NAMES):
    return [
        replies(folder / f"{name}.jsonl", **{f"What_is_a_fox_{i}": ANSWERS[name] for i in range(5)}) for name in names
    ]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("arena")
    with arena(
        folder, *files(folder), flags=("--least-seconds", "0", "--per-minute", "100000", "--concurrency", "64")
    ) as running:
        yield running


def test_no_byte_before_the_vote_tells_a_name_and_the_vote_tells_both(server):
    voter = Voter(server.url)
    for path in ("/api/about", "/health", "/arena/app.js", "/arena/languages.js", "/arena/style.css", "/page/markdown.js", "/nothing"):  # fmt: skip
        voter.get(path)
    events = voter.ask()
    assert events[-1] == {"ended": True}
    assert not any(name in voter.received.decode(errors="replace").lower() for name in NAMES)
    told = voter.vote(events, "left").json()
    assert said(events, "left") == ANSWERS[told["left"]]
    assert said(events, "right") == ANSWERS[told["right"]]
    assert told["winner"] == "left"
    assert told["excluded"] == ""


def test_the_order_is_drawn(server):
    voter, sides = Voter(server.url), Counter()
    for _ in range(30):
        told = voter.vote(voter.ask(), "both good").json()
        sides[told["left"]] += 1
    assert set(sides) == set(NAMES)
    assert max(sides.values()) < 27  # of 30; 10 are expected


def test_a_round_is_voted_on_once_and_by_who_asked(server):
    voter, other = Voter(server.url), Voter(server.url)
    events = voter.ask()
    assert other.vote(events, "left").status_code == 404
    first = voter.vote(events, "right").json()
    again = voter.vote(events, "left").json()
    assert again == first
    assert voter.vote(voter.ask(), "up").status_code == 400


@pytest.mark.parametrize(
    "path, body, status, code",
    [
        ("/api/vote", b"{", 400, "body"),
        ("/api/vote", b'{"round": 1, "winner": "left"}', 400, "body"),
        ("/api/vote", b'{"round": "x", "winner": "left"}', 404, "gone"),
        ("/api/ask", b'{"questions": "x"}', 400, "body"),
        ("/api/ask", b'"' + b"x" * 200_000 + b'"', 413, "too_long"),
        ("/api/asks", b"{}", 404, "http"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(server, path, body, status, code):
    answer = Voter(server.url).client.post(path, content=body)
    assert answer.status_code == status
    assert answer.json()["error"]["code"] == code
    assert "\n" not in answer.json()["error"]["message"]


def test_other_sites_forged_cookies_and_unknown_categories_are_refused(server):
    voter = Voter(server.url)
    ask = {"question": None}
    assert httpx.post(server.url + "/api/ask", json=ask).json()["error"]["code"] == "cookie"
    forged = {"herd-arena": "0123.4567"}
    assert httpx.post(server.url + "/api/ask", json=ask, cookies=forged).json()["error"]["code"] == "cookie"
    assert voter.client.post("/api/ask", json=ask, headers={"Origin": "http://evil.example"}).status_code == 403
    assert voter.client.get("/", headers={"Host": "evil.example"}).status_code == 403
    assert voter.get("/api/ranking?language=tlh").status_code == 400
    assert "httponly" in httpx.get(server.url).headers["set-cookie"].lower()


def test_fifty_voters_at_once_lose_no_vote(server):
    before = sqlite3.connect(server.votes).execute("select count(*) from votes").fetchone()[0]
    failed: list[BaseException] = []
    start = threading.Barrier(50)

    def votes() -> None:
        try:
            voter = Voter(server.url)
            rounds = [voter.ask() for _ in range(3)]
            start.wait(60)
            for events in rounds:
                assert voter.vote(events, "left").status_code == 200
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=votes) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert failed == []
    kept = sqlite3.connect(server.votes)
    assert kept.execute("select count(*) from votes").fetchone()[0] == before + 150
    per_voter = kept.execute("select count(*) from votes where id > ? group by voter", (before,)).fetchall()
    assert per_voter == [(3,)] * 50
    ranking = httpx.get(server.url + "/api/ranking?language=en").json()
    assert {row["name"] for row in ranking["rows"]} == set(NAMES)
    assert ranking["votes"] == kept.execute("select count(*) from votes where language = 'en'").fetchone()[0]
    assert [e["event"] for e in httpx.get(server.url + "/api/log").json()] == ["model", "version"] * 3


def test_kill_9_loses_no_vote_that_was_acknowledged(tmp_path):
    server = ArenaServer(tmp_path, *files(tmp_path), flags=("--least-seconds", "0", "--per-minute", "100000"))
    acknowledged = [0] * 8

    def votes(number: int) -> None:
        voter = Voter(server.url)
        try:
            while True:
                assert voter.vote(voter.ask(), "right").status_code == 200
                acknowledged[number] += 1
        except httpx.HTTPError:
            return

    threads = [threading.Thread(target=votes, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    while sum(acknowledged) < 40:
        threads[0].join(0.01)
    server.stop(signal.SIGKILL)
    for thread in threads:
        thread.join(30)
    kept = [n for (n,) in sqlite3.connect(server.votes).execute("select count(*) from votes group by voter")]
    assert sorted(kept, reverse=True) >= sorted(acknowledged, reverse=True)
    assert sum(acknowledged) <= sum(kept) <= sum(acknowledged) + 8  # written, and killed before the answer
    with Votes(str(server.votes)) as votes_again:
        assert len(votes_again.ledger()) == 6


class Echo(BaseHTTPRequestHandler):
    """An OpenAI-compatible server that says what it was told."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = " | ".join(f"{one['role']}: {one['content']}" for one in body["messages"])
        chunk = json.dumps({"choices": [{"delta": {"content": text}}]})
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"data: {chunk}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


def test_turns_go_to_the_same_two_with_what_each_of_them_said(tmp_path):
    with listening(Echo) as url, arena(tmp_path, f"narwhal={url}/v1#a", f"heron={url}/v1#b", flags=("--least-seconds", "0")) as server:  # fmt: skip
        voter, other = Voter(server.url), Voter(server.url)

        def on(question, number, who=voter):
            return who.client.post("/api/ask", json={"question": question, "round": number})

        first = voter.ask("One?")
        assert said(first, "left") == "user: One?"
        number = first[0]["round"]
        assert on("Two?", number, other).json()["error"]["code"] == "gone"
        assert on(" ", number).json()["error"]["code"] == "empty"
        second = [json.loads(line[6:]) for line in on("Two?", number).text.split("\n\n") if line]
        assert second[0] == {"round": number, "question": "Two?"}
        assert said(second, "right") == "user: One? | assistant: user: One? | user: Two?"
        for i in range(6):
            assert on(f"More {i}?", number).status_code == 200
        assert on("Too many?", number).json()["error"]["code"] == "turns"
        assert b"narwhal" not in voter.received
        told = voter.vote(second, "left").json()
        assert {told["left"], told["right"]} == {"narwhal", "heron"}
        assert on("After?", number).json()["error"]["code"] == "gone"
        prompts = sqlite3.connect(server.votes).execute("select prompt from votes").fetchall()
        assert prompts == [("\n\n".join(["One?", "Two?", *(f"More {i}?" for i in range(6))]),)]


def test_quick_votes_telling_replies_and_too_many_questions(tmp_path):
    tells = replies(tmp_path / "narwhal.jsonl", Who_are_you="I am a model called Narwhal.")
    plain = replies(tmp_path / "heron.jsonl", Who_are_you="I am here to help.")
    with arena(tmp_path, tells, plain, flags=("--per-minute", "4")) as server:
        voter = Voter(server.url)
        assert voter.vote(voter.ask(), "left").json()["excluded"] == "reveals"
        assert httpx.get(server.url + "/api/ranking").json()["votes"] == 0
        for _ in range(3):
            voter.ask()
        refused = voter.client.post("/api/ask", json={"question": None})
        assert refused.status_code == 429
        assert "Retry-After" in refused.headers
    other = tmp_path / "other"
    other.mkdir()
    with arena(other, f"{plain}", f"crane={plain}") as server:
        voter = Voter(server.url)
        assert voter.vote(voter.ask(), "both bad").json()["excluded"] == "quick"


def test_a_contestant_that_fails_is_told_to_the_log_and_not_to_the_voter(tmp_path):
    with arena(tmp_path, "narwhal=http://127.0.0.1:9/v1#narwhal-7b", "heron=http://127.0.0.1:9/v1#heron-7b") as server:
        voter = Voter(server.url)
        assert voter.client.post("/api/ask", json={"question": " "}).json()["error"]["code"] == "empty"
        assert voter.client.post("/api/ask", json={"question": "x" * 9000}).json()["error"]["code"] == "too_long"
        events = voter.ask("Hello?")
        assert events[-1] == {"failed": True}
        assert voter.vote(events, "left").json()["error"]["code"] == "failed"
        assert b"narwhal" not in voter.received
        assert "narwhal: http://127.0.0.1:9/v1/chat/completions" in server.stderr() or "heron" in server.stderr()
