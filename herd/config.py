"""One configuration language: TOML and flags become typed, checked settings.

Settings are frozen `msgspec.Struct` types or dataclasses, nested as sections. Files are strict: a string is not a number.
Flags and what is typed in a chat are lax: `"3"` is one. Unknown keys are errors in both.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from herd.errors import ConfigError

T = TypeVar("T")
BASE = "base"
"""The key by which a file names another whose settings it starts from."""

_LARGEST, _DEEPEST = 16 << 20, 32


def read(
    kind: type[T],
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    values: Mapping[str, Any] | None = None,
) -> T:
    """Settings of type `kind`: `values` first, over them those of a TOML file, over them the flags that are not None.

    A key of `flags` may be dotted (`sampling.temperature`). A file may say `base = "other.toml"`, a path from its own
    folder. Raises ConfigError naming the key and what was expected.
    """
    found: dict[str, Any] = dict(values or {})
    if file is not None:
        found = _merged(found, _load(file, ()))
    where = f"{file}: " if file else ""
    for key, value in (flags or {}).items():
        if value is not None:
            _set(found, key, value, kind, where)
    if unknown := next(_unknown(msgspec.inspect.type_info(kind), found, ""), None):
        raise ConfigError(where + unknown)
    if (broken := next(_nan(found, ""), None)) is not None:
        raise ConfigError(f"{where}{broken} is nan; expected a number")
    try:
        return msgspec.convert(found, kind, str_keys=True)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}{error}") from error


def dump(settings: Any) -> str:
    """Settings as TOML that `read` gives back; None, which TOML has not, is left out."""
    import tomli_w

    return tomli_w.dumps(_without_none(msgspec.to_builtins(settings, str_keys=True)))


def _load(file: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """A file's values over those of its base."""
    import tomllib

    try:
        here = file.resolve()
        with file.open("rb") as opened:
            data = opened.read(_LARGEST + 1)
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, names that no system allows
        said = getattr(error, "strerror", None) or error
        raise ConfigError(f"{str(file)!r}: cannot be read ({said}); give the path of a TOML file") from error
    if here in above or len(above) > _DEEPEST:
        raise ConfigError(f"{file}: {BASE} leads back to it, or through more than {_DEEPEST} files")
    if len(data) > _LARGEST:
        raise ConfigError(f"{file}: larger than {_LARGEST >> 20} MiB; expected a TOML file of settings")
    try:
        values = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    base = values.pop(BASE, None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise ConfigError(f"{file}: {BASE} is {base!r}; expected the path of another TOML file")
    return _merged(_load(file.parent / base, (*above, here)), values)


def _merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` wins; tables of both are merged key by key."""
    both = {key: _merged(under[key], over[key]) for key in under if isinstance(under[key], dict) and isinstance(over.get(key), dict)}  # fmt: skip
    return {**under, **over, **both}


def _set(values: dict[str, Any], key: str, value: Any, kind: Any, where: str) -> None:
    """Put a flag in its place, as a value of its field's type."""
    *parents, leaf = key.split(".")
    table, field = values, msgspec.inspect.type_info(kind)
    for i, parent in enumerate(parents):
        table = table.setdefault(parent, {})
        field = _field(field, parent)
        if not isinstance(table, dict):
            raise ConfigError(f"{key}: {where}{'.'.join(parents[: i + 1])} is {table!r}, which has no parts")
    field = _field(field, leaf)
    if field is not None:
        try:
            value = msgspec.to_builtins(msgspec.convert(value, _type(field), strict=False))
        except msgspec.ValidationError as error:
            raise ConfigError(f"{key} is {value!r}: {error}") from error
    table[leaf] = value


def _field(kind: Any, name: str) -> Any:
    """What is known of the type of a field; None where nothing is."""
    for one in _alternatives(kind):
        for field in getattr(one, "fields", ()):
            if field.encode_name == name:
                return field.type
    return None


def _type(info: Any) -> Any:
    """A type again from what `msgspec.inspect` says of it, as far as flags need it: scalars, lists and dicts of them."""
    plain: dict[Any, Any] = {
        msgspec.inspect.IntType: int, msgspec.inspect.FloatType: float, msgspec.inspect.BoolType: bool,
        msgspec.inspect.StrType: str, msgspec.inspect.NoneType: None,
    }  # fmt: skip
    if type(info) in plain:
        return plain[type(info)]
    if isinstance(info, msgspec.inspect.UnionType):
        types = [_type(one) for one in info.types]
        union = types[0]
        for one in types[1:]:
            union = union | one
        return union
    return Any


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)


def _unknown(kind: Any, values: Any, path: str) -> Iterator[str]:
    """What to say of each key that no field has. Structs may and dataclasses do ignore them when they are converted."""
    sections = [one for one in _alternatives(kind) if hasattr(one, "fields")]
    if isinstance(values, dict) and len(sections) == 1:
        known = {field.encode_name: field.type for field in sections[0].fields}
        for key, value in values.items():
            if key not in known:
                yield f"unknown key {path}{key}; expected one of {', '.join(sorted(known))}"
            else:
                yield from _unknown(known[key], value, f"{path}{key}.")
    for one in _alternatives(kind):
        if isinstance(values, list) and hasattr(one, "item_type"):
            for i, value in enumerate(values):
                yield from _unknown(one.item_type, value, f"{path}{i}.")
        if isinstance(values, dict) and isinstance(one, msgspec.inspect.DictType):
            for key, value in values.items():
                yield from _unknown(one.value_type, value, f"{path}{key}.")


def _nan(value: Any, path: str) -> Iterator[str]:
    """The keys of numbers that are none, which every bound lets pass."""
    if isinstance(value, float) and value != value:
        yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    for key, one in parts:
        yield from _nan(one, f"{path}.{key}" if path else str(key))


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(one) for key, one in value.items() if one is not None}
    return [_without_none(one) for one in value] if isinstance(value, list | tuple) else value
