import datetime
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import FormatError, RequestError
from herd.text.chat_format import LlamaChat, chat_format
from herd.text.dialog import Dialog, functions_text, system_text, tool_call_text
from herd.text.messages import Message, Tool, ToolCall
from herd.text.tokenizer import decode
from herd.text.tool_calls import parse_reply
from herd.text.vocabulary import LLAMA3_SPECIAL
from tests.models import byte_tokenizer
from tests.texts import DATA

BLOCKS = [
    b.strip("\n") for b in re.findall(r"```\n(.*?)\n```", (DATA / "llama3_1_prompt_format.md").read_text(), re.DOTALL)
]
DATE = datetime.date(2024, 9, 21)
SONGS = Tool(
    "trending_songs",
    "Returns the trending songs on a Music site",
    {
        "type": "object",
        "properties": {
            "genre": {"type": "string", "description": "The genre of the songs to return"},
            "n": {"type": "integer", "description": "The number of songs to return"},
        },
        "required": ["n"],
    },
)


def block(beginning: str) -> str:
    return next(b for b in BLOCKS if beginning in b)


def rendered(messages) -> str:
    tokenizer = byte_tokenizer()
    return decode(tokenizer, Dialog(tokenizer).encode(messages).tokens)


def test_plain_conversation_is_metas():
    text = rendered(
        [
            Message("system", "You are a helpful assistant"),
            Message("user", "Answer who are you in the form of jeopardy?"),
        ]
    )
    assert text.rstrip("\n") == block("jeopardy")
    assert text.endswith("<|end_header_id|>\n\n")


def test_builtin_tools_are_announced_as_metas_do():
    system = system_text("You are a helpful assistant.\n", builtin_tools=["brave_search", "wolfram_alpha"], date=DATE)
    text = rendered([Message("system", system), Message("user", "Search the web for the latest price of 1oz gold?")])
    assert text.rstrip("\n") == block("latest price of 1oz gold?<|eot_id|>")


def test_code_interpreter_needs_only_the_environment():
    question = "Write code to check if number is prime, use that to see if the number 7 is prime"
    text = rendered([Message("system", system_text(ipython=True)), Message("user", question)])
    assert text.rstrip("\n") == block("check if number is prime")


def test_a_search_with_its_result_is_metas():
    full = block("100th digit")
    result = full[full.index('{\n    "queryresult"') : full.rindex("<|eot_id|><|start_header_id|>assistant")]
    call = ToolCall("wolfram_alpha", {"query": "100th decimal of pi"})
    messages = [
        Message("system", "Environment: ipython\nTools: brave_search, wolfram_alpha\n"),
        Message("user", "What is the 100th decimal of pi?"),
        Message("assistant", "", (call,), expects_result=True, python_tag=True),
        Message("ipython", "\n" + result),
    ]
    # The document shows the reply's header and its body a line apart, as every message has them.
    assert rendered(messages).rstrip("\n") == full


def test_functions_in_json_and_as_tags_are_introduced_as_metas():
    text = functions_text([SONGS])
    example = block('"name": "trending_songs",\n        "description"')
    assert text[: text.index("{")] in example
    assert text.endswith("Return function calls in JSON format.")
    assert json.loads(text[text.index("{") : text.rindex("}") + 1])["function"]["name"] == "trending_songs"
    tagged = functions_text([SONGS], "function_tag")
    assert tagged in block("You have access to the following functions")


def test_function_calls_are_written_as_metas():
    assert tool_call_text(ToolCall("trending_songs", {"n": 10}), "function_tag") + "<|eot_id|>" == block(
        "<function=trending_songs>"
    )
    call = json.loads(tool_call_text(ToolCall("trending_songs", {"n": "10", "genre": "all"})))
    assert call == json.loads(
        block('<|python_tag|>{\n    "type"').removeprefix("<|python_tag|>").removesuffix("<|eom_id|>")
    )


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["system", "user", "assistant", "ipython"]), st.sampled_from(LLAMA3_SPECIAL), st.text(max_size=20)
)
def test_text_never_becomes_a_special_token(role, name, around):
    tokenizer = byte_tokenizer()
    special = set(tokenizer.special_tokens.values())
    plain = Dialog(tokenizer).encode([Message(role, "x")]).tokens
    call = ToolCall(f"f{name}", {name: name})
    for message in (
        Message(role, around + name + around),
        Message("assistant", name, (call,)),
        Message("assistant", name, (ToolCall("brave_search", {"query": name}),)),
    ):
        tokens = Dialog(tokenizer).encode([message]).tokens
        assert sum(t in special for t in tokens) == sum(t in special for t in plain)
    tool = Tool(name, name, {"properties": {name: {"description": name}}})
    tokens = (
        LlamaChat(tokenizer)
        .encode([Message("system", name), Message("user", "x")], tools=[tool], builtin_tools=[name])
        .tokens
    )
    expected = Dialog(tokenizer).encode([Message("system", "x"), Message("user", "x")]).tokens
    assert sum(t in special for t in tokens) == sum(t in special for t in expected)


def test_calls_round_trip_through_text():
    calls = (
        ToolCall("f", {"a": 'x"}{;</function>', "b": [1, None, {"c": "\n"}]}),
        ToolCall("brave_search", {"query": 'say "hi" \\ ok'}),
        ToolCall("wolfram_alpha", {"query": "2+2"}),
    )
    for call in calls:
        for style in ("json", "function_tag"):
            assert parse_reply(tool_call_text(call, style)) == ("", (call,))
    code = ToolCall("code_interpreter", {"code": "print({1: 2})\n"})
    assert parse_reply("<|python_tag|>" + tool_call_text(code)) == ("", (code,))


def test_a_tokenizer_without_the_tokens_and_a_role_that_is_unknown(smollm):
    with pytest.raises(FormatError, match="begin_of_text"):
        Dialog(smollm.tokenizer)
    with pytest.raises(RequestError, match="wizard"):
        Dialog(byte_tokenizer()).encode([Message("wizard", "x")])
    with pytest.raises(FormatError, match="no chat template"):
        chat_format(smollm.tokenizer, None)
