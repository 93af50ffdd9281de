"""Layouts compute what one process computes: gradients of every parameter and the losses of several steps, on gloo."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
import torch

from herd.errors import ConfigError
from herd.train.checkpoint import trained
from herd.train.layout import Layout
from herd.train.open import make_trainer, open_recipe
from herd.train.recipe import Parallel, resolve
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.train.test_command import losses
from tests.train.test_train import opened_trainer, recipe_of

PROGRAM = """
import sys, torch, torch.distributed as dist
from pathlib import Path
from herd.train.checkpoint import trained
from herd.train.layout import Layout, whole
from herd.train.open import make_trainer, open_recipe
from herd.train.pipeline import is_copy
from herd.train.recipe import Parallel
from herd.weights.open import open_checkpoint
from tests.train.test_layout import CASES, recipe_for
place, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
find = lambda name: open_checkpoint(place / name)
dist.init_process_group("gloo")
for case in sys.argv[3:]:
    recipe = recipe_for(case)
    layout = Layout.of(recipe.layout)
    run = out / case
    run.mkdir(exist_ok=True)
    trainer = make_trainer(open_recipe(recipe, place, find), find, run, lambda **_: None, layout=layout)
    trainer.model.train()
    rows = [trainer.packer.row(256) for _ in range(8)]
    loss, sums, count = trainer.gradients(rows, 256)
    gradients = {name: whole(p.grad) for name, p in trained(trainer.model) if not is_copy(trainer.model, name)}
    found = [None] * dist.get_world_size()
    dist.all_gather_object(found, gradients)
    gradients = {name: value for one in found for name, value in one.items()}
    norm = layout.clip(trainer.model, 1e9)
    trainer.optimizer.zero_grad()
    lines = []
    trainer.log = lambda **values: lines.append(values["loss"])
    for _ in range(3):
        trainer.step()
    trainer.validate()
    trainer.save()
    trainer.keeper.wait()
    if dist.get_rank() == 0:
        torch.save((loss, sums, count, norm, gradients, lines), out / f"{case}.pt")
