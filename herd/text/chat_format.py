"""How a model talks: Llama 3.1's dialog format where the tokenizer has it, the model's own template elsewhere."""

import datetime
import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from herd.errors import FormatError, RequestError
from herd.text.dialog import ROLES, Dialog, ToolFormat, system_text
from herd.text.messages import Message, Tool, ToolCall
from herd.text.template import CallsForm, ChatTemplate, calls_form, message_dicts, tool_dict
from herd.text.tokenizer import Encoded, Tokenizer
from herd.text.vocabulary import looks_special


class ChatFormat(Protocol):
    """Conversations -> tokens. `show_special` says whether replies need their special tokens' names to be read."""

    show_special: bool

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        builtin_tools: Sequence[str] = (),
        date: datetime.date | None = None,
        reply: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """The conversation's tokens; `reply` makes a prompt of it that asks for the assistant's next turn. `variables` are for a
        template that reads more.
        """
        ...


class LlamaChat:
    """Llama 3.1's own format; functions and built-in tools are described in the system message."""

    show_special = True

    def __init__(self, tokenizer: Tokenizer, tool_format: ToolFormat = "json") -> None:
        self._dialog = Dialog(tokenizer)
        self._tool_format: ToolFormat = tool_format

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        builtin_tools: Sequence[str] = (),
        date: datetime.date | None = None,
        reply: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """The tokens; a system message is made when tools or a date need one."""
        rest = list(messages)
        if tools or builtin_tools or date is not None:
            system = rest.pop(0).content if rest and rest[0].role == "system" else ""
            text = system_text(
                system, builtin_tools=builtin_tools, date=date, functions=tools, tool_format=self._tool_format
            )
            rest.insert(0, Message("system", text))
        return self._dialog.encode(rest, tool_format=self._tool_format, reply=reply)


