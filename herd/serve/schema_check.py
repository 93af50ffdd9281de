"""What a schema asks and no grammar holds (`uniqueItems`, `not`, formats, ...): looked at when a reply is whole, and told in it.

Schemas and replies are strangers': nothing is fetched, no pattern is run (an expression can take for ever), and the steps are bounded.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

import msgspec

from herd.engine.agent import Part
from herd.engine.schemas import Dropped

_MOST_STEPS = 10_000
_MOST_ITEMS = 1000  # of a list whose items are compared with each other
_MOST_VIOLATIONS = 20
_PATTERNS = ("pattern", "patternProperties")
_SKIPPED = ("unevaluatedProperties", "unevaluatedItems", "dependencies")  # too deep to bound, or of older drafts


class _Unchecked(Exception):
    """The check would take too long, or needs what is not done here."""


def checkable(one: Dropped, schema: dict[str, Any]) -> bool:
    """Whether what no grammar holds, of this whole schema, is looked at afterwards."""
    if one.keyword == "format":
        return one.under in _formats().checkers
    if one.keyword in _SKIPPED or _has(one.under, (*_PATTERNS, *_SKIPPED)):
        return False
    return not (_has(one.under, ("$ref",)) and _has(schema, (*_PATTERNS, *_SKIPPED)))


def _has(schema: Any, names: tuple[str, ...]) -> bool:
    if isinstance(schema, dict):
        return any(key in names or _has(value, names) for key, value in schema.items())
    return isinstance(schema, list) and any(_has(one, names) for one in schema)


def _without_patterns(schema: Any) -> Any:
    """The schema without patterns, and without what counts on them: the grammar holds replies to those."""
    if isinstance(schema, list):
        return [_without_patterns(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    left = {*_PATTERNS, *_SKIPPED, *(("additionalProperties",) if "patternProperties" in schema else ())}
    return {key: _without_patterns(value) for key, value in schema.items() if key not in left and value is not None}


class SchemaCheck:
    """The check of one request's replies. `content` is the schema of texts, `tools` those of calls by their names."""

    def __init__(self, where: str, content: dict[str, Any] | None, tools: Mapping[str, dict[str, Any]]) -> None:
        self._where, self._content, self._tools = where, content, tools
        self._texts: dict[int, str] = {}
        self._called: set[int] = set()
        self.found: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        return self._content is not None or bool(self._tools)

    def due(self, part: Part) -> bool:
        """Take a part of a reply; whether `look` is to be called for it."""
        if part.call is not None:
            self._called.add(part.index)
            return part.call.name in self._tools and not part.ours
        if self._content is not None:
            self._texts[part.index] = self._texts.get(part.index, "") + part.text
        return self._content is not None and part.reason == "stop" and part.index not in self._called

    def look(self, part: Part) -> None:
        """Check what a part makes whole. It takes processor time."""
        if part.call is not None:
            self._check(part.index, part.call.name, self._tools[part.call.name], part.call.arguments)
            return
        try:
            value = msgspec.json.decode(self._texts[part.index].encode())
        except (msgspec.MsgspecError, RecursionError):
            return  # grammars end at JSON; whatever this is, it has not to do with keywords
        self._check(part.index, self._where, self._content or {}, value)

    def _check(self, index: int, where: str, schema: dict[str, Any], value: Any) -> None:
        try:
            for path, keyword, message in violations(schema, value):
                self.found.append(
                    {"index": index, "where": where, "path": path, "keyword": keyword, "message": message}
                )
                if len(self.found) == _MOST_VIOLATIONS:
                    return
        except (_Unchecked, RecursionError) as error:
            self.found.append(
                {"index": index, "where": where, "path": "$", "keyword": None, "message": f"not checked: {error}"}
            )


def violations(schema: dict[str, Any], value: Any) -> Iterator[tuple[str, str, str]]:
    """Where a value is not as its schema says: path, keyword, why. _Unchecked where that takes too many steps."""
    import referencing
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    bare = _without_patterns(schema)
    # references within the document alone: the library would fetch others
    registry: Any = referencing.Registry().with_resource("", DRAFT202012.create_resource(bare))
    try:
        for error in _validator()(bare, registry=registry, format_checker=_formats()).iter_errors(value):
            yield error.json_path, str(error.validator), error.message[:200]
    except Unresolvable as error:
        raise _Unchecked("a reference leads nowhere") from error


@cache
def _formats() -> Any:
    from jsonschema import FormatChecker

    checker = FormatChecker()
    checker.checkers = {name: found for name, found in checker.checkers.items() if name != "regex"}
    return checker


def _validator() -> Any:
    """A new validator of draft 2020-12 that stops after so many steps."""
    from jsonschema import Draft202012Validator, validators

    steps = 0

    def bounded(keyword: str, check: Any) -> Any:
        def counted(validator: Any, under: Any, instance: Any, schema: Any) -> Iterator[Any]:
            nonlocal steps
            steps += 1 + (len(under) if isinstance(under, list) else 0)
            if steps > _MOST_STEPS or (
                keyword == "uniqueItems" and isinstance(instance, list) and len(instance) > _MOST_ITEMS
            ):
                raise _Unchecked("it takes too many steps")
            yield from check(validator, under, instance, schema) or ()

        return counted

    checks = {keyword: bounded(keyword, check) for keyword, check in Draft202012Validator.VALIDATORS.items()}
    return validators.extend(Draft202012Validator, checks)
