"""What a recipe of a corpus says, checked before anything is read; and the parts of the work in their order."""

import contextlib
from pathlib import Path

import msgspec

from herd.data.filters import Rules
from herd.data.read import kind_of
from herd.errors import ConfigError

UNIT = 200
"""Files of one document that make a part."""


class Deduplicate(msgspec.Struct, frozen=True, kw_only=True):
    """What counts as the same: equal texts, equal addresses, texts of Jaccard similarity `similar` or more, frequent lines."""

    exact: bool = True
    url: bool = True
    similar: float | None = 0.8
    line_over: int | None = 6  # a line in more documents than this goes
    memory_mb: int = 256


class Pack(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens for the trainer: by the `tokenizer` of a model (its name or path) or of a folder, or by a new one of `vocab` tokens
    that is learned from the corpus. The share `held_out` of the documents, chosen by their ids, is packed apart, to validate with.
    """

    tokenizer: str | None = None
    vocab: int | None = None
    held_out: float = 0.0


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """`inputs` are files, folders or patterns, from the recipe's own folder; `inputs_if_there` too, and may be missing."""

    inputs: tuple[str, ...]
    inputs_if_there: tuple[str, ...] = ()
    rules: Rules = Rules()
    deduplicate: Deduplicate = Deduplicate()
    pack: Pack | None = None
    documents_a_file: int = 10_000
    folder: str = ""  # where inputs start from; the recipe's own folder

    def check(self) -> "Recipe":
        """The recipe; ConfigError naming what cannot be."""
        if not self.inputs:
            raise ConfigError("inputs is empty; name files, folders or patterns")
        for file, limit in (("reference", self.rules.max_divergence), ("quality", self.rules.min_quality)):
            named = getattr(self.rules, file)
            if bool(named) != (limit is not None):
                raise ConfigError(f"rules.{file} and its limit go together; give both or neither")
            if named and not (Path(self.folder) / named).is_file():
                raise ConfigError(f"rules.{file}: {named}: no such file in {Path(self.folder).resolve()}")
        if self.deduplicate.similar is not None and not 0 < self.deduplicate.similar <= 1:
            raise ConfigError(
                f"deduplicate.similar is {self.deduplicate.similar}; expected a number above 0, at most 1"
            )
        for key, value in (
            ("deduplicate.memory_mb", self.deduplicate.memory_mb),
            ("documents_a_file", self.documents_a_file),
        ):
            if value < 1:
                raise ConfigError(f"{key} is {value}; expected 1 or more")
        found = {
            key: str(Path(self.folder) / path) for key in ("reference", "quality") if (path := getattr(self.rules, key))
        }
        rules = msgspec.structs.replace(self.rules, **found)
        return msgspec.structs.replace(self, rules=rules, pack=self._check_pack())

    def _check_pack(self) -> Pack | None:
        if self.pack is None:
            return None
        if (self.pack.tokenizer is None) == (self.pack.vocab is None):
            raise ConfigError(
                "pack: give either tokenizer (a model or a folder) or vocab, to learn one of so many tokens"
            )
        if not 0 <= self.pack.held_out < 1:
            raise ConfigError(
                f"pack.held_out is {self.pack.held_out}; expected a share of the documents, 0 or more and below 1"
            )
        beside = Path(self.folder) / (self.pack.tokenizer or "")
        if self.pack.tokenizer and beside.exists():
            return msgspec.structs.replace(self.pack, tokenizer=str(beside))
        return self.pack


Unit = tuple[tuple[str, str], ...]  # (path, name) of each file


def units(recipe: Recipe) -> list[Unit]:
    """Parts of the work in their order: files that hold many documents alone, others by 200. Of a folder those files are taken
    whose names say what they hold. ConfigError for an input that gives none, but for those that are read only if they are there.
    """
    base = Path(recipe.folder or ".")
    paths: dict[Path, None] = {}
    for pattern in (*recipe.inputs, *recipe.inputs_if_there):
        found = _files(base, pattern)
        if not found and pattern in recipe.inputs:
            raise ConfigError(f"inputs: {pattern}: no such file in {base.resolve()}")
        paths.update(dict.fromkeys(found))
    made: list[Unit] = []
    small: list[tuple[str, str]] = []
    for path in paths:
        name = str(path.relative_to(base)) if path.is_relative_to(base) else str(path)
        if kind_of(path) in ("html", "text"):
            small.append((str(path), name))
        else:
            made.append(((str(path), name),))
    return made + [tuple(small[i : i + UNIT]) for i in range(0, len(small), UNIT)]


def _files(base: Path, pattern: str) -> list[Path]:
    """The files of an input, sorted."""
    place = base / pattern
    if place.is_dir():
        return [path for path in sorted(place.rglob("*")) if path.is_file() and kind_of(path, strict=False)]
    if place.is_file():
        return [place]
    start, rest = (Path("/"), pattern.lstrip("/")) if Path(pattern).is_absolute() else (base, pattern)
    with contextlib.suppress(NotImplementedError, ValueError):
        return [path for path in sorted(start.glob(rest)) if path.is_file()]
    return []
