"""`herd train` as people run it: killed and gone on, looked at before it runs, refused in one line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from transformers import AutoTokenizer

from herd.cli import average, merge, train_tokenizer
from herd.cli.train import command
from herd.errors import HerdError
from herd.family import shape
from herd.text.tokenizer import decode
from herd.train.recipe import resolve
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from herd.weights.sidecars import read_tokenizer
from tests.models import random_checkpoint

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


def start(place, *words):
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "herd", *words], cwd=place, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def losses(folder):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return {line["step"]: (line["loss"], line["norm"]) for line in lines if line["event"] == "step"}


def recipe(place, text=RECIPE):
    (place / "r.toml").write_text(text.replace('start = "model"', f'start = "{place}/model"'))


@pytest.mark.parametrize("moments", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_as_if_it_had_not_been(place, tmp_path, moments):
    steps, moment = 12 * moments, random.Random(moments)
    recipe(place, RECIPE.replace("steps = 12", f"steps = {steps}"))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    herd(place, "train", "r.toml", "--out", str(whole))
    log, words = killed / "log.jsonl", ["r.toml", "--out", str(killed)]
    for _ in range(moments):
        seen = log.read_text().count('"event":"step"') if log.exists() else 0
        process = start(place, "train", *words)
        deadline, wanted = time.monotonic() + 120, seen + moment.randint(1, 4)
        while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"event":"step"') >= wanted):
            time.sleep(0.005)
        time.sleep(moment.random() * 0.05)  # into a step, a copy or a file that is being written
        assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
        words = [str(killed)]
    assert "interrupted" in herd(place, "runs", str(killed)).stdout
    again = herd(place, "train", str(killed))
    assert f"herd chat {killed}" in again.stdout
    assert len(losses(whole)) == steps
    assert losses(killed) == losses(whole)
    inspected = json.loads(herd(place, "inspect", str(killed), "--json").stdout)
    assert inspected["config"]["layers"] == 2
    assert not list(killed.glob("checkpoints/.*"))


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


def test_an_adapter_is_merged_and_states_are_averaged(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    recipe(place, RECIPE.replace("steps = 12", "steps = 3") + "keep = 3\n[lora]\nrank = 4\n")
    run = str(tmp_path / "run")
    CliRunner().invoke(command, ["r.toml", "--out", run], catch_exceptions=False)
    done = CliRunner().invoke(merge.command, ["model", run, str(tmp_path / "m"), "--to", "hf", "--format", "F32"], catch_exceptions=False)  # fmt: skip
    assert done.exit_code == 0
    merged, opened, base = (open_checkpoint(path) for path in (tmp_path / "m", tmp_path / "run", place / "model"))
    for name, tensor in merged.tensors.items():
        assert np.abs(tensor.float32() - opened.tensors[name].float32()).max() < 1e-6
        assert ("norm" in name or "embed" in name or "output" in name) == np.array_equal(tensor.float32(), base.tensors[name].float32())  # fmt: skip
    states = sorted(str(path) for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert len(states) == 3
    CliRunner().invoke(average.command, [*states, "--out", str(tmp_path / "a"), "--to", "hf"], catch_exceptions=False)
    mean = open_checkpoint(tmp_path / "a").tensors["layers.0.attention.wq.weight"].float32()
    each = [open_checkpoint(Path(s)).tensors["layers.0.attention.wq.weight"].float32() for s in states]
    assert np.abs(mean - np.mean(each, axis=0)).max() < 1e-7


def new_model(place, folder, tokenizer):
    """The checkpoint of two steps of a new model with a tokenizer."""
    (folder / "r.toml").write_text(
        f'[model]\nshape = {{layers = 1, dim = 32, ffn_dim = 64, heads = 2, kv_heads = 1, head_dim = 16, context = 128}}\n'
        f'tokenizer = "{tokenizer}"\n[data]\nlength = 64\n[[data.sources]]\npath = "{place}/text.txt"\n[batch]\ntokens = 128\n'
        "[schedule]\npeak = 1e-3\nsteps = 2\n"
    )  # fmt: skip
    CliRunner().invoke(command, [str(folder / "r.toml"), "--out", str(folder / "new")], catch_exceptions=False)
    return open_checkpoint(folder / "new")


def test_a_tokenizer_is_made_and_a_new_model_begun_with_it(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    folder = tmp_path / "tokenizer"
    done = CliRunner().invoke(train_tokenizer.command, ["text.txt", "--vocab", "300", "--out", str(folder)], catch_exceptions=False)  # fmt: skip
    assert "300 tokens" in done.output
    tokenizer = read_tokenizer(folder)
    text = "the cat <|eot_id|> sang\n\n été 123456"
    assert decode(tokenizer, tokenizer.encode(text)) == text
    assert AutoTokenizer.from_pretrained(folder).encode("the cat", add_special_tokens=False) == tokenizer.encode(
        "the cat"
    )
    opened = new_model(place, tmp_path, "tokenizer")
    assert opened.config.vocab == 300
    assert opened.tokenizer.declared == tokenizer.declared
    assert opened.chat_template is None
    with pytest.raises(HerdError, match="has no room"):
        CliRunner().invoke(
            train_tokenizer.command, ["text.txt", "--vocab", "200", "--out", "x"], catch_exceptions=False
        )


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_a_new_model_with_a_checkpoints_tokenizer_has_its_templates(place, monkeypatch, tmp_path, kind):
    origin = tmp_path / ("origin.gguf" if kind == "gguf" else "origin")
    talks = random_checkpoint(shape("tiny"))
    talks.chat_template, talks.tool_template, talks.sampling = "{{ messages[0].content }}", "{{ tools }}", {"top_k": 7}
    convert(talks, origin, kind)
    new = new_model(place, tmp_path, origin)
    assert (new.chat_template, new.tool_template, new.sampling) == (talks.chat_template, talks.tool_template, {})


RECIPES = [
    path
    for path in sorted(Path("recipes").glob("*.toml"))
    if f"herd train {path}" in path.read_text()
    and "llama-3.1" not in path.stem  # whose data is the user's
    and path.stem != "docs-pretrain"  # whose data another recipe makes: see tests/corpus/test_pack.py
]


@pytest.mark.parametrize("path", RECIPES, ids=str)
def test_recipes_that_come_with_herd_are_whole(path):
    asked = resolve(path, {})
    for source in (*asked.recipe.data.sources, *asked.recipe.data.validation):
        assert (asked.folder / source.path).exists()
