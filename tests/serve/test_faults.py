"""What goes wrong in the world: clients that vanish, signals, killed replicas, full disks, nonsense."""

import asyncio
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import pytest

from tests.serve.server import Server, serving

LONG = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 4000, "ignore_eos": True}


def until(condition, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_frees_its_blocks(server, stream):
    body = json.dumps({**LONG, "stream": stream}).encode()
    host, port = server.url.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    client.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    until(lambda: server.metric("herd_sequences_running") == 1)
    if stream:
        client.recv(1000)
    client.close()
    until(lambda: server.metric("herd_sequences_running") == 0, 3)
    assert server.metric("herd_requests_in_flight") == 0
    assert any(record["status"] in (200, 499) for record in server.records())


def test_sigterm_lets_replies_end_and_exits_0(tmp_path):
    with serving(tmp_path) as server:
        found = []
        thread = threading.Thread(target=lambda: found.append(server.chat(max_tokens=400, ignore_eos=True)))
        thread.start()
        until(lambda: server.metric("herd_sequences_running") == 1)
        os.kill(server.process.pid, signal.SIGTERM)
        time.sleep(0.3)
        with pytest.raises(httpx.ConnectError):
            httpx.get(server.url + "/health")
        thread.join()
        assert found[0].status_code == 200
        assert found[0].json()["usage"]["completion_tokens"] == 400
        assert server.process.wait(20) == 0


def test_the_grace_period_ends_and_a_second_signal_ends_at_once(tmp_path):
    for grace, signals in (("1", 1), ("60", 2)):
        folder = tmp_path / grace
        folder.mkdir()
        with serving(folder, "--grace", grace) as server:
            thread = threading.Thread(target=_ignore, args=(server,))
            thread.start()
            until(lambda s=server: s.metric("herd_sequences_running") == 1)
            begun = time.monotonic()
            os.kill(server.process.pid, signal.SIGTERM)
            if signals == 2:
                time.sleep(0.5)
                os.kill(server.process.pid, signal.SIGTERM)
            status = server.process.wait(20)
            assert time.monotonic() - begun < 6
            assert status == (0 if signals == 1 else 128 + signal.SIGTERM)
            thread.join()


def _ignore(server: Server) -> None:
    try:
        server.post("/v1/chat/completions", LONG)
    except httpx.HTTPError:
        return


def test_a_killed_replica_is_replaced_while_others_answer(tmp_path):
    with serving(tmp_path, "--replicas", "2", "--threads", "1") as server:
        until(lambda: server.stderr().count(" at http") == 2, 30)
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(server.process.pid)], capture_output=True, text=True
        ).stdout.split()
        assert len(children) == 2
        stop, codes, lost = threading.Event(), [], []

        def load():
            while not stop.is_set():
                try:
                    codes.append(server.chat(max_tokens=4).status_code)
                except httpx.HTTPError as error:
                    lost.append(error)

        threads = [threading.Thread(target=load) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(1)
        os.kill(int(children[0]), signal.SIGKILL)
        before = len(codes)
        until(lambda: server.stderr().count(" at http") == 3, 30)
        assert len(codes) > before
        time.sleep(1)
        stop.set()
        for thread in threads:
            thread.join()
        assert set(codes) == {200}
        assert len(lost) <= 4  # the killed one's own
        assert server.metric("herd_requests_total") > 0
        assert server.stop() == 0
    left = [pid for pid in children if os.path.exists(f"/proc/{pid}")]
    assert left == []


def test_a_full_disk_for_the_log_costs_no_request(tmp_path):
    server = Server(tmp_path, "--log", "/dev/full")
    try:
        assert server.chat(max_tokens=2).status_code == 200
        assert server.chat(max_tokens=2).status_code == 200
        assert server.metric("herd_log_errors_total") >= 2
    finally:
        server.stop()


def test_slow_readers_do_not_stall_others(server):
    host, port = server.url.removeprefix("http://").split(":")
    body = json.dumps({**LONG, "max_tokens": 300, "stream": True}).encode()
    slow = socket.create_connection((host, int(port)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    slow.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    )
    begun = time.monotonic()
    for _ in range(5):
        assert slow.recv(1)
        assert server.chat(max_tokens=4).status_code == 200
    assert time.monotonic() - begun < 20
    slow.close()
    until(lambda: server.metric("herd_sequences_running") == 0)


def test_two_thousand_idle_connections(server):
    host, port = server.url.removeprefix("http://").split(":")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
    idle = [socket.create_connection((host, int(port))) for _ in range(2000)]
    try:
        for sock in idle[:1000]:
            sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\n")  # and never the rest
        assert server.chat(max_tokens=4).status_code == 200
        assert httpx.get(server.url + "/health").status_code == 200
    finally:
        for sock in idle:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.chat(max_tokens=4).status_code == 200


def _bodies(count: int):
    """Bodies that are nearly right: bytes changed, cut or doubled, values of wrong kinds, deep nesting."""
    chance = random.Random(1)
    good = {
        "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1, "temperature": 0.5, "n": 1, "stop": ["x"], "seed": 1,
        "logprobs": True, "top_logprobs": 1, "logit_bias": {"5": 1}, "stream": False, "response_format": {"type": "json_object"},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}], "tool_choice": "auto",
    }  # fmt: skip
    odd = [None, True, -1, 0, 1e308, 2**70, "", "x" * 300, [], {}, [[]], {"a": []}, "\ud800", [1, "a"], float("nan")]
    nested = b'{"messages":' + b"[" * 5000 + b"]" * 5000 + b"}"
    yield nested
    yield b'{"tools":' + b'{"a":' * 3000 + b"1" + b"}" * 3000 + b"}"
    for _ in range(count - 2):
        if chance.random() < 0.5:
            body = dict(good)
            for _ in range(chance.randint(1, 3)):
                body[chance.choice([*good, "model", "timeout", "priority", "regex", "grammar", "prompt", "input"])] = (
                    chance.choice(odd)
                )
            if body["max_tokens"] is None:  # no limit is no nonsense, and may take the whole context
                body["max_tokens"] = 1
            data = json.dumps(body).encode()
        else:
            data = bytearray(json.dumps({"messages": good["messages"], "max_tokens": 1}).encode())
            for _ in range(chance.randint(1, 6)):
                at = chance.randrange(len(data))
                data[at : at + chance.randint(0, 3)] = bytes(chance.randrange(256) for _ in range(chance.randint(0, 3)))
            data = bytes(data)
        yield data


