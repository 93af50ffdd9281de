"""The trainer's promises, on a tiny model: losses that packing and cutting into pieces do not change, and exact resumes."""

import dataclasses
import json
import resource

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from herd.errors import ConfigError, FormatError
from herd.runs import Run
from herd.train.checkpoint import trained
from herd.train.curves import curve, plot
from herd.train.objectives import DPO
from herd.train.open import make_trainer, open_recipe
from herd.train.packing import Packer, collate
from herd.train.recipe import Batch, Data, Lora, Model, Optimizer, Recipe, Schedule, Source, resolve
from herd.train.run import make_run, train
from herd.train.samples import read_source
from herd.train.trainer import TrainingError
from herd.weights.open import open_checkpoint
from herd.weights.quantize import quantized

FILES = {"text": "text.txt", "messages": "chat.jsonl", "pairs": "pairs.jsonl", "ranked": "ranked.jsonl"}


def recipe_of(*kinds, length=256, **changes) -> Recipe:
    sources = tuple(Source(path=FILES[kind], kind=kind, long="cut") for kind in kinds or ("text",))
    values = {
        "model": Model(start="model", dtype="float32"), "data": Data(sources=sources, length=length),
        "batch": Batch(tokens=1024, rows=1), "schedule": Schedule(peak=1e-3, steps=6, warmup=2), **changes,
    }  # fmt: skip
    return Recipe(**values).check()


def opened_trainer(recipe, place, find, run=None, log=lambda **_: None, stop=lambda: False):
    return make_trainer(open_recipe(recipe, place, find), find, run, log, stop)


def alone(trainer, rows) -> tuple[float, float]:
    """The summed loss and count of a batch's samples, each computed without packing from plain logits."""
    total = count = 0.0
    for row in rows:
        for piece in row:
            one = collate(trainer.packer.sources, [[piece]], piece.stop - piece.start)
            at = 0
            for length in one.documents.lengths:
                span = slice(at, at + length)
                logits = trainer.model(one.tokens[:, span])[0].double()
                each = F.cross_entropy(logits, one.targets[0, span], reduction="none")
                total += float((each * one.weights[0, span]).sum())
                count += float(one.weights[0, span].sum())
                at += length
    return total, count


@pytest.mark.parametrize("lora", [None, Lora(rank=4)])
@pytest.mark.parametrize("kinds", [("text",), ("messages",), ("text", "messages")])
@pytest.mark.parametrize(("length", "rows"), [(256, 1), (256, 4), (64, 3)])
def test_packed_loss_is_that_of_the_samples_alone(place, find, kinds, length, rows, lora):
    recipe = recipe_of(*kinds, length=length, lora=lora, batch=Batch(tokens=length * 6, rows=rows))
    trainer = opened_trainer(recipe, place, find)
    if lora:
        with torch.no_grad():
            for name, parameter in trained(trainer.model):
                if name.endswith("lora_b"):
                    parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
    batch = [trainer.packer.row(length) for _ in range(6)]
    loss, _, count = trainer.gradients(batch, length)
    with torch.no_grad():
        total, wanted = alone(trainer, batch)
    assert count == wanted
    assert abs(loss - total / count) < 1e-5


