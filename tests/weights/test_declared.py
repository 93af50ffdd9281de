"""What a checkpoint declares of its tokens (start, ends, padding, flags) is carried by all nine conversions as declared."""

import dataclasses
import json

import pytest
from gguf import GGUFReader
from transformers import AutoTokenizer, GenerationConfig

from herd.errors import FormatError, NoTokenizerError
from herd.family import shape
from herd.text.gguf import GGUFTokenizer
from herd.text.tokenizer import Declared
from herd.text.vocabulary import GGUF_CONTROL, LLAMA3_SPECIAL, byte_alphabet
from herd.weights.convert import convert
from herd.weights.gguf_tokenizer import declared_in
from herd.weights.open import open_checkpoint
from tests.models import no_tokenizer, random_checkpoint

KINDS = ("meta", "hf", "gguf")
# DeepSeek-R1-Distill-Llama: Llama 3's vocabulary with ends of its own; Llama's <|eot_id|> is still there and ends nothing.
NAMES = [*byte_alphabet(), *LLAMA3_SPECIAL]
BOS, EOS = len(NAMES), len(NAMES) + 1
NAMES += ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"]
CASES = {
    "DeepSeek": Declared(bos=BOS, eos=EOS, pad=EOS, stops=(EOS,), add_bos=True),
    "every kind": Declared(bos=BOS, eos=EOS, eot=265, eom=264, pad=260, unk=258, stops=(EOS, 265, 264), add_bos=True),
    "many ends, in an order": Declared(bos=BOS, eos=265, stops=(300, EOS, 265), add_bos=True, add_eos=True),
    "no start is added": Declared(bos=BOS, eos=EOS, stops=(EOS,)),
    "ends that are plain tokens": Declared(bos=65, eos=66, pad=67, stops=(66, 68), add_bos=True),
    "nothing": Declared(bos=BOS),
}


def source(declared):
    config = dataclasses.replace(shape("tiny"), vocab=len(NAMES))
    types = [1] * 256 + [GGUF_CONTROL] * (len(NAMES) - 256)
    made = random_checkpoint(config)
    made.load_tokenizer = lambda: GGUFTokenizer(
        pre="llama-bpe", tokens=NAMES, types=types, merges=[], declared=declared
    )
    return made


def path(folder, kind):
    return folder / ("x.gguf" if kind == "gguf" else kind)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", KINDS)
def test_all_nine_conversions(first, case, tmp_path):
    declared = CASES[case]
    convert(source(declared), path(tmp_path, first), first)
    for second in KINDS:
        folder = tmp_path / f"from-{first}"
        folder.mkdir(exist_ok=True)
        convert(open_checkpoint(path(tmp_path, first)), path(folder, second), second)
        tokenizer = open_checkpoint(path(folder, second)).tokenizer
        assert tokenizer.declared == declared
        assert tokenizer.bos_id == (declared.bos if declared.add_bos else None)
        assert set(declared.stops) <= tokenizer.stop_ids
        assert tokenizer.encode("Hello <|eot_id|>") == source(declared).tokenizer.encode("Hello <|eot_id|>")


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("first", KINDS)
def test_all_nine_conversions_without_a_tokenizer(first, case, tmp_path):
    bare = dataclasses.replace(source(CASES[case]), load_tokenizer=no_tokenizer, load_declared=lambda: CASES[case])
    convert(bare, path(tmp_path, first), first)
    for second in KINDS:
        (tmp_path / "then").mkdir(exist_ok=True)
        convert(open_checkpoint(path(tmp_path, first)), path(tmp_path / "then", second), second)
        opened = open_checkpoint(path(tmp_path / "then", second))
        assert opened.declared == CASES[case]
        with pytest.raises(NoTokenizerError):
            opened.tokenizer  # noqa: B018
    then = tmp_path / "then"
    ends = list(CASES[case].stops)
    theirs = GenerationConfig.from_pretrained(then / "hf")
    assert theirs.eos_token_id == (ends if len(ends) > 1 else ends[0] if ends else None)
    assert GGUFReader(then / "x.gguf").fields["tokenizer.ggml.model"].contents() == "none"


