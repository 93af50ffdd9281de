"""The last pass: what the model wrote twice and what evaluation sets hold goes; data, losses and card are written whole."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from herd import __version__
from herd.atomic import atomic_file
from herd.config import dump
from herd.data import deduplicate
from herd.data.identify import identify
from herd.data.overlap import Index
from herd.progress import Progress
from herd.synth.recipe import Recipe
from herd.synth.step import Lost, Made, Prompts, strings

if TYPE_CHECKING:
    from herd.synth.run import Outcome

_MEMORY = 256 << 20


def write(
    folder: Path, recipe: Recipe, outcomes: Iterator["Outcome"], questions: list[tuple[str, str, str]], show: Progress
) -> dict[str, Any]:
    """data.jsonl and dropped.jsonl; counts of what stands in them, and of what it took."""
    found = list(outcomes)
    made = [(f"{one.id}.{i}" if len(one.made) > 1 else one.id, row) for one in found for i, row in enumerate(one.made)]
    gone = _duplicates([row.written for _, row in made], recipe, folder / "scratch")
    index = Index(questions) if questions else None
    counts: Counter[str] = Counter()
    with (
        atomic_file(folder / "data.jsonl") as temporary,
        atomic_file(folder / "dropped.jsonl") as lost,
        temporary.open("wb") as data,
        lost.open("wb") as dropped,
    ):

        def drop(key: str, step: str, why: Lost) -> None:
            counts[f"dropped {why.rule}"] += 1
            values = {"id": key, "step": step, "rule": why.rule, "value": why.value, "sample": why.sample}
            dropped.write(msgspec.json.encode(values) + b"\n")

        for one in found:
            for step, why in one.lost:
                drop(one.id, step, why)
        for number, (key, row) in enumerate(made):
            show("duplicates and evaluation sets", number, len(made))
            reason = gone.get(number) or _contaminated(row, index, recipe)
            if reason is not None:
                drop(key, "finish", reason)
                continue
            data.write(msgspec.json.encode({"id": key, **row.row}) + b"\n")
            counts["written"] += 1
    read = {"rows": len(found), "questions": sum(o.asked for o in found), "tokens": sum(o.tokens for o in found)}
    return {**read, "written": counts.pop("written", 0), **dict(sorted(counts.items()))}


def _duplicates(written: list[str], recipe: Recipe, scratch: Path) -> dict[int, Lost]:
    """Rows whose writing was there before, or nearly; those in which the model wrote no text stay."""
    gone: dict[int, Lost] = {}
    first: dict[str, int] = {}
    for number, text in enumerate(written):
        if text and (before := first.setdefault(" ".join(text.split()), number)) != number:
            gone[number] = Lost("exact", before, text[:300])
    least = recipe.deduplicate.similar
    if least is None:
        return gone

    def shingles(number: int) -> Any:
        return deduplicate.shingles(written[number], identify(written[number])[0])

    buckets = deduplicate.Buckets(scratch, len(written) * deduplicate.BANDS, _MEMORY)
    for number, text in enumerate(written):
        if text and number not in gone:
            buckets.add(deduplicate.band_keys(shingles(number)), number)
    alike = deduplicate.similar(buckets.groups(), len(written), shingles, least)
    scratch.rmdir()
    return gone | {n: Lost("similar", round(value, 4), written[n][:300]) for n, (_, value) in alike.items()}


def _contaminated(made: Made, index: Index | None, recipe: Recipe) -> Lost | None:
    """The evaluation's question that stands in a row most, if enough of it does."""
    if index is None:
        return None
    text = "\n".join(strings(made.row))
    found = max(index.found_in(text), key=lambda match: match[2], default=None)
    if found is None or found[2] < recipe.decontaminate.share:
        return None
    task, key, share = found
    return Lost("contaminated", f"{share:.0%} of {task} {key}", text[:300])


def write_card(
    folder: Path, recipe: Recipe, model: dict[str, str], prompts: dict[str, Prompts], results: dict[str, Any]
) -> None:
    """The data's card: who wrote it with which prompts, what was looked at, how much is left."""
    parts = [
        f"# {folder.name}: synthetic data\n",
        f"Written by a model; made by herd {__version__} with the steps {', '.join(recipe.steps)}.\n",
        "| | |\n|---|---|",
        *(f"| {name} | {value} |" for name, value in {**model, "licence of the model": recipe.licence or model.get("licence") or "not stated"}.items() if name != "licence"),
        *(f"| {name} | {value:,} |" for name, value in results.items()),
        "\nRows with a question of these tasks were taken out: " + (", ".join(recipe.decontaminate.tasks) or "none looked at") + ".",
        "\n## Recipe\n", _fenced(dump(msgspec.structs.replace(recipe, folder="")), "toml"),
    ]  # fmt: skip
    for name, found in prompts.items():
        parts += [f"\n## Prompts of {name}\n", _fenced(found.text, "toml")]
    with atomic_file(folder / "card.md") as temporary:
        temporary.write_text("\n".join(parts) + "\n", "utf-8")


def _fenced(text: str, kind: str) -> str:
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{kind}\n{text.rstrip()}\n{fence}"
