"""Show what this machine can do and what is missing, in one page.

\b
Example:
  herd doctor
  herd doctor --probe
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys

import click

from herd import __version__
from herd.cli.common import human, models_home, state_home

_EXTRAS = (
    # extra, a module of it, what it is for
    ("serve", "uvicorn", "herd serve: the OpenAI API and the chat page"),
    ("torch", "torch", "training, GPUs, calibrated quantizing"),
    ("data", "resiliparse", "corpora from web pages"),
    ("evals", "pyarrow", "benchmarks from Hugging Face"),
    ("arena", "psycopg", "votes in Postgres"),
    ("ray", "ray", "serving and data on many machines"),
)
_PROGRAMS = (
    ("bwrap", "bubblewrap", "running code that a model wrote, in the sandbox"),
    ("c++", "g++", "building herd from source"),
    ("node", "nodejs", "JavaScript benchmarks"),
)


@click.command(help=__doc__)
@click.option("--probe", is_flag=True, help="Also measure memory bandwidth and arithmetic, for some seconds.")
def command(probe: bool) -> None:
    from herd.native import instruction_sets

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    total, free = _memory()
    sets = instruction_sets()
    _line(True, "herd", f"{__version__} in {os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}")
    _line(sys.version_info >= (3, 11), "Python", platform.python_version())
    _line(
        True, "processor", f"{_processor()}, {cores} cores; kernels: {sets[0]} (also {', '.join(sets[1:]) or 'none'})"
    )
    _line(True, "memory", f"{human(total)}, {human(free)} free; {_fits(free)}")
    for what, place in (("models", models_home()), ("state", state_home())):
        existing = next(p for p in (place, *place.parents) if p.exists())
        _line(os.access(existing, os.W_OK), what, f"{place}, {human(shutil.disk_usage(existing).free)} free")
    print("\nExtras:")
    for extra, module, use in _EXTRAS:
        here = importlib.util.find_spec(module) is not None
        _line(here, extra, use if here else f"{use}: pip install 'llama-herd[{extra}]'")
    if importlib.util.find_spec("torch") is not None:
        _line(True, "torch", importlib.metadata.version("torch"))
    print("\nPrograms:")
    for program, package, use in _PROGRAMS:
        found = shutil.which(program)
        _line(found is not None, program, f"{use}: {found}" if found else f"{use}: install {package}")
    if shutil.which("bwrap"):
        _sandbox()
    if probe:
        from herd.native import probe as measure

        rates = measure(cores)
        print("\nMeasured:")
        _line(
            True,
            "bandwidth",
            f"{rates.bandwidth / 1e9:.1f} GB/s; a model of 4 GB decodes at {rates.bandwidth / 4e9:.0f} tokens/s at best",
        )
        _line(
            True,
            "arithmetic",
            f"{rates.float_ops / 1e9:,.0f} GFLOP/s in floats, {rates.integer_ops / 1e9:,.0f} Gop/s in 8 bits",
        )


def _line(good: bool, name: str, text: str) -> None:
    print(f"  {'ok' if good else '--'}  {name:<10} {text}")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> tuple[float, float]:
    """Bytes in all and free now."""
    pages = os.sysconf("SC_PAGE_SIZE")
    total = float(os.sysconf("SC_PHYS_PAGES") * pages)
    try:
        with open("/proc/meminfo", encoding="utf-8") as file:
            free = next(int(line.split()[1]) * 1024.0 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        free = total
    return total, free


def _fits(free: float) -> str:
    from herd.family import SHAPES
    from herd.quant.formats import weight_bytes

    fitting = [
        name
        for name, config in SHAPES.items()
        if not name.startswith("tiny") and weight_bytes(config, "Q4_0") + 5e8 < free
    ]
    largest = max(fitting, key=lambda name: SHAPES[name].parameters, default=None)
    return f"up to {largest} in Q4_0" if largest else "no named shape fits"


def _sandbox() -> None:
    from herd.errors import MissingDependencyError
    from herd.tools.sandbox import Sandbox

    try:
        Sandbox().check()
    except MissingDependencyError as error:
        _line(False, "sandbox", str(error))
    else:
        _line(True, "sandbox", "runs code without network and files")
