"""A teacher's and a reference's log-probabilities: computed once, kept by what they were computed from, and right."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch

from herd.errors import ConfigError
from herd.model.load import without_weights
from herd.train.dry_run import describe
from herd.train.known import Known
from herd.train.objectives import divergence, top_divergence, top_logprobs
from herd.train.open import open_recipe
from herd.train.recipe import Data, Distil, Model, Schedule, Source, resolve
from herd.train.run import train
from herd.weights.open import open_checkpoint
from tests.train.test_train import FILES, opened_trainer, recipe_of

STUDENT = {"layers": 1, "dim": 32, "ffn_dim": 64, "heads": 2, "kv_heads": 1, "head_dim": 16, "context": 512}


def recipe_for(objective, peak=1e-3, **distil):
    kind = "pairs" if objective == "dpo" else "text"
    source = (Source(path=FILES[kind], kind=kind),)
    changes = {}
    if objective == "distil":
        changes["distil"] = Distil(**{"teacher": "model", "top_k": 8, "data_weight": 0.5, **distil})
        changes["model"] = Model(shape=STUDENT, tokenizer="model", dtype="float32")
    data = Data(sources=source, validation=source, length=256)
    return recipe_of(kind, objective=objective, data=data, schedule=Schedule(peak=peak, steps=2), **changes)


@pytest.mark.parametrize("objective", ["distil", "dpo"])
def test_what_was_computed_once_is_not_computed_again(objective, place, find, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr("herd.train.open.Known", lambda folder: made.append(Known(folder)) or made[-1])

    def losses(name, recipe):
        lines = []
        train((recipe, place, None), tmp_path / name, find, lines.append, lambda: False, [])
        return [(line["step"], line["loss"]) for line in lines if "loss" in line], made[-1].computed

    recipe = recipe_for(objective)
    first, count = losses("first", recipe)
    assert len(first) == 3
    assert count == (1 if objective == "dpo" else len(list(tmp_path.glob(".logprobs/*/*.npz"))))
    assert losses("second", recipe) == (first, 0)
    again, computed = losses("faster", recipe_for(objective, peak=1e-2))
    assert again != first
    assert computed == 0

    kept = sorted(tmp_path.glob(".logprobs/*/*.npz"))
    whole = bytearray(kept[0].read_bytes())
    whole[len(whole) // 2] ^= 1
    for damaged in (bytes(whole), bytes(whole[:40]), b""):
        kept[0].write_bytes(damaged)
        assert losses(f"damaged-{len(damaged)}", recipe) == (first, 1)
    if objective == "distil":
        for other in ({"top_k": 9}, {"temperature": 2.0}):
            found, computed = losses(str(other), recipe_for(objective, **other))
            assert computed == count
            assert found != first
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("k", [1, 16, 299])
def test_the_top_and_the_rest_against_float64(k):
    generator = torch.Generator().manual_seed(0)
    hidden, wanted = (torch.randn(50, 16, generator=generator).requires_grad_() for _ in range(2))
    weight, teaches = (torch.randn(300, 16, generator=generator).requires_grad_() for _ in range(2))
    top = top_logprobs(wanted, teaches, k, 2.0)
    found = top_divergence(hidden, weight, top, 2.0)
    torch.autograd.backward(found)
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    teacher = torch.softmax((wanted.double() @ teaches.double().T / 2).detach(), -1)
    student = torch.softmax(wide[0] @ wide[1].T / 2, -1)
    order = teacher.argsort(1, descending=True)
    p, q = (
        torch.cat([x.gather(1, order[:, :k]), x.gather(1, order[:, k:]).sum(1, keepdim=True)], 1)
        for x in (teacher, student)
    )
    truth = (p * (p.log() - q.log())).sum() * 4
    torch.autograd.backward(truth)
    assert abs(found.item() - truth.item()) < 1e-5 * truth.item()
    for mine, other in zip((hidden, weight), wide, strict=True):
        assert (mine.grad.double() - other.grad).norm() < 1e-5 * other.grad.norm()
    assert found.item() <= divergence(hidden, weight, wanted.detach(), teaches.detach(), 2.0).item() * (1 + 1e-5)


def test_what_cannot_be_is_refused_by_name(place, find):
    with pytest.raises(ConfigError, match=r"distil\.top_k is 0; expected 1 or more"):
        recipe_for("distil", top_k=0)
    with pytest.raises(ConfigError, match=r"distil\.top_k is 512; the vocabulary is 512"):
        opened_trainer(recipe_for("distil", top_k=512), place, find)


def test_the_recipe_in_short_with_a_tiny_teacher(place, tmp_path):
    recipe, folder, _ = resolve(Path("recipes/distil.toml"), {
        "schedule.steps": 1, "schedule.warmup": 0, "batch.tokens": 256, "batch.rows": 1, "validate_every": 0, "model.dtype": "float32",
    })  # fmt: skip
    recipe = msgspec.structs.replace(recipe, data=msgspec.structs.replace(recipe.data, validation=()))

    def find(_):
        return open_checkpoint(place / "model")

    opened = open_recipe(recipe, folder, find)
    assert describe(recipe, folder, find)["steps"] == "1 of 1 rows of 256 tokens"
    weights = without_weights(replace(opened.config, vocab=49_152)).parameters()
    assert sum(p.numel() for p in weights) == pytest.approx(134_515_008 / 4, rel=0.01)
    lines = []
    train((recipe, folder, None), tmp_path / "run", find, lines.append, lambda: False, [])
    (step,) = (line for line in lines if line["event"] == "step")
    assert step["loss"] == pytest.approx(0.5 * step["divergence"] + 0.5 * step["nll"])
    assert step["divergence"] > 0
    assert step["count"] == 256
    assert step["mfu"] > 0
