"""Failures for real: processes of our trainer are killed, slowed, and a bit of a weight flips."""

import json
import math
import random
from pathlib import Path

import pytest
import torch

from herd.errors import ConfigError
from herd.plan.faults import Cluster, replay
from herd.plan.rehearse import Watch, kind_of, rehearse, stream
from herd.train.rank import flip_bit

RECIPE = f"""
[model]
shape = {{layers = 4, dim = 128, ffn_dim = 352, heads = 4, kv_heads = 2, head_dim = 32, context = 512, tied = true, rope_theta = 10000.0}}
vocab = 1024
dtype = "float32"
[data]
length = 128
[[data.sources]]
path = "{Path("recipes/data/tiny/wikitext-valid.txt").resolve()}"
[batch]
tokens = 1024
rows = 4
[schedule]
peak = 1e-3
warmup = 5
decay = "constant"
steps = 100
"""


def test_a_stream_has_every_kind_and_is_the_same_again():
    for seed in range(20):
        found = stream(4, 200, seed)
        assert len(found) == 4
        assert found == sorted(found) == stream(4, 200, seed)
        assert {kind_of(cause) for _, cause in found} == {"kill", "slow", "flip"}
        assert all(0 <= at < 200 for at, _ in found)


def test_what_watches_sees_a_jump_and_a_slow_process_and_no_noise():
    noise, watch = random.Random(0), Watch()
    for step in range(300):
        loss = 4 + 3 * math.exp(-step / 50) + noise.gauss(0, 0.1)
        assert not watch.wrong(loss), step
        watch.losses.append(loss)
        watch.seconds.append(0.1 + noise.random() * 0.2)
    assert watch.wrong(math.nan)
    assert watch.wrong(math.inf)
    assert watch.wrong(6.9)
    assert not watch.slow([0.2, 2.0])  # one alone may be the machine's
    assert watch.slow([0.2, 2.0, 2.0])


def test_a_flipped_bit_is_one_weight_that_is_far_off():
    weights = [torch.nn.Parameter(torch.full((8, 8), 0.02)), torch.nn.Parameter(torch.ones(8))]
    flip_bit(weights)
    changed = weights[0].detach().flatten() != 0.02
    assert changed.sum() == 1
    assert weights[0].detach().abs().max() > 1e30
    assert (weights[1] == 1).all()


def test_the_simulation_takes_detection_by_cause():
    cluster = Cluster(hours=1, interval=100, stall=0, detection=20, restart=30, noticed={"NIC": 5.0})
    assert replay(cluster, [(250.0, "NIC")])["detection"] == 5
    assert replay(cluster, [(250.0, "SSD")])["detection"] == 20


def test_what_cannot_be_tried_is_refused(tmp_path):
    recipe = tmp_path / "r.toml"
    recipe.write_text(RECIPE)
    with pytest.raises(ConfigError, match="2 failures"):
        rehearse(recipe, tmp_path / "run", seconds=60, failures=2)
    with pytest.raises(ConfigError, match="exists already"):
        rehearse(recipe, tmp_path, seconds=60, failures=3)


@pytest.mark.slow
def test_measured_effective_time_is_the_simulated(tmp_path):
    recipe, told = tmp_path / "r.toml", []
    recipe.write_text(RECIPE)
    found = rehearse(recipe, tmp_path / "run", seconds=200, failures=4, every=20, seed=1, say=told.append)
    assert len(told) == 4
    assert {kind for kind, _, _ in found.measured.failures} == {"kill", "slow", "flip"}
    assert 0.2 < found.effective < 0.98
    assert abs(found.effective / found.simulated - 1) < 0.05
    losses: dict[int, list[float]] = {}
    for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "step":
            losses.setdefault(event["step"], []).append(event["loss"])
    assert max(map(len, losses.values())) > 1  # work was repeated,
    assert all(values[-1] is not None for values in losses.values())  # and what stands is well
