"""Files -> documents: HTML, text, JSONL, Parquet, WARC and WET, plain or in gzip. What is hostile costs one document."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from herd.data.extract import LIMIT
from herd.errors import ConfigError, MissingDependencyError

KINDS = {
    ".html": "html", ".htm": "html", ".xhtml": "html", ".txt": "text", ".md": "text", ".rst": "text", ".jsonl": "jsonl",
    ".parquet": "parquet", ".warc": "warc", ".wet": "warc",
}  # fmt: skip
"""What a file's name says of what is in it (before .gz)."""
LINE = 32 << 20
"""Bytes of a line of JSONL that are read."""


class Raw(NamedTuple):
    """One document as it was found: `content` is bytes of HTML, or text; `problem` says why there is none."""

    id: str
    url: str
    content: bytes | str
    is_html: bool
    problem: str = ""


def kind_of(path: Path, *, strict: bool = True) -> str:
    """The kind of a file by its name; for one that herd does not read ConfigError, or "" where that is not `strict`."""
    name = path.with_suffix("") if path.suffix == ".gz" else path
    if strict and name.suffix.lower() not in KINDS:
        raise ConfigError(
            f"{path}: cannot tell what is in it; expected a name that ends in {', '.join(KINDS)}, or these and .gz"
        )
    return KINDS.get(name.suffix.lower(), "")


def read(path: Path, name: str) -> Iterator[Raw]:
    """The documents of a file, in order; ids are `name`, or `name#N` where a file holds many. Damage is told as a `problem`."""
    try:
        yield from _READERS[kind_of(path)](path, name)
    except (OSError, EOFError, ValueError) as error:
        yield Raw(f"{name}#damaged", "", "", False, f"{type(error).__name__}: {error}"[:200])


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def _whole(path: Path, name: str) -> Iterator[Raw]:
    with _open(path) as file:
        content = file.read(LIMIT + 1)
    if len(content) > LIMIT:
        yield Raw(name, "", "", False, f"longer than {LIMIT} bytes")
    elif kind_of(path) == "html":
        yield Raw(name, "", content, True)
    else:
        yield Raw(name, "", content.decode("utf-8", "replace"), False)


def _jsonl(path: Path, name: str) -> Iterator[Raw]:
    with _open(path) as file:
        number = 0
        while line := file.readline(LINE):
            number += 1
            place = f"{name}#{number}"
            if len(line) == LINE and not line.endswith(b"\n"):
                while (rest := file.readline(LINE)) and not rest.endswith(b"\n"):
                    pass
                yield Raw(place, "", "", False, f"line longer than {LINE} bytes")
            elif line.strip():
                try:
                    value = msgspec.json.decode(line.decode("utf-8", "replace"))
                except (msgspec.MsgspecError, RecursionError) as error:
                    yield Raw(place, "", "", False, f"not JSON: {error}")
                    continue
                yield _row(value, place)


def _row(value: Any, place: str) -> Raw:
    if isinstance(value, dict):
        url = value.get("url") if isinstance(value.get("url"), str) else ""
        for key, is_html in (("text", False), ("html", True)):
            if isinstance(value.get(key), str):
                return Raw(place, url or "", value[key], is_html)
    return Raw(place, "", "", False, 'expected {"text": "..."} or {"html": "..."}, with "url" if there is one')


def _parquet(path: Path, name: str) -> Iterator[Raw]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependencyError("Parquet needs pyarrow; install it: pip install pyarrow") from error
    number = 0
    file = parquet.ParquetFile(path)
    columns = [column for column in ("text", "html", "url") if column in file.schema_arrow.names]
    for batch in file.iter_batches(batch_size=256, columns=columns):
        for value in batch.to_pylist():
            number += 1
            yield _row(value, f"{name}#{number}")


def _warc(path: Path, name: str) -> Iterator[Raw]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    wanted = WarcRecordType.response | WarcRecordType.conversion | WarcRecordType.resource
    for number, record in enumerate(ArchiveIterator(str(path), record_types=wanted, parse_http=True), 1):
        place, url = f"{name}#{number}", record.headers.get("WARC-Target-URI") or ""
        content = record.reader.read(LIMIT + 1)
        kind = (record.http_content_type or "text/html") if record.is_http else "text/html"
        if len(content) > LIMIT:
            yield Raw(place, url, "", False, f"longer than {LIMIT} bytes")
        elif record.record_type == WarcRecordType.conversion:
            yield Raw(place, url, content.decode("utf-8", "replace"), False)
        elif "html" in kind:
            yield Raw(place, url, content, True)
        else:
            yield Raw(place, url, "", False, f"no HTML but {kind}"[:100])


_READERS = {"html": _whole, "text": _whole, "jsonl": _jsonl, "parquet": _parquet, "warc": _warc}
