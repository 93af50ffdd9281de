import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import pytest

from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.evals import judge
from herd.evals.judging import compare
from herd.evals.judging import start as start_judging
from herd.evals.run import Result, Settings, evaluate, results_of, start
from herd.evals.source import Places
from herd.evals.target import EngineTarget, UrlTarget
from herd.evals.task import all_tasks, choose, known_tasks
from herd.text.chat_format import chat_format
from tests.listening import listening

TASK = all_tasks()["mt_bench"]


@pytest.mark.parametrize(
    ("text", "value"),
    [("A says more. [[A>>B]]", 1), ("[[B>A]]", 0), ("first [[A>B]], no: [[A=B]]", 0.5), ("[[ C ]]", 0.5), ("A is better", None), ("[[A]] ", 1), ("[[A<B]]", 0)],
)  # fmt: skip
def test_verdicts(text, value):
    assert judge.verdict(text) == value


def result(key, reply, prompt="user: hi", error=""):
    return Result(task="mt_bench", id=key, scores={}, prompt=prompt, reply=reply, gold="", error=error)


def test_both_orders_are_asked_of_what_both_answered():
    first = {k: result(k, f"one {k}") for k in ("81", "82", "83")} | {"84": result("84", "", error="x")}
    second = {k: result(k, f"two {k}") for k in ("81", "82", "84")}
    items = judge.questions(TASK, first, second, 77)
    assert [one.id for one in items] == ["81 AB", "81 BA", "82 AB", "82 BA"]
    assert items[0].task.max_tokens == 77
    texts = [one.messages[-1].content for one in items[:2]]
    assert texts[0].index("one 81") < texts[0].index("two 81")
    assert texts[1].index("one 81") > texts[1].index("two 81")
    with pytest.raises(ConfigError, match="asked differently"):
        judge.questions(TASK, {"81": result("81", "a", "user: other")}, second)
    with pytest.raises(ConfigError, match="no question"):
        judge.questions(TASK, {"99": result("99", "a")}, second)


def test_a_judge_that_likes_the_first_place_decides_nothing():
    first, second = ({str(i): result(str(i), who) for i in range(10)} for who in ("x", "y"))
    items = judge.questions(TASK, first, second)

    def table(says):
        looks = [
            Result(task="t", id=one.id, scores=judge.scores(one, says(one)), prompt="", reply="", gold="")
            for one in items
        ]
        return judge.judged("t", looks)

    biased = table(lambda _: "[[A>B]]")
    assert (biased.value, biased.equal, biased.agree, biased.first_place) == (0.5, 10, 0.0, 1.0)
    fair = table(lambda one: "[[A>>B]]" if one.id.endswith("AB") else "[[B>A]]")
    assert (fair.value, fair.wins, fair.agree, fair.first_place) == (1.0, 10, 1.0, 0.5)
    mute = table(lambda _: "I like both.")
    assert (mute.value, mute.unreadable, mute.equal) == (0.5, 20, 10)


class Judge(BaseHTTPRequestHandler):
    """A server elsewhere: it prefers the longer conversation."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = body["messages"][-1]["content"]
        a, b = (text.split(f"<conversation with {who}>")[1].split(f"</conversation with {who}>")[0] for who in "AB")
        says = "[[A>B]]" if len(a) > len(b) else "[[B>A]]" if len(b) > len(a) else "[[A=B]]"
        reply = json.dumps(
            {"choices": [{"message": {"content": f"By length: {says}"}, "finish_reason": "stop"}]}
        ).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with listening(Judge) as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def runs(tmp_path_factory, smollm):
    """Two runs of the default model on two dialogs of two turns, one with shorter replies."""
    folder = tmp_path_factory.mktemp("runs")
    questions = [
        {"question_id": n, "category": "c", "turns": [f"Tell me about {thing}.", "Say it shorter."]}
        for n, thing in enumerate(("rain", "snow"))
    ]
    (folder / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    head = '[[task]]\nname = "open"\nkind = "judge"\nsource = "s"\nlicence = "m"\nfile = "questions.jsonl"\nreader = "mt_bench"\nprompt = "{{ question }}"\n'
    with open_engine(smollm, "native", cache_tokens=2048) as engine:
        for name, tokens in (("long", 24), ("short", 6)):
            (folder / f"{name}.toml").write_text(f"{head}max_tokens = {tokens}\n")
            tasks = choose(["open"], [folder / f"{name}.toml"])
            target = EngineTarget("smollm2", engine, chat_format(smollm.tokenizer, smollm.chat_template))
            (figure,) = evaluate(
                target, tasks, Places((folder,)), start(folder / name, target, tasks, Settings(), []), Settings()
            )
            assert (figure.value, figure.items) == (None, 4)
            assert "4 replies are kept" in figure.absent
    return folder


def test_replies_of_both_turns_are_kept_and_judged_by_a_server(runs, server):
    kept = results_of(runs / "long")["open"]
    assert list(kept) == ["0", "1", "0 turn 2", "1 turn 2"]
    assert kept["0"].reply in kept["0 turn 2"].prompt
    assert kept["0 turn 2"].prompt.endswith("user: Say it shorter.")
    target = UrlTarget(server, "judge")
    known = known_tasks([runs / "long.toml"])
    run = start_judging(runs / "judged", target, runs / "long", runs / "short", None, 64, [])
    (found,), looks = compare(target, runs / "long", runs / "short", run, None, 64, tasks=known)
    assert (found.wins, found.losses, found.agree, found.questions) == (4, 0, 1.0, 4)
    assert looks["open"]["0 turn 2 BA"].reply == "By length: [[B>A]]"
    size = (runs / "judged" / "items.jsonl").stat().st_size
    again = start_judging(runs / "judged", target, runs / "long", runs / "short", None, 64, [])
    assert compare(target, runs / "long", runs / "short", again, None, 64, tasks=known)[0] == [found]
    assert (runs / "judged" / "items.jsonl").stat().st_size == size
    with pytest.raises(ConfigError, match="another judging"):
        start_judging(runs / "judged", target, runs / "short", runs / "long", None, 64, [])
    judge.page(runs / "long", runs / "short", [found], looks, runs / "page.html")
    assert "By length" in (runs / "page.html").read_text()


def test_the_command(runs, server):
    command = [
        sys.executable,
        "-m",
        "herd",
        "eval",
        "judge",
        str(runs / "long"),
        str(runs / "short"),
        "--judge",
        server,
        "--judge-model",
        "j",
    ]
    command += ["--task-file", str(runs / "long.toml"), "--out", str(runs / "by-command")]
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["wins"] == 4
    done = subprocess.run(
        [*command[:5], str(runs / "long"), "--judge", server], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