async def _fuzz(url: str, count: int) -> dict[int, int]:
    paths = ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/detokenize"]
    found: dict[int, int] = {}
    bodies = iter(enumerate(_bodies(count)))
    async with httpx.AsyncClient(timeout=60) as client:

        async def work():
            for i, body in bodies:
                answer = await client.post(url + (paths[0] if i < 2 or i % 2 else paths[i // 2 % 5]), content=body)
                found[answer.status_code] = found.get(answer.status_code, 0) + 1
                if answer.status_code != 200:
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, body

        await asyncio.gather(*(work() for _ in range(16)))
    return found


@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
def test_bodies_of_nonsense_never_make_a_500(server, count):
    found = asyncio.run(_fuzz(server.url, count))
    assert sum(found.values()) == count
    assert set(found) <= {200, 400, 404}, found
    assert found[400] > count / 4
    assert server.chat(max_tokens=2).status_code == 200
    assert "Traceback" not in server.stderr()


def test_http_of_nonsense_is_refused(server):
    host, port = server.url.removeprefix("http://").split(":")
    chance = random.Random(2)
    lines = [
        b"", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n{}", b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /%ff%00/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        *(bytes(chance.randrange(256) for _ in range(200)) for _ in range(50)),
    ]  # fmt: skip
    for line in lines:
        with socket.create_connection((host, int(port)), timeout=5) as sock:
            sock.settimeout(5)
            sock.sendall(line)
            sock.shutdown(socket.SHUT_WR)
            answer = b""
            try:
                while part := sock.recv(65536):
                    answer += part
            except (ConnectionError, TimeoutError):
                pass
            status = re.match(rb"HTTP/1\.1 (\d+)", answer)
            assert status is None or status[1] != b"500", line[:80]
            assert b"root:" not in answer
    assert server.chat(max_tokens=2).status_code == 200


def test_the_server_says_it_is_not_ready_while_it_loads(tmp_path):
    command = [sys.executable, "-c", _SLOW_LOAD]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        port = int(process.stdout.readline())
        url = f"http://127.0.0.1:{port}"
        until(lambda: _status(url + "/health") is not None)
        assert _status(url + "/health") == 503
        refused = httpx.post(url + "/v1/chat/completions", json=LONG)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "loading")
        assert refused.headers["Retry-After"]
        until(lambda: _status(url + "/health") == 200, 30)
    finally:
        process.terminate()
        process.wait(20)


def _status(url: str) -> int | None:
    try:
        return httpx.get(url).status_code
    except httpx.HTTPError:
        return None


_SLOW_LOAD = """
import time
from herd.cli.common import open_model
from herd.engine.open import open_engine
from herd.serve.app import create_app
from herd.serve.gate import GateSettings
from herd.serve.models import Models
from herd.serve.served import Served
from herd.serve.server import bind, serve
from herd.weights.presets import preset_for

def load(metrics):
    time.sleep(2)
    checkpoint = open_model("smollm2-135m")
    return Models.of(Served("m", open_engine(checkpoint), None, preset_for(checkpoint), metrics))

sock = bind("127.0.0.1", 0)
print(sock.getsockname()[1], flush=True)
serve(create_app(load, GateSettings()), sock)()
"""
