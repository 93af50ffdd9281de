"""Small files beside the weights."""

import json
from pathlib import Path
from typing import Any

from herd.errors import FormatError, NoTokenizerError, first_line
from herd.text.tokenizer_json import HFTokenizer

_MAX_JSON = 100 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FormatError when the file is missing, too large or not one."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise FormatError(f"{path}: larger than {_MAX_JSON:,} bytes; expected a small JSON file")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object")
    return value


def sidecar_tokenizer(folder: Path) -> HFTokenizer:
    """The tokenizer of a Hugging Face folder, with its start token and its stop tokens."""
    if not (folder / "tokenizer.json").exists():
        raise NoTokenizerError(f"{folder}: no tokenizer.json; put the model's tokenizer beside its weights")
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    stops: list[int] = []
    for name in ("generation_config.json", "config.json"):
        if (folder / name).exists():
            eos = read_json(folder / name).get("eos_token_id")
            stops += [t for t in (eos if isinstance(eos, list) else [eos]) if isinstance(t, int)]
    tokenizer = HFTokenizer.from_file(folder / "tokenizer.json", bos=_content(settings.get("bos_token")), stops=stops)
    if settings.get("add_bos_token") is False or not _starts_with_bos(folder):
        tokenizer.bos_id = None
    return tokenizer


def _starts_with_bos(folder: Path) -> bool:
    """Whether the model's own tokenizer puts its start token before a text: its post-processor says so."""
    spec = read_json(folder / "tokenizer.json")
    settings = folder / "tokenizer_config.json"
    if settings.exists() and read_json(settings).get("add_bos_token"):
        return True
    return "SpecialToken" in json.dumps(spec.get("post_processor"))


def _content(token: Any) -> str | None:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
