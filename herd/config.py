"""One configuration language: TOML and flags become typed, checked settings.

Settings are `msgspec.Struct` types declared with `frozen=True, forbid_unknown_fields=True`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from herd.errors import ConfigError

T = TypeVar("T")


def read(kind: type[T], file: Path | None = None, flags: Mapping[str, Any] | None = None) -> T:
    """Settings of type `kind` from an optional TOML file, overridden by the flags that are not None.

    A key of `flags` may be dotted (`sampling.temperature`). Raises ConfigError naming the key and what was expected.
    """
    values: dict[str, Any] = {}
    if file is not None:
        import tomllib

        try:
            values = tomllib.loads(file.read_text())
        except OSError as error:
            raise ConfigError(f"{file}: cannot be read ({error.strerror}); give the path of a TOML file") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"{file}: not valid TOML: {error}") from error
    for key, value in (flags or {}).items():
        if value is None:
            continue
        *parents, leaf = key.split(".")
        table = values
        for parent in parents:
            table = table.setdefault(parent, {})
        table[leaf] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        where = f"{file}: " if file else ""
        raise ConfigError(f"{where}{error}") from error
