"""Where chat templates run: Jinja's immutable sandbox, as transformers sets it up, bounded in work, memory and output.

Nothing is computed while a template is compiled: Jinja would fold constants there, outside the bounds.
"""

import datetime
import json
import re
import resource
import sys
import time
from collections.abc import Callable, ItemsView, Iterable, KeysView, ValuesView
from functools import lru_cache, partial, wraps
from itertools import chain
from types import BuiltinMethodType, FrameType
from typing import Any

from herd.errors import FormatError, RequestError, first_line

GENERATION = ("herd_generation_begins", "herd_generation_ends")
"""Variables that are written where a {% generation %} block begins and ends."""
_SECONDS = 2.0
_SECONDS_A_MESSAGE = 0.0003  # the slowest of the public templates takes 0.00027, most a third of that
_MAX_OUTPUT = 16_000_000  # characters
_MAX_GROWTH = 512_000  # KiB of resident memory
_MAX_SOURCE = 200_000  # characters; the longest public templates have some 30,000
_MAX_RESULT = 1_000_000  # items, characters or bits that an operator makes
_MAX_INDENT = 64
_HOLDERS = (list, tuple, dict, set, frozenset, KeysView, ValuesView, ItemsView)
_SMALL = 8  # characters of what is neither text nor holds any
_TEXT_FILTERS = (
    "string", "pprint", "e", "escape", "forceescape", "safe", "upper", "lower", "capitalize", "title", "trim", "striptags",
    "urlize", "urlencode", "truncate", "wordcount", "xmlattr", "indent",
)  # fmt: skip
_WIDTH = re.compile(r"\d{5,}|\*")


def run(template: Any, variables: dict[str, Any], messages: int) -> str:
    """What a compiled template writes; RequestError when it refuses, fails or exceeds what `messages` messages may take."""
    with _Bounds(_SECONDS + _SECONDS_A_MESSAGE * messages) as bounds:
        pieces: list[str] = []
        length = 0
        try:
            for piece in template.generate(variables):
                length += len(piece)
                if length > _MAX_OUTPUT:
                    raise RequestError(f"chat template: more than {_MAX_OUTPUT} characters of output")
                pieces.append(piece)
        except (RequestError, KeyboardInterrupt):
            raise
        except Exception as error:  # a template can raise anything
            if bounds.exceeded:
                raise RequestError(f"chat template: {bounds.exceeded}") from error
            raise RequestError(f"chat template refuses this conversation: {first_line(error)}") from error
    return "".join(pieces)


class _Bounds:
    """Stops a template that computes too long or grows the process too much, by looking after every line of it, and now and then at calls that a line makes.

    Time is this thread's own on a processor, so that a busy machine refuses nothing.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._calls = 0  # of functions outside of the template
        self.exceeded = ""

    def __enter__(self) -> "_Bounds":
        self._end = time.thread_time() + self._seconds
        self._memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _MAX_GROWTH
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        ours = frame.f_code.co_filename == "<template>"
        self._calls += not ours
        if ours or self._calls % 32 == 0:
            if time.thread_time() > self._end:
                self.exceeded = f"computed for more than {self._seconds:g} seconds"
            elif resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > self._memory:
                self.exceeded = "used too much memory"
        if self.exceeded:
            raise TimeoutError(self.exceeded)
        return self._trace if ours else None


def _too_large(what: str) -> RequestError:
    return RequestError(f"chat template: the result of {what!r} would be too large")


def _bounded(operator: str, left: Any, right: Any) -> None:
    """Refuse an operation whose result could be huge."""
    if operator == "**":
        size = abs(right) * 64 if isinstance(right, int) and isinstance(left, int) else 0
    elif operator == "*":
        counts = [len(x) if isinstance(x, str | list | tuple) else x for x in (left, right)]
        sized = any(isinstance(x, str | list | tuple) for x in (left, right))
        size = counts[0] * counts[1] if sized and all(isinstance(c, int) for c in counts) else 0
        if not sized and all(isinstance(x, int) for x in (left, right)):
            size = left.bit_length() + right.bit_length()
    else:  # %, where a width can ask for any amount of padding
        size = _MAX_RESULT + 1 if isinstance(left, str) and _WIDTH.search(left) else 0
        if isinstance(left, str) and not size:
            _filled(left, right if isinstance(right, tuple | dict) else (right,))
    if size > _MAX_RESULT:
        raise _too_large(operator)


def _checked(what: str, characters: int) -> None:
    if characters > _MAX_OUTPUT:
        raise _too_large(what)


def _size(value: Any, what: str, known: dict[int, int] | None = None) -> int:
    """About how many characters `str(value)` has; RequestError for too many. A list within a list many times is one object."""
    if isinstance(value, str):
        _checked(what, len(value))
        return len(value)
    known = {} if known is None else known
    if type(value).__name__ == "Namespace":
        return _size(object.__getattribute__(value, "__dict__"), what, known)  # its own hides it
    if not isinstance(value, _HOLDERS):
        return _SMALL
    if id(value) in known:
        return known[id(value)]
    pairs = value.items() if isinstance(value, dict) else value if isinstance(value, ItemsView) else None
    total = 2
    for one in value if pairs is None else chain.from_iterable(pairs):
        total += 2 + (len(one) if type(one) is str else _SMALL if type(one) is int else _size(one, what, known))
        _checked(what, total)
    known[id(value)] = total
    return total


def _written(value: Any) -> Any:
    """What an expression writes, looked at before it becomes text."""
    _size(value, "{{ }}")
    return value


def _of_text(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that makes a text of what it is given."""

    @wraps(work)  # and what Jinja passes to it first
    def looked(*args: Any, **kwargs: Any) -> Any:
        for value in args:
            _size(value, name)
        return work(*args, **kwargs)

    return looked


