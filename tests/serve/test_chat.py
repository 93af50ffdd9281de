"""Chat completions by the official client, against a real server and model."""

import json
import math

import openai
import pytest

from tests.serve.server import serving

MODEL = "smollm2-135m"
HELLO = [{"role": "user", "content": "Say hello in one short sentence."}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["c", "f"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


def create(client, messages=HELLO, **options):
    return client.chat.completions.create(
        model=MODEL, messages=messages, **{"temperature": 0, "max_tokens": 24, **options}
    )


def streamed_calls(stream):
    """Id, name and arguments of each call of a stream, and in how many pieces the arguments came."""
    calls, pieces = [], []
    for chunk in stream:
        for delta in chunk.choices[0].delta.tool_calls or [] if chunk.choices else []:
            if delta.id:
                assert delta.index == len(calls)
                calls.append([delta.id, delta.function.name, ""])
                pieces.append(0)
            calls[delta.index][2] += delta.function.arguments
            pieces[delta.index] += bool(delta.function.arguments)
    return calls, pieces


def test_a_reply_and_its_usage(client):
    answer = create(client)
    choice = answer.choices[0]
    assert (answer.object, answer.model, choice.message.role) == ("chat.completion", MODEL, "assistant")
    assert choice.message.content.strip()
    assert choice.finish_reason in ("stop", "length")
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    again = create(client)
    assert again.choices[0].message.content == choice.message.content
    assert again.usage.prompt_tokens_details.cached_tokens >= 16


def test_a_stream_has_the_same_text_and_usage(client):
    whole = create(client)
    chunks = list(create(client, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(c.usage is None for c in chunks[:-1])


def test_several_choices_differ_and_repeat_with_a_seed(client):
    options = {"n": 3, "seed": 11, "temperature": 1.5, "max_tokens": 12}
    first, second = (create(client, **options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in second.choices]
    streamed = ["", "", ""]
    for chunk in create(client, stream=True, **options):
        streamed[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert streamed == texts


def test_logprobs_are_of_the_tokens_of_the_text(client):
    choice = create(client, logprobs=True, top_logprobs=3).choices[0]
    content = choice.logprobs.content
    assert b"".join(bytes(item.bytes) for item in content).decode() == choice.message.content  # no end token
    for item in content:
        assert item.logprob <= 0
        assert len(item.top_logprobs) == 3
        assert max(top.logprob for top in item.top_logprobs) == pytest.approx(item.logprob)  # greedy
    streamed = [
        s
        for c in create(client, logprobs=True, stream=True)
        if c.choices[0].logprobs
        for s in c.choices[0].logprobs.content
    ]
    assert [s.token for s in streamed] == [item.token for item in content]


def test_stop_bias_and_penalties(client):
    text = create(client).choices[0].message.content
    word = text.split()[1]
    stopped = create(client, stop=[word]).choices[0]
    assert stopped.message.content == text[: text.index(word)]
    assert stopped.finish_reason == "stop"
    token = create(client, logprobs=True, max_tokens=1).choices[0]
    first = token.logprobs.content[0].token
    ids = client.post("/../tokenize", body={"text": first}, cast_to=dict)["tokens"]
    assert create(client, logit_bias={str(ids[0]): -100}, max_tokens=1).choices[0].message.content != first
    assert create(client, frequency_penalty=2, presence_penalty=2, extra_body={"top_k": 5, "min_p": 0.05}).choices


def test_json_by_schema_object_regex_and_grammar(client):
    schema = {
        "type": "object", "required": ["name", "age"], "additionalProperties": False,
        "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    person = json.loads(create(client, response_format=form, max_tokens=64).choices[0].message.content)
    assert set(person) == {"name", "age"}
    assert 0 <= person["age"] <= 150
    streamed = "".join(
        c.choices[0].delta.content or "" for c in create(client, response_format=form, max_tokens=64, stream=True)
    )
    assert json.loads(streamed) == person
    anything = create(client, response_format={"type": "json_object"}, max_tokens=200).choices[0]
    assert anything.finish_reason == "length" or isinstance(json.loads(anything.message.content), dict)
    date = create(client, extra_body={"regex": "[0-9]{4}/[0-9]{2}"}).choices[0].message.content
    assert len(date) == 7
    assert date[4] == "/"
    assert create(client, extra_body={"grammar": 'start: "yes" | "no"'}).choices[0].message.content in ("yes", "no")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
def test_forced_calls_are_valid_streamed_or_not(client, choice):
    options = {"tools": [WEATHER], "tool_choice": choice, "max_tokens": 100, "parallel_tool_calls": False}
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    message = create(client, question, **options).choices[0]
    assert message.finish_reason == "tool_calls"
    (call,) = message.message.tool_calls
    arguments = json.loads(call.function.arguments)
    assert arguments["unit"] in ("c", "f")
    assert "Paris" in arguments["city"]
    found, pieces = streamed_calls(create(client, question, stream=True, **options))
    assert [(name, given) for _, name, given in found] == [(call.function.name, call.function.arguments)]
    assert found[0][0] != call.id
    assert pieces[0] > 4  # as they are generated
    cut = create(client, question, **{**options, "max_tokens": 14}).choices[0]
    assert (cut.finish_reason, len(cut.message.tool_calls)) == ("length", 1)
    assert call.function.arguments.startswith(cut.message.tool_calls[0].function.arguments)
    turn = message.message.model_dump()
    result = {"role": "tool", "tool_call_id": call.id, "content": "18 degrees, sunny"}
    assert create(client, [*question, turn, result], tools=[WEATHER]).choices[0].message.content


def test_several_calls_have_ids_of_their_own(client):
    # the end of the turn (token 2) is made unlikely, so that the model goes on to call
    options = {"tools": [WEATHER, TIME], "tool_choice": "required", "max_tokens": 400, "logit_bias": {"2": -100}}
    calls = create(client, **options).choices[0].message.tool_calls
    assert len(calls) > 3
    assert len({call.id for call in calls}) == len(calls)
    streamed, _ = streamed_calls(create(client, stream=True, **options))
    assert [given for *_, given in streamed] == [c.function.arguments for c in calls]


def test_none_and_unparsable_calls_are_content(client):
    assert create(client, tools=[WEATHER], tool_choice="none").choices[0].message.tool_calls is None
    broken = create(client, tools=[WEATHER], extra_body={"regex": r'\{"name": "get_weather", "parameters": \['})
    assert broken.choices[0].message.content == '{"name": "get_weather", "parameters": ['
    assert broken.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    "change,param,status",
    [
        ({"messages": []}, "messages", 400),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", 400),
        ({"messages": [{"role": "user"}]}, "messages[0].content", 400),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "nope"}]}, "messages[0].tool_call_id", 400),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages[0].content[0].type", 400),
        ({"temperature": -1}, "temperature", 400),
        ({"temperature": "hot"}, "temperature", 400),
        ({"n": 0}, "n", 400),
        ({"top_logprobs": 3}, "top_logprobs", 400),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", 400),
        ({"logit_bias": {"x": 1}}, "logit_bias", 400),
        ({"audio": {}}, "audio", 400),
        ({"model": "gpt-9"}, "model", 404),
        ({"max_tokens": 10**6}, None, 400),
        ({"tool_choice": "required"}, "tool_choice", 400),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", 400),
        ({"grammar": "start: nonsense("}, None, 400),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "robot"}}}}, None, 400),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", 400),
        ({"tools": [WEATHER] * 2}, "tools", 400),
        ({"tools": [{"type": "function", "function": {"name": "odd", "parameters": {"type": "object", "properties": {"a": {"type": "robot"}}}}}]}, "tools", 400),
        ({"stop": ["x"] * 200_000}, "stop", 400),
        ({"grammar": "start: " + " | ".join(f'"w{i}"' for i in range(100_000))}, "grammar", 400),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages", 400),
        ({"chat_template_kwargs": {"tone": "<|im_end|>"}}, "chat_template_kwargs.tone", 400),
        ({"messages": [{"role": "user", "content": "x"}], "continue_final_message": True}, "messages", 400),
        ({"timeout": 0}, "timeout", 400),
        ({"priority": -1}, "priority", 400),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(server, change, param, status):
    answer = server.chat(**change)
    error = answer.json()["error"]
    assert answer.status_code == status, answer.text
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    if param is not None:
        assert error["param"] == param
    streamed = server.chat(**change, stream=True)
    assert streamed.status_code == status


