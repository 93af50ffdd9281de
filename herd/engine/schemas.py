"""JSON schemas that replies can be held to: what no grammar says is left out, and named."""

from collections.abc import Iterator
from typing import Any

_NOT_HELD = frozenset(
    [
        "uniqueItems", "not", "propertyNames", "if", "then", "else", "contains", "minContains", "maxContains",
        "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
    ]
)  # fmt: skip
_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # their keys are names, not keywords
_DATA = ("enum", "const", "default", "examples", "required")


def relaxed(schema: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The schema without what llguidance cannot hold text to, and where each of those stood, as `uniqueItems at $.tags`.

    A `oneOf` becomes an `anyOf`.
    """
    dropped: list[str] = []
    return _walk(schema, "$", dropped), dropped


def _walk(schema: Any, path: str, dropped: list[str]) -> Any:
    if isinstance(schema, list):
        return [_walk(one, f"{path}[{i}]", dropped) for i, one in enumerate(schema)]
    if not isinstance(schema, dict):
        return schema
    return dict(_kept(schema, path, dropped))


def _kept(schema: dict[str, Any], path: str, dropped: list[str]) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key in _NOT_HELD:
            if value is not False:  # uniqueItems: false says nothing
                dropped.append(f"{key} at {path}")
        elif key == "format" and value not in _FORMATS:
            dropped.append(f"format {value!r} at {path}")
        elif key in _NAMED and isinstance(value, dict):
            yield key, {name: _walk(one, f"{path}.{name}", dropped) for name, one in value.items()}
        elif key == "oneOf" and isinstance(value, list) and "anyOf" not in schema:
            if len(value) > 1:
                dropped.append(f"oneOf (anyOf is) at {path}")
            yield "anyOf", _walk(value, path, dropped)
        elif key in _DATA:
            yield key, value
        else:
            yield key, _walk(value, path if key in ("items", "anyOf", "allOf") else f"{path}.{key}", dropped)
