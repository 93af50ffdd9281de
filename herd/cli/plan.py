"""`herd plan`: what training, serving or a long run's failures will take, before anyone pays for it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.common import PATH, human, show_progress, warn
from herd.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from herd.plan.search import Plan


class _Default(click.Group):
    """`herd plan MODEL` is `herd plan train MODEL`, `herd plan --page` is `herd plan page`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["--page"]:
            args = ["page", *args[1:]]
        if args and args[0] not in self.commands and args[0] not in ("--help", "-h"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_Default, name="plan", no_args_is_help=True)
def command() -> None:
    """Plan a run: layouts and their time, memory and cost; what serves a model; what failures cost.

    \b
    Examples:
      herd plan llama-3.1-405b --gpus 16384 --gpu h100 --context 8192 --batch 16M
      herd plan serve llama-3.1-405b --context 8192 --numbers fp8
      herd plan faults --gpus 16384 --days 54
      herd plan --page                              # all of it as a page of sliders
      herd plan check
    """


def tokens(text: str) -> int:
    """A number of tokens: 16M is 16 * 2^20 where it is a power of two of sequences, 15.6T plain."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30, "B": 10**9, "T": 10**12}
    unit = text[-1:].upper()
    try:
        value = float(text[:-1]) * units[unit] if unit in units else float(text)
    except ValueError as error:
        raise ConfigError(
            f"{text!r} is not a number of tokens; expected 8192, 16M (of 2^20) or 15.6T (of 10^12)"
        ) from error
    if not 1 <= value < 1e18:
        raise ConfigError(f"{text!r}: expected at least one token")
    return int(value)


@command.command()
@click.argument("model")
@click.option("--gpus", type=int, default=8, help="GPUs in all.")
@click.option("--gpu", "gpu_name", default="h100", help="a100, h100, h200 or b200.")
@click.option("--stack", "stack_name", default="meta", help="Whose software: meta, nvidia or torchtitan.")
@click.option("--context", default="8192", help="Tokens a sequence.")
@click.option("--batch", default="4M", help="Tokens a step.")
@click.option("--tokens", "total", default="15.6T", help="Tokens of the whole run, for days and cost.")
@click.option("--precision", default=None, help="bf16 or fp8. Default: what the stack was measured in.")
@click.option("--top", type=int, default=5, help="How many layouts to show.")
@click.option("--explain", is_flag=True, help="Show the terms, the rejected layouts and the assumptions.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def train(
    model: str, gpus: int, gpu_name: str, stack_name: str, context: str, batch: str, total: str, precision: str | None,
    top: int, explain: bool, as_json: bool,
) -> None:  # fmt: skip
    """The best layouts to train MODEL (a named shape) on."""
    from herd.family import shape
    from herd.plan.constants import gpu, stack
    from herd.plan.layout import Work
    from herd.plan.search import search

    accelerator, software = gpu(gpu_name), stack(stack_name)
    work = Work(shape(model), tokens(context), tokens(batch), precision or software.precision)
    found = search(work, gpus, accelerator, software)
    kinds = [(kind, count, str(example)) for kind, count, example in found.reasons()]
    costs = [plan.cost(work, accelerator, tokens(total)) for plan in found.plans]
    if as_json:
        import json
        from dataclasses import asdict

        rows = [asdict(plan) | {"cost": cost} for plan, cost in zip(found.plans, costs, strict=True)]
        click.echo(json.dumps({"plans": rows[:top], "rejected": [*kinds], "assumptions": software.fitted_to}))
        return
    if not found.plans:
        reasons = "; ".join(f"{kind} ({count:,} layouts)" for kind, count, _ in kinds[:3])
        raise ConfigError(f"no layout of {gpus:,} {gpu_name} trains {model}: {reasons}")
    _table(found.plans[:top], costs, work.batch)
    if explain:
        _explain(found.plans[0], kinds)
    note = f"Rests on: {software.name}'s efficiency of {software.efficiency:.1%}, fitted to {software.fitted_to}; {accelerator.source}."
    if software.precision != work.precision:
        note += f" That efficiency was measured in {software.precision}, not in {work.precision}: a guess here."
    click.echo(f"{note} Dollars: {accelerator.dollars_per_hour} a GPU hour, an assumption.")


def _table(plans: tuple["Plan", ...], costs: list[dict[str, float]], batch: int) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in (
        "layout",
        "step",
        "MFU",
        "TFLOPs",
        "bubble",
        "exposed",
        "memory",
        "days",
        "GPU hours",
        "cost",
        "MWh",
        "t CO2",
    ):
        table.add_column(name, justify="left" if name == "layout" else "right")
    for plan, cost in zip(plans, costs, strict=False):
        time = plan.time
        exposed = time.tensor + time.context + time.pipeline + time.data
        table.add_row(
            str(plan.layout), f"{time.total:,.2f} s", f"{plan.mfu:.1%}", f"{plan.tflops_per_gpu:,.0f}", f"{time.bubble / time.total:.1%}",
            f"{exposed / time.total:.1%}", f"{plan.memory.total / 1e9:.0f} GB", f"{cost['days']:,.1f}", f"{cost['gpu_hours'] / 1e6:,.2f}M",
            f"${cost['dollars'] / 1e6:,.1f}M", f"{cost['kwh'] / 1e3:,.0f}", f"{cost['tonnes_co2']:,.0f}",
        )  # fmt: skip
    Console(width=200).print(table)


def _explain(plan: "Plan", kinds: list[tuple[str, int, str]]) -> None:
    from dataclasses import asdict

    click.echo(f"\nThe first, {plan.layout}:")
    for what, parts, unit in (("seconds a step", asdict(plan.time), 1.0), ("GB a GPU", asdict(plan.memory), 1e9)):
        click.echo(f"  {what}: " + ", ".join(f"{name} {value / unit:,.2f}" for name, value in parts.items()))
    click.echo("Rejected:")
    for kind, count, example in kinds:
        click.echo(f"  {count:,} layouts: {kind} (such as {example})")


@command.command()
@click.argument("model")
@click.option("--gpu", "gpu_name", default="h100", help="a100, h100, h200 or b200.")
@click.option("--context", default="8192", help="Tokens a sequence.")
@click.option("--sequences", type=int, default=8, help="Sequences at once.")
@click.option(
    "--numbers", default=None, help="bf16, fp8 (as Meta's 405B) or a format such as Q4_0. Default: bf16 and fp8."
)
def serve(model: str, gpu_name: str, context: str, sequences: int, numbers: str | None) -> None:
    """How many GPUs serve MODEL at a context and load."""
    from herd.family import shape
    from herd.plan import inference
    from herd.plan.constants import gpu

    accelerator = gpu(gpu_name)
    formats = [numbers] if numbers else ["bf16", *(["fp8"] if accelerator.fp8 else [])]
    for name in formats:
        found = inference.serve(shape(model), accelerator, context=tokens(context), sequences=sequences, numbers=name)
        servers = -(-found.gpus // accelerator.node)
        click.echo(
            f"{name}: {found.gpus} {gpu_name} ({servers} server{'s' if servers > 1 else ''}, TP{found.tp} PP{found.pp}); weights "
            f"{human(found.weights)}, cache {human(found.cache)}, {human(found.room)} to spare; at best {found.decode:,.0f} tokens/s "
            f"alone, {found.decode_all:,.0f} together, prompts {found.prefill:,.0f}"
        )
    click.echo(
        "At best: memory bandwidth for decoding, the matrix units' peak for prompts; 4 GB a GPU kept for the runtime."
    )


@command.command()
@click.option("--gpus", type=int, default=16384, help="GPUs in all.")
@click.option("--days", type=float, default=54.0, help="Length of the run.")
@click.option("--detection", type=float, default=60.0, help="Seconds until a failure is noticed.")
@click.option("--restart", type=float, default=360.0, help="Seconds until the job computes again.")
@click.option("--interval", type=float, default=600.0, help="Seconds between checkpoints.")
@click.option("--stall", type=float, default=3.0, help="Seconds a checkpoint keeps the job from computing.")
@click.option("--spares", type=int, default=64, help="Spare servers.")
@click.option("--burst", type=float, default=0.0, help="Failures that one brings with it, below 1; 0 is Poisson.")
@click.option("--runs", type=int, default=500, help="Simulated runs.")
@click.option("--seed", type=int, default=0, help="Makes the simulation repeatable.")
@click.option(
    "--replay", type=PATH, metavar="RECIPE", help="Instead: train a small RECIPE here, with failures for real."
)
@click.option("--minutes", type=float, default=5.0, show_default=True, help="--replay: how long.")
@click.option("--failures", type=int, default=8, show_default=True, help="--replay: how many.")
@click.option("--processes", type=int, default=2, show_default=True, help="--replay: processes that train together.")
@click.option("--every", type=int, default=10, show_default=True, help="--replay: steps between checkpoints.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="--replay: change a setting of the recipe.")
@click.option("--out", type=PATH, help="--replay: the run's folder. Default: runs/replay and the recipe's name.")
def faults(
    days: float, runs: int, seed: int, replay: Path | None, minutes: float, failures: int, processes: int, every: int,
    changes: tuple[str, ...], out: Path | None, **values: Any,
) -> None:  # fmt: skip
    """Effective training time with the failures of Llama 3's pre-training (Table 5), and what would improve it.

    With --replay a stream of such failures meets a small run for real: processes are killed, one is made slow, a bit of a weight
    flips; what was of use of the time is compared with the simulation of the same stream.
    """
    if replay is not None:
        _replay(replay, out, minutes * 60, failures, processes, every, seed, changes)
        return
    from herd.plan.faults import Cluster, best_interval, daly, improvements, simulate, young

    cluster = Cluster(hours=days * 24, **_floats(values))
    found = simulate(cluster, runs, seed)
    value = found.effective
    click.echo(
        f"effective time {value.value:.1%}, 95% of runs within {value.low:.1%} and {value.high:.1%}; {found.failures:,.0f} failures a run"
    )
    click.echo("lost: " + ", ".join(f"{name} {share:.2%}" for name, share in found.lost.items() if share))
    if cluster.stall and cluster.mean_time() < 1e12:
        best, then = best_interval(cluster, min(runs, 100), seed)
        click.echo(
            f"best checkpoint interval {best:,.0f} s ({then.effective.value:.1%}); Young {young(cluster):,.0f} s, Daly {daly(cluster):,.0f} s"
        )
    for name, gain in improvements(cluster, min(runs, 200), seed):
        click.echo(f"  {name}: {gain:+.2%}")


def _replay(
    recipe: Path, out: Path | None, seconds: float, failures: int, processes: int, every: int, seed: int,
    changes: tuple[str, ...],
) -> None:  # fmt: skip
    if not recipe.is_file():
        raise ConfigError(f"{recipe}: no such recipe; --replay takes a .toml file of herd train")
    from herd.plan.rehearse import rehearse

    with show_progress() as progress:
        found = rehearse(
            recipe, out or Path("runs") / f"replay-{recipe.stem}", seconds=seconds, failures=failures,
            processes=processes, every=every, seed=seed, changes=changes, progress=progress, say=warn,
        )  # fmt: skip
    for kind, detection, restart in found.measured.failures:
        click.echo(f"{kind}: noticed after {detection:.1f} s, computing again {restart:.1f} s later")
    click.echo(
        f"effective time {found.effective:.1%} of {found.measured.total:,.0f} s; simulated with the same stream and parts {found.simulated:.1%} "
        f"({found.effective / found.simulated - 1:+.1%})"
    )


def _floats(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


@command.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=8070, show_default=True, help="Port; 0 takes a free one.")
def page(host: str, port: int) -> None:
    """A page of sliders over the planner, in the browser."""
    try:
        from herd.plan.page import create_page
        from herd.serve.app import PAGE
        from herd.serve.server import bind, shown_address
        from herd.serve.server import serve as listen
    except ImportError as error:
        raise MissingDependencyError(
            f"herd plan --page needs {error.name}; install it with: pip install 'llama-herd[serve]'"
        ) from error
    sock = bind(host, port)
    sock.listen(128)
    warn(f"herd: the planner at http://{shown_address(sock)}")
    listen(create_page(PAGE), sock, grace=1)()


@command.command()
@click.option("--out", type=PATH, help="Also write the tables as Markdown here.")
def check(out: Path | None) -> None:
    """Published runs beside the planner's figures, with errors."""
    from herd.plan.checks import PUBLISHED, conversions

    lines = ["| run | published, tokens/s a GPU | planner | error | |", "|---|---|---|---|---|"]
    for run in PUBLISHED:
        ours = run.predicted()
        note = f"{run.stack}'s efficiency is fitted to it" if run.fits else "predicted"
        lines.append(f"| {run.name} | {run.rate:,.1f} | {ours:,.1f} | {ours / run.rate - 1:+.1%} | {note} |")
    lines += ["", "| NVIDIA's conversion | TFLOPs printed | our count | error |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {printed:,.0f} | {ours:,.1f} | {error:+.2%} |" for name, printed, ours, error in conversions()
    ]
    text = "\n".join(lines) + "\n"
    click.echo(text, nl=False)
    if out is not None:
        from herd.atomic import atomic_file

        with atomic_file(out) as temporary:
            temporary.write_text(text)
