"""Search of a folder of text files, in SQLite's full-text index, which is made anew in memory at the start."""

import re
import sqlite3
import threading
from pathlib import Path

from herd.errors import ConfigError

_SUFFIXES = {".txt", ".md", ".rst", ".html", ".csv", ".json", ".py", ".toml"}
_LARGEST = 4 << 20
_PASSAGE = 1000
_BEST = 4


class Index:
    """Passages of a folder's files. Raises ConfigError for a folder without text."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"--documents {folder}: not a folder")
        self._lock = threading.Lock()
        self._database = sqlite3.connect(":memory:", check_same_thread=False)
        self._database.execute(
            "CREATE VIRTUAL TABLE passage USING fts5(name, text, tokenize = 'unicode61 remove_diacritics 2')"
        )
        count = 0
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in _SUFFIXES and path.is_file() and path.stat().st_size <= _LARGEST:
                text = path.read_text("utf-8", "replace")
                rows = [(str(path.relative_to(folder)), passage) for passage in _passages(text)]
                self._database.executemany("INSERT INTO passage VALUES (?, ?)", rows)
                count += len(rows)
        if not count:
            raise ConfigError(f"--documents {folder}: no text files ({', '.join(sorted(_SUFFIXES))})")

    def search(self, query: str) -> str:
        """The passages that fit best, each with its file's name."""
        words = re.findall(r"\w+", query)[:32]
        if not words:
            return "no words to search for"
        wanted = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            found = self._database.execute(
                "SELECT name, text FROM passage WHERE passage MATCH ? ORDER BY rank LIMIT ?", (wanted, _BEST)
            ).fetchall()
        return "\n\n".join(f"[{name}]\n{text}" for name, text in found) or "nothing found"

    def close(self) -> None:
        """Free the index."""
        self._database.close()


def _passages(text: str) -> list[str]:
    """Paragraphs, short ones joined and long ones cut."""
    passages = [""]
    for paragraph in re.split(r"\n\s*\n", text):
        for first in range(0, len(paragraph), _PASSAGE):
            piece = paragraph[first : first + _PASSAGE].strip()
            if len(passages[-1]) + len(piece) > _PASSAGE:
                passages.append("")
            passages[-1] = f"{passages[-1]}\n{piece}".strip()
    return [passage for passage in passages if passage]
