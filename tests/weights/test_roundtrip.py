"""Every format into every other, bit for bit; and what other people's loaders make of our files."""

import dataclasses
import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from herd.atomic import atomic_file, atomic_folder
from herd.errors import ConfigError, FormatError, in_one_line
from herd.family import shape
from herd.quant.finite import broken_row
from herd.quant.quantize import quantize
from herd.weights.convert import convert, target_kind
from herd.weights.gguf_config import config_to_gguf
from herd.weights.hf import write_hf
from herd.weights.names import from_canonical
from herd.weights.open import open_checkpoint
from herd.weights.pth import PthFile
from herd.weights.quantize import write_quantized
from tests.models import random_checkpoint, stored


def digests(checkpoint):
    return {
        n: (t.format, t.shape, hashlib.sha256(t.raw().tobytes()).hexdigest()) for n, t in checkpoint.tensors.items()
    }


CONFIGS = {
    "tied, scaled rope": shape("tiny-3.1"),
    "untied": shape("tiny"),
    "wide heads": dataclasses.replace(shape("tiny"), head_dim=32, dim=96, ffn_dim=100, vocab=515),
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("fmt", ["BF16", "F32"])
def test_hf_meta_gguf_hf_is_bit_identical(name, fmt, tmp_path):
    config = dataclasses.replace(CONFIGS[name], vocab=max(CONFIGS[name].vocab, 512))
    source = random_checkpoint(config, fmt=fmt)
    convert(source, tmp_path / "hf", "hf")
    convert(open_checkpoint(tmp_path / "hf"), tmp_path / "meta", "meta")
    convert(open_checkpoint(tmp_path / "meta"), tmp_path / "x.gguf", "gguf")
    convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "hf2", "hf")
    for folder in ("hf", "meta", "hf2"):
        opened = open_checkpoint(tmp_path / folder)
        assert opened.config == config
        assert digests(opened) == digests(source)
        assert opened.tokenizer.encode("héllo <|eot_id|>") == source.tokenizer.encode("héllo <|eot_id|>")
        assert opened.tokenizer.special_tokens == source.tokenizer.special_tokens
    gguf = open_checkpoint(tmp_path / "x.gguf")
    assert gguf.config == config
    for one, other in zip(gguf.tensors.values(), source.tensors.values(), strict=True):
        np.testing.assert_array_equal(one.float32(), other.float32())
    files = [(tmp_path / f / "model.safetensors").read_bytes() for f in ("hf", "hf2")]
    assert files[0] == files[1]