class TemplateChat:
    """A model's own Jinja template; built-in tools exist in Llama's format only.

    `tool_template` serves where tools are offered. `tokens` are what templates may name (bos_token, eos_token, ...).
    """

    show_special = False

    def __init__(
        self,
        tokenizer: Tokenizer,
        template: str,
        *,
        tool_template: str | None = None,
        tokens: Mapping[str, str] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        named = {**_declared(tokenizer), **(tokens or {})}
        self._template = ChatTemplate(template, tokens=named)
        self._with_tools = self._template if tool_template is None else ChatTemplate(tool_template, tokens=named)

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        builtin_tools: Sequence[str] = (),
        date: datetime.date | None = None,
        reply: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> Encoded:
        """The tokens. Functions, calls and results go through the template, or as text where it does not read them."""
        if builtin_tools:
            raise RequestError("this model's template has no built-in tools; offer functions instead")
        called = any(message.tool_calls or message.role == "ipython" for message in messages)
        template = self._with_tools if tools or called else self._template
        form = calls_form(template) if called else CallsForm("object", results=True)
        rest = message_dicts(messages, form)
        read = template.reads("tools")
        if tools and not read:
            system = rest.pop(0)["content"] if rest and rest[0]["role"] == "system" else ""
            text = system_text(system, functions=tools).removeprefix("Environment: ipython\n\n")
            rest.insert(0, {"role": "system", "content": text})
        return template.encode(
            self._tokenizer, rest, tools=[tool_dict(tool) for tool in tools] if tools and read else None, reply=reply,
            variables={**({} if date is None else {"date_string": f"{date:%d %b %Y}"}), **(variables or {})},
        )  # fmt: skip

    def ends_of_turn(self) -> frozenset[int]:
        """The token that the template writes after an assistant's turn, if it is one: the best witness of what ends a reply."""
        said = "herd-marker"
        turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": said}]
        try:
            text = self._template.render(turns, reply=False)
        except RequestError:
            return frozenset()
        after = text.rpartition(said)[2].lstrip() if said in text else ""
        names = (name for name in self._tokenizer.special_tokens if after.startswith(name))
        if (name := max(names, key=len, default=None)) is not None:
            return frozenset([self._tokenizer.special_tokens[name]])
        word = after.split(maxsplit=1)[0] if after else ""
        if not looks_special(word):
            return frozenset()
        tokens = self._tokenizer.encode(word)
        if len(tokens) != 1:  # no text becomes a token that a file types as normal, but the model may still write it
            wanted = word.encode()
            tokens = [i for i in range(self._tokenizer.vocab_size) if self._tokenizer.token_bytes(i) == wanted]
        return frozenset(tokens if len(tokens) == 1 else [])


def _declared(tokenizer: Tokenizer) -> dict[str, str]:
    """The declared tokens by the names that templates have for them, whether or not one is added to a text by itself."""
    declared = tokenizer.declared
    ids = {"bos": declared.bos, "eos": declared.eos, "pad": declared.pad, "unk": declared.unk}
    names = {
        f"{kind}_token": tokenizer.token_bytes(i).decode("utf-8", "replace") for kind, i in ids.items() if i is not None
    }
    return {"bos_token": "", "eos_token": "", **names}


_PROBE = Tool("probe", "Probe", {"type": "object", "properties": {"a": {"type": "string", "description": "A"}}})
_PROBES: tuple[tuple[list[Message], str], ...] = (
    ([Message("user", "Hi")], "{user}Hi{end}{assistant}"),
    (
        [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Bye")],
        "{system}Be brief.{end}{user}Hi{end}{assistant}Hello{end}{user}Bye{end}{assistant}",
    ),
    (
        [Message("user", "Hi"), Message("assistant", "", (ToolCall("probe", {"a": "b"}),)), Message("ipython", "c")],
        "{system}Environment: ipython\n{end}{user}Given the following functions, please respond with a JSON for a function call "
        "with its proper arguments that best answers the given prompt.\n\nRespond in the format {format}.Do not use "
        'variables.\n\n{tool}\n\nHi{end}{assistant}{call}{end}{ipython}"c"{end}{assistant}',
    ),
)
_DATES = re.compile(r"Cutting Knowledge Date: December 2023\nToday Date: [^\n]*\n\n")


@lru_cache(maxsize=64)
def _is_metas(source: str) -> bool:
    """Whether a template writes the probes as Meta's for Llama 3.1, 3.2 and 3.3 do; dates, and whether there are any, are left out."""
    template = ChatTemplate(source, tokens={"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"})
    fields = {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ROLES} | {
        "end": "<|eot_id|>", "tool": json.dumps(tool_dict(_PROBE), indent=4),
        "call": '{"name": "probe", "parameters": {"a": "b"}}',
        "format": '{"name": function name, "parameters": dictionary of argument name and its value}',
    }  # fmt: skip
    for messages, expected in _PROBES:
        tools = [tool_dict(_PROBE)] if len(messages) == 3 else None
        try:
            written = template.render(message_dicts(messages, CallsForm("object", results=True)), tools=tools)
        except RequestError:
            return False
        written = (
            _DATES.sub("", written).removeprefix("<|begin_of_text|>").removeprefix(fields["system"] + fields["end"])
        )
        if written != expected.format_map(fields):
            return False
    return True


def chat_format(tokenizer: Tokenizer, template: str | None, tool_template: str | None = None) -> ChatFormat:
    """The format for a model; FormatError when it has neither Llama 3's special tokens nor a template.

    LlamaChat stands for Meta's own template and writes what Meta's ChatFormat does; any other template is rendered, and what
    it writes at the end of a turn is added to `tokenizer.stop_ids`.
    """
    llama3 = "<|start_header_id|>" in tokenizer.special_tokens and "<|python_tag|>" in tokenizer.special_tokens
    if llama3 and tool_template is None and (template is None or _is_metas(template)):
        return LlamaChat(tokenizer)
    if template is None and tool_template is None:
        raise FormatError("this model has no chat template; use `herd generate --raw` to continue plain text")
    chat = TemplateChat(tokenizer, template or tool_template or "", tool_template=tool_template)
    tokenizer.stop_ids |= chat.ends_of_turn()
    return chat
