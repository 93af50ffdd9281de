"""One file over HTTP: with progress, resumed after a cut at any byte, checked, and never left half under its name."""

import contextlib
import errno
import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from herd.errors import DownloadError, first_line
from herd.progress import Progress, silent

if TYPE_CHECKING:
    import httpx

_CHUNK = 1 << 20
_HASHES = {32: "md5", 64: "sha256"}


def fetch(
    client: "httpx.Client",
    url: str,
    path: Path,
    *,
    checksum: str | None = None,
    progress: Progress = silent,
    attempts: int = 5,
    pause: float = 1.0,
) -> Path:
    """Fetch `url` to `path`; a file that is there already and matches `checksum` (hex MD5 or SHA-256) is kept.

    A partial file `path.partial` is continued when the server still has the same content. Raises DownloadError with
    the cause in one line.
    """
    import httpx

    if path.exists() and (checksum is None or file_checksum(path, checksum) == checksum.lower()):
        return path
    partial = path.with_name(path.name + ".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(attempts):
        try:
            _continue(client, url, partial, path.name, progress)
            break
        except httpx.TransportError as error:
            if attempt == attempts - 1:
                kept = partial.stat().st_size if partial.exists() else 0
                raise DownloadError(
                    f"{path.name}: the connection failed {attempts} times ({first_line(error)}); {kept:,} bytes are kept, "
                    "check the network and run the same command to continue"
                ) from error
            time.sleep(pause * 2**attempt)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                _remove(partial)
                free = shutil.disk_usage(path.parent).free
                raise DownloadError(
                    f"{path.name}: the disk is full ({free:,} bytes free in {path.parent}); make room and run it again"
                ) from error
            raise DownloadError(f"{path.name}: cannot write {partial} ({error.strerror})") from error
    if checksum is not None and (found := file_checksum(partial, checksum)) != checksum.lower():
        _remove(partial)
        raise DownloadError(
            f"{path.name}: checksum is {found}, expected {checksum}; what came is damaged, run it again"
        )
    with partial.open("rb") as file:
        os.fsync(file.fileno())
    _remove(_tag_file(partial))
    os.replace(partial, path)
    return path


def file_checksum(path: Path, like: str) -> str:
    """The file's MD5 or SHA-256, whichever has the length of `like`, in hex."""
    if len(like) not in _HASHES:
        raise DownloadError(f"{path.name}: checksum {like!r} is neither MD5 nor SHA-256")
    digest = hashlib.new(_HASHES[len(like)], usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _tag_file(partial: Path) -> Path:
    return partial.with_name(partial.name + ".etag")


def _remove(partial: Path) -> None:
    for path in (partial, _tag_file(partial)):
        path.unlink(missing_ok=True)


def _continue(client: "httpx.Client", url: str, partial: Path, name: str, progress: Progress) -> None:
    """Fetch what is missing of `partial`."""
    import httpx

    have = partial.stat().st_size if partial.exists() else 0
    tag = _tag_file(partial).read_text() if have and _tag_file(partial).exists() else ""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if tag:
            headers["If-Range"] = tag
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == 416 and have:
            # The file is as long as what we have, or has changed: the checksum will tell; without one, begin anew.
            total = response.headers.get("Content-Range", "").rpartition("/")[2]
            if total == str(have):
                return
            _remove(partial)
            raise httpx.ReadError("the file has changed on the server")
        _check_status(response, name)
        if response.status_code == 206:
            span = response.headers.get("Content-Range", "")
            if not span.startswith(f"bytes {have}-"):
                _remove(partial)
                raise httpx.ReadError(f"the server answered with the wrong range ({span or 'none'})")
        else:
            have = 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else 0
        free = shutil.disk_usage(partial.parent).free
        if total - have > free:
            _remove(partial)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        etag = response.headers.get("ETag", "")
        if etag and not etag.startswith("W/"):
            _tag_file(partial).write_text(etag)
        with partial.open("ab" if have else "wb") as file:
            for chunk in response.iter_raw():
                file.write(chunk)
                have += len(chunk)
                progress(name, have, total)
        if total and have != total:
            with contextlib.suppress(OSError):
                if have > total:
                    _remove(partial)
            raise httpx.ReadError(f"got {have:,} bytes of {total:,}")


def _check_status(response: "httpx.Response", name: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status >= 500 or status == 429:
        import httpx

        raise httpx.ReadError(f"the server answered {status}")
    reasons = {
        401: "the server wants a login (401); check your access token",
        403: "the server refuses (403): the link has expired or is not for this file; request a new one",
        404: "the server has no such file (404); check the model's name",
    }
    raise DownloadError(f"{name}: {reasons.get(status, f'the server answered {status}')}")
