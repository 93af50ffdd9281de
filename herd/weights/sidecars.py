"""The files beside the weights that say how text becomes tokens and where a reply ends: `tokenizer.json`,
`tokenizer_config.json`, `generation_config.json`. Read and written as transformers does.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.errors import NoTokenizerError
from herd.text.tokenizer import Declared, Tokenizer
from herd.text.tokenizer_json import HFTokenizer
from herd.weights.files import read_json
from herd.weights.kinds import unlike

if TYPE_CHECKING:
    from herd.weights.checkpoint import Checkpoint

_NAMED = ("bos", "eos", "eot", "eom", "pad", "unk")  # `bos_token` in tokenizer_config.json, `bos_token_id` elsewhere


def read_tokenizer(folder: Path) -> HFTokenizer:
    """The tokenizer of a Hugging Face folder, with what the files beside it declare."""
    path = folder / "tokenizer.json"
    if not path.exists() and (folder / "tokenizer.model").exists():
        raise unlike(folder / "tokenizer.model", "a tokenizer.json, which AutoTokenizer's save_pretrained writes")
    if not path.exists():
        raise NoTokenizerError(f"{folder}: no tokenizer.json; put the model's tokenizer beside its weights")
    spec = read_json(path)
    begins, ends = _written(spec.get("post_processor"))
    return HFTokenizer.from_spec(spec, read_declared(folder, _ids(spec), begins, ends), str(path))


def tokenizer_of(name: str, find: "Callable[[str], Checkpoint]") -> Tokenizer:
    """The tokenizer of a folder that holds one, or of the checkpoint that `find` finds by this name."""
    return read_tokenizer(Path(name)) if (Path(name) / "tokenizer.json").exists() else find(name).tokenizer


def read_declared(folder: Path, ids: Mapping[str, int], add_bos: bool = False, add_eos: bool = False) -> Declared:
    """What the files of a folder declare of tokens whose names have these `ids`.

    A name in tokenizer_config.json goes before a number elsewhere; every number that either configuration gives for
    eos ends a reply. `add_bos` and `add_eos` hold where tokenizer_config.json does not say. Without a tokenizer, `ids` is
    empty and tokenizer_config.json holds numbers instead of names.
    """
    config, generation, names, settings = (
        _optional(folder / f"{name}.json")
        for name in ("config", "generation_config", "special_tokens_map", "tokenizer_config")
    )
    settings = {**names, **settings}
    found: dict[str, int | None] = {}
    for kind in _NAMED:
        named = ids.get(_content(settings.get(f"{kind}_token")))
        numbers = [
            named,
            *_numbers({} if ids else settings, kind),
            *_numbers(generation, kind),
            *_numbers(config, kind),
        ]
        found[kind] = next((number for number in numbers if number is not None), None)
    if found["bos"] is None:
        found["bos"] = ids.get("<|begin_of_text|>")
    stops = [*_numbers(generation, "eos"), *_numbers(config, "eos"), found["eos"], found["eot"], found["eom"]]
    return Declared(
        **found,
        stops=tuple(dict.fromkeys(stop for stop in stops if stop is not None)),
        add_bos=_flag(settings.get("add_bos_token"), add_bos),
        add_eos=_flag(settings.get("add_eos_token"), add_eos),
    )


def write_tokenizer(folder: Path, tokenizer: Tokenizer, context: int, *, spec: bool = True) -> dict[str, Any]:
    """Write a tokenizer and what is declared of it, its `tokenizer.json` only if `spec`; gives the keys for config.json."""
    declared = tokenizer.declared
    contents = json.loads(tokenizer.to_json())
    names = {number: name for name, number in _ids(contents).items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_present({f"{kind}_token": names.get(getattr(declared, kind)) for kind in _NAMED}),
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
    }
    if spec:
        if contents.get("post_processor") is None:
            contents["post_processor"] = _post_processor(declared, names)
        (folder / "tokenizer.json").write_text(json.dumps(contents, ensure_ascii=False), encoding="utf-8")
    return _write_declared(folder, declared, settings)


def write_declared(folder: Path, declared: Declared) -> dict[str, Any]:
    """Write what is declared where there is no tokenizer, as numbers; gives the keys for config.json."""
    if declared == Declared():
        return {}
    return _write_declared(folder, declared, _present({f"{kind}_token_id": getattr(declared, kind) for kind in _NAMED}))


def _write_declared(folder: Path, declared: Declared, settings: dict[str, Any]) -> dict[str, Any]:
    settings |= {"add_bos_token": declared.add_bos, "add_eos_token": declared.add_eos}
    stops = list(declared.stops)
    numbers = {"bos_token_id": declared.bos, "eos_token_id": stops if len(stops) > 1 else next(iter(stops), None)}
    if declared.pad is not None:
        numbers["pad_token_id"] = declared.pad
    for name, value in (("generation_config", numbers), ("tokenizer_config", settings)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    return numbers


def _present(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _post_processor(declared: Declared, names: Mapping[int, str]) -> dict[str, Any] | None:
    """What makes transformers write the tokens that a text begins and ends with."""
    bos = names.get(declared.bos) if declared.add_bos and declared.bos is not None else None
    eos = names.get(declared.eos) if declared.add_eos and declared.eos is not None else None
    if bos is None and eos is None:
        return None
    special = {
        name: {"id": name, "ids": [number], "tokens": [name]}
        for name, number in ((bos, declared.bos), (eos, declared.eos))
        if name is not None
    }

    def around(sequence: str, kind: int) -> list[dict[str, Any]]:
        parts = [("SpecialToken", bos), ("Sequence", sequence), ("SpecialToken", eos)]
        return [{what: {"id": name, "type_id": kind}} for what, name in parts if name is not None]

    pair = [*around("A", 0), *around("B", 1)]
    return {"type": "TemplateProcessing", "single": around("A", 0), "pair": pair, "special_tokens": special}


def _written(processor: Any) -> tuple[bool, bool]:
    """Whether a post-processor puts a special token before a text, and one after it."""
    if not isinstance(processor, dict):
        return False, False
    inner = processor.get("processors")
    if isinstance(inner, list):
        found = [_written(one) for one in inner]
        return any(begins for begins, _ in found), any(ends for _, ends in found)
    parts = processor.get("single")
    if not isinstance(parts, list) or not parts:
        return False, False
    special = [isinstance(part, dict) and "SpecialToken" in part for part in parts]
    return special[0], special[-1]


def _ids(spec: Mapping[str, Any]) -> dict[str, int]:
    """Every token of a `tokenizer.json` by its name in that file."""
    model = spec.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    added = spec.get("added_tokens")
    ids = {name: i for name, i in vocab.items() if isinstance(i, int)} if isinstance(vocab, dict) else {}
    for token in added if isinstance(added, list) else []:
        if isinstance(token, dict) and isinstance(token.get("content"), str) and isinstance(token.get("id"), int):
            ids[token["content"]] = token["id"]
    return ids


def _numbers(values: Mapping[str, Any], kind: str) -> list[int]:
    value = values.get(f"{kind}_token_id")
    numbers = value if isinstance(value, list) else [value]
    return [n for n in numbers if isinstance(n, int) and not isinstance(n, bool) and n >= 0]


def _flag(value: Any, default: bool) -> bool:
    return value if isinstance(value, bool) else default


def _content(token: Any) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}
