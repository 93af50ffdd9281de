"""A conversation in which the model calls tools, fills its context, is left early, fails."""

import json
import sys
import threading
from pathlib import Path

import msgspec
import pytest

import herd
from herd.engine.agent import MAX_STEPS, Agent, Offer
from herd.engine.conversation import Conversation
from herd.engine.grammar import forced_calls
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import RequestError
from herd.text.chat_format import chat_format
from herd.text.messages import Message, Tool, ToolCall
from herd.tools import ToolBox

ADD = Tool("add", "Add", {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False})  # fmt: skip
HERD = Path(herd.__file__).parent
WALK = 17  # files; each new one is one more to read, so raise this only for what differs in kind
GREEDY = SamplingParams(temperature=0, max_tokens=40)


@pytest.fixture(scope="module")
def engine(smollm):
    with open_engine(smollm, cache_tokens=512) as made:
        yield made


@pytest.fixture(scope="module")
def dialog(smollm):
    return chat_format(smollm.tokenizer, smollm.chat_template)


def test_tools_are_run_and_their_results_given_back(engine, dialog):
    ran = []

    def run(arguments, seconds):
        ran.append(arguments)
        return str(arguments["a"] + 40)

    box = ToolBox()
    box.add(ADD, run)
    agent = Agent(engine, dialog, box)
    turns = agent.turns([Message("user", "Add one.")], GREEDY, Offer(choice="required"))
    parts = list(agent.reply(turns))
    assert len(ran) == 1  # forced once
    assert [m.role for m in turns.messages] == ["user", "assistant", "ipython", "assistant"]
    call = next(part for part in parts if part.call)
    assert call.ours
    result = next(part.result for part in parts if part.result)
    assert (result.call, result.output) == (call.call, turns.messages[2].content)
    assert parts[-1].usage.completion > 8
    held = forced_calls([ADD], several=False)  # every reply is a call
    turns = agent.turns([Message("user", "Again.")], msgspec.structs.replace(GREEDY, max_tokens=300), grammar=held)
    results = [part.result for part in agent.reply(turns) if part.result]
    assert len(results) == MAX_STEPS
    assert len(turns.messages) == 1 + 2 * MAX_STEPS


def test_a_call_for_the_caller_comes_in_pieces_and_then_whole(engine, dialog):
    agent = Agent(engine, dialog)
    for limit, whole in ((40, True), (11, False)):
        params = msgspec.structs.replace(GREEDY, max_tokens=limit)
        parts = list(agent.reply(agent.turns([Message("user", "Add.")], params, Offer((ADD,), "required"))))
        assert [part.opens for part in parts if part.opens] == ["add"]
        pieces = [part.arguments for part in parts if part.arguments]
        assert not any(part.text for part in parts)
        calls = [part.call for part in parts if part.call]
        if whole:
            assert len(pieces) > 2
            assert calls == [ToolCall("add", json.loads("".join(pieces)))]
            assert (parts[-1].reason, calls[0].arguments["a"] in (1, 2)) == ("stop", True)
        else:
            assert calls == []
            assert "".join(pieces).startswith("{")
            assert parts[-1].reason == "length"


def test_a_result_larger_than_the_context_is_cut_and_the_model_told(engine, dialog):
    box = ToolBox()
    box.add(ADD, lambda arguments, seconds: "word " * 4000)
    agent = Agent(engine, dialog, box)
    params = msgspec.structs.replace(GREEDY, max_tokens=100)
    turns = agent.turns([Message("user", "Add one.")], params, Offer(choice="required"))
    parts = list(agent.reply(turns))
    assert "more tokens left out" in turns.messages[2].content
    assert parts[-1].reason in ("stop", "length")
    assert turns.messages[-1].content


def test_old_turns_make_room_for_a_whole_reply(engine, dialog):
    agent = Agent(engine, dialog)
    old = [Message(role, "word " * 60) for _ in range(6) for role in ("user", "assistant")]
    conversation = Conversation(agent, msgspec.structs.replace(GREEDY, max_tokens=300), [Message("system", "x"), *old])
    list(conversation.say("And now?"))
    assert conversation.dropped >= 6
    assert conversation.messages[0].role == "system"
    assert conversation.messages[1].role == "user"
    assert len(dialog.encode(conversation.messages[:-1]).tokens) + 300 <= engine.max_length
    again = len(conversation.messages)
    list(conversation.say("And then?"))
    assert [m.content for m in conversation.messages if m.role == "user"][-1] == "And then?"
    assert len(conversation.messages) <= again + 2


def test_a_turn_that_fails_leaves_the_conversation_as_it_was(engine, dialog):
    conversation = Conversation(Agent(engine, dialog), GREEDY, [Message("system", "Be brief.")])
    list(conversation.say("Hello."))
    before = list(conversation.messages)
    for params, text in ((msgspec.structs.replace(GREEDY, max_tokens=511), "Hi"), (GREEDY, "word " * 1000)):
        conversation.params = params
        with pytest.raises(RequestError, match="shorten it") as caught:
            list(conversation.say(text))
        assert caught.value.code == "context_length_exceeded"
        assert conversation.messages == before
        assert conversation.dropped == 0


def test_what_was_said_stays_when_a_reply_is_left_early(engine, dialog):
    conversation = Conversation(
        Agent(engine, dialog), msgspec.structs.replace(GREEDY, max_tokens=None, ignore_eos=True)
    )
    parts = conversation.say("Tell me a story.")
    said = "".join(next(parts) for _ in range(5))
    parts.close()
    assert conversation.messages == [Message("user", "Tell me a story."), Message("assistant", said)]
    parts = conversation.say("More.")
    parts.close()
    assert len(conversation.messages) == 2


def test_a_tool_that_raises_is_told_to_the_model():
    def fail(arguments, seconds):
        raise KeyError("no such city")

    box = ToolBox()
    box.add(ADD, fail)
    assert box.run(ToolCall("add", {})).startswith("error: the tool failed")


def test_a_readers_walk_from_a_question_to_a_token_stays_short(smollm, dialog):
    files = set()

    def enter(frame, event, _):
        if event == "call" and Path(frame.f_code.co_filename).is_relative_to(HERD):
            files.add(Path(frame.f_code.co_filename).relative_to(HERD).as_posix())

    with open_engine(smollm, cache_tokens=512) as engine:
        parts = Conversation(Agent(engine, dialog), SamplingParams(max_tokens=4)).say("Hello")
        threading.setprofile(enter)  # the engine's thread begins with the first request
        sys.setprofile(enter)
        try:
            next(parts)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
            parts.close()
    assert {"engine/conversation.py", "engine/scheduler.py", "engine/backends/native.py", "text/gguf.py"} <= files
    assert len(files) <= WALK, sorted(files)
