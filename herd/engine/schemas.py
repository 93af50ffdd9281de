"""JSON schemas that replies can be held to: what no grammar says is left out, and named. What is no schema is refused."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from herd.errors import RequestError

_NOT_HELD = frozenset(
    [
        "uniqueItems", "not", "propertyNames", "if", "then", "else", "contains", "minContains", "maxContains",
        "dependentRequired", "dependentSchemas", "dependencies", "unevaluatedProperties", "unevaluatedItems",
    ]
)  # fmt: skip
_FORMATS = frozenset(["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"])
_NAMED = ("properties", "patternProperties", "$defs", "definitions")  # their keys are names, not keywords
_DATA = ("enum", "const", "default", "examples", "required")


def _is_schema(value: Any) -> bool:
    return isinstance(value, dict | bool)


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _is_schemas(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(_is_schema, value))


def _is_map(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_schema, value.values()))


# What a keyword's value must be, where herd or llguidance looks into it.
_SHAPES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(_NAMED, (_is_map, "an object of schemas")),
    **dict.fromkeys(("anyOf", "oneOf", "allOf", "prefixItems"), (_is_schemas, "a list of schemas")),
    **dict.fromkeys(("additionalProperties", "not", "contains", "propertyNames"), (_is_schema, "a schema")),
    "items": (lambda value: _is_schema(value) or _is_schemas(value), "a schema"),
    "required": (_is_names, "a list of names"),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "type": (lambda value: isinstance(value, str) or _is_names(value), "a type's name"),
    "pattern": (lambda value: isinstance(value, str), "a regular expression"),
    "format": (lambda value: isinstance(value, str), "a format's name"),
    "$ref": (lambda value: isinstance(value, str), "a reference"),
}  # fmt: skip


class Dropped(NamedTuple):
    """A part of a schema that no grammar holds text to: `keyword` at `path`; `under` is what it says."""

    keyword: str
    path: str
    under: Any

    def __str__(self) -> str:
        name = "oneOf (anyOf is)" if self.keyword == "oneOf" else self.keyword
        return f"{name} {self.under!r} at {self.path}" if self.keyword == "format" else f"{name} at {self.path}"


def relaxed(schema: dict[str, Any]) -> tuple[dict[str, Any], list[Dropped]]:
    """The schema without what llguidance cannot hold text to, and what that was. A `oneOf` becomes an `anyOf`.

    RequestError for what is no JSON schema.
    """
    dropped: list[Dropped] = []
    return _walk(schema, "$", dropped, schema), dropped


def _walk(schema: Any, path: str, dropped: list[Dropped], root: Any) -> Any:
    if isinstance(schema, list):
        return [_walk(one, f"{path}[{i}]", dropped, root) for i, one in enumerate(schema)]
    if not isinstance(schema, dict):
        return schema
    return dict(_kept(schema, path, dropped, root))


def _kept(schema: dict[str, Any], path: str, dropped: list[Dropped], root: Any) -> Iterator[tuple[str, Any]]:
    for key, value in schema.items():
        if key in _SHAPES:
            if value is None:
                continue  # as if it were not there: some clients write out what they leave open
            fits, expected = _SHAPES[key]
            if not fits(value):
                raise RequestError(f"{key} at {path} is {str(value)[:80]!r}; expected {expected}")
        if key in _NOT_HELD:
            if value is not False:  # uniqueItems: false says nothing
                dropped.append(Dropped(key, path, value))
        elif key == "format" and value not in _FORMATS:
            dropped.append(Dropped(key, path, value))
        elif key in _NAMED:
            yield key, {name: _walk(one, f"{path}.{name}", dropped, root) for name, one in value.items()}
        elif key == "oneOf" and "anyOf" not in schema:
            if not _disjoint([_resolved(one, root) for one in value]):
                dropped.append(Dropped(key, path, value))
            yield "anyOf", _walk(value, path, dropped, root)
        elif key in _DATA:
            yield key, value
        else:
            yield key, _walk(value, path if key in ("items", "anyOf", "allOf") else f"{path}.{key}", dropped, root)


def _resolved(schema: Any, root: Any) -> Any:
    """What a reference within the document stands for; the schema itself where it is none, or leads nowhere."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return schema
    found = root
    for name in reference[2:].split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _disjoint(alternatives: list[Any]) -> bool:
    """Whether no value can be of two alternatives, so that one of them is any of them: they differ in type, or in what a
    property says that all of them require, as the tag of a union.
    """
    if len(alternatives) < 2:
        return True
    if not all(isinstance(one, dict) for one in alternatives):
        return False
    types = [one.get("type") for one in alternatives]
    if all(isinstance(kind, str) for kind in types) and len(set(types)) == len(types):
        return {"integer", "number"} - set(types) != set()  # every integer is a number
    tags = set.intersection(*(set(one.get("required") or ()) & set(_fixed(one)) for one in alternatives))
    return any(len({_fixed(one)[tag] for one in alternatives}) == len(alternatives) for tag in tags)


def _fixed(schema: dict[str, Any]) -> dict[str, str]:
    """Properties that can have one text only."""
    found = {}
    for name, held in (schema.get("properties") or {}).items():
        if isinstance(held, dict):
            only = held.get("const", (held.get("enum") or [None])[0] if len(held.get("enum") or ()) == 1 else None)
            if isinstance(only, str):
                found[name] = only
    return found
