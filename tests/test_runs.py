import os
import signal
import subprocess
import sys
import time

import pytest

from herd.errors import ConfigError, FormatError
from herd.runs import Run, differences, found

_WORK = """
import sys, time
from pathlib import Path
from herd.runs import Run
with Run.open(Path(sys.argv[1])).working() as run:
    run.log(step=1)
    print("working", flush=True)
    time.sleep(60)
"""


def test_a_run_from_start_to_end(tmp_path):
    run = Run.create(tmp_path / "a", "train", "seed = 1\n", version="0", command=["herd", "train"])
    assert run.status == "new"
    with run.working():
        assert run.status == "running"
        with pytest.raises(ConfigError, match="another process"), Run.open(run.folder).working():
            pass
        run.log(step=1, loss=2.5)
        run.finish(loss=2.5)
    again = Run.open(run.folder, "train")
    assert again.status == "done"
    assert again.recipe.read_text() == "seed = 1\n"
    assert [(e["step"], e["loss"]) for e in again.events()] == [(1, 2.5)]
    with pytest.raises(ConfigError, match="exists already"):
        Run.create(run.folder, "train", "", version="0")
    with pytest.raises(FormatError, match="expected evals"):
        Run.open(run.folder, "evals")
    with pytest.raises(FormatError, match="holds no run"):
        Run.open(tmp_path)


def test_a_killed_run_is_interrupted_and_resumes(tmp_path):
    run = Run.create(tmp_path / "killed", "train", "", version="0")
    process = subprocess.Popen([sys.executable, "-c", _WORK, str(run.folder)], stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"working\n"
    assert Run.open(run.folder).status == "running"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert Run.open(run.folder).status == "interrupted"
    with (run.folder / "log.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')
    assert [e["step"] for e in run.events()] == [1]
    with Run.open(run.folder).working() as resumed:
        resumed.finish(loss=1.0)
    assert Run.open(run.folder).status == "done"


def test_failures_are_kept_and_results_compared(tmp_path):
    first = Run.create(tmp_path / "x" / "a", "train", "", version="0")
    time.sleep(0.01)
    second = Run.create(tmp_path / "x" / "b", "evals", "", version="0")
    with pytest.raises(ValueError, match="no data"), first.working():
        raise ValueError("no data")
    with second.working() as run:
        run.finish(loss=1.0, accuracy=0.5)
    runs = found(tmp_path)
    assert [(r.folder.name, r.status) for r in runs] == [("a", "failed"), ("b", "done")]
    assert runs[0].record.failure == "no data"
    assert differences(runs) == {"loss": [None, 1.0], "accuracy": [None, 0.5]}
