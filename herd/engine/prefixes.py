"""Keys and values of prompts' beginnings kept on disk, so that system prompts and documents are not computed anew after a restart.

A file holds a group of blocks. It is named by the digest of all tokens up to its end, in a folder named by what else decides
its contents: the model's files, the cache's number format, the instruction set. Nothing of a file is used before its
length, its header and its checksum are right; one that is damaged is deleted, with a line that says so.
"""

import contextlib
import hashlib
import os
import queue
import stat
import struct
import threading
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from herd.atomic import atomic_file
from herd.errors import ConfigError
from herd.weights.checkpoint import Checkpoint

GROUP = 4
"""Blocks of a file: 64 tokens."""
_MAGIC = b"HERDKV01"
_HEADER = struct.Struct("<8s32s16sQ32s")  # magic, identity, name, bytes of tokens and blocks, their digest
_SUFFIX = ".kv"
_QUEUE = 512 << 20  # bytes that may wait to be written
_RESCAN = 64  # files written, at most, until the folder is looked at again, for what others wrote
_ABANDONED = 3600  # seconds after which a file that is not whole is nobody's


class BlockMemory(Protocol):
    """A backend whose cache can be copied, a block at a time, all layers one after another."""

    @property
    def block_bytes(self) -> int:
        """Bytes of a block of the cache."""
        ...

    block_size: int

    def read_block(self, block: int) -> bytes:
        """The contents of a block, `block_bytes`."""
        ...

    def write_block(self, block: int, contents: memoryview) -> None:
        """Put contents into a block."""
        ...


def identity(checkpoint: Checkpoint, *parts: str) -> bytes:
    """What decides keys and values beside the tokens: the model's shape and files (name, size, time, first bytes), `parts`.

    ConfigError for a model that lies in no file.
    """
    if not checkpoint.files:
        raise ConfigError("this model lies in no file; a cache on disk needs one to be known by")
    found = hashlib.blake2b(repr((checkpoint.config, parts)).encode(), digest_size=32)
    for path in checkpoint.files:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            found.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
            found.update(file.read(1 << 16))
    return found.digest()


