"""Make a corpus by a recipe: read, extract, filter, redact, deduplicate, tokenize. The same command goes on after Ctrl-C or a kill.

\b
Examples:
  herd data recipes/docs-corpus.toml
  herd data recipes/docs-corpus.toml --out corpus --workers 2
  herd data explain runs/docs-corpus ../docs/README.md # what became of a document
  herd data report runs/docs-corpus                    # one HTML page about the corpus
  herd data learn labels.jsonl --at 3 --out quality.npz # a classifier of quality, from {"text", "label"}
  herd data count runs/docs-corpus/texts --out words.npz # the words that texts are compared with
  herd data pack runs/docs-corpus/texts --tokenizer smollm2-135m --out tokens # any text as packed tokens to train on
  herd data mix pretrain.toml --designs 12 --out mixes # recipes of small training runs with other mixes
  herd data mix runs/mix-*                             # the mix that those runs predict to be best
"""

import os
import sys
from pathlib import Path

import click

from herd import __version__
from herd.cli.common import PATH, open_model, settings_of, show_progress, size
from herd.errors import ConfigError


@click.command(help=__doc__)
@click.argument(
    "words",
    nargs=-1,
    required=True,
    metavar="RECIPE | RUN | explain RUN ID | report RUN | mix RUN RUN ... | learn LABELS | count FILES | pack FILES",
)
@click.option("--out", type=PATH, help="The run's folder, or the report's file. Default: runs/ and the recipe's name.")
@click.option("--workers", type=click.IntRange(1, 256), default=1, help="Processes that read and filter.")
@click.option(
    "--memory",
    callback=size,
    metavar="SIZE",
    help="What looking for duplicates may take, such as 1GB. Default: the recipe's.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Read and filter on a Ray cluster that sees the same folders: its address, auto, or local.",
)
@click.option("--set", "changes", multiple=True, metavar="KEY=VALUE", help="Change a setting: rules.min_words=20.")
@click.option("--designs", type=click.IntRange(5, 1000), help="With mix: write so many training recipes.")
@click.option("--tokens", type=click.FloatRange(min=1), help="With mix: what to plan for. Default: as the longest run.")
@click.option("--tokenizer", help="With pack: a model, or a folder with a tokenizer.json.")
@click.option("--at", type=float, default=0.5, help="With learn: labels of this or more are good.")
def command(
    words: tuple[str, ...], out: Path | None, workers: int, memory: int | None, ray: str | None, changes: tuple[str, ...], designs: int | None,
    tokens: float | None, tokenizer: str | None, at: float,
) -> None:  # fmt: skip
    from herd.runs import Run

    many = words[0] in ("mix", "count", "pack") and len(words) > 1
    if not many and len(words) != {"explain": 3, "report": 2, "learn": 2, "mix": 2, "count": 2, "pack": 2}.get(
        words[0], 1
    ):
        raise ConfigError(
            f"herd data {' '.join(words)}: expected RECIPE, RUN, explain RUN ID, report RUN, mix RUN RUN ..., learn LABELS, count FILES, or pack FILES"
        )
    if words[0] == "mix":
        _mix([Path(word) for word in words[1:]], designs, out, tokens)
    elif words[0] == "learn":
        from herd.cli.data_quality import learn_labels

        learn_labels(Path(words[1]), out or Path("quality.npz"), at)
    elif words[0] == "count":
        from herd.cli.data_quality import count_words

        count_words([Path(word) for word in words[1:]], out or Path("reference.npz"))
    elif words[0] == "pack":
        _pack([Path(word) for word in words[1:]], tokenizer, out or Path("tokens"))
    elif words[0] == "explain":
        _explain(Run.open(Path(words[1]), "data").folder, words[2])
    elif words[0] == "report":
        from herd.data.report import write_report

        folder = Run.open(Path(words[1]), "data").folder
        write_report(folder, out or folder / "report.html")
        print(out or folder / "report.html")
    else:
        _make(Path(words[0]), out, workers, memory, ray, changes)


def _mix(paths: list[Path], designs: int | None, out: Path | None, tokens: float | None) -> None:
    from herd.cli.data_mix import show_best, write_designs

    if designs is None:
        show_best(paths, tokens)
    else:
        write_designs(paths[0], designs, out or Path("mixes"))


def _pack(paths: list[Path], tokenizer: str | None, out: Path) -> None:
    from herd.data.pack import pack
    from herd.text.documents import iter_documents
    from herd.weights.sidecars import tokenizer_of

    if tokenizer is None:
        raise ConfigError("--tokenizer is missing; name the model that is to learn from these tokens, or a folder")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"{path}: no such file or folder")
    texts = (text for path in paths for text, _ in iter_documents(path))
    with show_progress() as show:
        index = pack(texts, tokenizer_of(tokenizer, open_model), out, show=show)
    each = index.bytes / index.tokens
    print(f"{out}: {index.documents:,} documents, {index.tokens:,} tokens, {each:.2f} bytes a token")
    print(f'in a training recipe: [[data.sources]] path = "{out}", kind = "tokens"')


def _explain(folder: Path, name: str) -> None:
    from herd.data.pipeline import explain

    for key, value in explain(folder, name).items():
        print(f"{key:10} {value}")


def _make(
    path: Path, out: Path | None, workers: int, memory: int | None, ray: str | None, changes: tuple[str, ...]
) -> None:
    from herd.config import read
    from herd.data.pipeline import make, open_run
    from herd.data.recipe import Recipe
    from herd.runs import Run
    from herd.weights.sidecars import tokenizer_of

    if not path.exists():
        raise ConfigError(f"{path}: no such recipe; give a .toml file, or a run's folder to go on with it")
    flags = settings_of(changes, "rules.min_words=20")
    if path.is_dir():
        if flags or out:
            raise ConfigError(f"{path}: a run goes on with the recipe it was made with; leave --set and --out out")
        run = Run.open(path, "data")
        recipe = read(Recipe, run.recipe).check()
    else:
        recipe = read(Recipe, path, flags, values={"folder": str(path.parent.resolve())}).check()
        run = open_run(recipe, out or Path("runs") / path.stem, __version__, sys.argv)
    if ray is not None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports to its makers otherwise
    with show_progress() as show:
        results = make(
            run,
            recipe,
            workers=workers,
            memory=memory,
            ray=ray,
            show=show,
            tokenizer_of=lambda name: tokenizer_of(name, open_model),
        )
    for name, value in results.items():
        print(f"{name:32} {value:>12,}")
    if "tokens" in results:
        print(f'to train on it: path = "{run.folder}/tokens", kind = "tokens"')
    print(f"{run.folder}/texts: {results.get('documents', 0):,} documents; look at them: herd data report {run.folder}")
