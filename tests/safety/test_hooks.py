"""The hook of docs/how-to/guard-commits.md in a real repository."""

import os
import re
import subprocess
import sys
from pathlib import Path

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "guard-commits.md"


def test_the_hook_stops_insecure_code_and_lets_what_is_mended_through(tmp_path):
    (hook,) = re.findall(r"```sh\n(.*?)```", GUIDE.read_text("utf-8"), re.S)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "herd"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m herd "$@"\n')
    root = str(Path(__file__).parents[2])
    environment = {
        **os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": root, "HOME": str(tmp_path),
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b.c", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@b.c",
    }  # fmt: skip
    for name in [name for name in environment if name.startswith("GIT_") and name[4:].split("_")[0] not in ("AUTHOR", "COMMITTER")]:  # fmt: skip
        del environment[name]
    home = tmp_path / "repository"
    home.mkdir()

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *arguments], cwd=home, env=environment, capture_output=True, text=True, timeout=60
        )

    assert git("init", "-q").returncode == 0
    installed = home / ".git" / "hooks" / "pre-commit"
    installed.write_text(hook)
    for file in (command, installed):
        file.chmod(0o755)
    code = home / "with space.py"
    code.write_text("import os, sys\nos.system('rm ' + sys.argv[1])\n")
    git("add", ".")
    refused = git("commit", "-qm", "insecure")
    assert refused.returncode == 1
    assert "CWE-78" in refused.stdout + refused.stderr
    code.write_text("import subprocess, sys\nsubprocess.run(['rm', '--', sys.argv[1]], check=True)\n")
    git("add", ".")
    assert git("commit", "-qm", "mended").returncode == 0
    assert git("commit", "-q", "--allow-empty", "-m", "nothing").returncode == 0
