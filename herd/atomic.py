"""Writing without ever leaving half a file: a temporary name, fsync, rename; and the whole lines of a file that is appended to."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """A full disk is told with the path that was written to, which the system does not say."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            error.filename = str(path)
        raise


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place, flushed to disk, when the block ends well."""
    with atomic_files([path]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def atomic_files(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Temporary paths for a set of files of one folder, which takes its place, flushed to disk, when the block ends well.

    The first file is the last to appear, after all others are on the disk: a set that has it is whole, whatever ended this
    process. An error on the way takes the others back.
    """
    temporaries = [_beside(path) for path in paths]
    placed: list[Path] = []
    try:
        with writing(paths[0]):
            yield temporaries
        for temporary in temporaries:
            flush(temporary)
        for temporary, path in zip(temporaries[1:], paths[1:], strict=True):
            os.replace(temporary, path)
            placed.append(path)
        if placed:
            flush(paths[0].parent)
        os.replace(temporaries[0], paths[0])
        placed.clear()
        flush(paths[0].parent)
    finally:
        for path in (*temporaries, *placed):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place, flushed to disk, when the block ends well."""
    temporary = _beside(path)
    temporary.mkdir(parents=True)
    try:
        with writing(path):
            yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                flush(file)
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
        flush(path.parent)
    finally:
        import shutil  # not at every start

        shutil.rmtree(temporary, ignore_errors=True)


def whole_lines(path: Path) -> list[bytes]:
    """The lines of a file that grows by appending; what a kill left of a last one is cut off, so that the next starts anew."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        os.truncate(path, len(whole))
    return whole.splitlines()


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")


def flush(path: Path) -> None:
    """Onto the disk: a file's bytes, or a folder's names."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
