import pytest

from herd.errors import ConfigError
from herd.family import shape
from herd.plan.constants import gpu
from herd.plan.inference import largest_context, serve, weight_bytes


def test_the_papers_answer_for_the_405b_falls_out():
    model, h100 = shape("llama-3.1-405b"), gpu("h100")
    plain = serve(model, h100, context=8192, sequences=8)
    assert (plain.gpus, plain.tp, plain.pp) == (16, 8, 2)
    small = serve(model, h100, context=8192, sequences=8, numbers="fp8")
    assert (small.gpus, small.tp, small.pp) == (8, 8, 1)


def test_bytes_and_bounds():
    model = shape("llama-3.1-8b")
    assert weight_bytes(model, "bf16") == pytest.approx(16.06e9, rel=1e-3)
    one = serve(model, gpu("h100"), context=131_072)
    assert one.gpus == 1
    assert one.cache == 131_072 * model.kv_bytes_per_token(2)
    assert one.decode == pytest.approx(3.35e12 / (one.weights + one.cache))
    many = serve(model, gpu("h100"), context=8192, sequences=32)
    assert many.decode_all > 10 * many.decode
    assert largest_context(model, 10e9, "bf16") == 0
    assert largest_context(model, 20e9, "bf16") == int(
        (20e9 - weight_bytes(model, "bf16")) / model.kv_bytes_per_token(2)
    )
    for wrong in ({"context": 0}, {"context": 131_073}, {"context": 8192, "sequences": 10**9}):
        with pytest.raises(ConfigError):
            serve(model, gpu("h100"), **wrong)
