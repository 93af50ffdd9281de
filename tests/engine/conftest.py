"""One engine for the default model and a small one, on every backend."""

import dataclasses

import pytest

from herd.engine.open import open_engine
from herd.family import shape
from tests.models import random_checkpoint

BACKENDS = ["native", "torch"]


@pytest.fixture(scope="session", params=BACKENDS)
def engine(request, smollm):
    """The default model."""
    with open_engine(smollm, request.param, threads=1) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def small_engine(request):
    """A random model with a byte vocabulary and a cache of 30 blocks, so that it runs out."""
    config = dataclasses.replace(shape("tiny"), context=1024)
    with open_engine(random_checkpoint(config), request.param, threads=1, cache_tokens=480) as opened:
        yield opened
