"""Completion in a real bash, and the manual page through groff."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from herd.cli import COMMANDS

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


def herd(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "herd", *words], capture_output=True, text=True, timeout=60, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"), [("herd qua", ["quantize"]), ("herd quantize --emb", ["--embedding"]), ("herd arena jud", ["judge"])]
)  # fmt: skip
def test_bash_completes_commands_and_options(tmp_path, words, expected):
    shim = tmp_path / "herd"
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m herd "$@"\n')
    shim.chmod(0o755)
    (tmp_path / "completion").write_text(herd("completion", "bash"))
    last = len(words.split()) - 1
    script = f'source "$1"; COMP_WORDS=({words}); COMP_CWORD={last}; _herd_completion herd; printf "%s\\n" "${{COMPREPLY[@]}}"'
    environment = {**ENVIRONMENT, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", "--norc", "-c", script, "bash", str(tmp_path / "completion")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
    assert done.stdout.split() == expected, done.stderr


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_ask_herd_in_their_own_way(shell):
    assert f"_HERD_COMPLETE={shell}_complete" in herd("completion", shell)


@pytest.mark.skipif(shutil.which("groff") is None, reason="needs groff")
def test_the_manual_page_has_every_command_and_no_warnings(tmp_path):
    page = tmp_path / "herd.1"
    page.write_text(herd("man"))
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", str(page)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = re.sub(".\x08", "", done.stdout).replace("‐", "-")  # bold is a letter struck twice
    for name in COMMANDS:
        assert f"herd {name}" in shown, name
