"""Log-likelihoods beside lm-evaluation-harness 0.4.13's HF class on SmolLM2-135M in float32, kept by `golden/make_lm_eval.py`.

Torch in float32: within 1e-3 (a text: 1e-5 of it), and every choice with a margin above 2e-3 decided alike. The native backend computes with
8-bit activations: an answer's log-likelihood is off by 0.3 nats (standard deviation) and not to one side, a text's by half a percent.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from herd.engine.open import open_engine
from herd.evals.prompts import item
from herd.evals.source import Places, rows_of
from herd.evals.target import EngineTarget
from herd.evals.task import all_tasks

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lm_eval.json").read_text())


def answers(smollm, backend, count, dtype=None):
    with open_engine(smollm, backend, dtype=dtype, cache_tokens=4096) as engine:
        target = EngineTarget("smollm2", engine, bos=False)  # transformers' tokenizer writes no start token for it
        for name, rows in GOLDEN.items():
            task = all_tasks()[name]
            wanted = [row for row in rows_of(task, Places()) if row["id"] in rows][:count]
            for answer in target.answer(item(task, row, [], chat=False) for row in wanted):
                assert not answer.error
                golden = rows[answer.item.id]
                yield name, answer.logprobs, golden if isinstance(golden, list) else [golden]


def margin(values):
    best = sorted(values)[-2:]
    return best[1] - best[0]


def check_exactly(smollm, count):
    seen = 0
    for name, ours, theirs in answers(smollm, "torch", count, "float32"):
        seen += 1
        tolerance = 1e-3 if name != "small_text" else 1e-5 * abs(theirs[0])
        assert ours == pytest.approx(theirs, abs=tolerance)
        if len(theirs) > 1 and margin(theirs) > 2e-3:
            assert ours.index(max(ours)) == theirs.index(max(theirs))
    assert seen >= 3


def test_torch_gives_the_harness_numbers(smollm):
    check_exactly(smollm, 2)


@pytest.mark.slow
def test_torch_gives_the_harness_numbers_on_every_row(smollm):
    check_exactly(smollm, 1000)


def test_native_stays_near_the_harness(smollm):
    off, alike = [], []
    for name, ours, theirs in answers(smollm, "native", 12):
        if name == "small_text":
            assert ours == pytest.approx(theirs, rel=0.01)
            continue
        off += [a - b for a, b in zip(ours, theirs, strict=True)]
        alike.append(ours.index(max(ours)) == theirs.index(max(theirs)))
    assert abs(np.mean(off)) < 0.15
    assert np.std(off) < 0.5
    assert np.max(np.abs(off)) < 2
    assert np.mean(alike) >= 0.75