dist.barrier()
sys.stdout.flush()
import os, time
time.sleep(0.5)
os._exit(0)
"""
CASES = {
    # name -> processes, samples, layout, tied embedding; the first three are run by make test
    "cp2 pp2 interleaved dpo": (4, "pairs", {"pp": 2, "cp": 2, "schedule": "interleaved"}, False),
    "tp2 pp2 zero-bubble": (4, "messages", {"pp": 2, "tp": 2, "schedule": "zero-bubble"}, False),
    "pp2 dp2 zbv": (4, "text", {"pp": 2, "schedule": "zbv"}, True),
    "tp2 dp2 dpo": (4, "pairs", {"tp": 2}, False),
    "cp2 dp2": (4, "messages", {"cp": 2}, False),
    "dp4": (4, "text", {}, False),
    "tp2 dp2": (4, "messages", {"tp": 2}, True),
    "tp2 cp2 dpo": (4, "pairs", {"cp": 2, "tp": 2}, False),
    "cp4 reward": (4, "ranked", {"cp": 4}, False),
    "pp2 dp2 1f1b": (4, "text", {"pp": 2}, True),
    "pp4 1f1b": (4, "text", {"pp": 4}, True),
    "dp2": (2, "messages", {}, True),
    "cp2": (2, "text", {"cp": 2}, True),
    "pp2 gpipe": (2, "text", {"pp": 2, "schedule": "gpipe"}, True),
    "tp2 cp2 pp2": (8, "messages", {"tp": 2, "cp": 2, "pp": 2}, True),
    "pp2 cp2 dp2 interleaved dpo": (8, "pairs", {"cp": 2, "pp": 2, "schedule": "interleaved"}, True),
    "tp2 cp2 pp2 dp2": (16, "messages", {"tp": 2, "cp": 2, "pp": 2}, True),
    "tp2 cp2 pp2 dp2 zero-bubble": (16, "text", {"tp": 2, "cp": 2, "pp": 2, "schedule": "zero-bubble"}, False),
}
QUICK = list(CASES)[:3]
OBJECTIVES = {"pairs": "dpo", "ranked": "reward"}


def recipe_for(case):
    from herd.train.recipe import Batch, Data, Model, Parallel, Schedule, Source
    from tests.train.test_train import FILES

    _, kind, layout, tied = CASES[case]
    # a vocabulary that nothing divides
    shape = {
        "layers": 4,
        "dim": 64,
        "ffn_dim": 160,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "vocab": 523,
        "tied": tied,
    }
    source = Source(path=FILES[kind], kind=kind, long="cut")
    return recipe_of(
        kind, objective=OBJECTIVES.get(kind, "next-token"), model=Model(shape=shape, tokenizer="model", dtype="float32"),
        data=Data(sources=(source,), validation=(source,), length=256), layout=Parallel(**layout),
        batch=Batch(tokens=2048, rows=1), schedule=Schedule(peak=1e-3, steps=6, warmup=2),
    )  # fmt: skip


def command(processes, *words):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [f"--nproc-per-node={processes}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return [sys.executable, "-m", "torch.distributed.run", *started, *words]


def launch(processes, *words):
    return subprocess.run(
        command(processes, *words), capture_output=True, text=True, timeout=280, env=surroundings(), check=False
    )


def surroundings():
    return {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}


def computed(place, out, processes, cases):
    (out / "program.py").write_text(PROGRAM)
    done = launch(processes, str(out / "program.py"), str(place), str(out), *cases)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.fixture(scope="module")
def found(place, tmp_path_factory):
    return computed(place, tmp_path_factory.mktemp("layouts"), 4, QUICK)


@pytest.mark.parametrize("case", QUICK)
def test_a_layout_computes_what_one_process_does(place, find, found, case):
    check(place, find, found, case)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4, 8, 16])
def test_every_layout_computes_what_one_process_does(place, find, tmp_path, processes):
    cases = [name for name, (count, *_) in CASES.items() if count == processes and name not in QUICK]
    computed(place, tmp_path, processes, cases)
    for case in cases:
        check(place, find, tmp_path, case)


def check(place, find, found, case):
    loss, sums, count, norm, gradients, lines = torch.load(found / f"{case}.pt")
    alone = msgspec.structs.replace(recipe_for(case), layout=Parallel())
    trainer = make_trainer(open_recipe(alone, place, find), find, None, lambda **_: None)
    trainer.model.train()
    rows = [trainer.packer.row(256) for _ in range(8)]
    wanted, others, units = trainer.gradients(rows, 256)
    assert count == units
    assert abs(loss - wanted) < 1e-5
    sums.pop("accuracy", None)  # of margins that are 0 but for rounding
    assert sums == pytest.approx({name: value for name, value in others.items() if name != "accuracy"}, abs=1e-4)
    mine = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert set(mine) == set(gradients)
    for name, gradient in gradients.items():
        # a reward's gradient is a difference of two nearly equal ones
        assert (gradient - mine[name]).norm() < (1e-4 if "reward" in case else 1e-5) * mine[name].norm(), name
    assert abs(norm - trainer.layout.clip(trainer.model, 1e9)) < 1e-5 * norm
    trainer.optimizer.zero_grad()
    steps = []
    trainer.log = lambda **values: steps.append(values["loss"])
    for _ in range(3):
        trainer.step()
    trainer.validate()
    assert lines == pytest.approx(steps, abs=1e-4)
    # the state that all processes wrote is this process's, and goes on here
    resumed = make_trainer(open_recipe(alone, place, find), find, found / case, lambda **_: None)
    assert resumed.progress == trainer.progress
    for (name, one), (_, other) in zip(trained(resumed.model), trained(trainer.model), strict=True):
        assert (one - other).norm() < 1e-3 * other.norm(), name
        first, second = resumed.optimizer.state[one], trainer.optimizer.state[other]
        assert (first["exp_avg"] - second["exp_avg"]).norm() < 1e-3 * second["exp_avg"].norm(), name
    processes = CASES[case][0]
    (state,) = (found / case / "checkpoints").iterdir()
    assert len(list(state.glob("rank-*.safetensors"))) == processes


@pytest.mark.slow  # a second start of processes
def test_a_run_goes_on_with_another_number_of_processes(place, find, tmp_path):
    text = (
        f'[model]\nstart = "{place}/model"\ndtype = "float32"\n[data]\nlength = 64\n[[data.sources]]\npath = "{place}/text.txt"\n'
        "[batch]\ntokens = 128\n[schedule]\npeak = 1e-3\nsteps = {steps}\n[checkpoints]\nevery = 2\n"
    )
    (tmp_path / "r.toml").write_text(text.replace("{steps}", "4"))
    done = launch(2, "-m", "herd", "train", str(tmp_path / "r.toml"), "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = (tmp_path / "two" / "recipe.toml").read_text()
    assert "steps = 4" in recipe
    lines = [json.loads(line) for line in (tmp_path / "two" / "log.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["loss"] for line in lines if line["event"] == "step"}
    asked = resolve(tmp_path / "r.toml", {})
    alone = []
    trainer = make_trainer(
        open_recipe(asked.recipe, tmp_path, find=lambda name: find("model")), find, None,
        lambda **values: alone.append(values.get("loss")),
    )  # fmt: skip
    trainer.train()
    assert max(abs(losses[i + 1] - loss) for i, loss in enumerate(alone)) < 1e-4
    # the state that two processes wrote after step 2 goes on in one
    newest = sorted((tmp_path / "two" / "checkpoints").iterdir())
    assert [folder.name for folder in newest] == ["step-00000002", "step-00000004"]
    (newest[1] / "state.json").unlink()
    rest = []
    trainer = make_trainer(
        open_recipe(asked.recipe, tmp_path, find=lambda name: find("model")), find, tmp_path / "two",
        lambda **values: rest.append(values.get("loss")),
    )  # fmt: skip
    assert trainer.progress.step == 2
    trainer.step()
    assert abs(rest[0] - losses[3]) < 1e-4


@pytest.mark.slow
def test_a_dead_process_takes_the_job_down_and_it_goes_on_exactly(place, tmp_path):
    text = (
        f'[model]\nstart = "{place}/model"\ndtype = "float32"\n[data]\nlength = 64\n[[data.sources]]\npath = "{place}/text.txt"\n'
        "[batch]\ntokens = 256\n[schedule]\npeak = 1e-3\nsteps = 40\n[checkpoints]\nevery = 1\n[layout]\npp = 2\n"
    )
    (tmp_path / "r.toml").write_text(text)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = launch(2, "-m", "herd", "train", str(tmp_path / "r.toml"), "--out", str(whole))
    assert done.returncode == 0, done.stderr[-3000:]
    words = ["-m", "herd", "train", str(tmp_path / "r.toml"), "--out", str(killed)]
    launcher = subprocess.Popen(command(2, *words), env=surroundings(), stderr=subprocess.DEVNULL)
    log, deadline = killed / "log.jsonl", time.monotonic() + 120
    while time.monotonic() < deadline and not (log.exists() and log.read_text().count('"event":"step"') >= 5):
        time.sleep(0.01)
    children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert launcher.wait(timeout=60) != 0
    done = launch(2, "-m", "herd", "train", str(killed))
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(killed) == losses(whole)
    assert len(losses(whole)) == 40


def test_what_processes_cannot_share_is_named(place, find):
    with pytest.raises(
        ConfigError, match=r"batch.tokens 1024 are 4 rows of 256, which 3 processes cannot share evenly; 1536"
    ):
        make_trainer(open_recipe(recipe_of(), place, find), find, None, lambda **_: None, layout=Layout(dp=3))
    with pytest.raises(ConfigError, match=r"layout: tp 2, cp 1, pp 1 need a multiple of 2 processes; 1 was started"):
        Layout.of(Parallel(tp=2))
    assert opened_trainer(recipe_of(), place, find).layout == Layout()


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "layout"), [(2, "tp = 2"), (4, "tp = 4"), (3, "dp = 3")])
def test_a_vocabulary_that_nothing_divides_is_trained_resumed_and_converted(place, find, tmp_path, processes, layout):
    text = (
        f'[model]\nshape = {{layers = 2, dim = 32, ffn_dim = 64, heads = 4, kv_heads = 4, head_dim = 8, vocab = 49153, context = 256}}\n'
        f'tokenizer = "{place}/model"\ndtype = "float32"\n[data]\nlength = 64\n[[data.sources]]\npath = "{place}/text.txt"\n'
        f"[batch]\ntokens = 384\n[schedule]\npeak = 1e-3\nsteps = 4\n[checkpoints]\nevery = 2\n[layout]\n{layout}\n"
    )  # fmt: skip
    (tmp_path / "r.toml").write_text(text)
    run = tmp_path / "run"
    done = launch(processes, "-m", "herd", "train", str(tmp_path / "r.toml"), "--out", str(run))
    assert done.returncode == 0, done.stderr[-3000:]
    recipe = msgspec.structs.replace(resolve(tmp_path / "r.toml", {}).recipe, layout=Parallel())
    lines = []
    alone = make_trainer(open_recipe(recipe, tmp_path, find), find, None, lambda **values: lines.append(values["loss"]))
    alone.train()
    assert [loss for loss, _ in losses(run).values()] == pytest.approx(lines, abs=1e-4)
    # what the processes wrote is a model, and goes on in one of them
    convert(open_checkpoint(run), tmp_path / "hf", "hf", "F32")
    converted = open_checkpoint(tmp_path / "hf")
    for name, parameter in alone.model.named_parameters():
        found = torch.tensor(converted.tensors[name].float32())
        assert found.shape == parameter.shape
        assert (found - parameter).norm() < 1e-3 * parameter.norm(), name
    newest = sorted((run / "checkpoints").iterdir())[-1]
    (newest / "state.json").unlink()
    rest = []
    resumed = make_trainer(open_recipe(recipe, tmp_path, find), find, run, lambda **values: rest.append(values["loss"]))
    assert resumed.progress.step == 2
    resumed.train()
    assert rest == pytest.approx(lines[2:], abs=1e-4)