@pytest.mark.parametrize("fmt", ["Q4_0", "Q8_0", "F8_E4M3"])
def test_a_stored_base_is_its_decoded_weights(place, find, fmt):
    small = quantized(find("model"), fmt)
    found = []
    for base in ("float32", "stored"):
        recipe = recipe_of("messages", lora=Lora(rank=4, base=base))
        trainer = opened_trainer(recipe, place, lambda _: small)
        with torch.no_grad():
            for name, parameter in trained(trainer.model):
                if name.endswith("lora_b"):
                    parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(1))
        loss, _, _ = trainer.gradients([trainer.packer.row(256) for _ in range(3)], 256)
        found.append((loss, [p.grad for _, p in trained(trainer.model)]))
        held = {name for name, _ in trainer.model.named_parameters() if name.endswith(".base.weight")}
        assert bool(held) == (base == "float32"), "nothing of a stored base is held in float32"
    assert found[1][0] == pytest.approx(found[0][0], abs=1e-6)
    for mine, other in zip(found[1][1], found[0][1], strict=True):
        assert (mine - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("kind", ["text", "messages", "pairs", "ranked"])
def test_one_normalizer_whatever_the_pieces(place, find, kind):
    found = []
    objective = {"pairs": "dpo", "ranked": "reward"}.get(kind, "next-token")
    for rows in (1, 2, 4):
        trainer = opened_trainer(recipe_of(kind, objective=objective, batch=Batch(tokens=1024, rows=rows)), place, find)
        trainer.model.train()
        loss, *_ = trainer.gradients([trainer.packer.row(256) for _ in range(4)], 256)
        found.append((loss, torch.cat([p.grad.flatten() for _, p in trained(trainer.model)])))
    for loss, gradient in found[1:]:
        assert abs(loss - found[0][0]) < 1e-5
        assert (gradient - found[0][1]).norm() < 1e-5 * found[0][1].norm()


def test_every_sample_comes_once_an_epoch_and_documents_keep_their_targets(place, find):
    opened = open_recipe(recipe_of("messages"), place, find)
    packer = Packer(opened.sources, seed=5)
    seen = []
    while len(seen) < 2 * 40:
        seen += [piece.sample for piece in packer.row(256)]
    order = Packer(opened.sources, seed=5)
    assert sorted(order_of(order, 40)) == list(range(40))
    source = opened.sources[0]
    row = Packer(opened.sources, seed=5).row(256)
    batch = collate(opened.sources, [row], 256)
    at = 0
    for piece, length in zip(row, batch.documents.lengths, strict=False):
        document = source.ids[source.offsets[piece.sample] : source.offsets[piece.sample + 1]].astype(np.int64)
        assert batch.tokens[0, at : at + length].tolist() == document[:-1].tolist()
        assert batch.targets[0, at : at + length].tolist() == document[1:].tolist()
        at += length


def order_of(packer, count):
    for _ in range(count):
        packer._draw()
    return [piece.sample for piece in packer._pending[:count]]


def test_weights_of_sources_are_shares_of_tokens(place, find):
    recipe = recipe_of(data=Data(sources=(Source(path="text.txt", weight=3), Source(path="chat.jsonl", kind="messages", long="cut")), length=256))  # fmt: skip
    packer = Packer(open_recipe(recipe, place, find).sources, 0)
    given = [0, 0]
    for _ in range(100):
        for piece in packer.row(256):
            given[piece.source] += piece.stop - piece.start
    assert 2.8 < given[0] / given[1] < 3.2


def test_the_stream_goes_on_where_its_state_was_taken(place, find):
    sources = open_recipe(recipe_of("text", "messages"), place, find).sources
    one = Packer(sources, 3)
    for _ in range(7):
        one.row(100)
    state = json.loads(json.dumps(one.state()))
    other = Packer(sources, 3)
    other.restore(state)
    assert [one.row(90) for _ in range(20)] == [other.row(90) for _ in range(20)]


@pytest.mark.parametrize(("kind", "lora"), [("text", None), ("messages", Lora(rank=4, dropout=0.1)), ("pairs", None)])
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(place, find, tmp_path, kind, lora):
    recipe = recipe_of(kind, objective="dpo" if kind == "pairs" else "next-token", lora=lora, batch=Batch(tokens=512))
    results = {}
    for name, stops in (("whole", []), ("twice", [2, 3])):
        opened = open_recipe(recipe, place, find)
        run = make_run(opened, place, tmp_path / name, [])
        losses = {}

        def log(losses=losses, **values):
            if values["event"] == "step":
                losses[values["step"]] = (values["loss"], values["norm"])

        for last in [*stops, 100]:
            trainer = make_trainer(open_recipe(recipe, place, find), find, run.folder, log)
            trainer.stop = lambda trainer=trainer, last=last: trainer.progress.step >= last
            trainer.train()
        results[name] = (losses, [p.detach().clone() for _, p in trained(trainer.model)])
    assert len(results["whole"][0]) == 6
    assert results["whole"][0] == results["twice"][0]
    assert all(torch.equal(a, b) for a, b in zip(results["whole"][1], results["twice"][1], strict=True))


def test_a_run_is_a_model_that_everybody_opens(place, find, tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(
        f'[model]\nstart = "model"\n[data]\nlength = 64\n[[data.sources]]\npath = "{place}/text.txt"\n'
        f'[[data.validation]]\npath = "{place}/valid.txt"\n[batch]\ntokens = 128\n[schedule]\npeak = 1e-3\nsteps = 4\n'
        "[checkpoints]\nevery = 1\n"
    )
    shown = []
    folder, done = train(
        resolve(recipe, {"schedule.steps": "3"}), tmp_path / "run", find, shown.append, lambda: False, []
    )
    assert done
    assert len(list((folder / "checkpoints").iterdir())) == 2
    opened = open_checkpoint(folder)
    before = open_checkpoint(place / "model")
    assert opened.config == before.config
    assert opened.tokenizer.encode("the cat") == before.tokenizer.encode("the cat")
    moved = [
        name
        for name in before.tensors
        if not np.array_equal(opened.tensors[name].float32(), before.tensors[name].float32())
    ]
    assert set(moved) == set(before.tensors)
    assert [v["event"] for v in shown].count("step") == 3
    assert Run.open(folder).status == "done"
    validations = [v for v in shown if v["event"] == "validation"]
    # a byte is a token here; ends of documents are no bytes
    assert validations[0]["bits_per_byte"] >= validations[0]["loss"] / np.log(2)
    assert len(curve(Run.open(folder), "step", "loss")) == 3
    plot([folder], tmp_path / "curves.html")
    assert "Bits per byte" in (tmp_path / "curves.html").read_text()
    with pytest.raises(ConfigError, match="done"):
        train(resolve(folder, {}), folder, find, shown.append, lambda: False, [])
    with pytest.raises(ConfigError, match="holds a run already"):
        train(resolve(recipe, {}), folder, find, shown.append, lambda: False, [])
    # a damaged state is passed over for the one before it
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    data = bytearray((newest / "rank-00000.safetensors").read_bytes())
    data[-5] ^= 1
    (newest / "rank-00000.safetensors").write_bytes(data)
    trainer = opened_trainer(recipe_of(), place, find, run=folder)
    assert trainer.progress.step == 2


def test_a_sample_without_targets_is_named(place, find, tmp_path):
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"messages": [{"role": "user", "content": "hi"}]}\n')
    with pytest.raises(FormatError, match=r"bad\.jsonl:1: no token of this sample counts"):
        read_source(Source(path="", kind="messages"), bad, find("model").tokenizer, None, 64)
    bad.write_text('{"prompt": "hi", "completion": 3}\n')
    with pytest.raises(FormatError, match=r"bad\.jsonl:1: .*expected \{"):
        read_source(Source(path="", kind="messages"), bad, find("model").tokenizer, None, 64)


def test_a_step_that_is_not_finite_changes_nothing(place, find):
    for rule in ("stop", "skip"):
        lines = []
        trainer = opened_trainer(
            recipe_of(optimizer=Optimizer(nonfinite=rule)), place, find, log=lambda lines=lines, **v: lines.append(v)
        )
        with torch.no_grad():
            trainer.model.norm.weight[0] = float("inf")
        before = [p.detach().clone() for p in trainer.model.parameters()]
        if rule == "stop":
            with pytest.raises(TrainingError, match="gradient norm"):
                trainer.step()
        else:
            trainer.step()
            assert trainer.progress.step == 1
            assert trainer.progress.updates == 0
        assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))
        assert lines[-1]["event"] == "not finite"
        assert "text.txt" in lines[-1]["samples"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": Batch(tokens=1000)}, "batch.tokens 1000 is no whole number of rows of 256; 1024 would do"),
        ({"schedule": Schedule(peak=1e-3)}, "either steps or epochs"),
        ({"objective": "dpo"}, "kind text; dpo learns from pairs"),
        ({"model": Model(shape="tiny")}, "needs a tokenizer"),
        ({"lora": Lora(rank=0)}, "rank 0"),
    ],
)
def test_bad_recipes_name_the_key(change, message):
    with pytest.raises(ConfigError) as raised:
        recipe_of(**change)
    assert message in str(raised.value)


