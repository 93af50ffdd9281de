"""What a stream has, and when: the role at once, pings while nothing else comes, no chunks for HTTP/1.0."""

import json
import socket
import time

import httpx
import pytest

LONG = "word " * 6000


def lines(server, path, body):
    """Each line of a stream, with the seconds after which it came."""
    begun = time.monotonic()
    with httpx.stream("POST", server.url + path, json={**body, "stream": True}, timeout=120) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line:
                yield time.monotonic() - begun, line


def test_the_role_comes_before_a_long_prompt_is_computed_and_pings_keep_the_line_open(server):
    found = list(
        lines(server, "/v1/chat/completions", {"messages": [{"role": "user", "content": LONG}], "max_tokens": 2})
    )
    role, content = found[0], next(one for one in found if '"content":"' in one[1] and '"role"' not in one[1])
    assert json.loads(role[1][6:])["choices"][0]["delta"]["role"] == "assistant"
    assert role[0] < content[0] / 2
    if content[0] - role[0] > 6:  # on a machine that is slow enough
        assert any(line == ": ping" for _, line in found)
    assert found[-1][1] == "data: [DONE]"


def test_a_truncated_response_is_incomplete_and_calls_begin_empty(client):
    make = client.responses.create
    events = list(make(model="smollm2-135m", input="Tell me a story.", max_output_tokens=5, stream=True))
    assert (events[-1].type, events[-1].response.status) == ("response.incomplete", "incomplete")
    assert events[-1].response.output[0].status == "incomplete"
    tool = {"type": "function", "name": "pick", "parameters": {"type": "object", "properties": {"n": {"enum": [11, 22]}}, "required": ["n"], "additionalProperties": False}}  # fmt: skip
    events = list(make(model="smollm2-135m", input="Pick.", tools=[tool], tool_choice="required", parallel_tool_calls=False, stream=True))  # fmt: skip
    added = next(event for event in events if event.type == "response.output_item.added")
    assert added.item.arguments == ""
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    done = next(event for event in events if event.type == "response.function_call_arguments.done")
    assert len(deltas) > 1
    assert "".join(deltas) == done.arguments == events[-1].response.output[0].arguments


@pytest.mark.parametrize("stream", [True, False])
def test_http_1_0_gets_no_chunks(server, stream):
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "stream": stream}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.0\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        answer = b""
        while part := sock.recv(65536):
            answer += part
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    if stream:
        assert rest.startswith(b"data: {")
        assert rest.endswith(b"data: [DONE]\n\n")
    else:
        assert json.loads(rest)["object"] == "chat.completion"