def test_errors_reach_the_official_client_as_its_own(client):
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(model="gpt-9", messages=HELLO)
    with pytest.raises(openai.BadRequestError, match="n is 0") as caught:
        create(client, n=0)
    assert caught.value.param == "n"


def test_completions_echo_logprobs_and_lists(client):
    make = client.completions.create
    answer = make(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, logprobs=2, echo=True)
    choice = answer.choices[0]
    assert choice.text.startswith("The capital of France is Paris")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert choice.logprobs.text_offset == [
        sum(map(len, choice.logprobs.tokens[:i])) for i in range(len(choice.logprobs.tokens))
    ]
    assert choice.logprobs.token_logprobs[0] is None
    assert all(value <= 0 for value in choice.logprobs.token_logprobs[1:])
    assert "".join(choice.logprobs.tokens).startswith(choice.text)
    both = make(model=MODEL, prompt=["The capital of France is", "One, two, three,"], max_tokens=4, temperature=0)
    assert [c.index for c in both.choices] == [0, 1]
    assert "Paris" in both.choices[0].text
    assert "four" in both.choices[1].text
    streamed = "".join(
        c.choices[0].text
        for c in make(model=MODEL, prompt="The capital of France is", max_tokens=4, temperature=0, stream=True)
    )
    assert streamed == both.choices[0].text
    tokens = make(model=MODEL, prompt=[504, 3575], max_tokens=2, temperature=0)
    assert tokens.usage.prompt_tokens == 2
    score = make(model=MODEL, prompt="Hello there", max_tokens=0, echo=True, logprobs=0)
    assert math.isfinite(sum(score.choices[0].logprobs.token_logprobs[1:]))


