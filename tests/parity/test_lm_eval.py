"""Log-likelihoods and replies beside lm-evaluation-harness 0.4.13's HF class on SmolLM2-135M in float32, kept by `golden/make_lm_eval.py`.

Torch in float32: within 1e-3 (a text: 1e-5 of it), and every choice with a margin above 2e-3 decided alike; replies the same to the letter, at
least to the first token where the two likeliest are closer than that. 500 rows each of ARC, PIQA, WinoGrande and MMLU, 200 of GSM8K and MGSM; some of
these on the model's first six layers, to save time. The native backend computes with 8-bit activations: an answer's log-likelihood is off by 0.3
nats (standard deviation) and not to one side, a text's by half a percent.
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
from tests.parity.harness import GENERATED, PARTS, digest, fingerprint, items, shallow

GOLDEN = json.loads((Path(__file__).parent / "golden" / "lm_eval.json").read_text())
SMALL = ("small_arc", "small_mmlu", "small_text")


def answered(checkpoint, backend, asked, dtype=None):
    """An answer for each of the items."""
    with open_engine(checkpoint, backend, dtype=dtype, cache_tokens=8192) as engine:
        target = EngineTarget("smollm2", engine, bos=False)  # transformers' tokenizer writes no start token for it
        for answer in target.answer(asked):
            assert not answer.error
            yield answer


def answers(smollm, backend, count, dtype=None):
    for name in SMALL:
        rows, task = GOLDEN[name], all_tasks()[name]
        wanted = [row for row in rows_of(task, Places()) if row["id"] in rows][:count]
        asked = (item(task, row, [], chat=False) for row in wanted)
        for answer in answered(smollm, backend, asked, dtype):
            golden = rows[answer.item.id]
            yield name, answer.logprobs, golden if isinstance(golden, list) else [golden]


def margin(values):
    best = sorted(values)[-2:]
    return best[1] - best[0]


def decided(values):
    return values.index(max(values))


def check_exactly(smollm, count):
    seen = 0
    for name, ours, theirs in answers(smollm, "torch", count, "float32"):
        seen += 1
        tolerance = 1e-3 if name != "small_text" else 1e-5 * abs(theirs[0])
        assert ours == pytest.approx(theirs, abs=tolerance)
        if len(theirs) > 1 and margin(theirs) > 2e-3:
            assert decided(ours) == decided(theirs)
    assert seen >= 3


def test_torch_gives_the_harness_numbers(smollm):
    check_exactly(smollm, 2)


@pytest.mark.slow
def test_torch_gives_the_harness_numbers_on_every_small_row(smollm):
    check_exactly(smollm, 1000)


@pytest.mark.slow
def test_the_rows_are_those_that_were_asked():
    assert sum(len(items(part)) for part in ("mmlu", "mmlu_5_shots")) >= 500
    assert sum(len(items(part)) for part in ("gsm8k", "gsm8k_5_shots")) == len(items("mgsm")) == 200
    for part in PARTS:
        assert [fingerprint(one) for one in items(part)] == [asked for asked, *_ in GOLDEN[part]]
    assert all(len(GOLDEN[part]) >= 500 for part in ("arc_challenge", "piqa", "winogrande"))


def compare(smollm, part, count=None):
    golden = {asked: rest for asked, *rest in GOLDEN[part]}
    model = smollm if PARTS[part].whole else shallow(smollm)
    seen = 0
    for answer in answered(model, "torch", items(part, count), "float32"):
        theirs = golden[fingerprint(answer.item)]
        seen += 1
        if part not in GENERATED:
            assert answer.logprobs == pytest.approx(theirs, abs=1e-3)
            if margin(theirs) > 2e-3:
                assert decided(answer.logprobs) == decided(theirs)
            continue
        whole, end, *before = theirs
        if digest(answer.text) == whole:
            continue
        assert before, f"no near tie, but ours ends with {answer.text[-12:]!r}, the harness's with {end!r}"
        length, start = before
        assert digest(answer.text[:length]) == start
    assert seen == len(golden) if count is None else seen == count


@pytest.mark.parametrize("part", PARTS)
def test_the_harness_decides_alike(smollm, part):
    compare(smollm, part, 1 if part == "gsm8k_5_shots" else 2)


@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_the_harness_decides_alike_on_every_row(smollm, part):
    compare(smollm, part)


def test_native_stays_near_the_harness(smollm):
    off, alike = [], []
    for name, ours, theirs in answers(smollm, "native", 12):
        if name == "small_text":
            assert ours == pytest.approx(theirs, rel=0.01)
            continue
        off += [a - b for a, b in zip(ours, theirs, strict=True)]
        alike.append(decided(ours) == decided(theirs))
    assert abs(np.mean(off)) < 0.15
    assert np.std(off) < 0.5
    assert np.max(np.abs(off)) < 2
    assert np.mean(alike) >= 0.75