def _at_most(name: str, work: Callable[..., Any], most: int) -> Callable[..., Any]:
    """A filter whose numbers say how much it makes."""

    @wraps(work)
    def looked(*args: Any, **kwargs: Any) -> Any:
        if any(isinstance(value, int) and value > most for value in (*args[1:], *kwargs.values())):
            raise _too_large(name)
        return work(*args, **kwargs)

    return looked


def _joined(parts: Iterable[Any], separator: Any = "") -> str:
    """Texts as one, as `~` and `join` make it."""
    texts = [str(_written(part)) for part in parts]
    _checked("join", sum(map(len, texts)) + len(texts) * len(str(separator)))
    return str(separator).join(texts)


def _replaced(text: Any, old: Any, new: Any, count: Any = None) -> str:
    text, old, new = str(_written(text)), str(_written(old)), str(_written(new))
    found = text.count(old) if count is None or count < 0 else min(count, text.count(old))
    _checked("replace", len(text) + found * len(new))
    return str(text.replace(old, new, found))


def _raise(message: str) -> None:
    raise RequestError(f"chat template: {message}")


def _refused(name: str) -> Callable[..., str]:
    def refuse(*_: Any, **__: Any) -> str:
        raise RequestError(f"chat template: {name!r} is not offered")

    return refuse


