"""Replies held to a grammar: JSON schemas, regular expressions, Lark grammars and tool calls, by llguidance.

Which tokens may come next is computed on threads of its own: it starts when a token has been chosen and is waited for
after the next step's layers are computed, just before the choice.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from herd.engine.request import Constraint
from herd.errors import MissingDependencyError, RequestError, first_line
from herd.text.messages import Tool
from herd.text.tokenizer import Tokenizer

_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_MOST_CALLS = 16


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

    def constraint(self, grammar: str) -> Callable[[], Constraint]:
        """What makes the state of one reply held to `grammar`; RequestError for one that does not compile."""
        if message := self._library.LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise RequestError(f"the grammar is not usable: {first_line(ValueError(message))[:500]}")
        return lambda: _Matcher(
            self._library.LLMatcher(self._tokenizer, grammar, log_level=0), self._words, self._stops, self._pool
        )

    def close(self) -> None:
        """Stop the threads."""
        self._pool.shutdown(cancel_futures=True)


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
    """The state of one reply; see `herd.engine.request.Constraint`."""

    def __init__(self, matcher: Any, words: int, stops: frozenset[int], pool: ThreadPoolExecutor) -> None:
        self._matcher, self._stops, self._pool = matcher, stops, pool
        self._mask = np.zeros(words, np.uint32)
        self._computed: Future[None] = pool.submit(self._compute)

    def mask(self) -> NDArray[np.uint32]:
        """One bit a token."""
        self._computed.result()
        return self._mask

    def advance(self, token: int) -> None:
        """Take a chosen token and start on the next mask."""
        if token not in self._stops:
            self._matcher.consume_token(token)
            self._computed = self._pool.submit(self._compute)

    def _compute(self) -> None:
        mask = self._mask
        if not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(mask.ctypes.data, mask.nbytes)
        if self._matcher.is_stopped() or not mask.any():  # complete, or too complex to go on: the reply ends
            mask[:] = 0
            for token in self._stops:
                mask[token // 32] |= np.uint32(1 << (token % 32))


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


def free_calls(tools: Sequence[Tool], *, several: bool = True, python_tag: bool = False) -> str:
    """Any text, in which a call's arguments, once its name has been written, are held to the tool's schema.

    Without `several` the reply ends with its first call. `python_tag` says that the tokenizer has <|python_tag|>, which may come before a call or before code.
    """
    tags = " | ".join(f"tag_{i}" for i in range(3 * len(tools)))
    body = f"({tags})* TEXT" if several else f"({tags} | TEXT)"
    lines = [f"start: {'(TEXT <|python_tag|>)? ' if python_tag else ''}{body}", r"TEXT: /(.|\n)*/"]
    for i, tool in enumerate(tools):
        spaced, rest = _call(tool)
        schema = _json_rule(_arguments(tool))
        forms = (
            (spaced, rest, "}"),
            (spaced.replace('": "', '":"', 1), ',"parameters":', "}"),
            (f"<function={tool.name}>", "", "</function>"),
        )
        for k, (trigger, middle, end) in enumerate(forms):
            tag = f"tag_{3 * i + k}"
            lines += [
                f"{tag}_begin[lazy]: TEXT {json.dumps(trigger)}",
                f"{tag}: {tag}_begin {json.dumps(middle) if middle else ''} {schema} {json.dumps(end)}",
            ]
    return "\n".join(lines)


def _arguments(tool: Tool) -> dict[str, Any]:
    """The schema of a tool's arguments, which are always an object."""
    return {"type": "object", **tool.parameters}
