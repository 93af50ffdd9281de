"""A real server with a Shield: what it stops in every form of its API, what passes untouched, and what its responses say."""

import json

import httpx
import openai
import pytest

from herd import chain
from herd.safety.shield import LANGUAGES, _refusals
from tests.safety.test_shield import CLEAN, HOSTILE, INSECURE, POISON, re_escaped
from tests.serve.server import Server, serving

ROOF = {"max_tokens": 12, "temperature": 0}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "notes").mkdir()
    (folder / "notes" / "hall.txt").write_text(POISON)
    policy = folder / "policy.toml"
    from herd.safety.policy import _HERE

    policy.write_text(f'base = "{_HERE / "block.toml"}"\n[audit]\npath = "{folder / "audit.jsonl"}"\n')
    with serving(folder, "--safety", str(policy), "--documents", str(folder / "notes"), "--threads", "1") as running:
        running.audit = folder / "audit.jsonl"
        yield running


@pytest.fixture(scope="module")
def talk(guarded):
    return openai.OpenAI(base_url=guarded.url + "/v1", api_key="none", max_retries=0)


def test_clean_conversations_pass_untouched_in_each_language(guarded, server):
    for text in CLEAN.values():
        dialog = [{"role": "user", "content": text}, {"role": "assistant", "content": "Paris."}, {"role": "user", "content": text}]  # fmt: skip
        body = {"messages": dialog, "tool_choice": "none", **ROOF}
        one, other = (s.post("/v1/chat/completions", body).json() for s in (guarded, server))
        assert one["choices"] == other["choices"]
        assert "safety" not in one


@pytest.mark.parametrize("name", LANGUAGES)
def test_an_unsafe_request_gets_a_refusal_in_its_language(talk, name):
    messages = [{"role": "user", "content": HOSTILE[name]}]
    whole = talk.chat.completions.create(model="", messages=messages, **ROOF)
    (choice,) = whole.choices
    assert (choice.finish_reason, choice.message.content) == ("content_filter", _refusals()["question"][name])
    assert whole.safety["action"] == "block"
    assert whole.safety["fired"][0]["check"] == "prompt_guard"
    chunks = list(talk.chat.completions.create(model="", messages=messages, stream=True, **ROOF))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == _refusals()["question"][name]
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert chunks[-1].safety["action"] == "block"


def test_insecure_code_is_stopped_mid_stream(guarded, talk):
    body = {"regex": re_escaped(INSECURE + "x" * 4000), "tool_choice": "none"}
    messages = [{"role": "user", "content": "Please write a short program."}]
    before = guarded.metric("herd_completion_tokens_total")
    chunks = list(talk.chat.completions.create(model="", messages=messages, stream=True, max_tokens=600, extra_body=body))  # fmt: skip
    said = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert "name = input()\n" in said
    assert "os.system" not in said
    assert said.endswith(_refusals()["answer"]["en"])
    assert chunks[-1].choices[0].finish_reason == "content_filter"
    assert "CWE-78" in chunks[-1].safety["fired"][-1]["detail"]
    assert guarded.metric("herd_completion_tokens_total") - before < 120  # it was not computed to its end
    assert guarded.metric("herd_safety_fired_total") > 0


