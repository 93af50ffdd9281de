"""`herd train` as people run it: killed and gone on, looked at before it runs, refused in one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from click.testing import CliRunner

from herd.cli.train import command
from herd.errors import HerdError

RECIPE = """
[model]
start = "model"
dtype = "float32"
[data]
length = 256
[[data.sources]]
path = "chat.jsonl"
kind = "messages"
[batch]
tokens = 512
[schedule]
peak = 1e-3
steps = 12
[checkpoints]
every = 1
"""


def herd(place, *words, check=True):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "herd", *words], cwd=place, env=environment, capture_output=True, text=True, timeout=120
    )
    assert not check or done.returncode == 0, done.stderr
    return done


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["norm"]) for line in lines if line["event"] == "step"}


def recipe(place, text=RECIPE):
    (place / "r.toml").write_text(text.replace('start = "model"', f'start = "{place}/model"'))


def test_a_killed_run_goes_on_as_if_it_had_not_been(place):
    recipe(place)
    herd(place, "train", "r.toml", "--out", "whole")
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "herd", "train", "r.toml", "--out", "killed"], cwd=place, env=environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log = place / "killed" / "log.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"step"') >= 5):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    assert "interrupted" in herd(place, "runs", "killed").stdout
    again = herd(place, "train", "killed")
    assert "herd chat killed" in again.stdout
    assert len(losses(place / "whole")) == 12
    assert losses(place / "killed") == losses(place / "whole")
    inspected = json.loads(herd(place, "inspect", "killed", "--json").stdout)
    assert inspected["config"]["layers"] == 2


def test_a_batch_is_shown_and_a_step_weighed(place, monkeypatch):
    recipe(place)
    monkeypatch.chdir(place)
    shown = CliRunner().invoke(command, ["r.toml", "--show-batch"], catch_exceptions=False).output
    assert "chat.jsonl:" in shown
    assert "<|start_header_id|>assistant" in shown
    needed = CliRunner().invoke(command, ["r.toml", "--dry-run"], catch_exceptions=False).output
    assert "12 of 2 rows of 256 tokens" in needed
    assert not (place / "runs").exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("peak", "peek", "unknown key schedule.peek"),
        ("length = 256", "length = 100", "batch.tokens 512 is no whole number of rows of 100"),
        ("chat.jsonl", "gone.jsonl", "gone.jsonl"),
        ('"messages"', '"mesages"', "mesages"),
        ("steps = 12", "steps = 0.5", "steps"),
    ],
)
def test_what_cannot_be_is_one_line_with_the_key(place, monkeypatch, old, new, expected):
    recipe(place, RECIPE.replace(old, new))
    monkeypatch.chdir(place)
    with pytest.raises(HerdError) as raised:
        CliRunner().invoke(command, ["r.toml", "--out", "bad"], catch_exceptions=False)
    assert expected in str(raised.value)
    assert not (place / "bad").exists()