def test_responses_text_tools_and_streaming(client):
    make = client.responses.create
    answer = make(model=MODEL, input="Say hello.", instructions="Be brief.", temperature=0, max_output_tokens=24)
    assert answer.output_text
    assert answer.usage.output_tokens <= 24
    events = list(
        make(
            model=MODEL, input="Say hello.", instructions="Be brief.", temperature=0, max_output_tokens=24, stream=True
        )
    )
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == answer.output_text
    assert events[-1].response.output_text == answer.output_text
    tool = {"type": "function", **WEATHER["function"]}
    asked = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = make(
        model=MODEL, input=asked, tools=[tool], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    (call,) = called.output
    assert (call.type, call.name) == ("function_call", "get_weather")
    assert json.loads(call.arguments)["unit"] in ("c", "f")
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"}
    final = make(
        model=MODEL, input=[*asked, call.model_dump(), result], tools=[tool], temperature=0, max_output_tokens=30
    )
    assert final.status in ("completed", "incomplete")
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "number", "schema": schema, "strict": True}}
    assert isinstance(json.loads(make(model=MODEL, input="A number?", text=form, temperature=0).output_text)["n"], int)
    with pytest.raises(openai.BadRequestError, match="is not kept here"):
        make(model=MODEL, input="x", previous_response_id="resp_1")


def test_the_server_runs_its_own_tools_and_goes_on(tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.md").write_text("The llama farm opens at nine.")
    with serving(tmp_path, "--tools", "calculator", "--documents", str(tmp_path / "notes")) as server:
        chosen = {"tool_choice": {"type": "function", "function": {"name": "calculator"}}, "max_tokens": 60}
        answer = server.chat("What is 12 * 12? Use the calculator.", **chosen).json()
        (ran, *_) = answer["executed_tools"]
        assert ran["name"] == "calculator"
        assert isinstance(ran["arguments"]["query"], str)
        assert ran["output"]
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")
        assert answer["usage"]["completion_tokens"] > 5
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="none")
        question = [{"role": "user", "content": "What is 12 * 12? Use the calculator."}]
        executed, text = [], ""
        for chunk in create(client, question, stream=True, **chosen):
            executed += getattr(chunk, "executed_tools", None) or []
            text += chunk.choices[0].delta.content or ""
        assert executed[0] == ran
        assert text == (answer["choices"][0]["message"]["content"] or "")
        both = create(
            client, question, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, max_tokens=80
        )
        called = both.choices[0].message.tool_calls  # the client's, not the server's, which it would not hear of
        assert [one.function.name for one in called] == ["get_weather"]
        response = client.responses.create(model=MODEL, input="What is 2+2?", max_output_tokens=20, temperature=0)
        assert response.status in ("completed", "incomplete")
        several = server.chat(n=2)
        assert (several.status_code, several.json()["error"]["param"]) == (400, "n")
