from dataclasses import replace

import numpy as np
import pytest

from herd.errors import ConfigError
from herd.plan.faults import CAUSES, Cluster, best_interval, daly, events, improvements, replay, simulate, young


def test_table_5():
    assert sum(CAUSES.values()) == 419
    assert Cluster().mean_time() / 3600 == pytest.approx(1296 / 419)
    found = simulate(Cluster(), runs=300)
    assert found.failures == pytest.approx(419, rel=0.01)
    assert found.effective.low > 0.9
    assert found.effective.value + sum(found.lost.values()) == pytest.approx(1)


def test_a_run_without_failures_loses_its_checkpoints_alone():
    quiet = Cluster(rate=0, interval=100, stall=10, hours=1)
    spent = replay(quiet, [])
    assert spent["useful"] + spent["checkpoints"] == pytest.approx(3600)
    assert spent["useful"] == pytest.approx(3600 * 100 / 110, rel=0.03)


def test_one_failure_by_hand():
    cluster = Cluster(hours=1, interval=100, stall=0, detection=20, restart=30)
    spent = replay(cluster, [(250.0, "NIC")])
    assert spent["repeated"] == pytest.approx(50)
    assert (spent["detection"], spent["restart"]) == (20, 30)
    assert spent["useful"] == pytest.approx(3600 - 100)
    # one that comes while the job is down repeats nothing, but prolongs it
    spent = replay(cluster, [(250.0, "NIC"), (260.0, "SSD")])
    assert (spent["repeated"], spent["detection"], spent["restart"]) == (pytest.approx(50), 40, 60)
    planned = replay(cluster, [(250.0, "planned")])
    assert (planned["repeated"], planned["planned"]) == (0, 30)


def test_without_spares_the_job_waits_for_repairs():
    cluster = Cluster(hours=100, spares=1, repair=10 * 3600)
    spent = replay(cluster, [(3600.0, "faulty GPU"), (7200.0, "faulty GPU")])
    assert spent["waiting"] == pytest.approx(9 * 3600, rel=0.05)
    assert replay(cluster, [(3600.0, "faulty GPU"), (7200.0, "software bug")])["waiting"] == 0


def test_bursts_keep_the_mean_rate_and_come_together():
    generator = np.random.default_rng(0)
    calm = [len(events(Cluster(), generator)) for _ in range(100)]
    wild = [len(events(Cluster(burst=0.5), generator)) for _ in range(100)]
    assert np.mean(wild) == pytest.approx(np.mean(calm), rel=0.05)
    assert np.var(wild) > 1.5 * np.var(calm)


def test_the_best_interval_is_youngs():
    cluster = Cluster(hours=24 * 20)
    interval, outcome = best_interval(cluster, runs=60)
    assert young(cluster) / 2 < interval < young(cluster) * 2
    assert daly(cluster) == pytest.approx(young(cluster), rel=0.05)
    assert outcome.effective.value > simulate(replace(cluster, interval=young(cluster) * 8), 60).effective.value
    assert simulate(cluster, 20, seed=4) == simulate(cluster, 20, seed=4)


def test_every_improvement_helps_and_nonsense_is_refused():
    assert all(gain > 0 for _, gain in improvements(Cluster(), runs=40))
    for wrong in ({"gpus": 0}, {"burst": 1.0}, {"restart": -1.0}, {"interval": 0.0}):
        with pytest.raises(ConfigError):
            Cluster(**wrong)
    with pytest.raises(ConfigError):
        best_interval(Cluster(rate=0))
