"""The torch backend: tokens chosen on the device as the reference chooses them, a model that is alive, plans as numbers."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.engine.backend import Row, Sampling, StepPlan
from herd.engine.backends.torch import TorchBackend, _packed, _unpacked
from herd.engine.backends.torch_sampling import choose_rows, log_probabilities
from herd.engine.request import SamplingParams
from herd.engine.sampling import choose, log_probability
from herd.errors import ConfigError
from herd.family import shape
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint, without_weights
from tests.models import random_checkpoint

VOCAB = 150  # no multiple of 32
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]), top_p=st.sampled_from([1.0, 0.9, 0.3, 1e-6]),
    top_k=st.sampled_from([0, 1, 5, 1000]), min_p=st.sampled_from([0.0, 0.05, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]), presence_penalty=st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.sampled_from([0.0, 0.2]), logit_bias=st.sampled_from([{}, {3: 2.5, 149: -100.0}]),
)  # fmt: skip
MASKS = st.sampled_from([None, "some", "one", "none", "short"])


def sampling(params, mask, seed):
    words = np.zeros(5 if mask != "short" else 2, np.uint32)
    words[1] = {"some": 0b1011, "one": 1 << 7, "short": 0xFFFF}.get(mask, 0)
    history = [5, 9, 5, 140, 33, 9]
    return Sampling(params, seed, seed % 7, history, 3, None if mask is None else lambda: words)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(PARAMS, MASKS, st.integers(0, 2**40)), min_size=1, max_size=9))
def test_rows_are_chosen_as_the_reference_does_whatever_their_company(asked):
    logits = torch.randn(len(asked), VOCAB, generator=torch.Generator().manual_seed(len(asked))) * 3
    logits[:, 40:44] = logits[:, 39:40]  # ties
    samplings = [sampling(*one) for one in asked]
    found = choose_rows(logits, samplings)
    assert found == [choose(row.numpy(), one) for row, one in zip(logits, samplings, strict=True)]
    assert found == [choose_rows(row[None], [one])[0] for row, one in zip(logits, samplings, strict=True)]


def test_log_probabilities_are_the_reference_s():
    logits = torch.randn(3, VOCAB) * 3
    tops = [0, 4, VOCAB]
    for row, one, top in zip(logits, log_probabilities(logits, [1, 2, 3], tops), tops, strict=True):
        wanted = log_probability(row.numpy(), one.token, top)
        assert abs(one.logprob - wanted.logprob) < 1e-9
        assert [token for token, _ in one.top] == [token for token, _ in wanted.top]


def test_plans_go_to_other_ranks_as_numbers():
    class Pool:  # what a grammar's mask holds: nothing that can be sent
        def __reduce__(self):
            raise TypeError("cannot be sent")

    pool = Pool()
    rows = [Row([1, 2, 3], 16, [4, 0], Sampling(SamplingParams(), 0, 0, mask=lambda: pool)), Row([7], 0, [2])]
    assert [(r.tokens, r.start, r.blocks) for r in _unpacked(_packed(rows))] == [([1, 2, 3], 16, [4, 0]), ([7], 0, [2])]


def test_models_that_cannot_answer_are_refused():
    config = shape("tiny")
    for model, word in (
        (Transformer(config, layers=range(1), output=False), "stage"),
        (Transformer(config, layers=range(1)), "stage"),
        (Transformer(config, embedding=False), "stage"),
        (without_weights(config), "no memory"),
        (Transformer(dataclasses.replace(config, classes=3)), "classes"),
    ):
        with pytest.raises(ConfigError, match=word):
            TorchBackend(model, cache_tokens=64)


def test_a_live_model_answers_with_the_weights_it_has_and_trains_on():
    checkpoint = random_checkpoint(shape("tiny"))
    model = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
    backend = TorchBackend(model, cache_tokens=64)
    plan = StepPlan([Row([1, 2, 3, 4], 0, [1], targets=[2, 3, 4]), Row([5], 0, [2], Sampling(SamplingParams(temperature=0), 0, 0))])  # fmt: skip

    def scores():
        return [score.logprob for score in backend.step(plan)[0].scores]

    before = scores()
    with torch.no_grad():
        model.output.weight.mul_(0.5)
    after = scores()
    assert before != after
    logits = model(torch.tensor([[1, 2, 3, 4]]))  # its own attention is back, and gradients flow
    wanted = torch.log_softmax(logits[0, :3], -1)[range(3), [2, 3, 4]]
    torch.testing.assert_close(torch.tensor(after), wanted.detach(), atol=1e-5, rtol=0)
    torch.autograd.backward(logits.sum())
    assert model.blocks[0].attention.wq.weight.grad is not None


def test_company_moves_logits_by_no_more_than_rounding():
    checkpoint = random_checkpoint(shape("tiny"))
    backend = TorchBackend.load(checkpoint, cache_tokens=1024)
    tokens = [(7 * i) % 500 for i in range(40)]

    def scores(company):
        others = [Row([i + 1] * (i + 1), 0, [10 + 2 * i]) for i in range(company)]
        row = Row(tokens, 0, [0, 1, 2], targets=tokens[1:])
        return torch.tensor([score.logprob for score in backend.step(StepPlan([*others, row]))[-1].scores])

    assert (scores(0) - scores(12)).abs().max() < 1e-5
