import json
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herd.errors import ConfigError
from herd.family import SHAPES, shape
from herd.plan.checks import PUBLISHED, conversions
from herd.plan.constants import GPUS, STACKS, gpu, stack
from herd.plan.layout import Layout, Work, impossible
from herd.plan.memory import memory
from herd.plan.search import evaluate, search
from herd.plan.time import step_time

_405B = shape("llama-3.1-405b")
HERD = [sys.executable, "-m", "herd"]


def test_nvidias_figures_convert():
    for name, _, _, error in conversions():
        assert abs(error) < 0.005, name


def test_stacks_have_the_efficiency_of_the_run_they_were_fitted_to():
    fits = [run for run in PUBLISHED if run.fits]
    assert {run.stack for run in fits} == set(STACKS)
    for run in fits:
        assert STACKS[run.stack].efficiency == pytest.approx(run.efficiency(), abs=1e-5)


def test_table_4_is_predicted_from_its_first_row():
    first, second, third = (run for run in PUBLISHED if run.stack == "meta")
    assert second.predicted() == pytest.approx(second.rate, rel=0.05)
    assert third.predicted() == pytest.approx(third.rate, rel=0.05)
    assert second.predicted() / first.predicted() == pytest.approx(400 / 430, rel=0.02)
    # by the paper's TFLOPs, with attention counted causally and not
    assert first.work.batch / (first.rate * first.layout.gpus) == pytest.approx(12.0, rel=0.01)
    assert third.work.batch / (third.rate * third.layout.gpus) == pytest.approx(10.9, rel=0.01)
    whole = third.work.flops_per_token_without_halving / third.work.flops_per_token
    assert 10.9 * whole == pytest.approx(15.3, rel=0.01)


@pytest.mark.parametrize("run", [run for run in PUBLISHED if run.stack == "meta"], ids=lambda run: run.name)
def test_metas_own_layout_is_among_the_first_five(run):
    started = time.monotonic()
    found = search(run.work, run.layout.gpus, gpu("h100"), stack("meta"))
    assert time.monotonic() - started < 10
    degrees = [(p.layout.tp, p.layout.cp, p.layout.pp, p.layout.dp) for p in found.plans[:5]]
    assert (run.layout.tp, run.layout.cp, run.layout.pp, run.layout.dp) in degrees


def test_state_of_a_gpu_as_the_paper_has_it():
    found = memory(Layout(8, 1, 16, 64, 8), Work(_405B, 8192, 1 << 24), stack("meta"))
    assert found.weights == pytest.approx(6.3e9, rel=0.02)
    assert found.gradients == pytest.approx(12.7e9, rel=0.02)
    assert found.optimizer == pytest.approx(0.6e9, rel=0.02)
    assert found.total < 80e9


def test_every_layout_is_a_plan_or_has_a_reason():
    work = Work(shape("llama-3.1-8b"), 8192, 1 << 20)
    found = search(work, 16, gpu("h100"), stack("meta"))
    assert found.plans
    assert [p.time.total for p in found.plans] == sorted(p.time.total for p in found.plans)
    for plan in found.plans:
        assert plan.layout.gpus == 16
        assert plan.memory.total <= 80e9
        assert 0 < plan.mfu < 1
    kinds = found.reasons()
    assert sum(count for _, count, _ in kinds) == len(found.rejected)
    assert len(kinds) < 12
    assert "does not fit 80 GB" in {kind for kind, _, _ in kinds}


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_more_of_anything_never_costs_less(data):
    work = Work(SHAPES[data.draw(st.sampled_from(["llama-3.1-8b", "llama-3.1-70b", "llama-3.1-405b"]))], 8192, 1 << 23)
    powers = st.sampled_from([1, 2, 4, 8])
    layout = Layout(data.draw(powers), 1, data.draw(powers), data.draw(powers))
    card, software = gpu("h100"), stack("meta")
    if impossible(layout, work, card):
        return
    twice = Layout(layout.tp, layout.cp, layout.pp, layout.dp * 2)
    if impossible(twice, work, card):
        return
    assert step_time(twice, work, card, software).total < step_time(layout, work, card, software).total
    assert memory(twice, work, software).total <= memory(layout, work, software).total
    longer = Work(work.model, work.context * 2, work.batch)
    if not impossible(layout, longer, card):
        assert memory(layout, longer, software).activations > memory(layout, work, software).activations


def test_impossible_layouts_say_why():
    work = Work(shape("llama-3.1-8b"), 8192, 1 << 20)
    for layout, word in (
        (Layout(tp=3), "TP does not divide"), (Layout(tp=16), "leaves the server"), (Layout(cp=3), "CP does not divide"),
        (Layout(pp=64), "more stages"), (Layout(virtual=2), "without a pipeline"), (Layout(dp=1024), "batch too small"),
        (Layout(dp=3), "batch does not divide"), (Layout(pp=2, sharded=True), "sharded weights in a pipeline"),
    ):  # fmt: skip
        assert word in evaluate(layout, work, GPUS["h100"], STACKS["meta"])
    with pytest.raises(ConfigError, match="expected one of"):
        gpu("h101")
    with pytest.raises(ConfigError, match="no FP8"):
        search(Work(work.model, 8192, 1 << 20, "fp8"), 8, gpu("a100"), stack("meta"))


def test_the_command():
    words = ["plan", "llama-3.1-405b", "--gpus", "16384", "--gpu", "h100", "--context", "8192", "--batch", "16M"]
    done = subprocess.run([*HERD, *words, "--json"], capture_output=True, text=True, check=True, timeout=60)
    plan = json.loads(done.stdout)["plans"][0]
    assert plan["mfu"] == pytest.approx(0.41, abs=0.01)
    assert plan["cost"]["gpu_hours"] == pytest.approx(27e6, rel=0.05)
    shown = subprocess.run([*HERD, *words, "--explain"], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "Rejected:" in shown
    assert "Rests on: meta's efficiency" in shown
    for wrong, message in (
        (["plan", "llama-3.1-405b", "--gpus", "8"], "no layout of 8 h100 trains llama-3.1-405b"),
        (["plan", "llama-9"], "unknown"),
        (["plan", "llama-3.1-8b", "--batch", "x"], "not a number of tokens"),
        (["plan", "llama-3.1-8b", "--batch", "100"], "whole sequences"),
    ):
        done = subprocess.run([*HERD, *wrong], capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert message in done.stderr
