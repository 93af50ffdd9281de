"""A source distribution is made, a wheel built from it, installed into an empty environment, and answers. Minutes: it compiles and fetches."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_answers(tmp_path):
    command = [sys.executable, str(ROOT / "packaging" / "wheel.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Paris" in done.stdout
    assert len(list(tmp_path.glob("llama_herd-*.whl"))) == 1
    assert len(list(tmp_path.glob("llama_herd-*.tar.gz"))) == 1