def test_torch_reads_our_pth_and_we_read_torchs(tmp_path):
    source = random_checkpoint(shape("tiny-3.1"), fmt="BF16")
    convert(source, tmp_path / "meta", "meta")
    loaded = torch.load(tmp_path / "meta" / "consolidated.00.pth", weights_only=True, mmap=True)
    for name, tensor in source.tensors.items():
        assert loaded[name].view(torch.uint8).numpy().tobytes() == tensor.raw().tobytes()
    assert loaded["output.weight"].data_ptr() == loaded["tok_embeddings.weight"].data_ptr()
    torch.save({"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.bfloat16)}, tmp_path / "t.pth")
    file = PthFile(tmp_path / "t.pth")
    assert file.tensor("a").float32().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert file.tensor("b").float32().tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("shards", [2, 4, 8])
def test_model_parallel_shards_are_merged(shards, tmp_path):
    config = dataclasses.replace(shape("tiny"), heads=8, kv_heads=8, head_dim=8)
    source = random_checkpoint(config)
    whole = {name: torch.from_numpy(tensor.float32()) for name, tensor in source.tensors.items()}
    convert(source, tmp_path / "one", "meta")
    (tmp_path / "many").mkdir()
    (tmp_path / "many" / "params.json").write_bytes((tmp_path / "one" / "params.json").read_bytes())
    for i in range(shards):
        part = {}
        for name, tensor in whole.items():
            if tensor.dim() == 1:
                part[name] = tensor
            else:
                axis = 1 if name.endswith(("wo.weight", "w2.weight")) else 0
                part[name] = tensor.chunk(shards, dim=axis)[i].clone()
        torch.save(part, tmp_path / "many" / f"consolidated.{i:02}.pth")
    merged = open_checkpoint(tmp_path / "many")
    assert merged.config == config
    assert digests(merged) == digests(source)
    np.testing.assert_array_equal(
        merged.tensors["layers.0.attention.wq.weight"].rows(3, 21).reshape(-1),
        source.tensors["layers.0.attention.wq.weight"].rows(3, 21).reshape(-1),
    )
    (tmp_path / "many" / f"consolidated.{shards - 1:02}.pth").unlink()
    with pytest.raises(FormatError):
        open_checkpoint(tmp_path / "many")


def test_sharded_safetensors_with_an_index(tmp_path):
    source = random_checkpoint(shape("tiny"), fmt="BF16")
    from herd.weights.convert import _chunks

    (tmp_path / "hf").mkdir()
    formats = dict.fromkeys(source.tensors, "BF16")
    write_hf(tmp_path / "hf", source, formats, _chunks, lambda _: None, shard_bytes=100_000)
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    assert digests(open_checkpoint(tmp_path / "hf")) == digests(source)
    next((tmp_path / "hf").glob("*-00002-*")).unlink()
    with pytest.raises(FormatError, match="00002"):
        open_checkpoint(tmp_path / "hf")


def test_fbgemm_fp8_is_read_with_its_scales(tmp_path):
    """The layout of Meta's published FP8 405B: e4m3 weight and float32 weight_scale [out, 1], made with torch."""
    from safetensors.torch import load_file, save_file

    convert(random_checkpoint(shape("tiny")), tmp_path / "hf", "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    name = "model.layers.0.mlp.gate_proj.weight"
    weight = tensors[name]
    scale = weight.abs().amax(1, keepdim=True) / 448
    tensors[name] = (weight / scale).to(torch.float8_e4m3fn)
    tensors[name + "_scale"] = scale
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    settings["quantization_config"] = {"quant_method": "fbgemm_fp8"}
    (tmp_path / "hf" / "config.json").write_text(json.dumps(settings))
    opened = open_checkpoint(tmp_path / "hf")
    got = opened.tensors["layers.0.feed_forward.w1.weight"]
    assert got.format == "F8_E4M3"
    expected = tensors[name].float() * scale
    np.testing.assert_array_equal(got.float32(), expected.numpy())
    convert(opened, tmp_path / "again", "hf")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert torch.equal(again[name].view(torch.uint8), tensors[name].view(torch.uint8))
    assert torch.equal(again[name + "_scale"], scale)
    assert (
        json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]["quant_method"]
        == "fbgemm_fp8"
    )
    del tensors[name + "_scale"]
    save_file(tensors, tmp_path / "hf" / "model.safetensors")
    with pytest.raises(FormatError, match="weight_scale"):
        open_checkpoint(tmp_path / "hf")


def test_quantized_gguf_goes_to_gguf_unchanged_and_to_hf_as_bf16(smollm, tmp_path):
    convert(smollm, tmp_path / "copy.gguf", "gguf")
    copy = open_checkpoint(tmp_path / "copy.gguf")
    assert digests(copy) == digests(smollm)
    assert copy.tokenizer.encode("Hello  world 123") == smollm.tokenizer.encode("Hello  world 123")
    assert copy.chat_template == smollm.chat_template
    assert copy.tokenizer.stop_ids == smollm.tokenizer.stop_ids


@pytest.mark.slow
def test_metas_tokenizer_survives_all_formats(meta_tokenizer, tmp_path):
    source = random_checkpoint(dataclasses.replace(shape("tiny-3.1"), vocab=128_256), fmt="BF16")
    source.load_tokenizer = lambda: meta_tokenizer
    convert(source, tmp_path / "meta", "meta")
    convert(open_checkpoint(tmp_path / "meta"), tmp_path / "hf", "hf")
    convert(open_checkpoint(tmp_path / "hf"), tmp_path / "x.gguf", "gguf")
    convert(open_checkpoint(tmp_path / "x.gguf"), tmp_path / "back", "meta")
    assert open_checkpoint(tmp_path / "back").tokenizer.ranks == meta_tokenizer.ranks
    text = "Grüße, 12345 नमस्ते! <|eot_id|>"
    for name in ("hf", "x.gguf", "back"):
        opened = open_checkpoint(tmp_path / name).tokenizer
        assert opened.encode(text) == meta_tokenizer.encode(text)
        assert opened.bos_id == meta_tokenizer.bos_id
        assert opened.stop_ids == meta_tokenizer.stop_ids


def test_a_broken_tokenizer_stops_a_conversion(tmp_path):
    """A missing tokenizer is carried over as missing; a broken one must not vanish in silence."""
    source = random_checkpoint(shape("tiny"))

    def broken():
        raise FormatError("this tokenizer is damaged")

    source.load_tokenizer = broken
    for kind, name in (("hf", "a"), ("meta", "b"), ("gguf", "c.gguf")):
        with pytest.raises(FormatError, match="damaged"):
            convert(source, tmp_path / name, kind)
    assert list(tmp_path.iterdir()) == []


def test_targets_and_refusals(tmp_path):
    source = random_checkpoint(shape("tiny"))
    assert target_kind(tmp_path / "a.gguf", None) == "gguf"
    for out, to in (("folder", None), ("folder", "onnx")):
        with pytest.raises(ConfigError, match="hf"):
            target_kind(tmp_path / out, to)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "x").write_text("mine")
    with pytest.raises(ConfigError, match="exists"):
        convert(source, tmp_path / "there", "hf")
    with pytest.raises(ConfigError, match="Q4_0"):
        convert(source, tmp_path / "new", "hf", "Q4_0")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["there"]


def test_an_interrupted_conversion_leaves_nothing(tmp_path):
    source = random_checkpoint(shape("tiny"))

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for kind, name in (("hf", "a"), ("meta", "b"), ("gguf", "c.gguf")):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / name, kind, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_memory_of_a_conversion_does_not_grow_with_the_file(tmp_path):
    """A sharded checkpoint of 3 GB: peak resident memory below 1.5 x the largest tensor + 300 MB."""
    import subprocess
    import sys

    config = dataclasses.replace(
        shape("llama-3.2-1b"), layers=20, vocab=32_768, tied=False, ffn_dim=8192, rope_scaling=None
    )
    (tmp_path / "hf").mkdir()
    write_zeros = """
import sys, json, dataclasses
from pathlib import Path
import numpy as np
from herd.family import ModelConfig
from herd.weights.checkpoint import Checkpoint, StoredTensor
from herd.weights.convert import _chunks
from herd.weights.hf import write_hf
config = ModelConfig(**json.loads(sys.argv[1]))
def fake(shape):
    row = np.arange(shape[-1], dtype=np.uint16).view(np.uint8)
    return StoredTensor("BF16", shape, lambda a, b: np.broadcast_to(row, (b - a, len(row))))
def none():
    from herd.errors import NoTokenizerError
    raise NoTokenizerError("none")
tensors = {n: fake(s) for n, s in config.tensor_shapes().items()}
write_hf(Path(sys.argv[2]), Checkpoint(Path("x"), "x", config, tensors, none), dict.fromkeys(tensors, "BF16"), _chunks,
         lambda _: None, shard_bytes=500_000_000)
"""
    plain = {**dataclasses.asdict(config), "rope_scaling": None}
    subprocess.run([sys.executable, "-c", write_zeros, json.dumps(plain), str(tmp_path / "hf")], check=True)
    measure = """
import sys
from herd.cli import main
sys.argv = ["herd", "convert", sys.argv[1], sys.argv[2], *sys.argv[3:]]
try:
    main()
finally:
    peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(1024 * int(peak), file=sys.stderr)
"""
    largest = config.vocab * config.dim * 2
    size = sum(f.stat().st_size for f in (tmp_path / "hf").iterdir())
    assert size > 2.5e9
    for out, *more in (("m", "--to", "meta"), ("x.gguf",)):
        command = [sys.executable, "-c", measure, str(tmp_path / "hf"), str(tmp_path / out), *more]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        peak = int(done.stderr.strip().splitlines()[-1])
        assert peak < 1.5 * largest + 300e6, f"{out}: {peak:,} bytes"


def test_gguf_is_split_and_opened_as_one(tmp_path):
    source = random_checkpoint(shape("tiny-3.1"))
    convert(source, tmp_path / "whole.gguf", "gguf")
    first = convert(source, tmp_path / "cut.gguf", "gguf", split=100_000)
    parts = sorted(tmp_path.glob("cut-*"))
    assert first == parts[0] == tmp_path / f"cut-00001-of-0000{len(parts)}.gguf"
    assert len(parts) > 2
    whole = open_checkpoint(tmp_path / "whole.gguf")
    for path in (parts[0], parts[2]):
        opened = open_checkpoint(path)
        assert opened.config == source.config
        assert digests(opened) == digests(whole)
        assert opened.tokenizer.declared == whole.tokenizer.declared
        assert opened.files == tuple(parts)
    # what llama.cpp asks of the parts: gguf-split.cpp
    readers = [gguf.GGUFReader(part) for part in parts]
    assert [reader.fields["split.no"].contents() for reader in readers] == list(range(len(parts)))
    for reader in readers:
        assert reader.fields["split.no"].types == reader.fields["split.count"].types == [gguf.GGUFValueType.UINT16]
        assert reader.fields["split.count"].contents() == len(parts)
        assert reader.fields["split.tensors.count"].types == [gguf.GGUFValueType.INT32]
        assert reader.fields["split.tensors.count"].contents() == len(source.tensors) + 1
    with pytest.raises(ConfigError, match="exists"):
        convert(source, tmp_path / "cut.gguf", "gguf", split=100_000)
    with pytest.raises(ConfigError, match="only GGUF is split"):
        convert(source, tmp_path / "folder", "hf", split=100_000)
    parts[1].rename(tmp_path / "other.gguf")
    with pytest.raises(FormatError, match="cut-00002-of-"):
        open_checkpoint(parts[0])
    with pytest.raises(FormatError, match="part 1 of"):
        open_checkpoint(tmp_path / "other.gguf")
    fetched = tmp_path / "fetched in part"
    fetched.mkdir()
    (fetched / parts[0].name).write_bytes(parts[0].read_bytes())
    with pytest.raises(FormatError, match=r"cut-00002-of-.* is missing"):
        open_checkpoint(fetched)
    (tmp_path / "other.gguf").rename(parts[1])
    parts[2].write_bytes(parts[1].read_bytes())
    with pytest.raises(FormatError, match="expected 2 of"):
        open_checkpoint(parts[0])


def test_what_a_gguf_file_says_about_the_model_is_carried_to_gguf(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    about = {
        "general.author": "A. Uthor", "general.license": "llama3.1", "general.source.url": "https://example.org/m",
        "general.languages": ["en", "de"], "general.tags": ["text-generation"], "general.base_model.count": 1,
        "general.base_model.0.organization": "Example \u00c4",
    }  # fmt: skip
    writer.add_author(about["general.author"])
    writer.add_license(about["general.license"])
    writer.add_source_url(about["general.source.url"])
    writer.add_languages(about["general.languages"])
    writer.add_tags(about["general.tags"])
    writer.add_base_model_count(1)
    writer.add_base_model_organization(0, about["general.base_model.0.organization"])
    writer.add_uint64("general.big", 2**40)  # each with its own type
    writer.add_file_type(7)
    config, tensors = shape("tiny"), random_checkpoint(shape("tiny"), fmt="F32").tensors
    for key, value in config_to_gguf(config).items():
        (writer.add_float32 if isinstance(value, float) else writer.add_uint32)(key, value)
    for name, tensor in tensors.items():
        writer.add_tensor(from_canonical(name, "gguf"), tensor.float32())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    convert(open_checkpoint(tmp_path / "a.gguf"), tmp_path / "b.gguf", "gguf", split=100_000)
    written = open_checkpoint(min(tmp_path.glob("b-*")))
    write_quantized(written, tmp_path / "c.gguf", "Q8_0")
    before, after = gguf.GGUFReader(tmp_path / "a.gguf").fields, gguf.GGUFReader(tmp_path / "c.gguf").fields
    for key in (*about, "general.big"):
        assert (after[key].contents(), after[key].types) == (before[key].contents(), before[key].types)
    assert "general.file_type" not in after  # another one now
    said: list[str] = []
    convert(written, tmp_path / "hf", "hf", say=said.append)
    assert len(said) == 1
    assert all(key in said[0] for key in about)


_CRASH = """
import os, signal, sys
from pathlib import Path
from herd.family import shape
from herd.weights.convert import convert
from tests.models import random_checkpoint

left, replace = int(sys.argv[2]), os.replace

def replace_or_die(*names):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    replace(*names)

os.replace = replace_or_die
convert(random_checkpoint(shape("tiny-3.1")), Path(sys.argv[1]), "gguf", split=200_000)
"""


@pytest.mark.parametrize("renamed", [0, 2])
def test_a_split_set_that_a_crash_left_is_told_by_name(renamed, tmp_path):
    command = [sys.executable, "-c", _CRASH, str(tmp_path / "cut.gguf"), str(renamed)]
    assert subprocess.run(command, timeout=60).returncode == -signal.SIGKILL
    assert len(list(tmp_path.glob("cut*"))) == renamed
    with pytest.raises(FormatError, match="cut-00001-of-.* is missing" if renamed else "no checkpoint found"):
        open_checkpoint(tmp_path)


def test_a_split_set_whose_place_is_lost_is_taken_back(tmp_path):
    convert(random_checkpoint(shape("tiny-3.1")), tmp_path / "cut.gguf", "gguf", split=100_000)
    taken = sorted(tmp_path.iterdir())[-2]
    for path in tmp_path.iterdir():
        path.unlink()

    def in_the_way(*_: object) -> None:
        taken.mkdir(exist_ok=True)

    with pytest.raises(IsADirectoryError):
        convert(random_checkpoint(shape("tiny-3.1")), tmp_path / "cut.gguf", "gguf", split=100_000, progress=in_the_way)
    assert list(tmp_path.iterdir()) == [taken]


@pytest.mark.parametrize("kind", ["meta", "hf", "gguf"])
@pytest.mark.parametrize("fmt", ["F32", "BF16"])
def test_weights_that_are_no_numbers_are_refused_by_tensor_and_row(kind, fmt, tmp_path):
    source = random_checkpoint(shape("tiny"), fmt=fmt)
    name = "layers.1.feed_forward.w1.weight"
    good = source.tensors[name].float32()
    for value in (np.nan, np.inf, -np.inf):
        bad = good.copy()
        bad[41, 3] = value
        source.tensors[name] = stored(bad, fmt)
        for weights in (None, "F16", "BF16"):
            with pytest.raises(FormatError, match=rf"{name}, row 41: holds NaN or infinity"):
                convert(source, tmp_path / ("x.gguf" if kind == "gguf" else "x"), kind, weights)
    bad = good.copy()
    bad[7, 0] = -1e6
    source.tensors[name] = stored(bad, fmt)
    with pytest.raises(FormatError, match=rf"{name}, row 7: .* too large for F16"):
        convert(source, tmp_path / ("x.gguf" if kind == "gguf" else "x"), kind, "F16")
    assert list(tmp_path.iterdir()) == []
    convert(source, tmp_path / ("x.gguf" if kind == "gguf" else "x"), kind, "BF16")


@pytest.mark.parametrize("kind, told", [("meta", "layers.1.attention.wq.weight, row 3"), ("gguf", "layers.1.attention.wq.weight, row 3"), ("hf", "model.layers.1.self_attn.q_proj.weight, row 9")])  # fmt: skip
def test_a_refused_row_is_counted_in_the_order_of_the_name_that_is_told(kind, told, tmp_path):
    source = random_checkpoint(shape("tiny"))
    name = "layers.1.attention.wq.weight"
    bad = source.tensors[name].float32().copy()
    bad[3, 5] = np.nan
    source.tensors[name] = stored(bad)
    with pytest.raises(FormatError, match=rf"^tensor {told}: holds NaN"):
        convert(source, tmp_path / ("x.gguf" if kind == "gguf" else "x"), kind)


@pytest.mark.parametrize("fmt", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"])
def test_broken_scales_of_blocks_are_found(fmt):
    values = np.random.default_rng(0).standard_normal((5, 512)).astype(np.float32)
    raw = quantize(values, fmt)
    assert broken_row(raw, fmt) is None
    values[3, 300] = 1e9
    assert broken_row(quantize(values, fmt), fmt) == 3


@pytest.mark.parametrize("atomic", [atomic_file, atomic_folder])
def test_a_full_disk_is_told_with_the_path_and_leaves_nothing(atomic, tmp_path):
    with pytest.raises(OSError, match=r"No space left on device: .*wanted") as caught, atomic(tmp_path / "wanted"):
        Path("/dev/full").write_bytes(b"x" * 100_000)
    assert in_one_line(caught.value) == f"{tmp_path / 'wanted'}: No space left on device"
    assert not list(tmp_path.iterdir())
