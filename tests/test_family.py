import dataclasses

import pytest

from herd.errors import ConfigError, FormatError
from herd.family import SHAPES, ModelConfig, shape
from herd.quant.formats import weight_bytes


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("llama-3.1-8b", 8_030_261_248),
        ("llama-3.1-70b", 70_553_706_496),
        ("llama-3.1-405b", 405_853_388_800),
        ("llama-3.2-1b", 1_235_814_400),
        ("llama-3.2-3b", 3_212_749_824),
        ("smollm2-135m", 134_515_008),
        ("smollm2-360m", 361_821_120),
        ("smollm2-1.7b", 1_711_376_384),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    assert shape(name).parameters == parameters


def test_parameters_equal_the_sum_of_tensor_shapes():
    for config in SHAPES.values():
        total = 0
        for dims in config.tensor_shapes().values():
            size = 1
            for n in dims:
                size *= n
            total += size
        assert total == config.parameters


def test_costs_of_the_8b():
    config = shape("llama-3.1-8b")
    assert config.kv_bytes_per_token() == 131_072
    # 2 FLOPs for each weight but the embedding's, plus attention over the context
    weights = config.parameters - 128_256 * 4096 - 65 * 4096
    assert config.flops_per_token(1000) == 2 * weights + 4 * 32 * 1000 * 4096
    assert weight_bytes(config, "BF16") == 2 * config.parameters + 2 * 65 * 4096
    with pytest.raises(FormatError, match="Q9"):
        weight_bytes(config, "Q9")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"kv_heads": 5}, "kv_heads"),
        ({"head_dim": 7}, "head_dim"),
        ({"layers": 0}, "layers"),
        ({"norm_eps": 2.0}, "eps"),
    ],
)
def test_impossible_shapes_are_refused_by_name(change, word):
    with pytest.raises(ConfigError, match=word):
        dataclasses.replace(shape("tiny"), **change)


def test_config_is_frozen_and_unknown_names_list_the_known():
    with pytest.raises(dataclasses.FrozenInstanceError):
        shape("tiny").layers = 3
    with pytest.raises(ConfigError, match=r"llama-3\.1-8b"):
        shape("llama-9")
    assert isinstance(shape("tiny"), ModelConfig)
