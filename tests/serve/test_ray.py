"""The Ray deployment with two replicas on this machine. Needs ray (`make test-all` installs it)."""

import socket
from pathlib import Path

import httpx
import pytest

pytestmark = pytest.mark.slow


def test_two_replicas_answer_at_one_address(smollm):
    ray = pytest.importorskip("ray")
    serve = pytest.importorskip("ray.serve")
    from herd.serve.ray import app

    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(app({"model": str(Path(smollm.path)), "replicas": "2", "threads": "1"}))
        deployment = serve.status().applications["default"].deployments["Herd"]
        assert deployment.replica_states == {"RUNNING": 2}
        body = {"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 8, "temperature": 0}
        url = f"http://127.0.0.1:{port}/v1/chat/completions"
        answers = {httpx.post(url, json=body, timeout=60).json()["choices"][0]["message"]["content"] for _ in range(8)}
        assert len(answers) == 1
        with httpx.stream("POST", url, json={**body, "stream": True}, timeout=60) as stream:
            assert [line for line in stream.iter_lines() if line][-1] == "data: [DONE]"
        assert httpx.post(url, json={"messages": []}).status_code == 400
    finally:
        serve.shutdown()
        ray.shutdown()
