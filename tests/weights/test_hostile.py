"""Files that are cut, flipped or made to harm: one clear error each, no crash, no hang, no code run, no huge memory."""

import dataclasses
import io
import json
import math
import os
import pickle
import random
import resource
import shutil
import struct
import zipfile

import pytest
import torch

from herd.errors import ConfigError, FormatError, HerdError
from herd.family import shape
from herd.rotary import RopeScaling, llama3_divisors
from herd.weights.checkpoint import MappedFile
from herd.weights.convert import convert
from herd.weights.gguf import open_gguf, read_header
from herd.weights.open import open_checkpoint
from herd.weights.pth import PthFile
from tests.models import random_checkpoint

MUTATIONS = 10_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    config = shape("tiny-3.1")
    source = random_checkpoint(config, fmt="BF16")
    for kind, name in (("hf", "hf"), ("meta", "meta"), ("gguf", "x.gguf")):
        convert(source, folder / name, kind)
    return folder


def mutate(data: bytes, rng: random.Random, head: int) -> bytes:
    """Flip, overwrite, insert, delete or cut, mostly in the first `head` bytes."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(min(head, len(out))) if rng.random() < 0.9 else rng.randrange(len(out))
        kind = rng.randrange(6)
        if kind == 0:
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**32, 2**60, 2**63, 2**64 - 1)))
        elif kind == 2:
            out[at] = rng.randrange(256)
        elif kind == 3:
            del out[at : at + rng.randrange(1, 40)]
        elif kind == 4:
            out[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 20)))
        else:
            del out[at:]
        if not out:
            out = bytearray(b"\0")
    return bytes(out)


def fuzz(path, data: bytes, head: int, use, seed: int) -> int:
    """How many of the mutated files were refused; any other exception is a failure."""
    rng = random.Random(seed)
    refused = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(MUTATIONS):
        path.write_bytes(mutate(data, rng, head))
        try:
            use(path)
        except HerdError as error:
            assert "\n" not in str(error)
            refused += 1
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 500e6
    return refused


def read_everything(checkpoint) -> None:
    for tensor in checkpoint.tensors.values():
        tensor.float32(0, 1)


def test_mutated_gguf(files, tmp_path):
    data = (files / "x.gguf").read_bytes()
    head = data.index(b"\0" * 64) if b"\0" * 64 in data else 20_000

    def use(path):
        checkpoint = open_gguf(path)
        read_everything(checkpoint)
        _ = checkpoint.tokenizer

    assert fuzz(tmp_path / "x.gguf", data, max(head, 12_000), use, 1) > MUTATIONS // 4


def test_mutated_safetensors(files, tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_bytes((files / "hf" / "config.json").read_bytes())
    data = (files / "hf" / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])

    def use(_):
        read_everything(open_checkpoint(folder))

    assert fuzz(folder / "model.safetensors", data, 8 + length, use, 2) > MUTATIONS // 4


def test_mutated_config_json(files, tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((files / "hf" / "model.safetensors").read_bytes())
    data = (files / "hf" / "config.json").read_bytes()
    assert fuzz(folder / "config.json", data, len(data), lambda _: open_checkpoint(folder), 3) > MUTATIONS // 4


def test_mutated_pth(files, tmp_path):
    folder = tmp_path / "meta"
    folder.mkdir()
    (folder / "params.json").write_bytes((files / "meta" / "params.json").read_bytes())
    data = (files / "meta" / "consolidated.00.pth").read_bytes()
    pickled = zipfile.ZipFile(files / "meta" / "consolidated.00.pth").read("consolidated/data.pkl")
    # mutate the pickle itself, inside a whole archive, and the archive around it
    begin = data.index(pickled[:64])
    rng = random.Random(4)

    def use(_):
        read_everything(open_checkpoint(folder))

    assert fuzz(folder / "consolidated.00.pth", data, begin + len(pickled), use, 5) > MUTATIONS // 4
    for _ in range(2000):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("x/data.pkl", mutate(pickled, rng, len(pickled)))
        (tmp_path / "a.pth").write_bytes(buffer.getvalue())
        try:
            PthFile(tmp_path / "a.pth")
        except FormatError as error:
            assert "\n" not in str(error)


def gguf(tensors: int = 0, keys: int = 0, body: bytes = b"") -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", 3, tensors, keys) + body + b"\0" * 64


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "data, word",
    [
        (gguf(tensors=2**60), "claims"),
        (gguf(keys=2**60), "claims"),
        (gguf(keys=1, body=struct.pack("<Q", 2**63)), "past the end"),
        (gguf(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 4, 2**61)), "past the end"),
        (gguf(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 8, 2**40)), "past the end"),
        (gguf(keys=1, body=string(b"k") + struct.pack("<IIQ", 9, 9, 1)), "array of GGUF type"),
        (gguf(keys=1, body=string(b"k") + struct.pack("<I", 77)), "unknown GGUF value type"),
        (gguf(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 32, 0, 2**62)), "overlaps|past|end at"),
        (gguf(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 2**39, 0, 0)), "truncated"),
        (gguf(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 32, 18, 0)), "IQ3_XXS"),
        (gguf(tensors=1, body=string(b"t") + struct.pack("<IQIQ", 1, 33, 2, 0)), "blocks"),
        (
            gguf(
                tensors=2,
                body=(string(b"a") + struct.pack("<IQIQ", 1, 8, 0, 0))
                + string(b"b")
                + struct.pack("<IQIQ", 1, 8, 0, 0),
            ),
            "overlaps",
        ),
        (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "version 1"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
        (b"", "GGUF|truncated"),
        (b"PK\3\4", "GGUF"),
    ],
)
def test_hostile_gguf_headers(data, word, tmp_path):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FormatError, match=word):
        read_header(MappedFile(tmp_path / "x.gguf"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja", "model.safetensors"])
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_what_never_ends_in_a_models_place_is_refused(name, kind, files, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(files / "hf", folder)
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    with pytest.raises(FormatError, match=f"{name}: a .*pipe or a device"):
        open_checkpoint(folder).tokenizer  # noqa: B018
    with pytest.raises(FormatError, match="pipe or a device"):
        open_checkpoint(folder / name)


def test_a_kind_that_is_a_list_and_a_message_of_a_million_numbers(tmp_path):
    body = string(b"general.type") + struct.pack("<IIQi", 9, 5, 1, 7)
    (tmp_path / "x.gguf").write_bytes(gguf(keys=1, body=body))
    with pytest.raises(FormatError, match="which alone is no model"):
        open_checkpoint(tmp_path / "x.gguf")
    assert len(str(FormatError(f"x: key is {[0] * 10**6}; expected a number"))) < 2100


def test_a_name_that_would_command_a_terminal_is_none(tmp_path):
    odd = dataclasses.replace(random_checkpoint(shape("tiny")), name="\x1b]0;mine\x07")
    convert(odd, tmp_path / "x.gguf", "gguf")
    assert open_gguf(tmp_path / "x.gguf").name == "x"


def test_overlapping_and_huge_safetensors(tmp_path, files):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "config.json").write_bytes((files / "hf" / "config.json").read_bytes())
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    for header, word in (
        ({"a": entry, "b": entry}, "overlap"),
        ({"a": {**entry, "data_offsets": [0, 2**50]}}, "damaged"),
        ({"a": {**entry, "shape": [2**40]}}, "spans"),
        ({"a": {**entry, "shape": [-1]}}, "wrong shape"),
        ({"model.norm.weight": {**entry, "dtype": "I64"}}, "I64"),
        ([], "JSON object"),
    ):
        text = json.dumps(header).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + b"\0" * 16)
        with pytest.raises(FormatError, match=word):
            open_checkpoint(folder)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(FormatError, match="header of"):
        open_checkpoint(folder)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../../etc/passwd"}}')
    with pytest.raises(FormatError, match="passwd"):
        open_checkpoint(folder)


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_that_call_things_are_refused(tmp_path, protocol):
    import os
    import subprocess

    trace = tmp_path / "ran"
    for evil in (
        Evil(os.system, f"touch {trace}"),
        Evil(subprocess.call, ["touch", str(trace)]),
        Evil(eval, "1"),
        Evil(exec, "1"),
    ):
        with zipfile.ZipFile(tmp_path / "x.pth", "w") as archive:
            archive.writestr("x/data.pkl", pickle.dumps({"a": evil}, protocol=protocol))
        with pytest.raises(FormatError, match="runs no code"):
            PthFile(tmp_path / "x.pth")
    torch.save({"a": torch.ones(2), "b": object}, tmp_path / "y.pth")
    with pytest.raises(FormatError, match="names"):
        PthFile(tmp_path / "y.pth")
    assert not trace.exists()


def test_pth_that_is_not_what_we_read(tmp_path):
    torch.save({"a": torch.ones(4, 4).t()[1:]}, tmp_path / "strided.pth")
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save([torch.ones(2)], tmp_path / "list.pth")
    for name, word in (("strided", "contiguous"), ("old", "torch 1.6"), ("list", "dictionary")):
        with pytest.raises(FormatError, match=word):
            PthFile(tmp_path / f"{name}.pth")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"model_type": "mixtral"}, "mixtral"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"sliding_window": 4096}, "sliding_window"),
        ({"num_local_experts": 8}, "num_local_experts"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "dynamic"),
        ({"quantization_config": {"quant_method": "gptq"}}, "gptq"),
        ({"num_hidden_layers": "two"}, "num_hidden_layers"),
        ({"num_attention_heads": 10**9}, "shape|head"),
        ({"architectures": ["MistralForCausalLM"]}, "Mistral"),
    ],
)
def test_models_outside_the_architecture_are_refused_by_name(change, word, files, tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((files / "hf" / "model.safetensors").read_bytes())
    settings = json.loads((files / "hf" / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **change}))
    with pytest.raises((FormatError, ConfigError), match=word):
        open_checkpoint(folder)


@pytest.mark.parametrize("key", ["llama.attention.layer_norm_rms_epsilon", "llama.rope.freq_base"])
@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0, -1.0])
def test_numbers_that_are_none_are_refused(key, value, files, tmp_path):
    data = bytearray((files / "x.gguf").read_bytes())
    at = data.find(key.encode()) + len(key) + 4
    data[at : at + 4] = struct.pack("<f", value)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(ConfigError, match="norm_eps"):
        open_checkpoint(tmp_path / "x.gguf")


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_a_rotary_factor_that_is_none_is_refused(value, files, tmp_path):
    data = bytearray((files / "x.gguf").read_bytes())
    factors = struct.pack("<16f", *llama3_divisors(32, 500_000.0, RopeScaling()))
    last = data.index(factors) + 60
    data[last : last + 4] = struct.pack("<f", value)
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises((FormatError, ConfigError), match=r"rope|factor"):
        open_checkpoint(tmp_path / "x.gguf")


def test_a_bias_tensor_is_refused_by_name(files, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "hf"
    folder.mkdir()
    tensors = load_file(files / "hf" / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.zeros(64)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((files / "hf" / "config.json").read_bytes())
    with pytest.raises(FormatError, match=r"q_proj\.bias"):
        open_checkpoint(folder)


def test_paths_without_a_checkpoint(tmp_path):
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(FormatError, match=r"expected|give"):
            open_checkpoint(path)


def test_a_folder_with_links_folders_and_odd_names_has_the_one_model_in_it(files, tmp_path):
    (tmp_path / "loop.gguf").symlink_to("loop.gguf")
    (tmp_path / "gone.gguf").symlink_to("nowhere")
    (tmp_path / "folder.gguf").mkdir()
    with pytest.raises(FormatError, match="no checkpoint found"):
        open_checkpoint(tmp_path)
    shutil.copy(files / "x.gguf", tmp_path / "Model-00000-of-00000.GGUF")  # no part of a set: parts count from 1
    assert open_checkpoint(tmp_path).config == shape("tiny-3.1")


@pytest.mark.parametrize("name", ["rope_factors_long.weight", "rope_factors_short.weight"])
def test_the_factors_of_longrope_are_refused_with_the_reason(name, tmp_path):
    body = string(b"general.architecture") + struct.pack("<I", 8) + string(b"llama")
    body += string(name.encode()) + struct.pack("<IQIQ", 1, 16, 0, 0)
    (tmp_path / "x.gguf").write_bytes(gguf(tensors=1, keys=1, body=body) + bytes(96))
    with pytest.raises(FormatError, match=f"{name} is of longrope scaling"):
        open_gguf(tmp_path / "x.gguf")
