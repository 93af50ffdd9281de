"""Files laid out otherwise than expected: read where that is certain, or named in one line; and what is tied."""

import dataclasses
import json

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from herd.errors import FormatError
from herd.family import shape
from herd.model.llama import Transformer
from herd.model.load import from_checkpoint
from herd.weights.checkpoint import StoredTensor
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from herd.weights.save import save
from tests.models import byte_tokenizer, random_checkpoint

TOKENS = torch.tensor([[1, 5, 300, 77, 9]])


def logits(checkpoint):
    model: Transformer = from_checkpoint(checkpoint.config, checkpoint.tensors, torch.float32)
    return model(TOKENS).detach()


def hf_folder(tmp_path, config, change):
    """A Hugging Face folder whose tensors and settings were changed in place by `change`."""
    convert(random_checkpoint(config), tmp_path / "hf", "hf")
    tensors = load_file(tmp_path / "hf" / "model.safetensors")
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    tensors = change(tensors, settings) or tensors
    save_file(tensors, tmp_path / "hf" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "hf" / "config.json").write_text(json.dumps(settings))
    return tmp_path / "hf"


@pytest.mark.parametrize("copy", [False, True])
def test_a_head_of_its_own_beside_the_flag_that_says_tied(copy, tmp_path):
    def change(tensors, settings):
        settings["tie_word_embeddings"] = True
        if copy:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()

    folder = hf_folder(tmp_path, shape("tiny"), change)
    opened = open_checkpoint(folder)
    assert opened.config.tied is copy
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(opened), theirs(TOKENS).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["meta", "gguf"])
def test_an_untied_head_stays_through_conversions(kind, tmp_path):
    folder = hf_folder(tmp_path, shape("tiny"), lambda _, settings: settings.update(tie_word_embeddings=True))
    source = open_checkpoint(folder)
    convert(source, tmp_path / "x.gguf", kind)
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "x.gguf")), logits(source))


def test_views_of_one_flat_storage_are_not_tied(tmp_path):
    source = random_checkpoint(shape("tiny"))
    convert(source, tmp_path / "meta", "meta")
    file = tmp_path / "meta" / "consolidated.00.pth"
    tensors = torch.load(file, weights_only=True)
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()])
    at, views = 0, {}
    for name, tensor in tensors.items():
        views[name] = flat[at : at + tensor.numel()].view(tensor.shape)
        at += tensor.numel()
    torch.save(views, file)
    opened = open_checkpoint(tmp_path / "meta")
    assert not opened.config.tied
    torch.testing.assert_close(logits(opened), logits(source))
    views["output.weight"] = views["tok_embeddings.weight"]
    torch.save(views, file)
    assert open_checkpoint(tmp_path / "meta").config.tied


@pytest.mark.parametrize("wrapper", ["model", "state_dict", "model_state_dict", "module"])
def test_a_pth_wrapped_by_a_trainer(wrapper, tmp_path):
    source = random_checkpoint(shape("tiny"))
    convert(source, tmp_path / "meta", "meta")
    file = tmp_path / "meta" / "consolidated.00.pth"
    tensors = torch.load(file, weights_only=True)
    torch.save({wrapper: tensors, "epoch": 3, "optimizer": {"state": {0: {"step": 1.5}}, "groups": [1, 2]}}, file)
    torch.testing.assert_close(logits(open_checkpoint(tmp_path / "meta")), logits(source))
    torch.save({"weights": tensors, "epoch": 3}, file)
    with pytest.raises(FormatError, match="found weights, epoch"):
        open_checkpoint(tmp_path / "meta")


@pytest.mark.parametrize("form", ["inside", "compiled", "parallel"])
def test_hugging_face_names_of_wrapped_models(form, tmp_path):
    def change(tensors, settings):
        if form != "inside":
            return {f"{'_orig_mod.' if form == 'compiled' else 'module.'}{name}": t for name, t in tensors.items()}
        settings["architectures"] = ["LlamaModel"]
        return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}

    config = shape("tiny-3.1")
    opened = open_checkpoint(hf_folder(tmp_path, config, change))
    torch.testing.assert_close(logits(opened), logits(random_checkpoint(config)))


def test_gguf_without_token_types(tmp_path):
    convert(random_checkpoint(shape("tiny")), tmp_path / "x.gguf", "gguf")
    data = (tmp_path / "x.gguf").read_bytes()
    (tmp_path / "y.gguf").write_bytes(data.replace(b"tokenizer.ggml.token_type", b"tokenizer.ggml.token_typo"))
    found, expected = (open_checkpoint(tmp_path / name).tokenizer for name in ("y.gguf", "x.gguf"))
    assert found.special_tokens == expected.special_tokens
    text = "Hello <|eot_id|> world"
    assert found.encode(text) == expected.encode(text)


def sentencepiece(folder):
    """The first pieces of Llama 2's tokenizer.model, as its protobuf holds them."""
    pieces = (
        b"<unk>\x15\x00\x00\x00\x00\x18\x02",
        b"<s>\x15\x00\x00\x00\x00\x18\x03",
        b"\xe2\x96\x81t\x15\x00\x00\x00\x00",
    )
    body = b"".join(bytes([10, len(p) + 2, 10, p.index(b"\x15")]) + p for p in pieces)
    (folder / "tokenizer.model").write_bytes(body)


