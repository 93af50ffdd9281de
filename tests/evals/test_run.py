import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError
from herd.evals.compare import compared, page
from herd.evals.prompts import item
from herd.evals.run import Settings, evaluate, results_of, start
from herd.evals.source import Places, rows_of
from herd.evals.target import EngineTarget, UrlTarget, encode_pair
from herd.evals.task import choose, read_tasks
from herd.family import shape
from herd.runs import Run
from tests.models import random_checkpoint
from tests.serve.server import serving

HERD = [sys.executable, "-m", "herd"]


@pytest.fixture(scope="module")
def engine():
    with open_engine(random_checkpoint(shape("tiny"), seed=3), "native", cache_tokens=2048) as opened:
        yield opened


def ran(folder, target, names, limit=6, more=()):
    tasks = choose(names, more)
    settings = Settings(limit=limit)
    run = start(folder, target, tasks, settings, ["test"])
    return tasks, evaluate(target, tasks, Places(), run, settings)


def test_figures_items_and_the_page(engine, tmp_path):
    target = EngineTarget("tiny", engine)
    tasks, figures = ran(tmp_path / "a", target, ["small_arc", "small_mmlu", "small_text"])
    assert [f.items for f in figures] == [6, 6, 6]
    for f in figures:
        assert f.failed == 0
        assert f.low <= f.value <= f.high
    assert figures[2].value > 4  # a random model knows nothing: more than half a byte's bits
    results = results_of(tmp_path / "a")
    assert all(len(results[t.name]) == 6 for t in tasks)
    page(tmp_path / "a", figures, tasks, tmp_path / "page.html", tmp_path / "a")
    assert "small_arc" in (tmp_path / "page.html").read_text()
    pairs = compared(tmp_path / "a", tmp_path / "a")
    assert pairs["small_arc"].difference.value == 0
    with pytest.raises(ConfigError, match="other tasks"):
        start(tmp_path / "a", target, tasks[:1], Settings(), [])


def test_one_look_scores_letters_as_a_look_each_does(smollm):
    task = choose(["small_mmlu"])[0]
    one = item(task, rows_of(task, Places())[0], [], chat=False)
    with open_engine(smollm, "native", cache_tokens=1024) as engine:
        target = EngineTarget("smollm2", engine)
        assert [len(r.score_tokens) for r in target._requests(one, "0")] == [4]
        together = next(target.answer([one])).logprobs
        for text, value in zip(one.continuations, together, strict=True):
            whole, first = encode_pair(engine.tokenizer, one.contexts[0], text, True)
            alone = next(engine.run([Request(prompt=whole, score_from=first, params=SamplingParams(max_tokens=0))]))
            assert sum(s.logprob for s in alone.prompt_logprobs) == pytest.approx(value, abs=1e-5)


def test_spaces_and_start_tokens_go_where_they_belong(smollm):
    whole, first = encode_pair(smollm.tokenizer, "Question: who? ", "me", False)
    assert smollm.tokenizer.encode("Question: who?") == whole[:first]
    assert b"".join(map(smollm.tokenizer.token_bytes, whole[first:])) == b" me"
    tokenizer = random_checkpoint(shape("tiny")).tokenizer
    whole, first = encode_pair(tokenizer, "ab", "c", True)
    assert (whole[0], first) == (tokenizer.bos_id, 3)
    assert whole.count(tokenizer.bos_id) == 1


def test_what_does_not_fit_is_cut_from_the_left_or_said(engine, tmp_path):
    mine = tmp_path / "mine.toml"
    (tmp_path / "long.jsonl").write_text(
        json.dumps({"page": "word " * 1500, "choices": ["a", "b"], "answer": 0}) + "\n"
    )
    head = '[[task]]\nsource = "s"\nlicence = "m"\nfile = "long.jsonl"\nprompt = "{{ page }}"\n'
    mine.write_text(
        head
        + 'name = "long_choice"\nkind = "choice"\n'
        + head
        + 'name = "long_reply"\nkind = "generate"\nmax_tokens = 4000\n'
    )
    tasks = choose(["long_choice", "long_reply"], [mine])
    target = EngineTarget("tiny", engine)
    run = start(tmp_path / "run", target, tasks, Settings(), [])
    choice, reply = evaluate(target, tasks, Places((tmp_path,)), run)
    assert (choice.items, choice.failed) == (1, 0)
    assert (reply.items, reply.failed, reply.value) == (1, 1, 0.0)
    assert "4,000 tokens" in (tmp_path / "run" / "items.jsonl").read_text()


