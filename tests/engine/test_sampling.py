import math

import numpy as np
import pytest

from herd.engine.backend import Sampling
from herd.engine.request import SamplingParams
from herd.engine.sampling import adjust, choose, log_probability
from herd.engine.seed import completion_seed, uniform

RNG = np.random.default_rng(0)
LOGITS = (RNG.standard_normal(50) * 2).astype(np.float32)


def frequencies(params: SamplingParams, draws: int = 20_000, **more) -> np.ndarray:
    counts = np.zeros(len(LOGITS))
    for i in range(draws):
        counts[choose(LOGITS, Sampling(params, 1234, i, **more))] += 1
    return counts / draws


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def test_frequencies_are_the_softmax():
    expected = softmax(LOGITS.astype(np.float64) / 0.8)
    assert np.abs(frequencies(SamplingParams(temperature=0.8)) - expected).max() < 0.015


@pytest.mark.parametrize(
    "params",
    [SamplingParams(top_k=5), SamplingParams(top_p=0.7), SamplingParams(min_p=0.2), SamplingParams(top_k=9, top_p=0.5)],
)
def test_filters_keep_what_transformers_keeps(params):
    import torch
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = torch.from_numpy(LOGITS)[None]
    if params.top_k:
        scores = TopKLogitsWarper(params.top_k)(None, scores)
    if params.top_p < 1:
        scores = TopPLogitsWarper(params.top_p)(None, scores)
    if params.min_p:
        scores = MinPLogitsWarper(params.min_p)(None, scores)
    expected = torch.softmax(scores, -1)[0].numpy()
    got = frequencies(params)
    assert ((got > 0) == (expected > 0)).all()
    assert np.abs(got - expected).max() < 0.02


def test_penalties_equal_transformers_and_openai():
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    history = [3, 7, 7, 9, 7]
    params = SamplingParams(repetition_penalty=1.3)
    theirs = RepetitionPenaltyLogitsProcessor(1.3)(torch.tensor([history]), torch.from_numpy(LOGITS.copy())[None])[0]
    ours = adjust(LOGITS, Sampling(params, 0, 0, history, 2))
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-6)
    params = SamplingParams(presence_penalty=0.5, frequency_penalty=0.25)
    ours = adjust(LOGITS, Sampling(params, 0, 0, history, 2))  # the reply is 7, 9, 7
    expected = LOGITS.copy()
    expected[7] -= 0.5 + 0.25 * 2
    expected[9] -= 0.5 + 0.25
    np.testing.assert_allclose(ours, expected, rtol=1e-6)


def test_bias_mask_and_greedy():
    params = SamplingParams(temperature=0, logit_bias={4: 100.0})
    assert choose(LOGITS, Sampling(params, 0, 0)) == 4
    mask = np.zeros(2, np.uint32)
    mask[1] = 1 << 3
    assert choose(LOGITS, Sampling(SamplingParams(), 5, 0, mask=lambda: mask)) == 35
    assert choose(LOGITS, Sampling(SamplingParams(temperature=0), 5, 0)) == int(LOGITS.argmax())


def test_random_numbers_depend_on_seed_and_position_alone():
    assert uniform(1, 0) == uniform(1, 0)
    values = [uniform(9, i) for i in range(10_000)]
    assert 0 <= min(values) < 0.001
    assert 0.999 < max(values) < 1
    assert abs(np.mean(values) - 0.5) < 0.01
    assert len({completion_seed(5, i) for i in range(100)}) == 100
    assert completion_seed(5, 0) == 5


def test_log_probabilities():
    item = log_probability(LOGITS, 3, 5)
    expected = np.log(softmax(LOGITS.astype(np.float64)))
    assert math.isclose(item.logprob, expected[3], rel_tol=1e-6)
    assert [t for t, _ in item.top] == np.argsort(-LOGITS)[:5].tolist()
    assert all(math.isclose(p, expected[t], rel_tol=1e-6) for t, p in item.top)
