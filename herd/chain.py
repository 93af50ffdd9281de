"""Logs in which nothing can be changed or left out unseen: each entry's hash covers the hash before it."""

import fcntl
import hashlib
import json
import os
from pathlib import Path
from typing import IO, Any

from herd.errors import FormatError


def link(before: str, text: str) -> str:
    """The hash of an entry after one with the hash `before` ("" for the first): SHA-256, in hexadecimal."""
    return hashlib.sha256(f"{before}\n{text}".encode("utf-8", "surrogatepass")).hexdigest()


def add(path: Path, entry: dict[str, Any]) -> str:
    """Append an entry to a chained JSONL file, which several processes may do at a time; its hash.

    What a killed process left of a line is cut off. The line is with the operating system when this returns.
    """
    with path.open("ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = _last(file, path)
        text = json.dumps(entry, sort_keys=True)
        chained = link(before, text)
        file.write(f'{{"entry": {text}, "hash": "{chained}"}}\n'.encode())
    return chained


def verify(path: Path) -> tuple[int, str]:
    """How many entries a chained file has, and the hash of the last; FormatError naming the first line that does not fit.

    Whoever can write the file can cut off its end or make it anew: keep the last hash elsewhere, and ask whether it is still there.
    """
    before, count = "", 0
    with path.open("rb") as file:
        for count, line in enumerate(file, 1):
            entry, chained = _read(line, f"{path}:{count}")
            if link(before, json.dumps(entry, sort_keys=True)) != chained:
                raise FormatError(f"{path}:{count}: the entry was changed, or one before it was changed or removed")
            before = chained
    return count, before


def contains(path: Path, chained: str) -> bool:
    """Whether an entry has this hash."""
    with path.open("rb") as file:
        return any(_read(line, str(path))[1] == chained for line in file)


def _read(line: bytes, where: str) -> tuple[Any, str]:
    try:
        found = json.loads(line)
        return found["entry"], str(found["hash"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError(f"{where}: not an entry of a chained log; expected an object of entry and hash") from error


def _last(file: IO[bytes], path: Path) -> str:
    """The hash of the last whole line, after which the file ends."""
    size, back = file.seek(0, os.SEEK_END), 4096
    while True:
        start = max(0, size - back)
        file.seek(start)
        data = file.read(size - start)
        end = data.rfind(b"\n") + 1
        begin = data.rfind(b"\n", 0, max(0, end - 1)) + 1
        if begin or not start:
            break
        back *= 4
    if end < len(data):
        file.truncate(start + end)
    file.seek(0, os.SEEK_END)
    return _read(data[begin:end], str(path))[1] if end else ""