def test_dpo_masks_the_end_of_the_turn_and_starts_at_log_two(place, find):
    trainer = opened_trainer(recipe_of("pairs", objective="dpo"), place, find)
    assert isinstance(trainer.objective, DPO)
    trainer.objective = dataclasses.replace(trainer.objective, nll=0.0)
    trainer.model.train()
    loss, sums, _ = trainer.gradients([trainer.packer.row(256)], 256)
    assert abs(loss - np.log(2)) < 1e-4
    assert abs(sums["margin"]) < 1e-3
    source = trainer.packer.sources[0]
    eot = find("model").tokenizer.special_tokens["<|eot_id|>"]
    assert not source.mask[source.ids == eot].any()


def test_a_full_disk_leaves_the_state_before(place, find, tmp_path):
    trainer = opened_trainer(recipe_of(), place, find, tmp_path)
    trainer.step()
    trainer.save()
    trainer.keeper.wait()
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # files end there, as on a full disk
    try:
        trainer.step()
        trainer.save()
        with pytest.raises(ConfigError, match=r"could not be written .*; the one of step-00000001 is whole"):
            trainer.keeper.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert opened_trainer(recipe_of(), place, find, tmp_path).progress.step == 1


@pytest.mark.parametrize(("lora", "passes"), [(None, 3), (Lora(rank=2), 2)])
def test_a_step_tells_its_use_of_the_peak(place, find, lora, passes):
    lines = []
    trainer = opened_trainer(recipe_of(lora=lora), place, find, log=lambda **values: lines.append(values))
    trainer.step()
    trainer.peak = 1e8
    trainer.step()
    assert "mfu" not in lines[0]
    wanted = passes * find("model").config.flops_per_token(128) * 1024 / lines[1]["seconds"] / 1e8
    assert lines[1]["mfu"] == pytest.approx(wanted, rel=0.02)
