"""What the dry run says of memory is what torch's own tracker measures of a real step; Llama's recipes divide as they say."""

import json
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from torch.distributed._tools.mem_tracker import MemTracker

from herd.cli.train import command
from herd.errors import ConfigError
from herd.family import ModelConfig
from herd.model.attention import Documents
from herd.model.llama import Transformer
from herd.plan.auto import with_layout
from herd.plan.constants import gpu, stack
from herd.plan.layout import Work
from herd.plan.search import search
from herd.train.dry_run import describe, needs
from herd.train.layout import Layout
from herd.train.open import check_layout, config_of, make_trainer, open_recipe, recompute_layers
from herd.train.recipe import Batch, Lora, Model, Parallel, Schedule, resolve
from tests.train.test_layout import launch
from tests.train.test_train import recipe_of

VALUES = {"layers": 4, "dim": 128, "ffn_dim": 320, "heads": 4, "kv_heads": 2, "head_dim": 32}
FRESH = {name: Model(shape=VALUES, tokenizer="model", dtype=name) for name in ("float32", "bfloat16")}
ONE = {
    # two micro-batches of a row, or one of two
    "bfloat16": ("text", {"model": FRESH["bfloat16"]}),
    "recomputed": ("messages", {"model": FRESH["float32"], "recompute": True, "batch": Batch(tokens=512, rows=2)}),
    "dpo": ("pairs", {"model": FRESH["float32"], "objective": "dpo"}),
}
LONG = {
    "float32": ("text", {"model": FRESH["float32"]}),
    "at once": ("text", {"model": FRESH["float32"], "batch": Batch(tokens=512, rows=2)}),
    "reward": ("ranked", {"model": FRESH["float32"], "objective": "reward"}),
}


def measured(recipe, place, find):
    """The most bytes at once in the second step, by torch's MemTracker."""
    trainer = make_trainer(open_recipe(recipe, place, find), find, None, lambda **_: None)
    trainer.step()
    tracker = MemTracker()
    tracker.track_external(trainer.model, trainer.optimizer)
    outcome = trainer._outcome

    def again(model, batch):
        tracker.reset_mod_stats()  # it takes one forward pass a module
        return outcome(model, batch)

    trainer._outcome = again
    with tracker:
        trainer.step()
    return tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"]


def agrees(place, find, kind, changes):
    recipe = recipe_of(
        kind, **{"batch": Batch(tokens=512, rows=1), "schedule": Schedule(peak=1e-3, steps=4), **changes}
    )
    config = open_recipe(recipe, place, find).config
    found = needs(recipe, config)
    assert found.peak == pytest.approx(measured(recipe, place, find), rel=0.05)
    assert sum(found.parts.values()) == found.peak
    assert found.parts["weights"] == pytest.approx(4 * config.parameters, rel=1e-3)
    assert found.parts["optimizer"] == pytest.approx(8 * config.parameters, rel=1e-3)


@pytest.mark.parametrize("case", ONE)
def test_the_peak_is_what_is_measured(place, find, case):
    agrees(place, find, *ONE[case])


@pytest.mark.slow
@pytest.mark.parametrize("case", LONG)
def test_every_peak_is_what_is_measured(place, find, case):
    agrees(place, find, *LONG[case])


PROGRAM = """
import json, sys, torch, torch.distributed as dist
from pathlib import Path
from herd.train.layout import Layout
from herd.train.memory import Memory
from herd.train.open import make_trainer, open_recipe
from herd.weights.open import open_checkpoint
from tests.train.test_dry_run import LAYOUTS, recipe_in
place, out = Path(sys.argv[1]), Path(sys.argv[2])
torch.set_num_threads(1)
find = lambda name: open_checkpoint(place / name)
dist.init_process_group("gloo")
for name in LAYOUTS:
    recipe = recipe_in(name)
    trainer = make_trainer(open_recipe(recipe, place, find), find, None, lambda **_: None, layout=Layout.of(recipe.layout))
    trainer.step()
    memory = Memory(dict, lambda *_: "all")
    memory.add(trainer.model.parameters())
    memory.add(t for state in trainer.optimizer.state.values() for t in state.values())
    with memory:
        trainer.step()
    found = [None] * 4
    dist.all_gather_object(found, memory.peak)
    if dist.get_rank() == 0:
        (out / f"{name}.json").write_text(json.dumps(found))
dist.barrier()
import os
os._exit(0)
"""
LAYOUTS = {
    "tp2 dp2": ("float32", {"tp": 2, "dp": 2}), "pp2 dp2": ("bfloat16", {"pp": 2, "dp": 2}),
    "cp2 dp2": ("float32", {"cp": 2, "dp": 2}), "tp2 pp2": ("bfloat16", {"tp": 2, "pp": 2, "dp": 1}),
}  # fmt: skip