def test_absent_data_is_said_and_ends_nothing(engine, tmp_path):
    _, figures = ran(tmp_path / "a", EngineTarget("tiny", engine), ["hellaswag", "small_arc", "mt_bench"], limit=2)
    assert figures[0].absent.startswith("data absent: hellaswag: Rowan/hellaswag")
    assert figures[1].value is not None
    assert "mt_bench" in figures[2].absent


def test_a_killed_run_resumes_to_the_same_items(tmp_path):
    command = [*HERD, "eval", "smollm2-135m", "--tasks", "small_arc", "--limit", "16", "--out", str(tmp_path / "run")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    items = tmp_path / "run" / "items.jsonl"
    deadline = time.monotonic() + 120
    while not (items.exists() and items.read_bytes().count(b"\n") >= 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    before = items.read_bytes()
    assert Run.open(tmp_path / "run").status == "interrupted"
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, check=True, timeout=300)
    (found,) = json.loads(done.stdout)
    assert found["items"] == 16
    whole = before[: before.rfind(b"\n") + 1]
    assert items.read_bytes().startswith(whole)
    assert len(results_of(tmp_path / "run")["small_arc"]) == 16
    assert Run.open(tmp_path / "run").status == "done"


def test_a_server_gives_what_the_engine_gives(tmp_path, smollm):
    tasks = choose(["small_arc"])
    settings = Settings(limit=2)
    with serving(tmp_path, "smollm2-135m") as server:
        url = UrlTarget(f"{server.url}/v1", "smollm2-135m", chat=False, workers=2)
        evaluate(url, tasks, Places(), start(tmp_path / "url", url, tasks, settings, []), settings)
    with open_engine(smollm, "native", cache_tokens=2048) as engine:
        own = EngineTarget("smollm2", engine, bos=False)
        evaluate(own, tasks, Places(), start(tmp_path / "own", own, tasks, settings, []), settings)
    served, here = (results_of(tmp_path / name)["small_arc"] for name in ("url", "own"))
    assert {k: r.error for k, r in served.items()} == dict.fromkeys(here, "")

    def values(result):
        return [float(line.split()[0]) for line in result.reply.splitlines()]

    for key, result in here.items():
        assert values(served[key]) == pytest.approx(values(result), abs=5e-3)


def test_a_server_that_is_not_there_fails_its_items_alone(tmp_path):
    tasks = choose(["small_arc"])
    nowhere = UrlTarget("http://127.0.0.1:9/v1", "x", chat=False, workers=2, timeout=2)
    (found,) = evaluate(
        nowhere, tasks, Places(), start(tmp_path / "r", nowhere, tasks, Settings(limit=2), []), Settings(limit=2)
    )
    assert (found.items, found.failed, found.value) == (2, 2, 0.0)


def test_commands(tmp_path):
    listed = subprocess.run([*HERD, "eval", "list"], capture_output=True, text=True, check=True, timeout=60)
    assert "gsm8k  generate  GSM8K  MIT" in listed.stdout
    for words, message in (
        (["eval", "smollm2-135m", "--tasks", "gsm9k"], "did you mean"),
        (["eval", "smollm2-135m", "--data", str(tmp_path / "no")], "no such folder"),
        (["eval", "http://127.0.0.1:9/v1"], "needs --model"),
        (["eval", "compare", str(tmp_path), str(tmp_path)], "holds no run"),
        (["eval", "smollm2-135m", "--limit", "0"], "--limit"),
    ):
        done = subprocess.run([*HERD, *words], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.strip().count("\n")) == (2, 0), done.stderr
        assert message in done.stderr


def test_a_task_file_of_ones_own(tmp_path):
    text = Path(tmp_path / "t.toml")
    text.write_text(
        '[[task]]\nname = "mine"\nkind = "choice"\nsource = "s"\nlicence = "m"\nfile = "f.jsonl"\nprompt = "{{ q }}"\n'
    )
    assert read_tasks(text.read_text(), "t.toml")[0].name == "mine"
    assert [t.name for t in choose(["mine"], [text])] == ["mine"]
