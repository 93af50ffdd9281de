"""Rejection sampling: what is kept is what the check says, a run that was cut goes on to the same bytes, recipes read it."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from herd.cli import rejection_sample
from herd.engine.open import open_engine
from herd.errors import ConfigError
from herd.train.open import open_recipe
from herd.train.recipe import Data, Model, Recipe, Schedule, Source
from herd.train.rejection import Sampling
from herd.train.rejection import rejection_sample as sample
from herd.train.tasks import read_tasks
from herd.weights.open import open_checkpoint
from tests.train.conftest import sentence


def odd(answers):
    return [float(sum(ord(c) % 2 for c in text)) for _, text in answers]


@pytest.fixture(scope="module")
def found(place):
    lines = [{"prompt": sentence(i, 2)} for i in range(40)]
    (place / "asked.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    model = open_checkpoint(place / "model")
    tasks = read_tasks(
        Source(path="asked.jsonl", kind="prompts"), place / "asked.jsonl", model.tokenizer, model.chat_template, 64
    )
    with open_engine(model, threads=1) as engine:
        yield engine, tasks.tasks


@pytest.mark.parametrize(("kind", "objective"), [("messages", "next-token"), ("pairs", "dpo")])
def test_lines_are_the_best_and_recipes_read_them(found, place, find, tmp_path, kind, objective):
    engine, tasks = found
    settings = Sampling(kind, samples=6, max_tokens=400)
    seen = sample(engine, tasks, [(1.0, odd)], settings, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == seen["kept"] > 5
    assert sum(seen.values()) == 40
    for line in lines:
        texts = [line["completion"]] if kind == "messages" else [line["chosen"], line["rejected"]]
        values = [line["reward"]] if kind == "messages" else line["rewards"]
        assert [odd([(None, text)])[0] for text in texts] == values
        assert values == sorted(values, reverse=True)
    recipe = Recipe(
        objective=objective, model=Model(start="model"), schedule=Schedule(peak=1e-3, steps=1),
        data=Data(sources=(Source(path=str(tmp_path / "out.jsonl"), kind=kind),), length=1024),
    ).check()  # fmt: skip
    assert len(open_recipe(recipe, place, find).sources[0]) == len(lines)


def test_given_completions_are_better_than_what_the_model_says(found, tmp_path):
    engine, tasks = found
    settings = Sampling("given", samples=1, max_tokens=20, whole=False)
    with pytest.raises(ConfigError, match=r"asked.jsonl:1: has no completion"):
        sample(engine, tasks, [], settings, tmp_path / "none.jsonl")
    known = [dataclasses.replace(task, line={**task.line, "completion": "the cat"}) for task in tasks]
    seen = sample(engine, known, [], settings, tmp_path / "out.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(lines) == seen["kept"] > 5
    assert all(line["chosen"] == "the cat" != line["rejected"] for line in lines)


def test_a_cut_file_goes_on_to_the_same_bytes(found, tmp_path):
    engine, tasks = found
    settings = Sampling("pairs", samples=4, max_tokens=400)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    sample(engine, tasks, [(1.0, odd)], settings, whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: len(data) // 2])
    sample(engine, tasks, [(1.0, odd)], settings, cut)
    assert cut.read_bytes() == data
    with pytest.raises(ConfigError, match="was written with another model, other rewards or settings"):
        sample(engine, tasks, [(1.0, odd)], settings, cut, asked="more")
    cut.write_text('{"from": "elsewhere:1", "asked": ""}\n')
    with pytest.raises(ConfigError, match="was written from other prompts"):
        sample(engine, tasks, [(1.0, odd)], settings, cut)


def test_the_command_says_what_it_needs(place, tmp_path):
    run = CliRunner().invoke
    asked = [str(place / "model"), str(place / "asked.jsonl"), "--out", str(tmp_path / "x")]
    for more, message in (
        ([], "say what an answer is worth"), (["--check", "number"], "needs 'answer'"),
        (["--pattern", "("], "no regular expression"), (["--pattern", "a", "--samples", "1"], "samples is 1"),
    ):  # fmt: skip
        result = run(rejection_sample.command, [*asked, *more])
        assert isinstance(result.exception, ConfigError)
        assert message in str(result.exception)
    result = run(
        rejection_sample.command,
        [*asked, "--pattern", "(?s).*a.*", "--samples", "3", "--max-tokens", "30", "--threads", "1"],
    )
    assert result.exit_code == 0, result.output
    assert "kept" in result.output
