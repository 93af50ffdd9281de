"""What a checkpoint says of how to talk with it: chat templates, and the sampling that it recommends."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.weights.files import read_json, read_small

if TYPE_CHECKING:
    from herd.weights.checkpoint import Checkpoint

DEFAULT, TOOL_USE = "default", "tool_use"
_MORE_TEMPLATES = "additional_chat_templates"  # transformers' folder
_SAMPLING = {
    # of SamplingParams -> key of a GGUF file, least, most
    "temperature": ("general.sampling.temp", 0.0, 100.0),
    "top_p": ("general.sampling.top_p", 1e-6, 1.0),
    "top_k": ("general.sampling.top_k", 0.0, 2.0**31),
    "min_p": ("general.sampling.min_p", 0.0, 1.0),
    "repetition_penalty": ("general.sampling.penalty_repeat", 0.01, 100.0),
}


@dataclass(frozen=True)
class Dialog:
    """What a checkpoint says of how to talk with it, by the names of its fields."""

    chat_template: str | None = None
    tool_template: str | None = None
    sampling: Mapping[str, float] = field(default_factory=dict)

    @staticmethod
    def of(checkpoint: "Checkpoint") -> "Dialog":
        """A checkpoint's."""
        return Dialog(checkpoint.chat_template, checkpoint.tool_template, checkpoint.sampling)

    @property
    def templates(self) -> "Dialog":
        """The templates alone: a new model that takes a tokenizer with its dialogs takes no other's sampling."""
        return Dialog(self.chat_template, self.tool_template)


def read_templates(folder: Path) -> dict[str, str]:
    """A folder's chat templates by name, where the default one is named so."""
    path = folder / "tokenizer_config.json"
    found: Any = read_json(path).get("chat_template") if path.exists() else None
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found if isinstance(one, dict)}
    templates = found if isinstance(found, dict) else {DEFAULT: found}
    files = {DEFAULT: folder / "chat_template.jinja", TOOL_USE: folder / _MORE_TEMPLATES / f"{TOOL_USE}.jinja"}
    templates |= {name: read_small(file).decode("utf-8", "replace") for name, file in files.items() if file.exists()}
    return {name: text for name, text in templates.items() if isinstance(text, str)}


def recommended(values: Mapping[str, Any]) -> dict[str, float]:
    """Sampling out of a generation_config.json; what is no number or out of range recommends nothing."""
    found = {
        name: int(value) if name == "top_k" else float(value)
        for name, (_, least, most) in _SAMPLING.items()
        if isinstance(value := values.get(name), int | float) and not isinstance(value, bool) and least <= value <= most
    }
    return {"temperature": 0.0} if values.get("do_sample") is False else found


def read_sampling(folder: Path) -> dict[str, float]:
    """The sampling that a folder's generation_config.json recommends."""
    path = folder / "generation_config.json"
    return recommended(read_json(path)) if path.exists() else {}


def from_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a `Checkpoint` out of a GGUF file's metadata."""
    default, more = (metadata.get(f"tokenizer.chat_template{end}") for end in ("", f".{TOOL_USE}"))
    return {
        "chat_template": default if isinstance(default, str) else None,
        "tool_template": more if isinstance(more, str) else None,
        "sampling": recommended({name: metadata.get(key) for name, (key, *_) in _SAMPLING.items()}),
    }


def to_metadata(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The same for writing, as llama.cpp's converter has it."""
    values: dict[str, Any] = {_SAMPLING[name][0]: value for name, value in checkpoint.sampling.items()}
    if checkpoint.chat_template is not None:
        values["tokenizer.chat_template"] = checkpoint.chat_template
    if checkpoint.tool_template is not None:
        values |= {
            "tokenizer.chat_templates": [TOOL_USE],
            f"tokenizer.chat_template.{TOOL_USE}": checkpoint.tool_template,
        }
    return values


def read_dialog(folder: Path) -> dict[str, Any]:
    """Fields of a `Checkpoint` out of a folder."""
    templates = read_templates(folder)
    return {
        "chat_template": templates.get(DEFAULT), "tool_template": templates.get(TOOL_USE), "sampling": read_sampling(folder),
    }  # fmt: skip


def write_dialog(folder: Path, dialog: Dialog) -> None:
    """Write templates and sampling beside the weights, after the tokenizer's files."""
    if dialog.chat_template is not None:
        (folder / "chat_template.jinja").write_text(dialog.chat_template, encoding="utf-8")
    if dialog.tool_template is not None:
        (folder / _MORE_TEMPLATES).mkdir()
        (folder / _MORE_TEMPLATES / f"{TOOL_USE}.jinja").write_text(dialog.tool_template, encoding="utf-8")
    if dialog.sampling:
        path = folder / "generation_config.json"
        values = read_json(path) if path.exists() else {}
        values |= {"do_sample": dialog.sampling.get("temperature") != 0, **dialog.sampling}
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
