"""The dialog format against ChatFormat of the llama-models package, token for token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_models.datatypes import RawMessage, StopReason, ToolPromptFormat
from llama_models.datatypes import ToolCall as MetaCall
from llama_models.llama3.chat_format import ChatFormat
from llama_models.llama3.tokenizer import Tokenizer as MetaTokenizer

from herd.text.dialog import Dialog
from herd.text.messages import Message, ToolCall


@pytest.fixture(scope="session")
def meta_format(meta_tokenizer_file):
    return ChatFormat(MetaTokenizer(meta_tokenizer_file))


def as_meta(message: Message) -> RawMessage:
    return RawMessage(
        role="tool" if message.role == "ipython" else message.role,
        content=message.content,
        tool_calls=[MetaCall(call_id="1", tool_name=c.name, arguments=c.arguments) for c in message.tool_calls],
        stop_reason=StopReason.end_of_message if message.expects_result else StopReason.end_of_turn,
    )


CONVERSATION = [
    Message("system", "You are helpful. <|eot_id|>"),
    Message("user", "What is the 100th decimal of pi?"),
    Message("assistant", "", (ToolCall("wolfram_alpha", {"query": "100th decimal of pi"}),), True),
    Message("ipython", '{"result": "7"}'),
    Message("assistant", "It is 7."),
    Message("user", "Plot it."),
    Message("assistant", "", (ToolCall("code_interpreter", {"code": "print(1)\n"}),), True),
    Message("ipython", "completed\n[stdout]1[/stdout]"),
    Message("assistant", "Done.", (ToolCall("trending_songs", {"n": 10, "genre": 'a "b"'}),), False),
]


@pytest.mark.parametrize("tool_format", ["json", "function_tag"])
def test_a_conversation_with_every_kind_of_message(tool_format, meta_format, meta_tokenizer):
    ours = Dialog(meta_tokenizer).encode(CONVERSATION, tool_format=tool_format).tokens
    theirs = meta_format.encode_dialog_prompt([as_meta(m) for m in CONVERSATION], ToolPromptFormat(tool_format))
    assert ours == theirs.tokens


def test_random_conversations(meta_format, meta_tokenizer):
    dialog = Dialog(meta_tokenizer)
    messages = st.builds(
        Message,
        st.sampled_from(["system", "user", "assistant", "ipython"]),
        st.text(max_size=40),
        expects_result=st.booleans(),
    )

    @settings(max_examples=100, deadline=None)
    @given(st.lists(messages, max_size=5))
    def check(conversation):
        theirs = meta_format.encode_dialog_prompt([as_meta(m) for m in conversation])
        assert dialog.encode(conversation).tokens == theirs.tokens

    check()
