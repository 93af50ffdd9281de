"""LoRA adapters that would be another model than they say, or none, are refused by name."""

import json

import numpy as np
import pytest

from herd.errors import FormatError
from herd.weights.adapter import Adapter, read_adapter, write_adapter
from herd.weights.tensors import write_tensors

WQ = "layers.0.attention.wq.weight"
FILE_WQ = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(1)
    pair = (rng.standard_normal((4, 64)).astype(np.float32), rng.standard_normal((64, 4)).astype(np.float32))
    write_adapter(tmp_path, Adapter({WQ: pair}, 2.0), 16, "base")
    read = read_adapter(tmp_path, 16)
    assert read.scale == 2.0
    np.testing.assert_array_equal(read.pairs[WQ][1], pair[1])
    return tmp_path


@pytest.mark.parametrize(
    "change, word",
    [({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"), ({"init_lora_weights": "pissa_niter_16"}, "pissa_niter_16"),
     ({"init_lora_weights": "olora"}, "olora"), ({"init_lora_weights": "corda"}, "corda"), ({"init_lora_weights": "loftq"}, "loftq"),
     ({"layer_replication": [[0, 2], [1, 2]]}, "layer_replication"), ({"use_qalora": True}, "use_qalora"), ({"kasa_config": {"x": 1}}, "kasa_config"),
     ({"use_rslora": "false"}, "use_rslora is 'false'"), ({"lora_alpha": float("nan")}, "lora_alpha is nan"), ({"lora_alpha": "16"}, "lora_alpha"),
     ({"lora_alpha": 10**400}, "lora_alpha"), ({"r": 5}, "rank 5"), ({"r": 4.0}, "r is 4.0"), ({"something_new": 2}, "something_new is 2")],
)  # fmt: skip
def test_settings_of_another_computation_are_refused(folder, change, word):
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    plain = {
        "init_lora_weights": "gaussian",
        "layer_replication": None,
        "megatron_core": "megatron.core",
        "kasa_config": None,
    }
    path.write_text(json.dumps({**settings, **plain, "use_rslora": False, "qalora_group_size": 16}))
    assert read_adapter(folder, 16).scale == 2.0
    path.write_text(json.dumps({**settings, **change}))
    with pytest.raises(FormatError, match=word):
        read_adapter(folder, 16)


@pytest.mark.parametrize(
    "a, b, word",
    [((4, 64), (64,), "expected a matrix"), ((64,), (64, 4), "expected a matrix"), ((4, 64), (60, 4), "60 rows; expected whole heads"),
     ((3, 64), (64, 4), "rank 4")],
)  # fmt: skip
def test_matrices_of_wrong_shapes_are_refused(folder, a, b, word):
    arrays = {f"{FILE_WQ}.lora_A.weight": np.ones(a, np.float32), f"{FILE_WQ}.lora_B.weight": np.ones(b, np.float32)}
    write_tensors(folder / "adapter_model.safetensors", arrays)
    with pytest.raises(FormatError, match=word):
        read_adapter(folder, 16)
