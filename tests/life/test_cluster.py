"""A life on a Ray cluster of two nodes, one of which is killed on the way: real Ray, real training."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHANGES = ("stages.pretrain.layout={dp = 2}", "stages.pretrain.schedule.steps=40")

pytest.importorskip("ray", reason="needs Ray: pip install 'llama-herd[ray]'")
pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # workers find this herd
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        yield made
    finally:
        made.shutdown()


def run(out: Path, recipe: Path, address: str, *changes: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "herd", "run", str(recipe), "--out", str(out), "--set", f"cluster.ray={address}"]
    command += [word for change in changes for word in ("--set", change)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))


def test_a_life_on_two_nodes_goes_on_when_one_is_killed(tmp_path, cluster):
    node = cluster.add_node(num_cpus=2)
    process = run(tmp_path / "out", ROOT / "recipes" / "life-minute.toml", cluster.address, *CHANGES)
    try:
        log = None
        deadline = time.monotonic() + 300
        while time.monotonic() < deadline and process.poll() is None:  # pre-training is under way, on both nodes or one
            log = next(tmp_path.glob("out/stages/pretrain-*/made/log.jsonl"), None)
            if log and '"event":"step"' in log.read_text():
                break
            time.sleep(0.2)
        assert log is not None, process.poll()
        cluster.remove_node(node, allow_graceful=False)
        out, said = process.communicate(timeout=900)
    finally:
        process.kill()
    assert process.returncode == 0, said
    assert "report.html: done" in out
    marks = {p.parent.name.rsplit("-", 1)[0]: json.loads(p.read_text()) for p in tmp_path.glob("out/stages/*/stage.json")}  # fmt: skip
    assert marks["pretrain"]["results"]["steps"] == 40
    assert set(marks["evals"]["results"]["figures"]) == {"pretrain", "dpo"}
    (card,) = tmp_path.glob("out/stages/model-*/made/README.md")
    assert "| dpo | life_solutions | bits_per_byte |" in card.read_text(), (
        "the folder is made when all else is measured"
    )
    assert (tmp_path / "out/report.html").stat().st_size > 10_000


def test_a_stage_that_cannot_be_is_told_in_one_line(tmp_path, cluster):
    (tmp_path / "r.toml").write_text('[stages.t]\nkind = "evals"\nmodels = ["./no-model"]\ntasks = ["small_arc"]\n')
    (tmp_path / "no-model").mkdir()
    (tmp_path / "no-model" / "x").write_text("")
    process = run(tmp_path / "out", tmp_path / "r.toml", cluster.address)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("herd: ")
    assert "Traceback" not in said


def test_no_cluster_is_told_in_one_line(tmp_path):
    (tmp_path / "a.txt").write_text("one two three " * 50)
    (tmp_path / "r.toml").write_text('[stages.t]\nkind = "tokenizer"\nfiles = ["./a.txt"]\nvocab = 300\n')
    process = run(tmp_path / "out", tmp_path / "r.toml", "auto")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert said.splitlines()[-1].startswith("herd: cluster.ray is 'auto': no cluster there")