@pytest.mark.parametrize("case", CASES)
def test_other_peoples_loaders_see_the_same(case, tmp_path):
    declared = CASES[case]
    convert(source(declared), tmp_path / "hf", "hf")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "hf")
    kinds = ("bos", "eos", "pad", "unk")
    assert [getattr(theirs, f"{kind}_token_id") for kind in kinds] == [getattr(declared, kind) for kind in kinds]
    start = [declared.bos] if declared.add_bos else []
    end = [declared.eos] if declared.add_eos else []
    assert theirs.encode("Hi") == [*start, *source(declared).tokenizer.encode("Hi"), *end]
    generation = GenerationConfig.from_pretrained(tmp_path / "hf")
    stops = generation.eos_token_id if isinstance(generation.eos_token_id, list) else [generation.eos_token_id]
    assert stops == (list(declared.stops) or [None])
    convert(source(declared), tmp_path / "x.gguf", "gguf")
    fields = GGUFReader(tmp_path / "x.gguf").fields
    for kind, key in (("bos", "bos"), ("eos", "eos"), ("eot", "eot"), ("eom", "eom"), ("pad", "padding")):
        field = fields.get(f"tokenizer.ggml.{key}_token_id")
        assert (None if field is None else field.contents()) == getattr(declared, kind)
    assert fields["tokenizer.ggml.add_bos_token"].contents() is declared.add_bos
    assert fields["tokenizer.ggml.add_eos_token"].contents() is declared.add_eos


def test_a_folder_laid_out_as_deepseek_publishes_it(tmp_path):
    """Names in tokenizer_config.json as objects, ids in generation_config.json, no flag that says a start is added."""
    convert(source(CASES["DeepSeek"]), tmp_path / "hf", "hf")
    name = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    settings = {
        "add_bos_token": True, "add_eos_token": False, "bos_token": {**name, "content": NAMES[BOS]},
        "eos_token": {**name, "content": NAMES[EOS]}, "pad_token": {**name, "content": NAMES[EOS]},
        "legacy": True, "model_max_length": 16384, "tokenizer_class": "LlamaTokenizerFast", "unk_token": None,
    }  # fmt: skip
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "hf" / "generation_config.json").write_text(json.dumps({"bos_token_id": BOS, "eos_token_id": EOS}))
    assert open_checkpoint(tmp_path / "hf").tokenizer.declared == CASES["DeepSeek"]
    del settings["add_bos_token"]
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_checkpoint(tmp_path / "hf").tokenizer.declared == CASES["DeepSeek"]  # its post-processor says so
    settings["add_bos_token"] = False
    (tmp_path / "hf" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert open_checkpoint(tmp_path / "hf").tokenizer.bos_id is None


def test_ids_outside_the_vocabulary_are_refused_or_left_out(tmp_path):
    convert(source(CASES["DeepSeek"]), tmp_path / "hf", "hf")
    path = tmp_path / "hf" / "generation_config.json"
    for key, value in (("eos_token_id", [EOS, 10**12]), ("pad_token_id", 10**12)):
        path.write_text(json.dumps({"bos_token_id": BOS, "eos_token_id": EOS, key: value}))
        (tmp_path / "hf" / "tokenizer_config.json").write_text('{"add_bos_token": true}')
        settings = json.loads((tmp_path / "hf" / "config.json").read_text())
        settings.pop("pad_token_id", None)
        (tmp_path / "hf" / "config.json").write_text(json.dumps(settings))
        opened = open_checkpoint(tmp_path / "hf")
        if key == "pad_token_id":
            convert(opened, tmp_path / "x.gguf", "gguf")
            assert open_checkpoint(tmp_path / "x.gguf").tokenizer.declared.pad is None
            continue
        for kind in KINDS:
            with pytest.raises(FormatError, match="declares token 1000000000000"):
                convert(opened, tmp_path / f"no-{kind}", kind)
    keys = {"tokenizer.ggml.eos_token_id": 1, "herd.stop_token_ids": [1, 2**40, -1]}
    assert declared_in(keys, 10).stops == (1,)


def test_stops_of_ours_give_way_when_another_program_changes_the_end(tmp_path):
    convert(source(CASES["many ends, in an order"]), tmp_path / "x.gguf", "gguf")
    field = GGUFReader(tmp_path / "x.gguf", "r+").fields["tokenizer.ggml.eos_token_id"]
    field.parts[field.data[0]][0] = 301
    declared = open_checkpoint(tmp_path / "x.gguf").tokenizer.declared
    assert (declared.eos, declared.stops) == (301, (301,))
