"""Train a model by a recipe, or go on with a run. Ctrl-C saves and stops; the same command goes on.

\b
Examples:
  herd train recipes/tiny-pretrain.toml
  herd train recipes/gsm8k-sft.toml --set schedule.steps=20 --out try
  herd train runs/tiny-pretrain                 # go on where it was
  herd train recipes/gsm8k-sft.toml --show-batch
  herd train recipes/llama-3.1-405b-pretrain.toml --dry-run --memory 80
"""

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd.cli.common import PATH, open_model, settings_of
from herd.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from herd.train.recipe import Recipe


@click.command(help=__doc__)
@click.argument("recipe", type=PATH, help="A recipe (.toml), or the folder of a run.")
@click.option("--out", type=PATH, help="The run's folder. Default: runs/ and the recipe's name.")
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: schedule.steps=20.")
@click.option(
    "--show-batch", is_flag=True, help="Print the first batch, coloured by what counts in the loss, and stop."
)
@click.option(
    "--dry-run", is_flag=True, help="Check everything, say what memory a step needs in each process, and stop."
)
@click.option("--processes", type=int, help="With --dry-run: how many there will be. Default: what the layout says.")
@click.option("--memory", type=float, metavar="GB", help="With --dry-run: fail where a process needs more.")
def command(
    recipe: Path, out: Path | None, changes: tuple[str, ...], show_batch: bool, dry_run: bool, processes: int | None,
    memory: float | None,
) -> None:  # fmt: skip
    from herd.train.recipe import resolve

    if not recipe.exists():
        raise ConfigError(f"{recipe}: no such recipe; give a .toml file, or a run's folder to go on with it")
    asked = resolve(recipe, settings_of(changes, "schedule.steps=20"))
    try:
        from herd.train.run import train
    except ImportError as error:
        raise MissingDependencyError("training needs torch; install it: pip install 'llama-herd[torch]'") from error
    if processes is not None and not dry_run:
        raise ConfigError("--processes goes with --dry-run; a run has as many as torchrun starts")
    if asked.recipe.layout.auto or processes is not None:
        asked = asked._replace(recipe=_laid_out(asked.recipe, asked.folder, processes))
    if show_batch or dry_run:
        _look(asked.recipe, asked.folder, show_batch, memory)
        return
    _join()
    stopping = Stop()
    folder, done = train(asked, out or Path("runs") / recipe.stem, open_model, Lines(), stopping, sys.argv)
    print(
        f"{folder}: done; talk with it: herd chat {folder}" if done else f"{folder}: saved; go on: herd train {folder}"
    )
    if not done:
        sys.exit(130)


def _join() -> None:
    """Meet the other processes that torchrun started."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from herd.train.layout import meet

        meet()


def _laid_out(recipe: "Recipe", folder: Path, processes: int | None) -> "Recipe":
    """The recipe for so many processes: those that torchrun started, where it is not said."""
    import msgspec

    from herd.plan.auto import with_layout
    from herd.train.dry_run import config_here

    count = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    if recipe.layout.auto:
        return with_layout(recipe, config_here(recipe, folder, open_model), count)
    inner = recipe.layout.tp * recipe.layout.cp * recipe.layout.pp
    if count < inner or count % inner:
        raise ConfigError(f"--processes {count}: the layout takes a multiple of {inner}")
    return msgspec.structs.replace(recipe, layout=msgspec.structs.replace(recipe.layout, dp=count // inner))


def _look(recipe: "Recipe", folder: Path, show_batch: bool, memory: float | None) -> None:
    from rich.console import Console

    from herd.train.dry_run import describe
    from herd.train.open import open_recipe
    from herd.train.packing import Packer, collate
    from herd.train.show import show_batch as shown

    if show_batch and recipe.objective == "grpo":
        raise ConfigError(
            "--show-batch: the batches of grpo are the model's own answers; the log of the run shows some"
        )
    console = Console()
    if show_batch:
        opened = open_recipe(recipe, folder, open_model)
        length, _ = recipe.at(0)
        packer = Packer(opened.sources, recipe.seed)
        batch = collate(opened.sources, [packer.row(length) for _ in range(recipe.batch.rows)], length)
        names = [opened.sources[piece.source].names(piece.sample) for piece in batch.pieces]
        console.print(shown(batch, opened.tokenizer, names))
        return
    for name, value in describe(recipe, folder, open_model, None if memory is None else memory * 1e9).items():
        console.print(f"{name:24} {value}", highlight=False)


class Stop:
    """True after Ctrl-C or a polite kill; a second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def _ask(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("saving after this step ...", file=sys.stderr)

    def __call__(self) -> bool:
        return self.asked


class Lines:
    """What is logged, for people, on standard error: a line in place on a terminal, one every ten seconds elsewhere."""

    def __init__(self) -> None:
        self._steps, self._first, self._began, self._last = 0, 0, time.monotonic(), 0.0
        self._reward = ""

    def __call__(self, values: dict[str, Any]) -> None:
        terminal = sys.stderr.isatty()
        event = values["event"]
        if event == "start":
            self._steps, self._first, self._began = values["steps"], values["step"], time.monotonic()
            self._reward = ""
            print(f"{values['steps']} steps in {values['dtype']}", file=sys.stderr)
        elif event == "source":
            dropped = f", {values['dropped']:,} too long and left out" if values["dropped"] else ""
            print(
                f"{values['source']}: {values['samples']:,} samples, {values['tokens']:,} tokens{dropped}",
                file=sys.stderr,
            )
        elif event == "validation":
            bits = f"  {values['bits_per_byte']:.3f} bits a byte" if "bits_per_byte" in values else ""
            found = f"reward {values['reward']:.3f}" if "reward" in values else f"loss {values['loss']:.4f}"
            print(
                ("\r\033[K" if terminal else "") + f"step {values['step']}  {values['source']}: {found}{bits}",
                file=sys.stderr,
            )
        elif event == "answers":
            self._reward = f"reward {values['reward']:.3f}  "
        elif event == "step":
            now = time.monotonic()
            if not terminal and now - self._last < 10 and values["step"] < self._steps:
                return
            self._last = now
            left = (now - self._began) / max(1, values["step"] - self._first) * (self._steps - values["step"])
            speed = values["count"] / values["seconds"] if values["seconds"] else 0.0
            line = (
                f"step {values['step']}/{self._steps}  {self._reward}loss {values['loss']:.4f}  norm {values['norm']:.2f}  "
                f"rate {values['rate']:.2e}  {speed:,.0f} {'tokens' if values['count'] > 512 else 'units'}/s  "
                + (f"{values['mfu']:.0%} of the peak  " if "mfu" in values else "")
                + f"{left / 60:.0f} min left"
            )
            print(f"\r\033[K{line}" if terminal else line, end="" if terminal else "\n", file=sys.stderr, flush=True)
            if terminal and values["step"] == self._steps:
                print(file=sys.stderr)