def test_an_injection_in_a_tools_result_is_stopped(guarded):
    call = {"id": "c1", "type": "function", "function": {"name": "read_mail", "arguments": "{}"}}
    dialog = [
        {"role": "user", "content": "What is in my mail?"}, {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": POISON},
    ]  # fmt: skip
    answer = guarded.post("/v1/chat/completions", {"messages": dialog, "tool_choice": "none", **ROOF}).json()
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    (fired,) = answer["safety"]["fired"]
    assert (fired["where"], fired["check"], fired["action"]) == ("result", "prompt_guard", "block")
    shown = {"messages": dialog, "tool_choice": "none", "max_tokens": 1}
    clean = [*dialog[:2], {**dialog[2], "content": "[withheld: the text gives orders to an assistant]"}]
    tokens = [guarded.post("/v1/chat/completions", {**shown, "messages": m}).json()["usage"]["prompt_tokens"] for m in (dialog, clean)]  # fmt: skip
    assert tokens[0] == tokens[1]  # the model read that it was withheld, and nothing of it
    own = {"messages": [{"role": "user", "content": "When does the hall open?"}], "tool_choice": {"type": "function", "function": {"name": "search"}}, "max_tokens": 80, "temperature": 0}  # fmt: skip
    ran = guarded.post("/v1/chat/completions", {**own, "tools": []}).json()
    outputs = [tool["output"] for tool in ran.get("executed_tools", ())]
    assert outputs
    assert not any("evil@example.com" in output for output in outputs)


def test_every_form_of_the_api_says_so(guarded):
    text = HOSTILE["de"]
    refusal = _refusals()["question"]["de"]
    message = guarded.post("/v1/messages", {"messages": [{"role": "user", "content": text}], **ROOF}).json()
    assert (message["stop_reason"], message["content"][0]["text"]) == ("refusal", refusal)
    assert message["safety"]["action"] == "block"
    response = guarded.post("/v1/responses", {"input": text}).json()
    assert (response["status"], response["incomplete_details"]) == ("incomplete", {"reason": "content_filter"})
    assert response["output"][0]["content"][0]["text"] == refusal
    assert response["safety"]["action"] == "block"
    ollama = guarded.post("/api/chat", {"messages": [{"role": "user", "content": text}], "stream": False}).json()
    assert (ollama["done_reason"], ollama["message"]["content"]) == ("content_filter", refusal)
    assert ollama["safety"]["action"] == "block"
    plain = guarded.post("/v1/completions", {"prompt": ["The sky is", text], **ROOF}).json()
    assert [c["finish_reason"] for c in plain["choices"]] == ["content_filter"] * 2
    assert plain["safety"]["action"] == "block"
    stream = guarded.post("/v1/completions", {"prompt": text, "stream": True, **ROOF}).text
    assert '"content_filter"' in stream
    count = chain.verify(guarded.audit)[0]
    assert count >= 5
    assert text.encode() not in guarded.audit.read_bytes()


def test_plain_completions_are_looked_at_while_they_are_written(guarded, server):
    body = {"prompt": "A program:", "regex": re_escaped(INSECURE), "max_tokens": 400}
    stopped, plain = (s.post("/v1/completions", body).json()["choices"][0] for s in (guarded, server))
    assert (stopped["finish_reason"], plain["finish_reason"]) == ("content_filter", "stop")
    assert plain["text"] == INSECURE
    assert "os.system" not in stopped["text"]
    same = {"prompt": "The sky is", "logprobs": 1, "echo": True, **ROOF}
    one, other = (s.post("/v1/completions", same).json()["choices"] for s in (guarded, server))
    assert one == other


def test_moderations_in_openais_shape(talk, guarded):
    given = ["What is the capital of France?", "I will find you and I will kill you and your whole family with my knife, you filthy animal."]  # fmt: skip
    answer = talk.moderations.create(input=given)
    calm, threat = answer.results
    assert not calm.flagged
    assert threat.flagged
    assert threat.category_scores.violence > calm.category_scores.violence
    assert threat.herd["unsafe"] > 0.375
    parts = guarded.post("/v1/moderations", {"input": [{"type": "text", "text": given[0]}], "model": "omni-moderation-latest"})  # fmt: skip
    assert parts.json()["results"][0]["flagged"] is False
    wrong = guarded.post("/v1/moderations", {"input": [{"type": "image_url", "image_url": {"url": "x"}}]})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "input")


def test_the_default_annotates_and_a_wrong_policy_is_one_line(server, tmp_path):
    answer = server.chat(HOSTILE["en"]).json()
    assert answer["choices"][0]["finish_reason"] in ("stop", "length")
    assert answer["safety"]["action"] == "annotate"
    (tmp_path / "wrong.toml").write_text("[input]\nprompt_gard = {}\n")
    failed = Server(tmp_path, "--safety", str(tmp_path / "wrong.toml"), wait=False)
    assert failed.process.wait(60) == 2
    assert "unknown key input.prompt_gard" in failed.stderr()


@pytest.mark.parametrize("fail, reasons", [("closed", {"content_filter"}), ("open", {"stop", "length"})])
def test_a_server_whose_check_fails_says_so(tmp_path, fail, reasons):
    policy = tmp_path / "policy.toml"
    policy.write_text(
        f'fail = "{fail}"\ntimeout = 0.02\n[input]\nllama_guard = {{ action = "block" }}\n[llama_guard]\nmodel = "smollm2-135m"\n'
    )
    with serving(tmp_path, "--safety", str(policy), "--threads", "1") as running:
        answer = running.chat(CLEAN["en"]).json()  # judging it takes a prompt of 300 tokens
        assert answer["choices"][0]["finish_reason"] in reasons
        (fired,) = answer["safety"]["fired"]
        assert "took longer" in fired["failure"]
        assert "input.llama_guard fails" in running.stderr()
        assert running.metric("herd_safety_failed_total") > 0


def test_a_stream_of_ours_ends_whole(guarded):
    body = {"messages": [{"role": "user", "content": HOSTILE["fr"]}], "stream": True, **ROOF}
    with httpx.stream("POST", guarded.url + "/v1/messages", json=body, timeout=60) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert [e["type"] for e in events][-2:] == ["message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == "refusal"
    assert events[-2]["safety"]["action"] == "block"
