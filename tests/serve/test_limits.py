"""Who may come, how often, how much; what the log and the metrics say of it."""

import json
import subprocess
import sys
import threading
import time

import httpx
import pytest

from herd.errors import ConfigError
from herd.serve.keys import KeyFile
from tests.serve.server import Server, serving


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    keys = KeyFile(folder / "keys.json")
    secrets = {
        "alice": keys.add("alice"),
        "slow": keys.add("slow", requests_per_minute=2),
        "single": keys.add("single", concurrency=1),
    }
    with serving(folder, "--keys", str(folder / "keys.json"), "--max-body", "20000", "--max-prompt", "600") as server:
        server.secrets, server.keys = secrets, keys
        yield server


def bearer(secret: str) -> dict[str, str]:
    return {"headers": {"Authorization": f"Bearer {secret}"}}


CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2}


def test_keys_are_asked_for_added_and_revoked_while_it_runs(guarded):
    assert guarded.post("/v1/chat/completions", CHAT).status_code == 401
    wrong = guarded.post("/v1/chat/completions", CHAT, **bearer("herd-wrong"))
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (401, "invalid_api_key")
    assert guarded.post("/v1/chat/completions", CHAT, **bearer(guarded.secrets["alice"])).status_code == 200
    bob = guarded.keys.add("bob")
    assert guarded.post("/v1/chat/completions", CHAT, **bearer(bob)).status_code == 200
    guarded.keys.revoke("bob")
    assert guarded.post("/v1/chat/completions", CHAT, **bearer(bob)).status_code == 401
    for open_path in ("/", "/health", "/docs", "/openapi.json", "/page/app.js"):
        assert httpx.get(guarded.url + open_path).status_code == 200
    for closed in ("/metrics", "/v1/models"):
        assert httpx.get(guarded.url + closed).status_code == 401


