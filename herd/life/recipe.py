"""A recipe of recipes: named stages, each the settings of one room, that name each other and files; each has a key by its content.

A setting `"@NAME"` or `"@NAME/part"` is what an earlier stage made; one that begins with `./` or `../` is a file, folder or
pattern beside the recipe. A stage's key is a digest of its settings, the keys of the stages and the bytes of the files it names.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from herd.config import read
from herd.errors import ConfigError

FORMAT = 1
"""Raised when stages of the same settings would come out otherwise; every stage is then made anew."""
_STAGE = re.compile(r"@([A-Za-z0-9_-]+)(/.*)?", re.DOTALL)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


class Samples(msgspec.Struct, frozen=True, kw_only=True):
    """What each model that a stage makes is asked, with one seed: `texts` to go on with and `questions` in its chat format."""

    texts: tuple[str, ...] = ()
    questions: tuple[str, ...] = ()
    tokens: int = 48
    temperature: float = 0.7  # greedy replies of small models say one thing over and over


class Cluster(msgspec.Struct, frozen=True, kw_only=True):
    """Where stages are made: here, or on a Ray cluster, the one at hand ("auto") or that of a HOST:PORT."""

    ray: str = ""


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """`stages` in their order: each has a `kind`, perhaps `minutes` (its budget) and `plan`, and the settings of its kind."""

    title: str = "The life of a model"
    stages: dict[str, dict[str, Any]]
    samples: Samples = Samples()
    cluster: Cluster = Cluster()


@dataclass(frozen=True)
class Stage:
    """One stage. `settings` are its own with stages and files as paths, `needs` the stages that it names, `missing` the files that are not there."""

    name: str
    kind: str
    key: str
    folder: Path
    settings: dict[str, Any]
    said: dict[str, Any]  # as the recipe has them
    needs: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    minutes: float | None = None
    plan: dict[str, Any] = field(default_factory=dict)

    @property
    def made(self) -> Path:
        """Where its results lie."""
        return self.folder / "made"


def load(path: Path, flags: Mapping[str, Any]) -> Recipe:
    """A recipe's file, over it the flags (`stages.pretrain.schedule.steps`); ConfigError naming what cannot be."""
    recipe = read(Recipe, path, {})
    found: dict[str, Any] = msgspec.to_builtins(recipe)
    for key, value in flags.items():
        *parents, leaf = key.split(".")
        table = found
        for parent in parents:
            table = table.get(parent) if isinstance(table, dict) else None  # type: ignore[assignment]
        if not isinstance(table, dict) or (parents[:1] == ["stages"] and len(parents) < 2) or not parents:
            raise ConfigError(
                f"--set {key}: the recipe has no {'.'.join(parents) or 'such table'}; expected stages.NAME.KEY"
            )
        table[leaf] = _plain(value)
    return read(Recipe, values=found)


def _plain(text: str) -> Any:
    """What is typed, as TOML reads it; a bare word is a string."""
    import tomllib

    try:
        return tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        return text


def stages(recipe: Recipe, base: Path, folder: Path) -> list[Stage]:
    """The stages of a recipe whose files start from `base`, to be made below `folder`; ConfigError for what they name in vain."""
    if not recipe.stages:
        raise ConfigError("stages: there are none; write [stages.NAME] with its kind")
    found: dict[str, Stage] = {}
    for name, values in recipe.stages.items():
        if not _NAME.fullmatch(name):
            raise ConfigError(f"stages: {name!r} is no name; expected up to 40 letters, digits, - and _")
        found[name] = _stage(name, dict(values), base, folder, found)
    return list(found.values())


def _stage(name: str, said: dict[str, Any], base: Path, folder: Path, before: Mapping[str, Stage]) -> Stage:
    kind, minutes, plan = said.pop("kind", None), said.pop("minutes", None), said.pop("plan", {})
    if not isinstance(kind, str):
        raise ConfigError(f"stages.{name}.kind is missing; it says which room the stage is of")
    if minutes is not None and (isinstance(minutes, bool) or not isinstance(minutes, int | float) or not minutes > 0):
        raise ConfigError(f"stages.{name}.minutes is {minutes!r}; expected a number above 0")
    if not isinstance(plan, dict):
        raise ConfigError(f"stages.{name}.plan is {plan!r}; expected a table, as in {{gpus = 16384, gpu = 'h100'}}")
    needs: dict[str, str] = {}
    files: dict[str, list[tuple[str, str]]] = {}

    def path_of(text: str) -> str:
        if stage := _STAGE.fullmatch(text):
            other = before.get(stage[1])
            if other is None:
                raise ConfigError(f"stages.{name}: {text}: no stage before it is called {stage[1]}; there are {', '.join(before) or 'none'}")  # fmt: skip
            needs[other.name] = other.key
            return str(other.made) + (stage[2] or "")
        if text.startswith(("./", "../")):
            files[text] = list(_digests(base, text))
            return str((base / text).resolve())
        return text

    settings = _mapped(said, path_of)
    content = [FORMAT, kind, said, needs, files]
    key = hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()[:12]
    return Stage(
        name, kind, key, folder.resolve() / "stages" / f"{name}-{key}", settings, said, tuple(needs),
        tuple(text for text, found in files.items() if not found), minutes, plan,
    )  # fmt: skip


def _mapped(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {key: _mapped(one, change) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_mapped(one, change) for one in value]
    return change(value) if isinstance(value, str) else value


def _digests(base: Path, text: str) -> Iterator[tuple[str, str]]:
    """(name, SHA-256) of the files that a path or pattern names."""
    place = base / text
    if place.is_file():
        paths = [place]
    elif place.is_dir():
        paths = sorted(path for path in place.rglob("*") if path.is_file())
    else:
        paths = sorted(path for path in base.glob(text) if path.is_file())
    for path in paths:
        with path.open("rb") as file:
            yield (
                str(path.relative_to(place if place.is_dir() else base)),
                hashlib.file_digest(file, "sha256").hexdigest(),
            )
