"""Attack a model, or any OpenAI-compatible URL, with what comes with herd, in eight languages; see what a Shield changes.

The run's folder holds every transcript, report.json and report.html. A run that was interrupted, or whose budget was spent, goes on
when the same command is given again.

\b
Examples:
  herd redteam smollm2-135m --cases 200
  herd redteam smollm2-135m --languages de,fr --safety policy.toml --out runs/mine
  herd redteam http://127.0.0.1:8000/v1 --model smollm2-135m --tokens 20000
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from herd import __version__
from herd.cli.common import PATH, engine_options, open_model, open_shield, show_progress
from herd.errors import ConfigError

if TYPE_CHECKING:
    from herd.safety.redteam.attacks import Case
    from herd.safety.redteam.target import Target


@click.command(help=__doc__)
@click.argument("target")
@click.option("--model", help="The model's name, where TARGET is a URL. Its key: OPENAI_API_KEY.")
@click.option(
    "--safety", default="block", help="The Shield's policy: block, annotate, a TOML file; off: attack without one."
)
@click.option("--languages", help="Of the attacks, comma-separated. Default: en, de, fr, it, pt, es, hi, th.")
@click.option("--techniques", help="Comma-separated. Default: all.")
@click.option(
    "--no-adaptive",
    "adaptive",
    flag_value=False,
    default=True,
    show_default=False,
    help="Without attackers that know the Shield.",
)
@click.option(
    "--search",
    type=click.IntRange(0),
    default=0,
    help="Suffixes tried for each goal, and crescendo: attacks made against the model itself. 0: none. For URLs: crescendo alone.",
)
@click.option("--system", default="", help="A system message for attacks that have none of their own.")
@click.option("--max-tokens", type=click.IntRange(1), default=64, help="Of a reply.")
@click.option("--cases", type=click.IntRange(1), help="At most so many attacks; they are spread over all kinds.")
@click.option("--tokens", type=click.IntRange(1), help="Begin no further batch after so many generated tokens.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Begin no further batch after so long.")
@click.option(
    "--bias", "biased", is_flag=True, help="Measure, too, whether the model leans towards some names. Not for URLs."
)
@click.option("--out", type=PATH, help="The run's folder. Default: runs/redteam-TARGET.")
@click.option("--json", "as_json", is_flag=True, help="Print report.json.")
@engine_options
def command(
    target: str, model: str | None, safety: str, languages: str | None, techniques: str | None, adaptive: bool, search: int, system: str,
    max_tokens: int, cases: int | None, tokens: int | None, seconds: float | None, biased: bool, out: Path | None, as_json: bool, **engine: Any,
) -> None:  # fmt: skip
    from herd.safety.policy import Policy
    from herd.safety.redteam import attacks, bias, report
    from herd.safety.redteam.run import Budget, attack, start
    from herd.safety.redteam.target import Local
    from herd.safety.shield import Shield

    if biased and target.startswith(("http://", "https://")):
        raise ConfigError("--bias needs the model's probabilities of sentences, which a URL does not give")
    known = _list(languages) or attacks.LANGUAGES
    short = (target if model is None else model).replace("/", "-").replace(":", "-").strip("-")[:60]
    folder = out or Path("runs") / f"redteam-{short}"
    off = safety == "off"
    with Shield(Policy()) if off else open_shield(safety) as shield:
        wanted = attacks.cases(known, _list(techniques), shield.looks if adaptive and not off else None, system)[:cases]
        settings = {
            "target": target,
            "model": model or "",
            "languages": list(known),
            "system": system,
            "max_tokens": max_tokens,
            "search": search,
        }
        run = start(folder, settings, shield.policy, version=__version__, command=sys.argv)
        with _opened(target, model, max_tokens, engine) as opened, show_progress() as progress:
            if search:
                wanted = [*_searched(opened, run.folder, known, system, search), *wanted][:cases]
            found = attack(opened, [*attacks.ordinary(known), *wanted], shield, run, Budget(tokens, seconds), progress)
            leanings = bias.differences(opened, known) if biased and isinstance(opened, Local) else []
    if found and all(one.error for one in found):
        raise ConfigError(f"{target}: none of {len(found)} questions was answered; the first: {found[0].error}")
    told = report.write(
        found, folder, f"Red team: {target}" + (", without a Shield" if off else ""), leanings, shielded=not off
    )
    if as_json:
        click.echo((folder / "report.json").read_text())
        return
    with_it = "" if off else f", with it: {report.shown(told['with']) or 'not measured'}"
    click.echo(
        f"{told['attacks']} attacks, success without the Shield: {report.shown(told['without']) or 'not measured'}{with_it}"
    )
    if not off:
        click.echo(
            f"{told['ordinary']} ordinary questions, stopped by the Shield: {report.shown(told['ordinary_stopped']) or 'not measured'}"
        )
    for one in leanings:
        if one.language == "all":
            click.echo(f"{one.measure}, {one.groups}: {one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]")
    click.echo(f"{told['errors']} errors; transcripts: {folder / 'report.html'}")


def _searched(target: "Target", folder: Path, languages: tuple[str, ...], system: str, tries: int) -> "list[Case]":
    """Crescendo and suffixes for every goal, made once a run."""
    from herd.safety.redteam import attacks, search
    from herd.safety.redteam.target import Local

    def make() -> "list[Case]":
        direct = attacks.cases(languages, ["direct"], None, system)
        found = search.suffixes(direct, target.agent, tries) if isinstance(target, Local) else []
        return [*search.crescendo(direct, target), *found]

    return search.kept(folder / "searched.json", make)


def _list(text: str | None) -> tuple[str, ...]:
    return tuple(word.strip() for word in (text or "").split(",") if word.strip())


@contextlib.contextmanager
def _opened(name: str, model: str | None, max_tokens: int, engine: dict[str, Any]) -> "Iterator[Target]":
    from herd.safety.redteam.target import Local, Served

    if name.startswith(("http://", "https://")):
        from herd.engine.remote import Remote

        if model is None:
            raise ConfigError("a URL needs --model with the model's name there")
        with Remote(name, model, os.environ.get("OPENAI_API_KEY")) as remote:
            yield Served(remote, max_tokens)
        return
    from herd.engine.agent import Agent
    from herd.engine.open import open_engine

    checkpoint = open_model(name)
    with open_engine(checkpoint, **engine) as opened:
        yield Local(Agent(opened, checkpoint.chat_format()), max_tokens)