class PrefixStore:
    """A folder of at most `limit` bytes, shared by any number of processes and models; the longest unused goes first.

    `warn` takes a line for people. Files are written on a thread of its own, whole or not at all, readable to their owner only.
    """

    def __init__(
        self, folder: Path, limit: int, known_by: bytes, memory: BlockMemory, warn: Callable[[str], None]
    ) -> None:
        self._root, self._limit, self._identity, self._memory, self._warn = folder, limit, known_by, memory, warn
        self._folder = folder / known_by.hex()[:32]
        self._tokens = GROUP * memory.block_size
        self._payload = 4 * self._tokens + GROUP * memory.block_bytes
        if limit < self._payload + _HEADER.size:
            raise ConfigError(
                f"--cache-size is {limit:,} bytes; {self._tokens} tokens of this model take {self._payload:,}"
            )
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._known = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(_SUFFIX)}
            probe = self._folder / f".{os.getpid()}.probe"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"--cache {folder}: {error.strerror}; expected a folder that can be written to"
            ) from error
        self._jobs: queue.SimpleQueue[tuple[str, bytes, list[bytes]] | None] = queue.SimpleQueue()
        self._waiting, self._lock = 0, threading.Lock()
        self._per_look = max(
            1, min(_RESCAN, limit // 2 // (self._payload + _HEADER.size))
        )  # files until the folder is looked at
        self._written = self._per_look
        self._writer = threading.Thread(target=self._write_all, name="herd-prefixes", daemon=True)
        self._writer.start()

    def load(self, name: bytes, tokens: Sequence[int], blocks: Sequence[int], first: int) -> bool:
        """Fill `blocks` from index `first` on with the group that ends with `name` and holds `tokens`; False where it is not here."""
        file = name.hex() + _SUFFIX
        if file not in self._known:
            return False
        path = self._folder / file
        try:
            raw = _read(path, _HEADER.size + self._payload)
        except FileNotFoundError:  # another process needed the room
            self._known.discard(file)
            return False
        except (OSError, ValueError) as error:
            return self._drop(path, str(error))
        body = raw[_HEADER.size :]
        expected = _HEADER.pack(
            _MAGIC, self._identity, name, self._payload, hashlib.blake2b(body, digest_size=32).digest()
        )
        if raw[: _HEADER.size] != expected:
            return self._drop(path, "its header or checksum is wrong")
        if body[: 4 * self._tokens] != array("i", tokens).tobytes():
            return self._drop(path, "it is of other tokens")
        size = self._memory.block_bytes
        for i in range(first, GROUP):
            at = 4 * self._tokens + i * size
            self._memory.write_block(blocks[i], body[at : at + size])
        with contextlib.suppress(OSError):
            os.utime(path)
        return True

    def save(self, name: bytes, tokens: Sequence[int], blocks: Sequence[int]) -> None:
        """Keep a group that is not here yet; it is copied now and written later. Where too much waits it is not kept."""
        file = name.hex() + _SUFFIX
        with self._lock:
            if file in self._known or self._waiting + self._payload > _QUEUE:
                return
            self._known.add(file)
            self._waiting += self._payload
        self._jobs.put((file, name, [array("i", tokens).tobytes(), *(self._memory.read_block(b) for b in blocks)]))

    def close(self) -> None:
        """Write what waits and end."""
        self._jobs.put(None)
        self._writer.join()

    def _drop(self, path: Path, why: str) -> bool:
        self._warn(f"{path}: {why}; it is deleted and computed anew")
        self._known.discard(path.name)
        with contextlib.suppress(OSError):
            path.unlink()
        return False

    def _write_all(self) -> None:
        failed = False
        while (job := self._jobs.get()) is not None:
            file, name, parts = job
            try:
                if not failed:
                    self._write(file, name, parts)
            except OSError as error:
                failed = True
                self._warn(f"{self._folder}: {error.strerror}; prompts are no longer kept")
            with self._lock:
                self._waiting -= self._payload

    def _write(self, file: str, name: bytes, parts: list[bytes]) -> None:
        digest = hashlib.blake2b(digest_size=32)
        for part in parts:
            digest.update(part)
        if self._written >= self._per_look:
            self._written = 0
            self._make_room()
        self._written += 1
        path = self._folder / file
        with atomic_file(path) as temporary, open(temporary, "xb", opener=_for_owner) as out:
            out.write(_HEADER.pack(_MAGIC, self._identity, name, self._payload, digest.digest()))
            out.writelines(parts)

    def _make_room(self) -> None:
        """Delete what was unused longest until what comes before the next look fits."""
        found = []
        for folder in (entry for entry in os.scandir(self._root) if entry.is_dir(follow_symlinks=False)):
            for entry in os.scandir(folder.path):
                with contextlib.suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    if entry.name.endswith(_SUFFIX):
                        found.append((status.st_mtime_ns, status.st_size, entry.path))
                    elif entry.name.startswith(".") and status.st_mtime < time.time() - _ABANDONED:
                        os.unlink(entry.path)
        coming = self._per_look * (self._payload + _HEADER.size)
        excess = sum(size for _, size, _ in found) + coming - self._limit
        for _, size, path in sorted(found):
            if excess <= 0:
                break
            Path(path).unlink(missing_ok=True)
            self._known.discard(Path(path).name)
            excess -= size


def _for_owner(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(path: Path, size: int) -> memoryview:
    """The bytes of a plain file of exactly `size`; ValueError for anything else, which is not waited for."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size != size:
            raise ValueError(f"it has {status.st_size:,} bytes; expected a file of {size:,}")
        raw = bytearray(size)
        at = 0
        while at < size and (count := file.readinto(memoryview(raw)[at:])):
            at += count
        if at < size:
            raise ValueError(f"it ends after {at:,} bytes")
    return memoryview(raw)
