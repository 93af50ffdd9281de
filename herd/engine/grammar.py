"""Replies held to a grammar: JSON schemas, regular expressions, Lark grammars and tool calls, by llguidance.

Which tokens may come next is computed on threads of its own: it starts when a token has been chosen and is waited for
after the next step's layers are computed, just before the choice.
"""

import json
import keyword
import os
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from herd.engine.request import Constraint
from herd.errors import MissingDependencyError, RequestError, first_line
from herd.text.call_spellings import AHEAD, PYTHONIC, WITH_JSON
from herd.text.messages import Tool
from herd.text.tokenizer import Tokenizer

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MOST_CALLS = 16
_KEPT, _KEPT_TEXT = 32, 1_000_000  # compiled grammars that are kept, and characters of them
_CLOSING = r"[ \n]{0,8}(<\x2Ftool_call>|\]|\})?[ \n]{0,8}"  # what may follow a call that ends a reply


class Grammars:
    """Makes constraints for one tokenizer; `vocab` is the number of the model's logits."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        try:
            import llguidance
        except ImportError as error:
            raise MissingDependencyError(
                "constrained replies need llguidance; pip install 'llama-herd[serve]'"
            ) from error
        self._library = llguidance
        stops = sorted(tokenizer.stop_ids)
        self._tokenizer = llguidance.LLTokenizer(
            llguidance.TokenizerWrapper(_Vocabulary(tokenizer, vocab)), eos_token=stops or None
        )
        self._words = -(-vocab // 32)
        self._stops = frozenset(stops)
        self._pool = ThreadPoolExecutor(2, "herd-grammar")
        self._compiler = ThreadPoolExecutor(1, "herd-compile", initializer=_give_way)
        self._compiled: OrderedDict[str, Any] = OrderedDict()  # the latest, on the compiler's thread

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """What makes the state of one reply held to `grammar`; RequestError for one that does not compile.

        Compiling waits for the processor behind everything else.
        """
        compiled = self._compiler.submit(self._compile, grammar).result()
        return lambda: _Matcher(compiled.deep_copy(), self._words, self._stops, self._pool)

    def _compile(self, grammar: str) -> Any:
        known = self._compiled
        if grammar in known:
            known.move_to_end(grammar)
            return known[grammar]
        matcher = self._library.LLMatcher(self._tokenizer, grammar, log_level=0)
        if message := matcher.get_error():
            if "symbols.len()" in message:  # an assertion of the library's
                raise RequestError("the grammar, or that of all tools together, has more parts than can be held to")
            raise RequestError(f"the grammar is not usable: {first_line(ValueError(message))[:500]}")
        known[grammar] = matcher
        while len(known) > 1 and (len(known) > _KEPT or sum(map(len, known)) > _KEPT_TEXT):
            known.popitem(last=False)
        return matcher

    def close(self) -> None:
        """Stop the threads."""
        self._compiler.shutdown(cancel_futures=True)
        self._pool.shutdown(cancel_futures=True)


def _give_way() -> None:
    """Let other threads have the processor first, where the system can say that of one thread."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


