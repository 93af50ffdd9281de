"""One user's hostile requests beside another's: the other goes on, and /health answers."""

import copy
import itertools
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from statistics import mean

import httpx
import pytest

from tests.serve.attack import HOSTILE
from tests.serve.server import Server, serving
from tests.serve.test_clients import TRAFFIC

MCP = """
from typing import Annotated
from mcp.server.mcpserver import MCPServer
from pydantic import Field
server = MCPServer("odd")

@server.tool()
async def hang() -> str:
    "Takes its time."
    import asyncio
    await asyncio.sleep(100)
    return "done"

@server.tool()
def odd(a: Annotated[str, Field(json_schema_extra={"pattern": "^(?=x)y"})]) -> str:
    "Has a schema that nothing can be held to."
    return a

server.run("stdio")
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    (folder / "odd.py").write_text(MCP)
    (folder / "mcp.json").write_text(
        json.dumps({"mcpServers": {"odd": {"command": sys.executable, "args": [str(folder / "odd.py")]}}})
    )
    with serving(folder, "--mcp", str(folder / "mcp.json")) as server:
        yield server


def gaps(server: Server, count: int = 60) -> list[float]:
    """Seconds between the tokens of a reply."""
    body = {
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": count,
        "ignore_eos": True,
        "tool_choice": "none",
        "stream": True,
    }
    times = []
    with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=120) as answer:
        for line in answer.iter_lines():
            if line.startswith("data: {"):
                times.append(time.monotonic())
    return [b - a for a, b in itertools.pairwise(times[2:])]


@contextmanager
def attacked(server: Server, kind: str):
    """While hostile requests come. Gives how long `/health` took each time."""
    seconds, stop = [], threading.Event()

    def watch():
        with httpx.Client(timeout=30) as client:
            while not stop.wait(0.02):
                begun = time.monotonic()
                assert client.get(server.url + "/health").status_code == 200
                seconds.append(time.monotonic() - begun)

    watching = threading.Thread(target=watch)
    command = [sys.executable, "-m", "tests.serve.attack", server.url, kind]
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    watching.start()
    try:
        time.sleep(1.5)  # until it has begun
        yield seconds
    finally:
        stop.set()
        watching.join(60)
        process.kill()
        process.wait(30)


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=() if k == "hanging tool" else pytest.mark.slow) for k in HOSTILE]
)
def test_a_hostile_request_does_not_hold_up_others(shared, kind):
    alone = min(mean(gaps(shared)) for _ in range(2))
    with attacked(shared, kind) as health:
        beside = gaps(shared)
    print(
        f"| {kind} | {alone * 1000:.1f} ms | {mean(beside) * 1000:.1f} ms | {mean(beside) / alone:.1f} | "
        f"{max(beside) * 1000:.0f} ms | {max(health) * 1000:.0f} ms |"
    )
    assert mean(beside) < 5 * 3 * alone  # the bar is 3; the machine may be busy with other tests
    assert max(health) < 5 * 0.1


def test_a_tool_that_cannot_be_offered_is_left_out_and_said(shared):
    assert "the tool 'odd' cannot be offered" in shared.stderr()
    health = httpx.get(shared.url + "/health").json()
    assert (health["status"], set(health["tools_left_out"])) == ("ok", {"odd"})
    assert [tool["name"] for tool in httpx.get(shared.url + "/v1/models").json()["data"][0]["tools"]] == ["hang"]
    assert shared.chat().status_code == 200


def test_a_hanging_call_ends_with_its_request(shared):
    begun = time.monotonic()
    answer = shared.chat(**{**HOSTILE["hanging tool"], "timeout": 2})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")
    assert time.monotonic() - begun < 10


def test_each_reply_counts_for_queue_rate_and_concurrency(tmp_path):
    with serving(tmp_path, "--max-waiting", "40", "--concurrency", "100", "--requests-per-minute", "300") as server:
        prompts = {"prompt": ["Hi"] * 64, "n": 2, "max_tokens": 1}
        assert server.post("/v1/completions", prompts).json()["error"]["code"] == "concurrency_exceeded"
        full = server.post("/v1/completions", {**prompts, "n": 1, "prompt": ["Hi"] * 60})
        assert (full.status_code, "at most 40" in full.json()["error"]["message"]) == (400, True), full.text
        codes = [server.post("/v1/completions", {"prompt": "Hi", "n": 90, "max_tokens": 0}) for _ in range(4)]
        assert "rate_limit_exceeded" in {c.json().get("error", {}).get("code") for c in codes}


def test_a_revoked_keys_reply_ends(tmp_path):
    from herd.serve.keys import KeyFile

    keys = KeyFile(tmp_path / "keys.json")
    secret = keys.add("alice")
    with serving(tmp_path, "--keys", str(tmp_path / "keys.json")) as server:
        head = {"Authorization": f"Bearer {secret}"}
        for stream in (True, False):
            keys.revoke("alice") if stream is False else None
            body = {
                "messages": [{"role": "user", "content": "Hi"}],
                "max_tokens": 4000,
                "ignore_eos": True,
                "stream": True,
            }
            if stream:
                with httpx.stream(
                    "POST", server.url + "/v1/chat/completions", json=body, headers=head, timeout=60
                ) as answer:
                    lines = answer.iter_lines()
                    next(lines)
                    keys.revoke("alice")
                    rest = "".join(lines)
                assert "the key was revoked" in rest
                secret = keys.add("alice")
                head = {"Authorization": f"Bearer {secret}"}
        assert httpx.post(server.url + "/v1/chat/completions", json=body, headers=head).status_code == 401


def test_settings_of_a_file_are_those_of_flags(tmp_path):
    (tmp_path / "serve.toml").write_text(
        'name = "llama"\nmax_prompt = 40\nlog_prompts = true\npreset = false\nroot_path = "/llm"\n'
    )
    with serving(tmp_path, "--config", str(tmp_path / "serve.toml"), "--max-prompt", "50") as server:
        (listed,) = httpx.get(server.url + "/v1/models").json()["data"]
        assert (listed["id"], listed["preset_applied"]) == ("llama", False)
        assert httpx.get(server.url + "/llm").headers["location"] == "/llm/"
        for path in (
            "/llm/v1/models",
            "/llm/v1/models/",
            "/llm/",
            "/llm/page/app.js",
            "/llm/docs",
            "/llm/page/docs.css",
        ):
            assert httpx.get(server.url + path).status_code == 200, path
        assert 'src="page/app.js"' in httpx.get(server.url + "/llm/").text
        answer = server.chat("word " * 45)
        assert "this server takes 50" in answer.json()["error"]["message"]
        bare = server.post("/tokenize", {"messages": [{"role": "user", "content": "Hi"}]}).json()["count"]
        assert server.chat("Hi").json()["usage"]["prompt_tokens"] == bare  # no preset
        assert any("body" in record for record in server.records())  # the line of an answer comes after it
    (tmp_path / "serve.toml").write_text("max_prompt = '40'\n")
    refused = Server(tmp_path, "--config", str(tmp_path / "serve.toml"), wait=False)
    assert refused.process.wait(60) == 2
    assert "max_prompt" in refused.stderr()


def mutated(count: int, seed: int):
    """Recorded bodies with values that are changed, moved, doubled or taken away."""
    import random

    chance = random.Random(seed)
    odd = [None, True, -1, 0, 1e308, 2**70, "", "x" * 300, [], {}, [[]], {"a": []}, "\ud800", [1, "a"], "<|im_end|>"]

    def places(value, found):
        for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
            found.append((value, key))
            places(value[key], found)
        return found

    for _ in range(count):
        one = json.loads(json.dumps(chance.choice(TRAFFIC)))
        for _ in range(chance.randint(1, 3)):
            holder, key = chance.choice(places(one["body"], []))
            if chance.random() < 0.6:
                holder[key] = copy.deepcopy(chance.choice(odd))
            elif isinstance(holder, dict):
                del holder[key]
            else:
                holder.append(copy.deepcopy(holder[key]))
            if not one["body"]:
                break
        one["body"]["timeout" if one["path"].startswith("/v1/c") else "stream"] = (
            20 if one["path"].startswith("/v1/c") else False
        )
        yield one["path"], json.dumps(one["body"])


@pytest.mark.parametrize("count", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_mutated_traffic_never_makes_a_500(tmp_path, count):
    found: dict[int, int] = {}
    slowest = 0.0
    # The server's own time-out, since not every body can name one: a reply without a limit runs to the end of the context.
    with serving(tmp_path, "--max-waiting", "64", "--timeout", "20") as server, httpx.Client(timeout=60) as client:
        for path, body in mutated(count, 7):
            begun = time.monotonic()
            answer = client.post(server.url + path, content=body.encode("utf-8", "surrogatepass"))
            slowest = max(slowest, time.monotonic() - begun)
            assert answer.status_code in (200, 400, 404, 504), (path, body, answer.text)
            found[answer.status_code] = found.get(answer.status_code, 0) + 1
        said = server.stderr()
    print(f"{count:,} bodies: {found}, the slowest {slowest:.1f} s")
    assert slowest < 20 + 5 * 1  # the time-out, and five times the second that it may be late by
    assert found[200] > count / 10
    assert found[400] > count / 10
    assert "Traceback" not in said
