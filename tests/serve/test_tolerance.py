"""What clients send unasked, echo back, or leave null."""

import json
import time
from typing import get_args

import httpx
import pytest
from msgspec import inspect

from herd.engine.agent import Part
from herd.engine.schemas import relaxed
from herd.serve.anthropic_schema import MessagesRequest
from herd.serve.ollama import OllamaRequest
from herd.serve.responses_schema import Item, ResponsesRequest
from herd.serve.schema import ChatRequest, CompletionRequest, EmbeddingsRequest, ModerationsRequest, TokenizeRequest
from herd.serve.schema_check import SchemaCheck, violations
from tests.serve.test_chat import WEATHER

ASK = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
DEEP = '{"a":' * 500 + "1" + "}" * 500
IGNORED = {
    "include": [], "prompt_cache_key": "x", "service_tier": "auto", "safety_identifier": "x", "store": True,
    "metadata": {"a": "b"}, "reasoning_effort": "high", "user": "u",
}  # fmt: skip


def call(arguments, name="get_weather"):
    return {"id": "c1", "type": "function", "index": 0, "function": {"name": name, "arguments": arguments, "parsed_arguments": None}}  # fmt: skip


BODIES = (ChatRequest, CompletionRequest, EmbeddingsRequest, ModerationsRequest, TokenizeRequest, ResponsesRequest, MessagesRequest, OllamaRequest, *get_args(Item))  # fmt: skip


def test_every_field_that_may_be_left_out_may_be_null():
    refused, seen, left = [], set(), [inspect.type_info(kind) for kind in BODIES]
    while left:
        kind = left.pop()
        if isinstance(kind, inspect.StructType) and kind.cls not in seen:
            seen.add(kind.cls)
            left += [field.type for field in kind.fields]
            refused += [
                (kind.cls.__name__, field.name) for field in kind.fields
                if not field.required and not isinstance(field.type, inspect.AnyType)
                and not (isinstance(field.type, inspect.UnionType) and field.type.includes_none)
            ]  # fmt: skip
        left += getattr(kind, "types", ())
        left += [getattr(kind, name) for name in ("item_type", "value_type") if hasattr(kind, name)]
    assert len(seen) > 30
    assert refused == []


def test_null_is_as_if_the_field_were_not_there_and_others_are_refused(server):
    path, unknown = "/v1/chat/completions", ("functions", "audio", "web_search_options", "x")
    assert server.post(path, {**ASK, **dict.fromkeys(unknown)}).status_code == 200
    for name in unknown:
        assert server.post(path, {**ASK, **dict.fromkeys(unknown), name: {}}).json()["error"]["param"] == name
    assert server.post("/v1/moderations", {"input": "Hi", "user": "u", "metadata": {}}).status_code == 200
    assert server.post("/v1/completions", {"prompt": "Hi", "suffix": "", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize(
    "path,body",
    [
        ("chat/completions", ASK), ("completions", {"prompt": "Hi", "max_tokens": 4}), ("responses", {"input": "Hi", "max_output_tokens": 4}),
    ],
)  # fmt: skip
def test_null_is_unset_and_documented_fields_do_nothing(server, path, body):
    from herd.serve.responses_schema import ResponsesRequest
    from herd.serve.schema import ChatRequest, CompletionRequest

    kind = {"chat/completions": ChatRequest, "completions": CompletionRequest, "responses": ResponsesRequest}[path]
    nulls = dict.fromkeys(set(kind.__struct_fields__) - set(body))
    assert server.post(f"/v1/{path}", {**nulls, **body}).status_code == 200
    assert server.post(f"/v1/{path}", {**body, **IGNORED}).status_code == 200
    refused = server.post(f"/v1/{path}", {**body, "frobnicate": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "frobnicate")


@pytest.mark.parametrize("arguments", ['{"city": "Pa', "", "null", "[1]", DEEP, '{"city": "Paris"}'])
def test_calls_of_any_state_come_back(server, arguments):
    turn = {
        "role": "assistant", "content": None, "refusal": None, "audio": None, "function_call": None, "annotations": [],
        "parsed": None, "tool_calls": [call(arguments)],
    }  # fmt: skip
    result = {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "18 degrees"}]}
    answer = server.post(
        "/v1/chat/completions", {**ASK, "messages": [*ASK["messages"], turn, result], "tools": [WEATHER]}
    )
    assert answer.status_code == 200, answer.text
    items = [
        {"role": "user", "content": "Hi"}, {"type": "function_call", "id": "fc", "status": "completed", "call_id": "c1", "name": "f", "arguments": arguments},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "18"}]}, {"type": "reasoning", "summary": []},
    ]  # fmt: skip
    assert server.post("/v1/responses", {"input": items, "max_output_tokens": 4}).status_code == 200


