"""Several models behind one server: loaded when asked for, dropped when idle, each with its own line."""

import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import numpy as np
import openai
import pytest

from herd.cli.common import open_model
from herd.family import ModelConfig
from herd.weights.memory import free_memory
from herd.weights.save import save
from tests.serve.server import serving

CONFIG = ModelConfig(
    dim=256, layers=2, heads=4, kv_heads=4, head_dim=64, ffn_dim=128, vocab=49152, context=8192, rope_theta=1e4, tied=True
)  # fmt: skip
SAY = {"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 8, "temperature": 0}
LONG = {**SAY, "max_tokens": 700, "ignore_eos": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Two models of random weights, with a real tokenizer and template."""
    folder, known = tmp_path_factory.mktemp("models"), open_model()
    for seed, name in enumerate(("one", "two", "three")):
        rng = np.random.default_rng(seed)
        tensors = {
            tensor: np.ones(shape, np.float32) if len(shape) == 1
            else (rng.standard_normal(shape) / np.sqrt(shape[1])).astype(np.float32)
            for tensor, shape in CONFIG.tensor_shapes().items()
        }  # fmt: skip
        save(
            folder / f"{name}.gguf", CONFIG, tensors, kind="gguf", tokenizer=known.tokenizer,
            template=known.chat_template, weights="F16",
        )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def several(files, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    flags = ("--resident", "1", "--max-waiting", "3", "--safety", "off", "--tools", "calculator")
    with serving(folder, *(str(files / f"{name}.gguf") for name in ("one", "two", "three")), *flags) as server:
        yield server


def states(server) -> dict[str, str]:
    return {model["id"]: model["state"] for model in httpx.get(server.url + "/health").json()["models"]}


def ask(server, model: str, **fields) -> httpx.Response:
    return server.post("/v1/chat/completions", {**SAY, "model": model, **fields})


@contextmanager
def answering(server, model: str, **fields):
    """While a model writes a long reply. Gives its lines; at the end it is whole."""
    lines, begun = [], threading.Event()

    def read():
        body = {**LONG, "model": model, "stream": True, **fields}
        with httpx.stream("POST", server.url + "/v1/chat/completions", json=body, timeout=120) as answer:
            for line in answer.iter_lines():
                lines.append((time.monotonic(), line))
                if len(lines) > 20:
                    begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(60)
    yield lines
    reader.join(120)
    assert lines[-2][1] == "data: [DONE]"
    assert sum('"content"' in line for _, line in lines) > 500, "the reply was cut"


def test_models_are_listed_and_loaded_when_asked_for(several):
    client = openai.OpenAI(base_url=several.url + "/v1", api_key="none", max_retries=0)
    listed = client.models.list().data
    assert [model.id for model in listed] == ["one", "two", "three"]
    assert {model.context_length for model in listed} == {8192}
    assert [tool["name"] for tool in listed[1].tools] == ["calculator"]
    texts: dict[str, set[str]] = {}
    for name in ("one", "two", "one", "two"):
        answer = client.chat.completions.create(**SAY, model=name, extra_body={"logprobs": True})
        assert answer.model == name
        texts.setdefault(name, set()).add(answer.choices[0].message.content)
        assert states(several) == {
            other: "loaded" if other == name else "unloaded" for other in ("one", "two", "three")
        }
        assert client.models.retrieve(name).state == "loaded"
    assert all(len(found) == 1 for found in texts.values()), texts  # of greedy decoding
    assert texts["one"] != texts["two"]
    assert [m["name"] for m in httpx.get(several.url + "/api/tags").json()["models"]] == [
        "one:latest",
        "two:latest",
        "three:latest",
    ]
    assert [m["name"] for m in httpx.get(several.url + "/api/ps").json()["models"]] == ["two:latest"]
    assert several.post("/v1/completions", {"prompt": "Hi", "max_tokens": 1}).json()["model"] == "one"  # the first
    counted = httpx.get(several.url + "/metrics").text
    assert 'herd_model_loaded{model="one"} 1.0' in counted
    assert 'herd_model_loaded{model="two"} 0.0' in counted
    assert 'herd_completion_tokens_total{model="two"} 16.0' in counted


def test_a_name_that_is_not_there_is_a_404(several):
    with pytest.raises(openai.NotFoundError, match="expected 'one', 'two', 'three'") as caught:
        openai.OpenAI(base_url=several.url + "/v1", api_key="none").chat.completions.create(**SAY, model="four")
    assert caught.value.code == "model_not_found"
    for path, body in (("/api/chat", SAY["messages"]), ("/v1/messages", SAY["messages"]), ("/v1/responses", None)):
        fields = {"input": "Hi"} if body is None else {"messages": body}
        fields |= {"max_tokens": 8} if path == "/v1/messages" else {}
        assert several.post(path, {"model": "four", **fields}).status_code == 404, path


def test_a_request_waits_in_its_models_own_line_while_another_answers(several):
    assert ask(several, "one").status_code == 200
    with answering(several, "one") as lines:
        answers: list[tuple[float, httpx.Response]] = []

        def wait(model: str):
            answer = ask(several, model)
            answers.append((time.monotonic(), answer))

        waiting = [threading.Thread(target=wait, args=("two",)) for _ in range(5)]
        for one in waiting:
            one.start()
        late = ask(several, "three", timeout=0.3)
        assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
        assert states(several)["one"] == "loaded"
        begun = time.monotonic()
        assert httpx.get(several.url + "/health").status_code == 200
        assert time.monotonic() - begun < 5
        same = threading.Thread(target=wait, args=("one",))  # comes after those for the other: its turn is after theirs
        same.start()
        for one in (*waiting, same):
            one.join(120)
    full = [answer for _, answer in answers if answer.status_code == 429]
    assert len(full) == 2
    assert {answer.json()["error"]["code"] for answer in full} == {"queue_full"}
    served = [(at, answer.json()["model"]) for at, answer in answers if answer.status_code == 200]
    assert sorted(model for _, model in served) == ["one", "two", "two", "two"]
    assert min(at for at, model in served if model == "two") > lines[-2][0]
    assert served[-1][1] == "one"


def test_who_leaves_the_line_costs_no_model_its_place(several):
    assert ask(several, "one").status_code == 200
    before = several.metric("herd_model_loads_total")
    with answering(several, "one"), pytest.raises(httpx.ReadTimeout):
        httpx.post(several.url + "/v1/chat/completions", json={**SAY, "model": "two"}, timeout=0.5)
    assert ask(several, "one").status_code == 200
    assert several.metric("herd_model_loads_total") == before


def test_a_model_that_cannot_be_loaded_is_its_requests_error(files, several):
    whole = (files / "three.gguf").read_bytes()
    (files / "three.gguf").write_bytes(whole[: len(whole) // 2])
    assert ask(several, "two").status_code == 200
    refused = ask(several, "three")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "model_not_loaded")
    assert "'three' cannot be loaded" in refused.json()["error"]["message"]
    assert refused.headers["Retry-After"] == "10"
    (files / "three.gguf").write_bytes(whole)
    assert ask(several, "three").status_code == 503  # not tried again at once
    assert states(several)["three"] == "failed"
    assert ask(several, "two").status_code == 200
    assert "Traceback" not in several.stderr()


def test_memory_that_loaded_models_may_come_to_use_is_not_free(files, tmp_path):
    context = int(0.6 * free_memory()) // CONFIG.kv_bytes_per_token(2.0)
    names = [str(files / f"{name}.gguf") for name in ("one", "two")]
    flags = ("--resident", "2", "--context", str(context), "--safety", "off")
    with serving(tmp_path, *names, *flags) as server:
        assert ask(server, "two").status_code == 200
        assert states(server) == {"one": "unloaded", "two": "loaded"}
        assert ask(server, "one").status_code == 200
        assert states(server) == {"one": "loaded", "two": "unloaded"}


def test_several_in_memory_and_the_longest_unused_goes(files, tmp_path):
    names = [str(files / f"{name}.gguf") for name in ("one", "two", "three")]
    with serving(tmp_path, *names, "--resident", "2", "--context", "512", "--idle", "3", "--safety", "off") as server:
        for name in ("two", "one", "three"):
            assert ask(server, name).status_code == 200
        assert states(server) == {"one": "loaded", "two": "unloaded", "three": "loaded"}
        deadline = time.monotonic() + 60
        while "loaded" in states(server).values():
            assert time.monotonic() < deadline, states(server)
            time.sleep(0.1)
        assert ask(server, "one").status_code == 200


@pytest.mark.parametrize(
    "flags,said",
    [
        (("a/m.gguf", "b/m.gguf"), "called 'm' again"), (("x.gguf", "y.gguf", "--name", "a"), "1 names to 2 models"),
        (("smollm2-135m", "none.gguf"), "none.gguf"), (("x", "y", "--draft", "z"), "--draft lookup"),
        (("x", "--resident", "0"), "--resident"), (("x", "--idle", "0"), "--idle"),
    ],
)  # fmt: skip
def test_mistakes_with_several_models_are_one_line(flags, said):
    command = [sys.executable, "-m", "herd", "serve", "--port", "0", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
