"""herd in lm-evaluation-harness: the same scores as our own runner's, and what its users stumble over."""

import json
import subprocess
import sys
from types import SimpleNamespace

import pytest

from herd.engine.request import Request, SamplingParams
from herd.errors import ConfigError
from herd.evals.prompts import item
from herd.evals.run import Settings, evaluate, start
from herd.evals.source import EMBEDDED, Places, rows_of
from herd.evals.target import EngineTarget
from herd.evals.task import choose
from herd.family import shape
from tests.models import random_checkpoint

lm_eval = pytest.importorskip("lm_eval")

from herd.evals.lm_eval import HerdLM  # noqa: E402


def ask(*args):
    return SimpleNamespace(args=args)


@pytest.fixture(scope="module")
def tiny():
    lm = HerdLM(random_checkpoint(shape("tiny"), seed=3), backend="native", max_length=1536)
    yield lm
    lm.engine.close()


@pytest.fixture(scope="module")
def small():
    lm = HerdLM(random_checkpoint(shape("tiny"), seed=3), backend="native", max_length=64)
    yield lm
    lm.engine.close()


def test_one_start_token_never_none_and_never_two(tiny, smollm):
    bos = tiny.tokenizer.bos_id
    assert tiny.tok_encode("ab") == [bos, 97, 98]
    assert tiny.tok_encode("<|begin_of_text|>ab") == [bos, 97, 98]
    assert tiny._pair("ab", "c") == ([bos, 97, 98, 99], 3)
    assert tiny._pair("ab ", " c") == ([bos, 97, 98, 32, 32, 99], 3)
    assert tiny._pair("", "c") == ([bos, 99], 1)
    prompt = tiny.apply_chat_template([{"role": "user", "content": "hi <|eot_id|>"}])
    assert tiny.tok_encode(prompt).count(bos) == 1
    without = HerdLM(random_checkpoint(shape("tiny")), backend="native", max_length=64, add_bos_token=False)
    assert without.tok_encode("ab") == [97, 98]
    lm = HerdLM(smollm, backend="native", max_length=64)
    assert lm.tok_encode("ab") == smollm.tokenizer.encode("ab")  # it declares that no text begins with one


def test_a_task_that_names_no_limit_gets_1024_tokens(tiny):
    assert tiny._generation("a", {"until": ["\n\n"]}).params.max_tokens == 1024
    (reply,) = tiny.generate_until([ask("a", {"until": ["never said"]})], disable_tqdm=True)
    assert len(tiny.tokenizer.encode(reply)) > 256
    assert tiny._generation(
        "a", {"until": "x", "max_gen_toks": 7, "temperature": 0.5, "do_sample": False}
    ).params == SamplingParams(temperature=0.0, max_tokens=7, stop=("x",))
    assert len(tiny._generation("a" * 3000, {}).prompt) == 1536 - 1024
    for settings, message in (({"max_gen_toks": 1536}, "max_gen_toks is 1,536"), ({"beams": 3}, "'beams'")):
        with pytest.raises(ConfigError, match=message):
            tiny._generation("a", settings)


def alone(lm, tokens, first):
    made = next(lm.engine.run([Request(prompt=tokens, score_from=first, params=SamplingParams(max_tokens=0))]))
    return sum(score.logprob for score in made.prompt_logprobs)


@pytest.mark.parametrize("continuation", ["z", "xyz", "z" * 80])
def test_the_context_is_used_to_its_last_token(tiny, small, continuation):
    text = "the quick brown fox jumps over the lazy dog and comes back again to the den"
    (score, greedy), = small.loglikelihood([ask(text, continuation)], disable_tqdm=True)  # fmt: skip
    window = list((text + continuation).encode())[-65:]  # 64 tokens of context and the one that follows
    first = max(1, 65 - len(continuation))
    assert score == pytest.approx(alone(tiny, window, first), abs=1e-4)
    assert greedy is False


def test_our_own_runner_uses_it_too_and_windows_are_the_harness_s(tiny, small):
    task, text = choose(["small_text"])[0], "the quick brown fox jumps over the lazy dog " * 5
    target = EngineTarget("tiny", small.engine)
    for length in (10, 63, 64, 65, 128, 200):
        one = item(task, {"id": "0", "page": text[:length]}, [], chat=False)
        theirs = small.loglikelihood_rolling([ask(text[:length])], disable_tqdm=True)
        assert next(target.answer([one])).logprobs == pytest.approx(theirs, abs=1e-4)
    choice = choose(["small_arc"])[0]
    row = {"id": "0", "question": text, "choices": ["fox", "dog", "den"], "answer": 0}
    one = item(choice, row, [], chat=False)
    theirs = small.loglikelihood([ask(one.contexts[0], c) for c in one.continuations], disable_tqdm=True)
    assert next(target.answer([one])).logprobs == pytest.approx([value for value, _ in theirs], abs=1e-4)


def test_greedy_is_what_greedy_decoding_gives(tiny):
    made = tiny.engine.complete(
        Request(prompt=tiny.tok_encode("a"), params=SamplingParams(temperature=0, max_tokens=1))
    )
    requests = [
        Request(prompt=[*tiny.tok_encode("a"), token], score_from=2, params=SamplingParams(max_tokens=0, logprobs=1))
        for token in (made.tokens[0], 98)
    ]
    from herd.evals.lm_eval import _scored

    assert [_scored(tiny.engine.complete(request))[1] for request in requests] == [True, made.tokens[0] == 98]


@pytest.mark.slow
def test_the_harness_gives_our_figure(smollm, tmp_path):
    rows = rows_of(choose(["small_arc"])[0], Places())[:10]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps({k: r[k] for k in ("question", "choices", "answer")}) + "\n" for r in rows))
    config = {
        "task": "mine", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(file)}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "choices",
        "doc_to_target": "answer", "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip
    lm = HerdLM(smollm, backend="native", max_length=1024)
    found = lm_eval.simple_evaluate(model=lm, tasks=[config], log_samples=False, bootstrap_iters=0)["results"]["mine"]
    target, settings = EngineTarget("smollm2", lm.engine, bos=False), Settings(limit=10)
    tasks = choose(["small_arc"])
    (figure,) = evaluate(
        target, tasks, Places((EMBEDDED,)), start(tmp_path / "run", target, tasks, settings, []), settings
    )
    assert (found["acc,none"], found["acc_norm,none"]) == pytest.approx((figure.others["acc"], figure.value))
    lm.engine.close()


@pytest.mark.slow
def test_the_command_knows_the_model():
    words = [
        sys.executable,
        "-m",
        "herd.evals.lm_eval",
        "run",
        "--model",
        "herd",
        "--model_args",
        "pretrained=not-here",
        "--tasks",
        "arc_easy",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=120)
    assert "model 'not-here' is not here" in done.stderr
