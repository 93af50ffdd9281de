"""Input -> rows, one at a time: JSON lines as they are, documents as {"text"}, cut into passages where asked for."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from herd.data.extract import extract
from herd.data.read import kind_of, read
from herd.synth.recipe import Recipe
from herd.synth.step import Lost, Row


def input_rows(recipe: Recipe) -> Iterator[tuple[str, Row | Lost]]:
    """(id, row) in their order; what cannot be read is lost. A passage has its whole document in `document`."""
    for key, row in islice(_rows(recipe), recipe.rows):
        for number in range(recipe.repeat):
            yield (f"{key}#{number + 1}" if number else key), row


def _rows(recipe: Recipe) -> Iterator[tuple[str, Row | Lost]]:
    for path in recipe.paths():
        base = Path(recipe.folder)
        for file in sorted(p for p in path.rglob("*") if kind_of(p, strict=False)) if path.is_dir() else [path]:
            name = str(file.relative_to(base)) if file.is_relative_to(base) else file.name
            for key, row in _lines(file, name) if file.suffix == ".jsonl" else _documents(file, name):
                yield from _passages(key, row, recipe)


def _lines(path: Path, name: str) -> Iterator[tuple[str, Row | Lost]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                try:
                    row = msgspec.json.decode(line, type=dict[str, Any])
                except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                    yield f"{name}:{number}", Lost("unreadable", f"no JSON object: {error}")
                    continue
                yield str(row.get("id", f"{name}:{number}")), row


def _documents(path: Path, name: str) -> Iterator[tuple[str, Row | Lost]]:
    for raw in read(path, name):
        text = raw.content if isinstance(raw.content, str) and not raw.is_html else extract(raw.content).text
        assert isinstance(text, str)
        if raw.problem or not text.strip():
            yield raw.id, Lost("unreadable", raw.problem or "no text")
        else:
            yield raw.id, {"text": text.strip()}


def _passages(key: str, row: Row | Lost, recipe: Recipe) -> Iterator[tuple[str, Row | Lost]]:
    text = row.get("text") if isinstance(row, dict) else None
    if not recipe.passage or not isinstance(row, dict) or not isinstance(text, str):
        yield key, row
        return
    found = list(enumerate(passages(text, recipe.passage)))
    apart = max(1, len(found) // recipe.passages)  # from all of the document, not its beginning alone
    for number, passage in found[::apart][: recipe.passages]:
        yield f"{key}@{number}", {**row, "text": passage, "document": text}


def passages(text: str, size: int) -> Iterator[str]:
    """Pieces of at most `size` characters: whole paragraphs, else whole lines, else cut at a space."""
    piece = ""
    for line in text.split("\n"):
        if len(piece) + len(line) + 1 > size and piece.strip():
            yield piece.strip()
            piece = ""
        while len(line) > size:
            cut = line.rfind(" ", 1, size) + 1 or size
            yield line[:cut].strip()
            line = line[cut:]
        piece += line + "\n"
    if piece.strip():
        yield piece.strip()
