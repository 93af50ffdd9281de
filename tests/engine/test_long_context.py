"""131,072 tokens end to end on a small random model with Llama 3.1's rotary scaling."""

import resource

import pytest

from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams
from herd.family import shape
from tests.engine.conftest import BACKENDS
from tests.models import random_checkpoint


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_whole_context_of_3_1(backend):
    from herd.engine.open import open_backend

    checkpoint = random_checkpoint(shape("tiny-3.1"))
    length = checkpoint.config.context
    assert length == 131_072
    opened = open_backend(checkpoint, backend, cache_tokens=length)
    prompt = [(i * 7919) % 256 for i in range(length - 16)]
    with Engine(opened, checkpoint.tokenizer, step_tokens=2048) as engine:
        result = engine.complete(Request(prompt=prompt, params=SamplingParams(temperature=0, ignore_eos=True)))
    assert len(result.tokens) == 16
    assert result.finish_reason == "length"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{backend}: {length:,} tokens, peak resident memory of the process {peak:.2f} GiB")
    assert peak < 8
