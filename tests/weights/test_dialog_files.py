"""Chat templates and recommended sampling: read from every format, carried into every other, used as a default."""

import dataclasses
import json

import msgspec
import pytest

from herd.family import shape
from herd.text.chat_format import LlamaChat, TemplateChat
from herd.text.messages import Message, Tool
from herd.text.tokenizer import decode
from herd.weights.convert import convert
from herd.weights.inspect import inspect
from herd.weights.open import open_checkpoint
from herd.weights.presets import Preset, preset_for
from tests.models import random_checkpoint

PLAIN = "plain:{{ messages[-1].content }}"
TOOLS = "tools:{{ tools[0].function.name }} {{ messages[-1].content }}"
SAMPLING = {"temperature": 0.25, "top_p": 0.75, "top_k": 40, "min_p": 0.125, "repetition_penalty": 1.5}


@pytest.fixture(scope="module")
def source():
    config = dataclasses.replace(shape("tiny"), vocab=512)
    return dataclasses.replace(random_checkpoint(config), chat_template=PLAIN, tool_template=TOOLS, sampling=SAMPLING)


def test_all_nine_conversions_carry_them(source, tmp_path):
    opened = {"": source}
    for first in ("hf", "meta", "gguf"):
        convert(source, tmp_path / first, first)
        for second in ("hf", "meta", "gguf"):
            convert(open_checkpoint(tmp_path / first), tmp_path / f"{first}-{second}", second)
            opened[first + second] = open_checkpoint(tmp_path / f"{first}-{second}")
    for checkpoint in opened.values():
        assert (checkpoint.chat_template, checkpoint.tool_template) == (PLAIN, TOOLS)
        assert checkpoint.sampling == SAMPLING
        assert preset_for(checkpoint).params() == SAMPLING
        assert checkpoint.tokenizer.declared == source.tokenizer.declared
    form = opened["ggufhf"].chat_format()
    for tools, expected in (((), "plain:Hi"), ((Tool("f"),), "tools:f Hi")):
        assert decode(source.tokenizer, form.encode([Message("user", "Hi")], tools=tools).tokens) == expected


def test_templates_as_transformers_keeps_them(source, tmp_path):
    convert(dataclasses.replace(source, chat_template=None, tool_template=None), tmp_path / "m", "hf")
    path = tmp_path / "m" / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    listed = [
        {"name": "default", "template": PLAIN},
        {"name": "tool_use", "template": TOOLS},
        {"name": "rag", "template": "x"},
    ]
    path.write_text(json.dumps({**settings, "chat_template": listed}))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert (checkpoint.chat_template, checkpoint.tool_template) == (PLAIN, TOOLS)
    path.write_text(json.dumps({**settings, "chat_template": listed[1:]}))
    assert isinstance(open_checkpoint(tmp_path / "m").chat_format(), TemplateChat)
    (tmp_path / "m" / "chat_template.jinja").write_text("file")
    assert open_checkpoint(tmp_path / "m").chat_template == "file"
    path.write_text(json.dumps(settings))
    (tmp_path / "m" / "chat_template.jinja").unlink()
    assert isinstance(open_checkpoint(tmp_path / "m").chat_format(), LlamaChat)


@pytest.mark.parametrize(
    "generation, expected",
    [
        ({"do_sample": True, "temperature": 0.6, "top_p": 0.95}, Preset(temperature=0.6, top_p=0.95)),
        ({"temperature": 1.5}, Preset(temperature=1.5, top_p=1.0)),
        ({"top_k": 20}, Preset(top_k=20)),
        ({"do_sample": False, "temperature": 0.6}, Preset(temperature=0.0, top_p=1.0)),
        ({"temperature": None, "top_p": "0.9", "top_k": -1, "min_p": True, "repetition_penalty": 1e999}, Preset()),
        ({"eos_token_id": 3}, Preset()),
    ],
)
def test_what_generation_config_recommends_is_the_default(source, generation, expected, tmp_path):
    convert(dataclasses.replace(source, sampling={}), tmp_path / "m", "hf")
    path = tmp_path / "m" / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **generation}))
    checkpoint = open_checkpoint(tmp_path / "m")
    assert preset_for(checkpoint) == expected
    found = inspect(checkpoint)
    assert found["sampling"] == expected.params()
    assert found["recommended_sampling"] == checkpoint.sampling


def test_a_preset_that_was_measured_goes_first(smollm):
    assert preset_for(dataclasses.replace(smollm, sampling={"temperature": 2.0})) == preset_for(smollm)
    assert msgspec.structs.asdict(preset_for(smollm))["temperature"] == 0.1
