"""What official clients send, recorded by record_clients.py, is answered without one refusal."""

import json
from pathlib import Path

import httpx
import pytest

TRAFFIC = [
    json.loads(line) for line in (Path(__file__).parent.parent / "data" / "clients.jsonl").read_text().splitlines()
]
CLIENTS = sorted({one["client"] for one in TRAFFIC})


def answered(server, one: dict) -> httpx.Response:
    answer = server.post(one["path"], one["body"])
    assert answer.status_code == 200, (one["client"], one["path"], answer.text)
    assert '"error":{' not in answer.text.replace(" ", "")
    return answer


@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_client_sends_is_answered(server, client):
    mine = [one for one in TRAFFIC if one["client"] == client]
    assert len(mine) >= 3
    for one in mine:
        answer = answered(server, one)
        if one["body"].get("stream"):
            assert answer.headers["content-type"].startswith(("text/event-stream", "application/x-ndjson"))


def test_recordings_have_every_kind_of_traffic():
    bodies = [one["body"] for one in TRAFFIC]
    assert {one["client"].split()[0] for one in TRAFFIC} == {
        "openai", "openai-agents", "langchain-openai", "litellm", "anthropic", "ollama", "open-webui",
    }  # fmt: skip
    assert any(body.get("response_format") for body in bodies)
    assert any(item.get("type") == "function_call_output" for body in bodies if isinstance(body.get("input"), list) for item in body["input"])  # fmt: skip
    assert any(message["role"] == "tool" for body in bodies for message in body.get("messages", ()))
    assert {one["path"] for one in TRAFFIC} >= {"/v1/chat/completions", "/v1/responses", "/v1/messages", "/api/chat"}


def test_anthropics_messages_whole_and_streamed(server):
    body = {
        "messages": [{"role": "user", "content": "What is the capital of France?"}],
        "max_tokens": 12,
        "temperature": 0,
    }
    whole = server.post("/v1/messages", body).json()
    assert (whole["type"], whole["role"], whole["content"][0]["type"]) == ("message", "assistant", "text")
    events = [json.loads(line[6:]) for line in server.post("/v1/messages", {**body, "stream": True}).text.splitlines() if line.startswith("data: ")]  # fmt: skip
    kinds = [event["type"] for event in events]
    assert (kinds[0], kinds[1], kinds[-2:]) == (
        "message_start",
        "content_block_start",
        ["message_delta", "message_stop"],
    )
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert text == whole["content"][0]["text"]
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"] > 0
    counted = server.post("/v1/messages/count_tokens", {"messages": body["messages"]}).json()["input_tokens"]
    assert events[0]["message"]["usage"]["input_tokens"] == counted > 0
    stopped = server.post("/v1/messages", {**body, "stop_sequences": [text.split()[1]]}).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", text.split()[1])
    many = server.post("/v1/messages", {**body, "stop_sequences": ["x" * 8] * 200_000})
    assert (many.status_code, "stop: expected at most 32" in many.text) == (400, True), many.text[:200]
    wrong = server.post("/v1/messages", {**body, "messages": []})
    assert (wrong.status_code, wrong.json()["type"], wrong.json()["error"]["type"]) == (
        400,
        "error",
        "invalid_request_error",
    )
    image = [{"role": "user", "content": [{"type": "image", "source": {}}]}]
    assert "text only" in server.post("/v1/messages", {**body, "messages": image}).json()["error"]["message"]


def test_anthropics_calls_are_held_to_their_schema(server):
    tool = {"name": "pick", "input_schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}}  # fmt: skip
    body = {"messages": [{"role": "user", "content": "Pick."}], "max_tokens": 40, "tools": [tool], "tool_choice": {"type": "tool", "name": "pick"}}  # fmt: skip
    whole = server.post("/v1/messages", body).json()
    (block,) = whole["content"]
    assert (whole["stop_reason"], block["type"], block["name"]) == ("tool_use", "tool_use", "pick")
    assert block["input"]["n"] in (1, 2)


def test_anthropics_text_is_held_to_a_schema(server):
    form = {"type": "json_schema", "schema": {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}}  # fmt: skip
    body = {"messages": [{"role": "user", "content": "Pick."}], "max_tokens": 40}
    for fields in ({"output_config": {"format": form, "effort": "low"}}, {"output_format": form}):
        (block,) = server.post("/v1/messages", {**body, **fields}).json()["content"]
        assert json.loads(block["text"])["n"] in (1, 2)


def test_ollamas_chat_lists_and_version(server):
    (listed,) = httpx.get(server.url + "/api/tags").json()["models"]
    assert listed["name"] == listed["model"] == "smollm2-135m:latest"  # clients add the tag, then look for the name
    assert all(part.isdecimal() for part in httpx.get(server.url + "/api/version").json()["version"].split("."))
    assert [one["name"] for one in httpx.get(server.url + "/api/ps").json()["models"]] == [listed["name"]]
    body = {"model": "smollm2-135m:latest", "messages": [{"role": "user", "content": "Hi"}], "options": {"num_predict": 6, "temperature": 0}}  # fmt: skip
    lines = [json.loads(line) for line in server.post("/api/chat", body).text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    whole = server.post("/api/chat", {**body, "stream": False}).json()
    assert whole["message"]["content"] == "".join(line["message"]["content"] for line in lines)
    assert (whole["done"], whole["eval_count"]) == (True, 6)
    assert "no such" not in server.post("/api/chat", {**body, "model": "other"}).json()["error"]