def test_a_sentencepiece_tokenizer_is_named(tmp_path):
    for kind in ("meta", "hf"):
        convert(random_checkpoint(shape("tiny"), tokenizer=False), tmp_path / kind, kind)
        sentencepiece(tmp_path / kind)
        with pytest.raises(FormatError, match="SentencePiece tokenizer, as Llama 2") as caught:
            _ = open_checkpoint(tmp_path / kind).tokenizer
        with pytest.raises(FormatError, match="SentencePiece"):
            convert(open_checkpoint(tmp_path / kind), tmp_path / f"{kind}.gguf", "gguf")
        assert "tokenizer.model" in str(caught.value)
    with pytest.raises(FormatError, match="SentencePiece"):
        open_checkpoint(tmp_path / "hf" / "tokenizer.model")


@pytest.mark.parametrize(
    "data, word",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"PK\x03\x04rest", "zip archive"), (b"\x80\x02}q\x00.", "pickle"), (b"tjgg\x01\x00\x00\x00", "from before GGUF"),
        (b"<!DOCTYPE html><html>", "HTML page"), (b"", "empty file"), (b"{}", "JSON"), (b"\x00" * 64, "it is not a GGUF file"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind_says_its_kind(data, word, tmp_path):
    (tmp_path / "x.gguf").write_bytes(data)
    with pytest.raises(FormatError, match=word):
        open_checkpoint(tmp_path / "x.gguf")
    convert(random_checkpoint(shape("tiny")), tmp_path / "hf", "hf")
    (tmp_path / "hf" / "model.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=word if "GGUF file" not in word else "safetensors"):
        open_checkpoint(tmp_path / "hf")


def test_a_big_endian_gguf_an_adapter_and_other_layouts(tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.zeros((4, 4), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(FormatError, match="big-endian"):
        open_checkpoint(tmp_path / "big.gguf")
    writer = gguf.GGUFWriter(tmp_path / "lora.gguf", "llama")
    writer.add_type("adapter")
    writer.add_tensor("blk.0.attn_q.weight.lora_a", np.zeros((4, 4), np.float32))
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    with pytest.raises(FormatError, match="LoRA adapter"):
        open_checkpoint(tmp_path / "lora.gguf")
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "meta-llama/Llama-3.1-8B"}')
    (folder / "adapter_model.safetensors").write_bytes(b"")
    for path in (folder, folder / "adapter_model.safetensors"):
        with pytest.raises(FormatError, match=r"LoRA adapter for meta-llama/Llama-3\.1-8B"):
            open_checkpoint(path)
    mistral = tmp_path / "mistral"
    mistral.mkdir()
    (mistral / "params.json").write_text("{}")
    (mistral / "consolidated.safetensors").write_bytes(b"")
    with pytest.raises(FormatError, match="Mistral"):
        open_checkpoint(mistral)
    for kind, architecture in (("mistral", "MistralForCausalLM"), ("qwen2", "Qwen2ForCausalLM")):
        (folder / "config.json").write_text(json.dumps({"model_type": kind, "architectures": [architecture]}))
        with pytest.raises(FormatError, match=architecture):
            open_checkpoint(folder)
    convert(random_checkpoint(shape("tiny")), tmp_path / "bin", "hf")
    (tmp_path / "bin" / "model.safetensors").rename(tmp_path / "bin" / "pytorch_model.bin")
    with pytest.raises(FormatError, match=r"found pytorch_model\.bin"):
        open_checkpoint(tmp_path / "bin")


@pytest.mark.parametrize("kind", ["meta", "hf", "gguf"])
def test_saving_from_memory(kind, tmp_path):
    config = dataclasses.replace(shape("tiny-3.1"), tied=False)
    source = random_checkpoint(config)
    arrays = {name: tensor.float32() for name, tensor in source.tensors.items()}
    path = tmp_path / ("x.gguf" if kind == "gguf" else "x")
    seen = []
    written = save(
        path, config, arrays, kind=kind, tokenizer=byte_tokenizer(), template="{{ messages }}", weights="BF16",
        progress=lambda what, done, total, note="": seen.append((done, total)),
    )  # fmt: skip
    opened = open_checkpoint(written)
    assert opened.config == config
    assert (opened.chat_template, opened.tool_template) == ("{{ messages }}", None)
    assert opened.tokenizer.declared == byte_tokenizer().declared
    assert opened.tensors["output.weight"].format == "BF16"
    assert seen[-1][0] == seen[-1][1] > 0
    for name, tensor in opened.tensors.items():
        expected = arrays[name] if tensor.format == "F32" else StoredTensor.of(arrays[name], "BF16").float32()
        np.testing.assert_array_equal(tensor.float32(), expected)
    for broken, word in (
        ({**arrays, "layers.9.ffn_norm.weight": arrays["norm.weight"]}, "layers.9.ffn_norm.weight has no place"),
        ({name: a for name, a in arrays.items() if name != "norm.weight"}, "norm.weight is missing"),
        ({**arrays, "norm.weight": arrays["norm.weight"][:-1]}, "norm.weight has shape"),
        ({**arrays, "norm.weight": arrays["norm.weight"] * np.nan}, "norm.weight, row 0: holds NaN"),
    ):
        with pytest.raises(FormatError, match=word):
            save(tmp_path / f"bad{path.suffix}", config, broken, kind=kind)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
