"""Layouts compute what one process computes: gradients of every parameter and the losses of several steps, on gloo."""

import json
import os
import socket
import subprocess
import sys

import pytest
import torch

from herd.errors import ConfigError
from herd.train.layout import Layout
from herd.train.open import make_trainer, open_recipe
from tests.train.test_train import opened_trainer, recipe_of

PROGRAM = """
import sys, json, torch, torch.distributed as dist
from pathlib import Path
from herd.train.checkpoint import trained
from herd.train.layout import Layout, whole
from herd.train.open import make_trainer, open_recipe
from herd.weights.open import open_checkpoint
from tests.train.test_layout import CASES, recipe_for
place, out = Path(sys.argv[1]), Path(sys.argv[2])
find = lambda name: open_checkpoint(place / name)
dist.init_process_group("gloo")
for case, (kind, objective, tp, tied) in CASES.items():
    recipe = recipe_for(kind, objective, tied)
    trainer = make_trainer(open_recipe(recipe, place, find), find, None, lambda **_: None, layout=Layout.of(tp))
    trainer.model.train()
    rows = [trainer.packer.row(256) for _ in range(4)]
    loss, sums, count = trainer.gradients(rows, 256)
    gradients = {name: whole(p.grad) for name, p in trained(trainer.model)}
    norm = trainer.layout.clip([p for _, p in trained(trainer.model)], 1e9)
    trainer.optimizer.zero_grad()
    lines = []
    trainer.log = lambda **values: lines.append(values["loss"])
    for _ in range(3):
        trainer.step()
    if dist.get_rank() == 0:
        torch.save((loss, count, norm, gradients, lines), out / f"{case}.pt")
dist.barrier()
sys.stdout.flush()
import os, time
time.sleep(0.5)
os._exit(0)
"""
CASES = {
    # name -> samples, objective, tensor parallel processes of four, tied embedding
    "dp4": ("text", "next-token", 1, False),
    "dp2 tp2": ("messages", "next-token", 2, False),
    "dp2 tp2 tied": ("text", "next-token", 2, True),
    "dp2 tp2 dpo": ("pairs", "dpo", 2, False),
}


def recipe_for(kind, objective, tied):
    from herd.train.recipe import Batch, Data, Model, Schedule, Source
    from tests.train.test_train import FILES

    # a vocabulary that nothing divides
    shape = {
        "layers": 2,
        "dim": 64,
        "ffn_dim": 160,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 16,
        "vocab": 523,
        "tied": tied,
    }
    return recipe_of(
        kind, objective=objective, model=Model(shape=shape, tokenizer="model", dtype="float32"),
        data=Data(sources=(Source(path=FILES[kind], kind=kind, long="cut"),), length=256),
        batch=Batch(tokens=1024, rows=1), schedule=Schedule(peak=1e-3, steps=6, warmup=2),
    )  # fmt: skip


def launch(processes, *words, cwd=None):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        f"--nproc-per-node={processes}",
        "--master-addr=127.0.0.1",
    ]
    return subprocess.run(
        [*launcher, f"--master-port={port}", *words],
        capture_output=True,
        text=True,
        timeout=280,
        env=environment,
        cwd=cwd,
    )


@pytest.fixture(scope="module")
def found(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("layouts")
    (out / "program.py").write_text(PROGRAM)
    done = launch(4, str(out / "program.py"), str(place), str(out))
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.parametrize("case", CASES)
def test_a_layout_computes_what_one_process_does(place, find, found, case):
    kind, objective, _, tied = CASES[case]
    loss, count, norm, gradients, lines = torch.load(found / f"{case}.pt")
    trainer = make_trainer(open_recipe(recipe_for(kind, objective, tied), place, find), find, None, lambda **_: None)
    trainer.model.train()
    rows = [trainer.packer.row(256) for _ in range(4)]
    wanted, _, units = trainer.gradients(rows, 256)
    assert count == units
    assert abs(loss - wanted) < 1e-5
    mine = {name: p.grad for name, p in trainer.model.named_parameters()}
    assert set(mine) == set(gradients)
    for name, gradient in gradients.items():
        assert (gradient - mine[name]).norm() < 1e-5 * mine[name].norm(), name
    assert abs(norm - trainer.layout.clip(list(trainer.model.parameters()), 1e9)) < 1e-5 * norm
    trainer.optimizer.zero_grad()
    steps = []
    trainer.log = lambda **values: steps.append(values["loss"])
    for _ in range(3):
        trainer.step()
    assert max(abs(a - b) for a, b in zip(lines, steps, strict=True)) < 1e-4


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
    from herd.train.recipe import resolve

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


def test_what_processes_cannot_share_is_named(place, find):
    with pytest.raises(
        ConfigError, match=r"batch.tokens 1024 are 4 rows of 256, which 3 processes cannot share evenly; 1536"
    ):
        make_trainer(open_recipe(recipe_of(), place, find), find, None, lambda **_: None, layout=Layout(dp=3))
    with pytest.raises(ConfigError, match=r"layout.tp is 2; 1 processes"):
        Layout.of(2)
    assert opened_trainer(recipe_of(), place, find).layout == Layout()
