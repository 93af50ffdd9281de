"""What does not fit is refused before it is read, with what would; weights are never in memory twice."""

import dataclasses
import subprocess
import sys

import pytest

from herd.engine.backends.native import NativeBackend
from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.quant.formats import weight_bytes
from herd.weights import memory
from herd.weights.convert import convert
from herd.weights.inspect import inspect
from herd.weights.open import open_checkpoint
from tests.models import no_tokenizer, random_checkpoint

SMALL = ModelConfig(layers=8, dim=1024, ffn_dim=4096, heads=8, kv_heads=2, head_dim=128, vocab=512, context=4096)


def never_read(checkpoint):
    def rows(first, last):
        raise AssertionError("read before it was refused")

    tensors = {name: dataclasses.replace(t, rows=rows, view=None) for name, t in checkpoint.tensors.items()}
    return dataclasses.replace(checkpoint, tensors=tensors)


@pytest.mark.parametrize(
    ("free", "tokens", "advice"),
    [
        (600 << 20, 10**6, r"--context \d+ would fit"),
        (300 << 20, 2048, r"in Q8_0 .* herd quantize --format Q8_0"),
        (150 << 20, 2048, "smaller model"),
    ],
)
def test_what_does_not_fit_is_refused_before_it_is_read(monkeypatch, free, tokens, advice):
    checkpoint = never_read(random_checkpoint(SMALL, fmt="BF16", tokenizer=False))
    monkeypatch.setattr(memory, "free_memory", lambda: free)
    with pytest.raises(ConfigError, match=advice):
        NativeBackend(checkpoint, cache_tokens=tokens)
    machine = inspect(dataclasses.replace(checkpoint, load_tokenizer=no_tokenizer))["machine"]
    assert machine["fits"] == (free == 600 << 20)


def test_the_context_that_fits_is_accepted(monkeypatch):
    checkpoint = random_checkpoint(SMALL, fmt="BF16", tokenizer=False)
    monkeypatch.setattr(memory, "free_memory", lambda: 600 << 20)
    fits = memory.need(checkpoint).context_that_fits
    assert NativeBackend(checkpoint, cache_tokens=fits // 16 * 16, threads=1).block_count == fits // 16


def test_need_counts_what_is_packed():
    tied = dataclasses.replace(SMALL, tied=True)
    found = memory.need(random_checkpoint(tied, fmt="BF16", tokenizer=False), "int8")
    assert found.weights == pytest.approx(weight_bytes(tied, "BF16"), rel=0.01)
    assert found.per_token == 8 * 2 * 2 * (128 + 4)
    assert memory.free_memory() > 0


def test_weights_are_not_in_memory_twice(tmp_path):
    path = tmp_path / "model.gguf"
    convert(random_checkpoint(SMALL, fmt="BF16", tokenizer=False), path, "gguf")
    size = path.stat().st_size / 2**20
    assert size > 200
    script = (
        "import sys, pathlib, resource; from herd.weights.open import open_checkpoint\n"
        "from herd.engine.backends.native import NativeBackend; from herd.engine.backend import Row, StepPlan\n"
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * resource.getpagesize() / 1024\n"
        "before = resident()\n"
        "backend = NativeBackend(open_checkpoint(pathlib.Path(sys.argv[1])), cache_tokens=512, threads=2)\n"
        "for n in range(5): backend.step(StepPlan([Row([1], n, [0], targets=[2])]))\n"
        "peak = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"  # ru_maxrss begins with the parent's
        "print((peak - before) / 1024, (resident() - before) / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=True, timeout=120)
    peak, afterwards = map(float, done.stdout.split())
    assert peak < size + 128 + 60  # what a step packs for good is there twice until the next; all of it was, once
    assert afterwards < size + 60
    assert open_checkpoint(path).config == SMALL