class _Vocabulary:
    """The tokenizer as llguidance wants it."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._encode = tokenizer.encode
        special = set(tokenizer.special_tokens.values())
        known = [tokenizer.token_bytes(i) for i in range(vocab)]
        self.tokens = [token or f"<[{i}]>".encode() for i, token in enumerate(known)]
        # ids without a token are special too, so that no text can choose them
        self.special_token_ids = [i for i, token in enumerate(known) if i in special or not token]
        self.eos_token_id = min(tokenizer.stop_ids, default=0)
        self.bos_token_id = tokenizer.bos_id

    def __call__(self, text: str | bytes) -> list[int]:
        return self._encode(text.decode("utf-8", "replace") if isinstance(text, bytes) else text)


class _Matcher:
    """The state of one reply; see `herd.engine.request.Walkable`."""

    def __init__(self, matcher: Any, words: int, stops: frozenset[int], pool: ThreadPoolExecutor) -> None:
        self._matcher, self._words, self._stops, self._pool = matcher, words, stops, pool
        self._forced: Future[list[int]]
        self._mask: Future[NDArray[np.uint32]]
        self._ahead: Future[list[_Ahead]] | None = None  # of tokens that were walked
        self._start()

    def mask(self) -> NDArray[np.uint32]:
        """One bit a token."""
        return self._mask.result()

    def forced(self) -> list[int]:
        """Tokens that the grammar leaves no choice about, as a model would most likely cut them."""
        return self._forced.result()

    def advance(self, token: int) -> None:
        """Take a chosen token and start on the next mask, if it was not computed ahead."""
        if token in self._stops:
            return
        known = self._ahead.result() if self._ahead is not None else []
        self._mask.result()  # nobody else is at the matcher
        self._matcher.consume_token(token)
        if known and known[0].token == token:
            ahead = known.pop(0)
            self._forced, self._mask = Future(), Future()
            self._forced.set_result(ahead.forced)
            self._mask.set_result(ahead.mask)
        else:
            self._ahead = None
            self._start()

    def walk(self, guess: Sequence[int]) -> Callable[[], NDArray[np.uint32]]:
        """Start on the masks after the tokens of `guess`, as far as they are allowed, on a copy of the state."""
        mask = self._mask
        ahead = self._ahead = self._pool.submit(self._walk, mask, guess)
        return lambda: np.stack([mask.result(), *(step.mask for step in ahead.result())])

    def _start(self) -> None:
        self._forced = self._pool.submit(self._matcher.compute_ff_tokens)
        self._mask = self._pool.submit(self._compute, self._matcher, self._forced)

    def _walk(self, mask: Future[NDArray[np.uint32]], guess: Sequence[int]) -> "list[_Ahead]":
        allowed = mask.result()  # it was begun before this: no thread waits for one that waits for it
        matcher = self._matcher.deep_copy()
        found: list[_Ahead] = []
        for token in guess:
            if token in self._stops or not allowed[token // 32] >> np.uint32(token % 32) & 1:
                break
            matcher.consume_token(token)
            forced = matcher.compute_ff_tokens()
            allowed = self._compute(matcher)
            found.append(_Ahead(token, forced, allowed))
        return found

    def _compute(self, matcher: Any, after: Future[list[int]] | None = None) -> NDArray[np.uint32]:
        if after is not None:
            after.result()
        mask = np.zeros(self._words, np.uint32)
        if not matcher.is_stopped():
            matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if matcher.is_stopped() or not mask.any():  # complete, or too complex to go on: the reply ends
            mask[:] = 0
            for token in self._stops:
                mask[token // 32] |= np.uint32(1 << (token % 32))
        return mask


class _Ahead(NamedTuple):
    """What is known of the state after a token that was guessed."""

    token: int
    forced: list[int]
    mask: NDArray[np.uint32]


def json_grammar(schema: dict[str, Any] | None = None) -> str:
    """JSON that a schema allows; any object without one."""
    return f"start: {_json_rule(schema if schema is not None else {'type': 'object'})}"


def regex_grammar(pattern: str) -> str:
    """Text that matches `pattern` from end to end."""
    return json.dumps({"grammars": [{"lark_grammar": f"start: TEXT\nTEXT: /{_slashes(pattern)}/"}]})


def _slashes(pattern: str) -> str:
    """A pattern between slashes: its own are written as \\x2F."""
    return pattern.replace("\\/", "/").replace("/", "\\x2F").replace("\n", "\\n")


def _json_rule(schema: dict[str, Any]) -> str:
    return "%json " + json.dumps({**schema, "x-guidance": _STYLE})


def _call(tool: Tool) -> tuple[str, str]:
    return f'{{"name": {json.dumps(tool.name)}', ', "parameters": '


def forced_calls(tools: Sequence[Tool], *, several: bool) -> str:
    """A reply of calls and nothing else, in Llama's JSON form; more than one is separated by `; `."""
    rules = [
        f"call_{i}: {json.dumps(''.join(_call(t)))} {_json_rule(_arguments(t))} " + '"}"' for i, t in enumerate(tools)
    ]
    one = " | ".join(f"call_{i}" for i in range(len(tools)))
    more = f' ("; " call){{0,{_MOST_CALLS - 1}}}' if several else ""
    return "\n".join([f"start: call{more}", f"call: {one}", *rules])


def content_or_calls(schema: dict[str, Any], tools: Sequence[Tool], *, several: bool = True) -> str:
    """Either JSON that a schema allows, or calls and nothing else."""
    if not tools:
        return json_grammar(schema)
    calls = forced_calls(tools, several=several).replace("start:", "calls:", 1)
    return f"start: content | calls\ncontent: {_json_rule(schema)}\n{calls}"