def new_record(server, before: int, seconds: float = 10) -> dict:
    """Alice's line of the log after the first `before`: it is written once the answer is on its way."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := [r for r in server.records()[before:] if r.get("key") == "alice"]:
            return found[-1]
        time.sleep(0.02)
    raise AssertionError("the log has no line of the request")


def test_secrets_are_neither_in_the_file_nor_in_the_log(guarded):
    before = len(guarded.records())
    guarded.post("/v1/chat/completions", CHAT, **bearer(guarded.secrets["alice"]))
    record = new_record(guarded, before)
    written = (guarded.log.parent / "keys.json").read_text() + guarded.log.read_text() + guarded.stderr()
    for secret in guarded.secrets.values():
        assert secret not in written
    assert (guarded.log.parent / "keys.json").stat().st_mode & 0o077 == 0
    assert record["status"] == 200
    assert record["key"] == "alice"
    assert record["completion_tokens"] == 2
    assert record["prompt_tokens"] > 2
    assert 0 < record["first_token_seconds"] <= record["seconds"]
    assert record["id"].startswith("req_")
    assert "Hi" not in json.dumps(record)


def test_a_key_has_its_own_rate(guarded):
    codes = [guarded.post("/v1/chat/completions", CHAT, **bearer(guarded.secrets["slow"])) for _ in range(3)]
    assert [c.status_code for c in codes] == [200, 200, 429]
    assert codes[2].json()["error"]["code"] == "rate_limit_exceeded"
    assert int(codes[2].headers["Retry-After"]) >= 1
    assert guarded.post("/v1/chat/completions", CHAT, **bearer(guarded.secrets["alice"])).status_code == 200


def test_a_key_has_its_own_concurrency(guarded):
    long = {"messages": CHAT["messages"], "max_tokens": 300, "ignore_eos": True}
    found = []

    def ask():
        found.append(guarded.post("/v1/chat/completions", long, **bearer(guarded.secrets["single"])).status_code)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 200 in found
    assert 429 in found
    ask()
    assert found[-1] == 200


def test_bodies_and_prompts_have_a_largest_size(guarded):
    options = bearer(guarded.secrets["alice"])
    big = {"messages": [{"role": "user", "content": "x " * 20_000}]}
    assert guarded.post("/v1/chat/completions", big, **options).status_code == 413

    def pieces():
        for _ in range(100):
            yield b"x" * 1000

    answer = httpx.post(guarded.url + "/v1/chat/completions", content=pieces(), timeout=30, **options)
    assert answer.status_code == 413
    long = {"messages": [{"role": "user", "content": "word " * 2000}]}
    refused = guarded.post("/v1/chat/completions", long, **options)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert guarded.post("/v1/completions", {"prompt": "word " * 2000}, **options).status_code == 400


def test_pages_of_other_sites_and_other_hosts_are_refused(server):
    assert server.chat().status_code == 200
    evil = server.post("/v1/chat/completions", CHAT, headers={"Origin": "https://evil.example"})
    assert (evil.status_code, evil.json()["error"]["code"]) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in evil.headers
    rebound = server.post("/v1/chat/completions", CHAT, headers={"Host": "evil.example"})
    assert rebound.status_code == 403
    for nonsense in ({"Host": "[::"}, {"Origin": "http://[::"}, {"Host": ""}):
        assert server.post("/v1/chat/completions", CHAT, headers=nonsense).status_code in (400, 403)
    own = server.post("/v1/chat/completions", CHAT, headers={"Origin": server.url})
    assert own.status_code == 200


def test_cors_when_it_is_switched_on(tmp_path):
    with serving(tmp_path, "--cors", "https://app.example") as server:
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        preflight = httpx.options(server.url + "/v1/chat/completions", headers=asked)
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        answer = server.post("/v1/chat/completions", CHAT, headers={"Origin": "https://app.example"})
        assert answer.headers["access-control-allow-origin"] == "https://app.example"
        assert server.post("/v1/chat/completions", CHAT, headers={"Origin": "https://b.example"}).status_code == 403


def test_the_queue_is_bounded_and_says_when_to_come_again(tmp_path):
    with serving(tmp_path, "--max-sequences", "1", "--max-waiting", "2", "--timeout", "60") as server:
        found = []

        def ask():
            found.append(server.chat(max_tokens=200, ignore_eos=True))

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        codes = {answer.status_code for answer in found}
        assert {200, 429} <= codes
        refused = next(a for a in found if a.status_code == 429)
        assert refused.json()["error"]["code"] == "queue_full"
        assert refused.headers["Retry-After"] == "1"
        late = server.chat(max_tokens=5000, ignore_eos=True, timeout=0.3)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")


def test_metrics_count_what_was_done(server):
    before = {name: server.metric(f"herd_{name}_total") for name in ("completion_tokens", "requests")}
    tokens = sum(server.chat().json()["usage"]["completion_tokens"] for _ in range(2))
    assert server.metric("herd_completion_tokens_total") == before["completion_tokens"] + tokens
    assert server.metric("herd_requests_total") > before["requests"]
    for name in (
        "herd_time_to_first_token_seconds_count",
        "herd_time_between_tokens_seconds_count",
        "herd_cached_prompt_tokens_total",
    ):
        assert server.metric(name) > 0
    assert server.metric("herd_sequences_running") == 0
    assert server.metric("herd_cache_blocks") == 512


def test_tokenize_models_and_the_description(server):
    tokens = server.post("/tokenize", {"text": "Hello, <|im_start|>"}).json()["tokens"]
    assert server.post("/detokenize", {"tokens": tokens}).json()["text"] == "Hello, <|im_start|>"
    asked = server.post("/tokenize", {"messages": CHAT["messages"]}).json()
    assert asked["count"] == len(asked["tokens"]) > 5
    assert server.post("/detokenize", {"tokens": [10**9]}).status_code == 400
    model = httpx.get(server.url + "/v1/models").json()["data"][0]
    assert (model["id"], model["context_length"]) == ("smollm2-135m", 8192)
    assert httpx.get(server.url + "/v1/models/none").status_code == 404
    assert httpx.get(server.url + "/nowhere").json()["error"]["type"] == "not_found_error"
    spec = httpx.get(server.url + "/openapi.json").json()
    assert spec["openapi"] == "3.1.0"
    for path, methods in spec["paths"].items():
        for method in methods:
            answer = httpx.request(
                method, server.url + path.replace("{name}", "smollm2-135m"), json={} if method == "post" else None
            )
            assert answer.status_code == (400 if method == "post" else 200), path
            assert path in httpx.get(server.url + "/docs").text
    fields = spec["components"]["schemas"]["ChatRequest"]["properties"]
    assert {"messages", "tools", "response_format", "stream_options", "min_p"} <= set(fields)


@pytest.mark.parametrize(
    "flags,said",
    [
        (["--port", "99999"], "cannot listen"), (["--host", "999.1.1.1"], "cannot listen"), (["--replicas", "0"], "replicas"),
        (["--timeout", "0"], "timeout"), (["--ssl-cert", "x"], "go together"), (["--tools", "rm"], "--tools rm"),
        (["--tools", "search"], "--documents"), (["--mcp", "none.json"], "mcpServers"), (["--keys", "none.json"], "herd keys add"),
        (["--ssl-cert", "none.pem", "--ssl-key", "none.pem"], "ssl-cert"), (["--log", "/nowhere/x"], "--log"),
    ],
)  # fmt: skip
def test_mistakes_of_the_operator_are_one_line(flags, said, tmp_path):
    command = [sys.executable, "-m", "herd", "serve", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("herd: ")]
    assert said in lines[-1]
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line(server, tmp_path):
    second = Server(tmp_path, "--port", server.url.rsplit(":", 1)[1], wait=False)
    assert second.process.wait(60) == 2
    assert "Address already in use" in second.stderr()


def test_keys_on_the_command_line(tmp_path):
    def keys(*words):
        command = [sys.executable, "-m", "herd", "keys", *words, "--keys", str(tmp_path / "k.json")]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    secret = keys("add", "alice", "--requests-per-minute", "60").stdout.strip()
    assert KeyFile(tmp_path / "k.json").find(secret).name == "alice"
    assert keys("add", "alice").returncode == 2
    assert "60 a minute" in keys("list").stdout
    assert keys("revoke", "alice").returncode == 0
    assert KeyFile(tmp_path / "k.json").find(secret) is None
    assert keys("revoke", "alice").returncode == 2
    (tmp_path / "k.json").write_text("{")
    with pytest.raises(ConfigError, match="not a file of keys"):
        KeyFile(tmp_path / "k.json").keys()
