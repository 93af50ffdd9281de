"""How a model talks: Llama 3.1's dialog format where the tokenizer has it, the model's own template elsewhere."""

import datetime
from collections.abc import Sequence
from typing import Protocol

from herd.errors import FormatError, RequestError
from herd.text.dialog import Dialog, ToolFormat, system_text
from herd.text.messages import Message, Tool
from herd.text.template import ChatTemplate
from herd.text.tokenizer import Tokenizer

_MAX_TOOL_TEXT = 1_000_000


class ChatFormat(Protocol):
    """Conversations -> token ids. `show_special` says whether replies need their special tokens' names to be read."""

    show_special: bool

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        builtin_tools: Sequence[str] = (),
        date: datetime.date | None = None,
    ) -> list[int]:
        """The prompt that asks for the assistant's next turn."""
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
    ) -> list[int]:
        """The prompt; a system message is made when tools or a date need one."""
        rest = list(messages)
        if tools or builtin_tools or date is not None:
            system = rest.pop(0).content if rest and rest[0].role == "system" else ""
            text = system_text(
                system, builtin_tools=builtin_tools, date=date, functions=tools, tool_format=self._tool_format
            )
            rest.insert(0, Message("system", text))
        return self._dialog.encode(rest, tool_format=self._tool_format)


class TemplateChat:
    """A model's own Jinja template; built-in tools exist in Llama's format only."""

    show_special = False

    def __init__(self, tokenizer: Tokenizer, template: str) -> None:
        self._tokenizer = tokenizer
        names = {i: name for name, i in tokenizer.special_tokens.items()}
        bos = names.get(tokenizer.bos_id, "") if tokenizer.bos_id is not None else ""
        eos = next((names[i] for i in sorted(tokenizer.stop_ids) if i in names), "")
        self._template = ChatTemplate(template, bos=bos, eos=eos)
        self._reads_tools = "tools" in template

    def encode(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Tool] = (),
        builtin_tools: Sequence[str] = (),
        date: datetime.date | None = None,
    ) -> list[int]:
        """The prompt. Functions go through the template, or into the system message when it does not read them."""
        if builtin_tools:
            raise RequestError("this model's template has no built-in tools; offer functions instead")
        rest = list(messages)
        if tools and not self._reads_tools:
            system = rest.pop(0).content if rest and rest[0].role == "system" else ""
            rest.insert(
                0, Message("system", system_text(system, functions=tools).removeprefix("Environment: ipython\n\n"))
            )
        return self._template.encode(self._tokenizer, rest, tools=tools if self._reads_tools else ())


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