def free_calls(tools: Sequence[Tool], *, python_tag: bool = False, several: bool = True) -> str:
    """Any text, in which a call's arguments, once its name has been written, are held to the tool's schema.

    Held are all spellings that a parser of replies takes for calls (`text/call_spellings.py`). `python_tag` says that the
    tokenizer has <|python_tag|>, which may come before a call or before code. Without `several` a call ends the reply.
    """
    calls = [f"call_{i}_{k}" for i in range(len(tools)) for k in range(len(WITH_JSON) + 1)] + ["ahead"]
    body = f"({' | '.join(calls)})* TEXT" if several else f"TEXT | ({' | '.join(calls)}) /{_CLOSING}/"
    ahead = " | ".join(f"json_{i} /{_slashes(AHEAD.end_of(tool.name))}/" for i, tool in enumerate(tools))
    lines = [
        f"start: {'(TEXT <|python_tag|>)? ' if python_tag else ''}({body})",
        r"TEXT: /(.|\n)*/",
        f"begin_ahead[lazy]: TEXT /{_slashes(AHEAD.begin)}/",
        f"ahead: begin_ahead /{AHEAD.middle}/? ({ahead})",  # a lazy beginning ends before the space
        f'more: ({" | ".join(f"python_{i}" for i in range(len(tools)))}) ")"' if several else "",
    ]
    for i, tool in enumerate(tools):
        lines.append(f"json_{i}: {_json_rule(_arguments(tool))}")
        for k, spelling in enumerate(WITH_JSON):
            middle, end = (f"/{_slashes(part)}/" if part else "" for part in (spelling.middle, spelling.end))
            lines += [
                f"begin_{i}_{k}[lazy]: TEXT /{_slashes(spelling.of(tool.name))}/",
                f"call_{i}_{k}: begin_{i}_{k} {middle} json_{i} {end}",
            ]
        k = len(WITH_JSON)
        rest = f" (/, ?/ more){{0,{_MOST_CALLS - 1}}}" if several else ""
        lines += [
            f"begin_{i}_{k}[lazy]: TEXT /{_slashes(PYTHONIC.of(tool.name))}/",
            f'call_{i}_{k}: begin_{i}_{k} values_{i} ")"{rest} /{_slashes(PYTHONIC.end)}/',
            f"python_{i}: {json.dumps(tool.name + '(')} values_{i}",
            *_python_values(i, _arguments(tool)),
        ]
    return "\n".join(filter(None, lines))


_PLAIN_SCHEMA = {"type", "properties", "required", "additionalProperties", "description", "title", "default", "examples", "$schema", "$defs", "definitions"}  # fmt: skip


def _python_values(i: int, schema: dict[str, Any]) -> list[str]:
    """Rules for the values of a call as Python writes it: `a=1, b="x"`, in the order of the schema, each held to its own.

    What a schema says of them together cannot be said so: such a call is written `**{"a": 1}`.
    """
    properties, required = schema.get("properties") or {}, schema.get("required") or []
    whole = set(schema) - _PLAIN_SCHEMA or '"#"' in json.dumps(schema) or '"#/properties' in json.dumps(schema)
    names = [name for name in properties if name.isidentifier() and name.isascii() and not keyword.iskeyword(name)]
    if whole or len(names) < len(properties) or not set(required) <= set(names):
        return [f'values_{i}: "**" json_{i}']
    shared: dict[str, Any] = {key: schema[key] for key in ("$defs", "definitions") if key in schema}
    lines = [f"values_{i}: first_{i}_0"]
    for k, name in enumerate(names):
        held = properties[name] if isinstance(properties[name], dict) else {}
        skip = name not in required
        lines += [
            f"value_{i}_{k}: {json.dumps(name + '=')} {_json_rule({**held, **shared})}",
            f"first_{i}_{k}: value_{i}_{k} next_{i}_{k + 1}" + (f" | first_{i}_{k + 1}" if skip else ""),
            f"next_{i}_{k}: /, ?/ value_{i}_{k} next_{i}_{k + 1}" + (f" | next_{i}_{k + 1}" if skip else ""),
        ]
    return [*lines, f'first_{i}_{len(names)}: ""', f'next_{i}_{len(names)}: ""']


def _arguments(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object; of a tool without one, an empty one."""
    return (
        {**tool.parameters, "type": "object"} if tool.parameters else {"type": "object", "additionalProperties": False}
    )
