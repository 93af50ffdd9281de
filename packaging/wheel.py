"""Build a source distribution, from it a wheel, make that one for many Linuxes, install it into an empty environment, and let it answer.

python packaging/wheel.py --out dist
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
QUESTION = "What is the capital of France?"


def run(*words: object, **more: object) -> str:
    """A command's output; what fails stops here with what it said."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, **more)  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stdout}{done.stderr}")
    return str(done.stdout)


def build(out: Path) -> Path:
    """A source distribution in `out`, and the wheel that it gives, with the manylinux tag where auditwheel is installed."""
    with tempfile.TemporaryDirectory() as folder:
        run(sys.executable, "-m", "build", "--sdist", "-o", folder, ROOT)
        (source,) = Path(folder).glob("*.tar.gz")
        run(sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet", "-w", folder, source)
        (wheel,) = Path(folder).glob("*.whl")
        out.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, out)
        if shutil.which("auditwheel"):
            run("auditwheel", "repair", "-w", out, wheel)
        else:
            shutil.copy(wheel, out)
    return max(out.glob("*.whl"), key=lambda path: path.stat().st_mtime)


def answer(wheel: Path, folder: Path) -> str:
    """What the wheel's `herd chat` says to QUESTION in a new environment in `folder`."""
    venv.create(folder, with_pip=True)
    run(folder / "bin" / "python", "-m", "pip", "install", "--quiet", wheel)
    return run(folder / "bin" / "herd", "chat", input=QUESTION + "\n", cwd=folder).strip()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="where the wheel goes")
    made = build(parser.parse_args().out)
    with tempfile.TemporaryDirectory() as place:
        said = answer(made, Path(place) / "empty")
    print(f"{made.name}: {said}")
    sys.exit("Paris" not in said)
