"""How a model talks: Llama 3.1's dialog format where the tokenizer has it, the model's own template elsewhere."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Protocol

from herd.errors import FormatError, RequestError
from herd.text.dialog import Dialog, ToolFormat, system_text
from herd.text.encoded import Encoded
from herd.text.messages import Message, Tool
from herd.text.template import ChatTemplate
from herd.text.template_messages import CallsForm, calls_form, message_dicts, tool_dict
from herd.text.tokenizer import Tokenizer


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
    ) -> Encoded:
        """The conversation's tokens; `reply` makes a prompt of it that asks for the assistant's next turn."""
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
            variables={} if date is None else {"date_string": f"{date:%d %b %Y}"},
        )  # fmt: skip


def _declared(tokenizer: Tokenizer) -> dict[str, str]:
    """The declared tokens by the names that templates have for them, whether or not one is added to a text by itself."""
    declared = tokenizer.declared
    ids = {"bos": declared.bos, "eos": declared.eos, "pad": declared.pad, "unk": declared.unk}
    names = {
        f"{kind}_token": tokenizer.token_bytes(i).decode("utf-8", "replace") for kind, i in ids.items() if i is not None
    }
    return {"bos_token": "", "eos_token": "", **names}


def chat_format(tokenizer: Tokenizer, template: str | None) -> ChatFormat:
    """The format for a model; FormatError when it has neither Llama 3's special tokens nor a template.

    Meta's own 3.x template (it knows the ipython role) is what LlamaChat writes; others, Llama Guard's among them, win.
    """
    llama3 = "<|start_header_id|>" in tokenizer.special_tokens and "<|python_tag|>" in tokenizer.special_tokens
    metas = template is None or ("<|start_header_id|>" in template and "ipython" in template)
    if llama3 and metas:
        return LlamaChat(tokenizer)
    if template is None:
        raise FormatError("this model has no chat template; use `herd generate --raw` to continue plain text")
    return TemplateChat(tokenizer, template)