def _percent(text: Any, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter `format`: printf's formats."""
    if args and kwargs:
        raise RequestError("chat template: 'format' takes positional or named values, not both")
    values: Any = kwargs or args
    numbers = values.values() if kwargs else values
    if (
        "*" in str(text)
        or _WIDTH.search(str(text))
        or any(isinstance(v, int) and v.bit_length() > 4096 for v in numbers)
    ):
        raise _too_large("format")
    _filled(str(text), values)
    return str(str(text) % values)


def _filled(text: str, values: Any) -> None:
    """Refuse printf's formats whose result could be huge."""
    sizes = [_size(v, "format") for v in (values.values() if isinstance(values, dict) else values)]
    named = text.count("%") * max(sizes, default=0) if isinstance(values, dict) else 0
    _checked("format", len(text) + (named or sum(sizes)))


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """transformers' filter `tojson`."""
    if isinstance(indent, int):
        indent = min(indent, _MAX_INDENT)
    elif isinstance(indent, str):
        indent = indent[:_MAX_INDENT]
    if separators is not None:
        separators = tuple(str(separator)[:_MAX_INDENT] for separator in separators)
    _size(value, "tojson")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    pieces, length = [], 0
    for piece in encoder.iterencode(value):
        length += len(piece)
        _checked("tojson", length)
        pieces.append(piece)
    return "".join(pieces)


def _now(form: object) -> str:
    return datetime.datetime.now().strftime(str(form)[:100])


@lru_cache(maxsize=1)
def _environment() -> Any:
    """Jinja as transformers' chat templates expect it."""
    from jinja2 import nodes
    from jinja2.compiler import CodeGenerator
    from jinja2.ext import Extension, loopcontrols
    from jinja2.filters import make_attrgetter
    from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter

    class Generation(Extension):
        """{% generation %} ... {% endgeneration %}: what the assistant wrote, for loss masks."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            begin, end = (nodes.Output([nodes.Name(name, "load")], lineno=line) for name in GENERATION)
            return [begin, nodes.Scope(body, lineno=line), end]

    class Generator(CodeGenerator):
        """Writes code that computes when it runs: constants are not folded."""

        def _output_child_to_const(self, node: Any, frame: Any, finalize: Any) -> str:
            if not isinstance(node, nodes.TemplateData | nodes.Const):
                raise nodes.Impossible()
            return super()._output_child_to_const(node, frame, finalize)

        def visit_Concat(self, node: Any, frame: Any) -> None:
            self.write("environment.joined((")
            for part in node.nodes:
                self.visit(part, frame)
                self.write(", ")
            self.write("))")

        def visit_EvalContextModifier(self, node: Any, frame: Any) -> None:
            self.fail("autoescape is not offered", node.lineno)

    class Formatter(SandboxedFormatter):
        """str.format without widths that pad a text to any length, and with an end to all fields together."""

        length = 0

        def convert_field(self, value: Any, conversion: Any) -> Any:
            return super().convert_field(_written(value), conversion)

        def format_field(self, value: Any, format_spec: str) -> Any:
            if _WIDTH.search(format_spec) or (isinstance(value, int) and value.bit_length() > 4096):
                raise _too_large("format")
            found = super().format_field(_written(value), format_spec)
            self.length += len(found)
            _checked("format", self.length)
            return found

    class Environment(ImmutableSandboxedEnvironment):
        code_generator_class = Generator
        intercepted_binops = frozenset(["*", "**", "%"])
        joined = staticmethod(_joined)

        def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
            _bounded(operator, left, right)
            return super().call_binop(context, operator, left, right)

        def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
            padding = ("center", "ljust", "rjust", "zfill", "expandtabs", "translate", "encode", "to_bytes")
            return not (isinstance(obj, str | int) and attr in padding) and super().is_safe_attribute(obj, attr, value)

        def wrap_str_format(self, value: Any) -> Any:
            if isinstance(value, BuiltinMethodType) and isinstance(value.__self__, str):
                if value.__name__ == "replace":
                    return partial(_replaced, value.__self__)
                if value.__name__ == "join":
                    return partial(_joined, separator=value.__self__)
            if super().wrap_str_format(value) is None:
                return None
            text, mapped = value.__self__, value.__name__ == "format_map"

            def form(*args: Any, **kwargs: Any) -> str:
                if mapped:
                    (kwargs,), args = args, ()
                return str(Formatter(self).vformat(text, args, kwargs))

            return form

    def join(value: Any, separator: Any = "", attribute: Any = None) -> str:
        parts = value if attribute is None else map(make_attrgetter(environment, attribute), value)
        return _joined(parts, separator)

    def total(value: Any, attribute: Any = None) -> Any:  # without Jinja's `start`, from which lists would grow
        return sum(value if attribute is None else map(make_attrgetter(environment, attribute), value))

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols], cache_size=0, optimized=False,
        finalize=_written,
    )  # fmt: skip
    environment.globals |= {"raise_exception": _raise, "strftime_now": _now}
    environment.globals.pop("lipsum", None)
    filters = environment.filters
    filters |= {name: _of_text(name, filters[name]) for name in _TEXT_FILTERS}
    filters |= {
        "batch": _at_most("batch", filters["batch"], _MAX_RESULT),
        "round": _at_most("round", filters["round"], 300),
    }
    indent = filters["indent"]
    environment.filters |= {
        "tojson": _tojson,
        "format": _percent,
        "join": join,
        "sum": total,
        "replace": _replaced,
        "indent": lambda s, width=4, *rest, **named: indent(
            s, min(width, _MAX_INDENT) if isinstance(width, int) else str(width)[:_MAX_INDENT], *rest, **named
        ),
        **{name: _refused(name) for name in ("center", "wordwrap")},
    }
    return environment


@lru_cache(maxsize=64)
def compiled(source: str) -> Any:
    """A template ready to run; FormatError when it is none."""
    import jinja2

    if len(source) > _MAX_SOURCE:
        raise FormatError(f"chat template: longer than {_MAX_SOURCE:,} characters")
    try:
        return _environment().from_string(source)
    except (jinja2.TemplateError, RecursionError, MemoryError, SyntaxError, ValueError, OverflowError) as error:
        raise FormatError(f"chat template does not compile: {first_line(error)}") from error


@lru_cache(maxsize=64)
def variables_of(source: str) -> frozenset[str]:
    """Names that a template reads and does not set itself."""
    from jinja2 import meta

    compiled(source)
    return frozenset(meta.find_undeclared_variables(_environment().parse(source)))
