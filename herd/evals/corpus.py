"""Documents to look through: text files, JSON lines (also packed with gzip), Parquet; folders are walked."""

import gzip
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from herd.errors import ConfigError, FormatError, MissingDependencyError, first_line

_LINES, _TEXTS = (".jsonl", ".jsonl.gz", ".ndjson"), (".txt", ".md", ".txt.gz")


class _Line(msgspec.Struct):
    text: str | None = None
    content: str | None = None


def files_of(paths: Sequence[Path]) -> list[Path]:
    """The files of a corpus, folders walked in order. ConfigError for what is not there or of no known kind."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += sorted(
                p for p in path.rglob("*") if p.is_file() and p.name.endswith((*_LINES, *_TEXTS, ".parquet"))
            )
        elif not path.is_file():
            raise ConfigError(f"{path}: no such file or folder")
        elif path.name.endswith((*_LINES, *_TEXTS, ".parquet")):
            found.append(path)
        else:
            raise ConfigError(f"{path}: expected {', '.join((*_TEXTS, *_LINES, '.parquet'))}")
    if not found:
        raise ConfigError(f"{', '.join(map(str, paths))}: no text, JSON lines or Parquet in it")
    return found


def documents_of(path: Path) -> Iterator[str]:
    """The documents of one file: all of a text file, each line's "text" or "content", each row's "text". FormatError for a damaged one."""
    try:
        if path.suffix == ".parquet":
            yield from _parquet(path)
        elif path.name.endswith(_TEXTS):
            with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
                yield file.read().decode("utf-8", "replace")
        else:
            yield from _json_lines(path)
    except (OSError, EOFError, ValueError) as error:
        raise FormatError(f"{path}: cannot be read ({first_line(error)})") from error


def _json_lines(path: Path) -> Iterator[str]:
    decoder = msgspec.json.Decoder(_Line)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                made = decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise FormatError(f"{path}:{number}: not a JSON object with text ({first_line(error)})") from error
            text = made.text if made.text is not None else made.content
            if text is None:
                raise FormatError(f'{path}:{number}: no "text" and no "content"')
            yield text


def _parquet(path: Path) -> Iterator[str]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependencyError(f"{path}: needs pyarrow; pip install 'llama-herd[evals]'") from error
    opened = parquet.ParquetFile(path)
    names = [name for name in ("text", "content") if name in opened.schema_arrow.names]
    if not names:
        raise FormatError(f'{path}: no column "text" or "content"')
    for batch in opened.iter_batches(columns=names[:1]):
        yield from (str(text) for text in batch.column(0).to_pylist() if text is not None)