def recipe_in(name):
    dtype, layout = LAYOUTS[name]
    return recipe_of(
        "text", model=FRESH[dtype], batch=Batch(tokens=2048), schedule=Schedule(peak=1e-3, steps=4),
        layout=Parallel(**layout),
    )  # fmt: skip


@pytest.mark.slow
def test_the_peak_of_processes_is_what_four_of_them_have(place, find, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = launch(4, str(tmp_path / "program.py"), str(place), str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    for name in LAYOUTS:
        recipe = recipe_in(name)
        found = needs(recipe, open_recipe(recipe, place, find).config)
        assert min(found.parts.values()) >= 0, name
        assert found.peak == pytest.approx(max(json.loads((tmp_path / f"{name}.json").read_text())), rel=0.05), name


RECIPES = sorted(Path("recipes").glob("llama-3.1-*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_llamas_recipes_divide(path):
    recipe = resolve(path, {}).recipe
    check_layout(recipe, config_of(recipe, None, None), Layout.on_paper(recipe.layout))
    assert recipe.model.dtype == "bfloat16"
    assert recipe.layout.processes <= 16_384


def test_a_layout_is_chosen_and_the_trainer_takes_it(place, find):
    recipe = resolve(Path("recipes/llama-3.1-405b-dpo.toml"), {"layout.auto": True}).recipe
    config = config_of(recipe, None, None)
    chosen = with_layout(recipe, config, 4096)
    assert chosen.layout.processes == 4096
    check_layout(chosen, config, Layout.on_paper(chosen.layout))
    plans = search(Work(config, 8192, 4_194_304), 4096, gpu("h100"), stack("meta")).plans
    assert any(
        (p.layout.tp, p.layout.pp, p.layout.dp) == (chosen.layout.tp, chosen.layout.pp, chosen.layout.dp) for p in plans
    )
    again = with_layout(chosen, config, 2048)  # as a run that goes on with fewer
    assert again.layout.processes == 2048
    # less than the planner knows of is shared by rows, and what cannot be says why
    tiny = recipe_of(layout=Parallel(auto=True))
    assert with_layout(tiny, find("model").config, 4).layout.dp == 4
    with pytest.raises(
        ConfigError, match=r"layout.auto: 3 processes cannot share this recipe: batch.tokens 1024 are 4 rows"
    ):
        with_layout(tiny, find("model").config, 3)
    with pytest.raises(ConfigError, match=r"tpu"):
        with_layout(recipe_of(layout=Parallel(auto=True, gpu="tpu")), find("model").config, 4)


def test_llamas_recipes_are_all_there():
    sizes, phases = ("8b", "70b", "405b"), ("pretrain", "long", "anneal", "sft", "reward", "dpo")
    assert {path.stem for path in RECIPES} == {f"llama-3.1-{size}-{phase}" for size in sizes for phase in phases}
    pretrain = resolve(Path("recipes/llama-3.1-405b-pretrain.toml"), {}).recipe
    assert [pretrain.at(seen) for seen in (0, 252_000_000, 2_870_000_000_000)] == [
        (4096, 1024),
        (8192, 1024),
        (8192, 2048),
    ]
    rates = {resolve(Path(f"recipes/llama-3.1-{size}-pretrain.toml"), {}).recipe.schedule.peak for size in sizes}
    assert rates == {3e-4, 1.5e-4, 8e-5}


@pytest.mark.slow  # minutes: 16,384 processes' steps, of the first and the last place of a pipeline
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_llamas_recipes_fit_80_gb(path):
    def find(name):
        raise ConfigError(f"{name} is not here")

    asked = resolve(path, {})
    assert describe(asked.recipe, asked.folder, find, memory=80e9)["memory"].endswith("it fits")


BIG = """
[model]
shape = {layers = 14, dim = 256, ffn_dim = 512, heads = 8, kv_heads = 8, head_dim = 32, vocab = 512}
tokenizer = "nowhere"
dtype = "bfloat16"
[data]
length = 256
[[data.sources]]
path = "nowhere.txt"
[batch]
tokens = 4096
[schedule]
peak = 1e-3
steps = 10
[layout]
tp = 8
cp = 16
pp = 16
dp = 8
schedule = "gpipe"
"""


def test_sixteen_thousand_processes_and_what_does_not_fit(tmp_path):
    path = tmp_path / "big.toml"
    path.write_text(BIG)

    def said(*words):
        done = CliRunner().invoke(command, [str(path), "--dry-run", *words])
        return done.output if done.exception is None else str(done.exception)

    found = said("--memory", "80")
    assert "16,384: tp 8, cp 16, pp 16, dp 8" in found
    assert "it fits" in found
    assert "not here (1)" in found
    assert "layout.tp is 3; 8 kv heads and 512 feed-forward columns can be shared by 1, 2, 4, 8" in said(
        "--set", "layout.tp=3"
    )
    assert "layout.pp is 40, with 1 stages each" in said("--set", "layout.pp=40")
    assert "2 micro-batches do not fill 16 places of a pipeline; batch.tokens 32768 would do" in said(
        "--set", "layout.schedule=1f1b"
    )
    assert "cannot be cut into 96 chunks" in said("--set", "layout.cp=48")
    assert "--processes 1000: the layout takes a multiple of 2048" in said("--processes", "1000")


def test_a_start_may_change_how_positions_are_told_and_nothing_else(place, find):
    shape = {
        **{name: getattr(find("model").config, name) for name in ModelConfig.__dataclass_fields__},
        "context": 4096,
    }
    recipe = recipe_of(model=Model(start="model", shape=shape, dtype="float32"))
    trainer = make_trainer(open_recipe(recipe, place, find), find, None, lambda **_: None)
    assert trainer.model.config.context == 4096
    assert torch.equal(
        trainer.model.tok_embeddings.weight.detach(),
        torch.from_numpy(find("model").tensors["tok_embeddings.weight"].float32()),
    )
    wrong = msgspec.structs.replace(recipe, model=Model(start="model", shape={**shape, "layers": 3}))
    with pytest.raises(
        ConfigError, match=r"model.shape: layers is 3; model has 2; .* may change context, rope_scaling"
    ):
        open_recipe(wrong, place, find)


def test_adapters_need_little_and_what_does_not_fit_is_told(place, find):
    with pytest.raises(
        ConfigError, match=r"a process needs .* MiB of it \w+, and 4 GB for the runtime; it has 4.0 GB: \w+"
    ):
        describe(recipe_of(), place, find, memory=4e9)
    whole = needs(recipe_of(), find("model").config)
    thin = needs(recipe_of(lora=Lora(rank=2)), find("model").config, find("model"))
    assert thin.parts["optimizer"] < 0.2 * whole.parts["optimizer"]
    assert thin.learning < 0.2 * thin.parameters


def kept_by(model):
    """States of 256 tokens, and the bytes that were kept for the backward pass."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        states = model(torch.arange(256)[None] % 64, mask=Documents((100, 156)), head=False)
    return states, sum(size for size, _ in kept.values())


def test_layers_computed_again_keep_little_and_give_the_same_gradients():
    torch.manual_seed(0)
    model = Transformer(ModelConfig(**VALUES, vocab=64))
    found = []
    for again in (False, True):
        if again:
            recompute_layers(model)
        model.zero_grad()
        states, kept = kept_by(model)
        torch.autograd.backward(states.square().mean())
        found.append((kept, [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert found[1][0] < 0.2 * found[0][0]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