def test_calls_that_were_cut_off_are_told_to_the_model_as_text(server):
    def tokens(arguments):
        turn = {"role": "assistant", "tool_calls": [call(arguments)]}
        found = server.post("/tokenize", {"messages": [*ASK["messages"], turn, *ASK["messages"]]}).json()["tokens"]
        return server.post("/detokenize", {"tokens": found}).json()["text"]

    assert '{"name": "get_weather", "parameters": {"city": "Pa' in tokens('{"city": "Pa')
    assert "Paris" in tokens('{"city": "Paris"}')


def test_nothing_nested_makes_a_500(server):
    tool = {"type": "function", "function": {"name": "f", "parameters": json.loads(DEEP)}}
    form = {"type": "json_schema", "json_schema": {"schema": json.loads(DEEP)}}
    for more in ({"tools": [tool]}, {"response_format": form}, {"chat_template_kwargs": json.loads(DEEP)}):
        assert server.post("/v1/chat/completions", {**ASK, **more}).status_code in (200, 400)


def test_what_a_schema_asks_beyond_grammars_is_said(server):
    schema = {
        "type": "object", "required": ["tags"], "additionalProperties": False,
        "properties": {"tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2, "uniqueItems": True}},
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    answer = server.post("/v1/chat/completions", {**ASK, "max_tokens": 40, "response_format": form}).json()
    assert set(json.loads(answer["choices"][0]["message"]["content"])) == {"tags"}
    assert answer["warnings"] == ["response_format: uniqueItems at $.tags is not held to; replies are checked for it"]
    tool = {"type": "function", "function": {"name": "pick", "parameters": schema}}
    answer = server.post(
        "/v1/chat/completions", {**ASK, "max_tokens": 40, "tools": [tool], "tool_choice": "required"}
    ).json()
    assert answer["warnings"] == ["pick: uniqueItems at $.tags is not held to; replies are checked for it"]


TWICE = {
    "type": "object", "required": ["tags"], "additionalProperties": False,
    "properties": {"tags": {"type": "array", "items": {"const": "a"}, "minItems": 2, "maxItems": 2, "uniqueItems": True}},
}  # fmt: skip
ONCE = {"type": "object", "required": ["a"], "additionalProperties": False, "properties": {"a": {"const": 1, "not": {"const": 2}}}}  # fmt: skip
BROKEN = {"path": "$.tags", "keyword": "uniqueItems", "message": "['a', 'a'] has non-unique elements"}


def test_what_no_grammar_holds_is_checked_when_the_reply_is_whole(server):
    def chat(schema, **fields):
        return {
            **ASK,
            "max_tokens": 60,
            "n": 2,
            "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
            **fields,
        }

    def last(path, body):
        with httpx.stream("POST", server.url + path, json={**body, "stream": True}, timeout=60) as answer:
            events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
        return [event for event in events if "schema_violations" in str(event)][-1]

    path = "/v1/chat/completions"
    expected = [{"index": i, "where": "response_format", **BROKEN} for i in range(2)]
    for found in (server.post(path, chat(TWICE)).json(), last(path, chat(TWICE))):
        assert sorted(found["schema_violations"], key=lambda one: one["index"]) == expected
    assert server.post(path, chat(ONCE)).json()["schema_violations"] == []  # looked at, and as it should be
    assert "schema_violations" not in server.post(path, chat({"const": 1})).json()  # the grammar holds all of it

    tool = {"type": "function", "function": {"name": "pick", "parameters": TWICE}}
    body = {**ASK, "max_tokens": 60, "tools": [tool], "tool_choice": "required"}
    expected = [{"index": 0, "where": "pick", **BROKEN}]
    for found in (server.post(path, body).json(), last(path, body)):
        assert found["schema_violations"][:1] == expected
    flat = {"type": "function", **tool["function"]}
    given = {"input": "Pick.", "max_output_tokens": 60, "tools": [flat], "tool_choice": "required"}
    assert server.post("/v1/responses", given).json()["schema_violations"][:1] == expected
    assert last("/v1/responses", given)["response"]["schema_violations"][:1] == expected
    named = {"name": "pick", "input_schema": TWICE}
    given = {"messages": ASK["messages"], "max_tokens": 60, "tools": [named], "tool_choice": {"type": "any"}}
    assert server.post("/v1/messages", given).json()["schema_violations"][:1] == expected
    assert last("/v1/messages", given)["schema_violations"][:1] == expected


def test_strict_schemas_are_refused_where_no_grammar_holds_them(server):
    form = {"type": "json_schema", "json_schema": {"schema": TWICE, "strict": True}}
    tool = {"name": "pick", "parameters": TWICE, "strict": True}
    for path, fields, said in (
        ("/v1/chat/completions", {"response_format": form}, "the schema"),
        ("/v1/chat/completions", {"tools": [{"type": "function", "function": tool}]}, "the parameters of pick"),
        ("/v1/responses", {"tools": [{"type": "function", **tool}]}, "the parameters of pick"),
        (
            "/v1/messages",
            {"tools": [{"name": "pick", "input_schema": TWICE, "strict": True}]},
            "the parameters of pick",
        ),
    ):
        body = {"input": "Hi"} if path == "/v1/responses" else {"messages": ASK["messages"], "max_tokens": 8}
        answer = server.post(path, {**body, **fields})
        assert answer.status_code == 400
        assert f"{said}: strict does not go with uniqueItems at $.tags" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "change", [{"properties": -1}, {"required": True}, {"required": [{}]}, {"anyOf": []}, {"items": "x"}]
)  # fmt: skip
def test_what_is_no_schema_is_named(server, change):
    tool = {"type": "function", "function": {"name": "pick", "parameters": {"type": "object", **change}}}
    answer = server.post("/v1/chat/completions", {**ASK, "tools": [tool]})
    key = next(iter(change))
    assert (answer.status_code, f"the parameters of pick: {key} at $ is" in answer.text) == (400, True), answer.text


@pytest.mark.parametrize("kind", ["array", ["string", "null"], 7])
def test_arguments_are_an_object(server, kind):
    tool = {"type": "function", "function": {"name": "pick", "parameters": {"type": kind}}}
    answer = server.post("/v1/chat/completions", {**ASK, "tools": [tool]})
    assert (answer.status_code, "parameters.type is" in answer.text) == (400, True), answer.text
    tool["function"]["parameters"] = {"type": ["null", "object"], "additionalProperties": False}
    answer = server.post("/v1/chat/completions", {**ASK, "max_tokens": 30, "tools": [tool], "tool_choice": "required"})
    assert answer.json()["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    "schema,value,keywords",
    [
        ({"uniqueItems": True}, [1, 1.0], ["uniqueItems"]), ({"propertyNames": {"maxLength": 1}}, {"ab": 1}, ["maxLength"]),
        ({"if": {"const": 1}, "then": {"const": 2}}, 1, ["const"]), ({"contains": {"const": 3}}, [1], ["contains"]),
        ({"format": "ipv4"}, "1.2.3.400", ["format"]), ({"oneOf": [{"minimum": 1}, {"minimum": 2}]}, 3, ["oneOf"]),
        ({"pattern": "(a+)+$"}, "a" * 60 + "b", []), ({"not": {"$ref": "#/$defs/a"}, "$defs": {"a": {"const": 1}}}, 1, ["not"]),
        ({"patternProperties": {"(a+)+$": {}}, "additionalProperties": False}, {"a" * 60 + "b": 1}, []),
    ],
)  # fmt: skip
def test_the_check_finds_what_is_wrong_and_runs_no_pattern(schema, value, keywords):
    assert [keyword for _, keyword, _ in violations(schema, value)] == keywords


def test_the_check_fetches_nothing_and_ends(monkeypatch):
    for schema in (
        {"$ref": "http://127.0.0.1:9/schema"}, {"$ref": "#"}, {"uniqueItems": True},
        {"$ref": "#/$defs/0", "$defs": {str(i): {"allOf": [{"$ref": f"#/$defs/{min(i + 1, 40)}"}] * 2} for i in range(41)}},
    ):  # fmt: skip
        check = SchemaCheck("text", schema, {})
        part = Part(0, json.dumps(list(range(2000))), reason="stop")
        begun = time.monotonic()
        assert check.due(part)
        check.look(part)
        assert check.found[0]["message"].startswith("not checked"), check.found
        assert time.monotonic() - begun < 10


def test_unions_whose_alternatives_exclude_each_other_are_held():
    tagged = [{"$ref": f"#/$defs/{name}"} for name in "ab"]
    known = {name: {"properties": {"kind": {"const": name}}, "required": ["kind"]} for name in "ab"}
    assert relaxed({"oneOf": tagged, "$defs": known})[1] == []
    assert relaxed({"oneOf": [{"type": "string"}, {"type": "null"}]})[1] == []
    assert [str(one) for one in relaxed({"oneOf": [{"type": "integer"}, {"type": "number"}]})[1]] == [
        "oneOf (anyOf is) at $"
    ]


def test_a_schema_and_tools_go_together(server):
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["n"], "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"schema": schema}}
    for seed in range(4):
        body = {**ASK, "max_tokens": 60, "tools": [WEATHER], "response_format": form, "temperature": 1.2, "seed": seed}
        choice = server.post("/v1/chat/completions", body).json()["choices"][0]
        if choice["finish_reason"] == "tool_calls":
            assert set(json.loads(choice["message"]["tool_calls"][0]["function"]["arguments"])) == {"city", "unit"}
        elif choice["finish_reason"] == "stop":
            assert json.loads(choice["message"]["content"])["n"] in range(10)
    forced = server.post("/v1/chat/completions", {**body, "tool_choice": "required"}).json()["choices"][0]
    assert forced["message"]["tool_calls"]


def test_only_allowed_tools_are_called(server):
    other = {"type": "function", "function": {"name": "other"}}
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "other"}}]}
    choice = {"type": "allowed_tools", "allowed_tools": allowed}
    answer = server.post(
        "/v1/chat/completions", {**ASK, "max_tokens": 60, "tools": [WEATHER, other], "tool_choice": choice}
    )
    calls = answer.json()["choices"][0]["message"]["tool_calls"]
    assert {one["function"]["name"] for one in calls} == {"other"}
    assert all(json.loads(one["function"]["arguments"]) == {} for one in calls)


