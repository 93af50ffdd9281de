"""Prompts kept on disk: the same tokens as computed ones, whatever has happened to the files."""

import dataclasses
import os

import pytest

from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.models import random_checkpoint

CONFIG = ModelConfig(
    layers=2, dim=128, ffn_dim=256, heads=4, kv_heads=2, head_dim=32, vocab=512, context=1024, rope_theta=10_000.0
)
PROMPT = [i * 7 % 256 for i in range(300)]


@pytest.fixture
def model(tmp_path):
    """A model in a file of its own."""
    convert(random_checkpoint(CONFIG, seed=3), tmp_path / "model.gguf", "gguf")
    return tmp_path / "model.gguf"


def ask(model, folder, *prompts, lines=None, **settings):
    """What a new engine says to prompts, with prompt scores, and how much of each it found."""
    settings = {"threads": 1, "cache_tokens": 1024, **settings}
    with open_engine(
        open_checkpoint(model), cache=folder, warn=(lines if lines is not None else []).append, **settings
    ) as engine:
        params = SamplingParams(temperature=0.7, seed=1, max_tokens=20, logprobs=1)
        found = [engine.complete(Request(prompt=p, params=params, score_from=len(p) - 3)) for p in prompts]
    return [(c.tokens, c.logprobs, c.prompt_logprobs) for c in found], [c.usage.cached for c in found]


def files(folder):
    return sorted(folder.rglob("*.kv"))


@pytest.mark.parametrize("kv_cache", ["f32", "f16", "int8", "int4"])
def test_a_restart_finds_what_was_computed(model, tmp_path, kv_cache):
    prompts = PROMPT, [*PROMPT[:200], 1, 2, 3], [9, *PROMPT]
    plain, _ = ask(model, None, *prompts, kv_cache=kv_cache)
    first, cached = ask(model, tmp_path / "cache", *prompts, kv_cache=kv_cache)
    assert first == plain
    assert cached == [0, 192, 0]
    again, cached = ask(model, tmp_path / "cache", *prompts, kv_cache=kv_cache)
    assert again == plain
    assert cached == [256, 192, 256]
    assert len(files(tmp_path / "cache")) == 8
    assert {path.stat().st_mode & 0o777 for path in files(tmp_path / "cache")} == {0o600}
    assert not list((tmp_path / "cache").rglob("*.partial"))
    small, cached = ask(model, tmp_path / "cache", *prompts, kv_cache=kv_cache, cache_tokens=352)
    assert small == plain
    assert cached == [256, 192, 256]


def damage(path, how):
    raw = bytearray(path.read_bytes())
    if how == "short":
        path.write_bytes(raw[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "long":
        path.write_bytes(raw + b"x")
    elif isinstance(how, int):
        raw[how] ^= 1
        path.write_bytes(raw)
    else:
        path.unlink()
        if how == "pipe":
            os.mkfifo(path)
        elif how == "link":
            path.symlink_to("/dev/zero")
        elif how == "swapped":
            other = next(p for p in files(path.parent) if p != path)
            path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("how", ["short", "empty", "long", 3, 20, 50, 60, 90, 200, -1, "pipe", "link", "swapped"])
def test_a_damaged_file_is_dropped_with_one_line(model, tmp_path, how):
    folder = tmp_path / "cache"
    plain, _ = ask(model, folder, PROMPT)
    for path in files(folder)[1:2]:
        damage(path, how)
    lines = []
    again, _ = ask(model, folder, PROMPT, lines=lines)
    assert again == plain
    (line,) = lines
    assert "deleted and computed anew" in line
    lines.clear()
    again, cached = ask(model, folder, PROMPT, lines=lines)
    assert (again, cached, lines) == (plain, [256], [])


def test_files_of_other_models_and_formats_are_not_used(model, tmp_path):
    folder = tmp_path / "cache"
    ask(model, folder, PROMPT)
    for settings in ({"kv_cache": "int8"}, {"kv_cache": "f16"}):
        plain, _ = ask(model, None, PROMPT, **settings)
        assert ask(model, folder, PROMPT, **settings)[0] == plain
    model.unlink()
    convert(random_checkpoint(CONFIG, seed=4), tmp_path / "model.gguf", "gguf")
    plain, _ = ask(model, None, PROMPT)
    assert ask(model, folder, PROMPT) == (plain, [0])


def test_the_folder_is_bounded_and_the_longest_unused_goes_first(model, tmp_path):
    folder = tmp_path / "cache"
    ask(model, folder, PROMPT[:100])
    size = files(folder)[0].stat().st_size
    for i in range(6):
        ask(model, folder, [i, *PROMPT], cache_size=10 * size)
        assert sum(path.stat().st_size for path in files(folder)) <= 10 * size
    assert ask(model, folder, [5, *PROMPT], cache_size=10 * size)[1] == [256]
    assert ask(model, folder, [0, *PROMPT], cache_size=10 * size)[1] == [0]


def test_what_is_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="expected a folder that can be written to"):
        ask(model, model, PROMPT)
    with pytest.raises(ConfigError, match="--cache-size is 100 bytes; 64 tokens of this model take"):
        ask(model, tmp_path / "cache", PROMPT, cache_size=100)
    with pytest.raises(ConfigError, match="--cache-size needs --cache"):
        ask(model, None, PROMPT, cache_size=1 << 30)
    with pytest.raises(ConfigError, match="the torch backend has another"):
        open_engine(open_checkpoint(model), "torch", cache=tmp_path / "cache")
    with pytest.raises(ConfigError, match="lies in no file"):
        open_engine(random_checkpoint(dataclasses.replace(CONFIG)), cache=tmp_path / "cache")
