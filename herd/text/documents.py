"""Documents of files: text files with two blank lines between documents, JSON lines with `text`, or folders of both."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from herd.errors import FormatError

_BETWEEN = "\n" * 3


def read_documents(path: Path) -> list[tuple[str, str]]:
    """(text, where it is from) of each document; FormatError naming what cannot be read or holds none."""
    found = list(iter_documents(path))
    if not found:
        raise FormatError(f"{path}: holds no text")
    return found


def iter_documents(path: Path) -> Iterator[tuple[str, str]]:
    """The same, with one file at a time in memory; none where there is no text."""
    kinds = (".txt", ".md", ".jsonl")
    for file in sorted(p for p in path.rglob("*") if p.suffix in kinds) if path.is_dir() else [path]:
        yield from _documents(file)


def _documents(file: Path) -> Iterator[tuple[str, str]]:
    """Those of one file."""
    if file.suffix == ".jsonl":
        for line, value in json_lines(file):
            if not isinstance(value.get("text"), str):
                raise FormatError(f'{file}:{line}: expected {{"text": "..."}}')
            yield value["text"], f"{file}:{line}"
        return
    for i, part in enumerate(_read(file).split(_BETWEEN)):
        if part.strip():
            yield part.strip("\n") + "\n", f"{file} (document {i})"


def json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, object) of each line that is not empty."""
    for line, text in enumerate(_read(path).split("\n"), 1):
        if text.strip():
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise FormatError(f"{path}:{line}: not JSON ({error})") from error
            if not isinstance(value, dict):
                raise FormatError(f"{path}:{line}: expected a JSON object")
            yield line, value


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{path}: cannot be read ({error}); expected text in UTF-8") from error