def test_a_reply_can_be_begun_by_the_client(server):
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
        {"role": "assistant", "content": "The capital of France is"},
    ]
    answer = server.post(
        "/v1/chat/completions", {**ASK, "messages": messages, "temperature": 0, "max_tokens": 3}
    ).json()
    assert answer["choices"][0]["message"]["content"].startswith(" Paris")


def test_requests_without_a_system_message_get_the_preset(server):
    question = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    answer = server.post("/v1/chat/completions", question).json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    spoken = [
        {"role": "system", "content": "You are a helpful assistant. Answer briefly and correctly."},
        *question["messages"],
    ]
    same = server.post("/v1/chat/completions", {**question, "messages": spoken}).json()
    assert same["usage"]["prompt_tokens"] == answer["usage"]["prompt_tokens"]
    text = server.post(
        "/v1/responses", {"input": question["messages"][0]["content"], "max_output_tokens": 12, "temperature": 0}
    ).json()
    assert text["usage"]["input_tokens"] == answer["usage"]["prompt_tokens"]


def test_best_of_and_special_tokens_in_completions(server):
    body = {"prompt": "One, two,", "max_tokens": 4, "best_of": 4, "n": 2, "temperature": 1, "seed": 3}
    answer = server.post("/v1/completions", body).json()
    assert len(answer["choices"]) == 2
    assert answer["usage"]["completion_tokens"] <= 16
    both = server.post("/v1/completions", {**body, "n": 4, "logprobs": 0}).json()["choices"]
    means = {c["text"]: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"]) for c in both}
    assert means[answer["choices"][0]["text"]] == max(means.values())
    plain, special = (
        server.post("/v1/completions", {"prompt": "<|im_start|>user\nHi<|im_end|>", "max_tokens": 1, "special": value}).json()["usage"]["prompt_tokens"]
        for value in (False, True)
    )  # fmt: skip
    assert special < plain - 4
    assert server.post("/v1/completions", {"prompt": "a", "suffix": "b"}).json()["error"]["param"] == "suffix"


def test_responses_go_on_from_the_one_before(server):
    first = server.post("/v1/responses", {"input": "My name is Ada.", "max_output_tokens": 8}).json()
    second = server.post(
        "/v1/responses", {"input": "And?", "max_output_tokens": 4, "previous_response_id": first["id"]}
    ).json()
    assert second["usage"]["input_tokens"] > first["usage"]["input_tokens"] + 8
    gone = server.post("/v1/responses", {"input": "And?", "previous_response_id": "resp_none"})
    assert gone.json()["error"]["code"] == "previous_response_not_found"
    unkept = server.post("/v1/responses", {"input": "Hi", "max_output_tokens": 2, "store": False}).json()
    assert server.post("/v1/responses", {"input": "And?", "previous_response_id": unkept["id"]}).status_code == 400


def test_custom_tools_of_the_responses_api_take_text(server):
    body = {
        "input": "Apply it.", "max_output_tokens": 60, "tools": [{"type": "custom", "name": "apply"}, {"type": "web_search"}],
        "tool_choice": {"type": "custom", "name": "apply"}, "temperature": 0,
    }  # fmt: skip
    answer = server.post("/v1/responses", body).json()
    (item,) = answer["output"]
    assert (item["type"], item["name"]) == ("custom_tool_call", "apply")
    assert isinstance(item["input"], str)
    assert answer["warnings"] == ["tools[1]: this server has no web_search"]
    again = [
        {"role": "user", "content": "Apply it."},
        item,
        {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "done"},
    ]
    assert server.post("/v1/responses", {**body, "input": again, "tool_choice": "auto"}).status_code == 200


def test_a_prompt_too_long_has_its_code_on_every_endpoint(server):
    long = "word " * 9000
    for path, body in (("chat/completions", {"messages": [{"role": "user", "content": long}]}), ("completions", {"prompt": long}), ("responses", {"input": long})):  # fmt: skip
        for stream in (False, True):
            answer = server.post(f"/v1/{path}", {**body, "stream": stream})
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded"), path
