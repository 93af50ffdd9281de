"""The probes give rates that a processor can have."""

import pytest

from herd import native


@pytest.mark.parametrize("isa", native.instruction_sets())
def test_integer_probe_is_at_least_the_float_probes_half(isa):
    found = native.probe(1, isa)
    assert 1e9 < found.bandwidth < 1e12
    assert 1e9 < found.float_ops < 1e13
    # a vector holds four times as many bytes as floats; portable code is what the compiler makes of it
    assert found.integer_ops > (1 if isa != "portable" else 0.05) * found.float_ops
