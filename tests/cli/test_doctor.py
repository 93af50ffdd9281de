import os
import subprocess
import sys

HERD = [sys.executable, "-m", "herd", "doctor"]


def test_a_page_that_names_what_is_here_and_what_is_missing(tmp_path):
    environment = {**os.environ, "HERD_HOME": str(tmp_path / "not" / "yet"), "PATH": str(tmp_path)}
    done = subprocess.run(HERD, capture_output=True, text=True, check=True, timeout=60, env=environment)
    lines = {line.split()[1]: line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert lines["herd"].split()[0] == "ok"
    assert "kernels: " in lines["processor"]
    assert lines["bwrap"].split()[0] == "--"  # PATH is empty
    assert "install bubblewrap" in lines["bwrap"]
    assert str(tmp_path / "not" / "yet" / "models") in lines["models"]
    assert not (tmp_path / "not").exists()  # looking changes nothing


def test_the_probe_measures():
    done = subprocess.run([*HERD, "--probe"], capture_output=True, text=True, check=True, timeout=120)
    assert "GB/s" in done.stdout
    assert "GFLOP/s" in done.stdout
