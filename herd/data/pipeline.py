"""A recipe -> a corpus, as a run: read, extract, identify, filter, redact; deduplicate; write. Every document that goes has its rule.

    RUN/parts/NNNNN.jsonl       documents after the filters, a part for each unit of input
    RUN/parts/NNNNN.dropped     documents that went there: id, rule, value, the text's beginning
    RUN/texts/NNNNN.jsonl       the corpus: {"id", "url", "language", "text"}; `herd train` reads it
    RUN/dropped.jsonl           documents that went as duplicates
    RUN/lines.json              lines that went, how often
    RUN/tokens/, RUN/held-out/  the corpus in packed tokens (pack.py), where the recipe asks for them

A part is written whole or not at all and depends on its input and the recipe alone: whoever is killed goes on to the same bytes,
and so does any number of workers.
"""

import contextlib
import hashlib
import json
import shutil
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from herd.atomic import atomic_file
from herd.config import dump
from herd.data import deduplicate, pack, quality
from herd.data.extract import extract
from herd.data.filters import Rules, clean, judge
from herd.data.identify import identify
from herd.data.parallel import each
from herd.data.read import Raw, read
from herd.data.recipe import Deduplicate, Pack, Recipe, Unit, units
from herd.data.redact import redact
from herd.errors import ConfigError
from herd.progress import Progress, silent
from herd.runs import Run
from herd.text.tokenizer import Tokenizer
from herd.text.train_tokenizer import train_tokenizer
from herd.weights.sidecars import read_tokenizer

SAMPLE = 300
"""Characters of a dropped document that are kept beside its rule."""


def one_document(raw: Raw, rules: Rules) -> dict[str, Any]:
    """A document as the corpus has it, or with the `rule` and `value` by which it goes."""
    row: dict[str, Any] = {"id": raw.id, "url": raw.url}
    if raw.problem:
        return {**row, "rule": "unreadable", "value": raw.problem, "sample": ""}
    text = raw.content if isinstance(raw.content, str) and not raw.is_html else extract(raw.content).text
    assert isinstance(text, str)
    text = clean(text).strip("\n")
    row["sample"] = text[:SAMPLE]
    if not text.strip():
        return {**row, "rule": "empty", "value": len(raw.content)}
    language, score = identify(text)
    row["language"] = language
    if rules.languages and language not in rules.languages:
        return {**row, "rule": "languages", "value": language}
    if score < rules.language_score:
        return {**row, "rule": "language_score", "value": round(score, 3)}
    if drop := judge(text, language, rules) or quality.judge(text, language, rules):
        return {**row, "rule": drop.rule, "value": drop.value}
    del row["sample"]
    if rules.redact:
        text, counts = redact(text)
        if counts:
            row["redacted"] = counts
    return {**row, "text": text}


def _part_of(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.jsonl"


def _part(number: int, unit: Unit, rules: Rules, folder: Path) -> int:
    """Make a part; the number of documents that were read."""
    count = 0
    with (
        atomic_file(_part_of(folder, number)) as final,  # takes its name last: it says that the part is done
        atomic_file(folder / f"{number:05d}.dropped") as lost,
        final.open("wb") as kept,
        lost.open("wb") as dropped,
    ):
        for path, name in unit:
            for raw in read(Path(path), name):
                row = one_document(raw, rules)
                (dropped if "rule" in row else kept).write(msgspec.json.encode(row) + b"\n")
                count += 1
    return count


class Stored:
    """The documents of all parts by their number, read from disk when asked for."""

    def __init__(self, folder: Path) -> None:
        self._numbers, self._starts = array("I"), array("Q")  # each document's file, and where it begins there
        self._files: list[BinaryIO] = []
        for path in sorted(folder.glob("*.jsonl")):
            file = path.open("rb")
            at = 0
            for line in file:
                self._numbers.append(len(self._files))
                self._starts.append(at)
                at += len(line)
            self._files.append(file)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> dict[str, Any]:
        file = self._files[self._numbers[index]]
        file.seek(self._starts[index])
        return msgspec.json.decode(file.readline(), type=dict[str, Any])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def close(self) -> None:
        """Close the files."""
        for file in self._files:
            file.close()


def _duplicates(
    stored: Stored, asked: Deduplicate, memory: int, folder: Path, show: Progress
) -> dict[int, tuple[str, int, float]]:
    """Each document that goes -> (rule, the document that stays, similarity)."""
    gone: dict[int, tuple[str, int, float]] = {}
    count = len(stored)
    texts = deduplicate.Buckets(folder / "exact", count, memory)
    urls = deduplicate.Buckets(folder / "url", count, memory)
    near = deduplicate.Buckets(folder / "similar", count * deduplicate.BANDS, memory)
    import numpy as np

    for index, row in enumerate(stored):
        show("signatures", index, count)
        texts.add(np.array([deduplicate.text_key(row["text"])], np.uint64), index)
        if row["url"]:
            urls.add(np.array([deduplicate.text_key(row["url"])], np.uint64), index)
        if asked.similar is not None:
            near.add(deduplicate.band_keys(deduplicate.shingles(row["text"], row["language"])), index)
    if asked.similar is not None:
        found = deduplicate.similar(
            near.groups(),
            count,
            lambda i: deduplicate.shingles(stored[i]["text"], stored[i]["language"]),
            asked.similar,
        )
        gone.update({index: ("similar", other, round(value, 4)) for index, (other, value) in found.items()})
    if asked.url:
        found_urls = deduplicate.same(urls.groups(), lambda i: str(stored[i]["url"]))
        gone.update({index: ("url", other, 1.0) for index, other in found_urls.items()})
    if asked.exact:
        found_texts = deduplicate.same(texts.groups(), lambda i: str(stored[i]["text"]))
        gone.update({index: ("exact", other, 1.0) for index, other in found_texts.items()})
    return gone


def _write(
    run: Run, recipe: Recipe, stored: Stored, gone: dict[int, tuple[str, int, float]], lines: frozenset[int]
) -> Counter[str]:
    """The corpus and what went as duplicates."""
    counts: Counter[str] = Counter()
    texts = run.folder / "texts"
    shutil.rmtree(texts, ignore_errors=True)
    texts.mkdir()
    gone_lines: Counter[str] = Counter()
    with contextlib.ExitStack() as files, atomic_file(run.folder / "dropped.jsonl") as lost, lost.open("wb") as dropped:
        out: BinaryIO | None = None
        for index, row in enumerate(stored):
            rule: dict[str, Any] | None = None
            if index in gone:
                name, other, value = gone[index]
                rule = {
                    "rule": name,
                    "value": value,
                    "of": stored[other]["id"],
                    "of_sample": stored[other]["text"][:SAMPLE],
                }
            text = deduplicate.without(row["text"], lines) if rule is None else row["text"]
            if text != row["text"]:
                left = Counter(row["text"].split("\n"))
                left.subtract(text.split("\n"))
                gone_lines.update({line: n for line, n in left.items() if n > 0})
                row["lines_cut"] = sum(n for n in left.values() if n > 0)
                if not text.strip():
                    rule = {"rule": "frequent_lines", "value": row["lines_cut"]}
            if rule is not None:
                sample = row.pop("text")[:SAMPLE]
                dropped.write(msgspec.json.encode({**row, **rule, "sample": sample}) + b"\n")
                continue
            if counts["documents"] % recipe.documents_a_file == 0:
                files.close()
                number = counts["documents"] // recipe.documents_a_file
                out = files.enter_context(files.enter_context(atomic_file(texts / f"{number:05d}.jsonl")).open("wb"))
            assert out is not None
            out.write(msgspec.json.encode({**row, "text": text}) + b"\n")
            counts.update(documents=1, characters=len(text), bytes=len(text.encode("utf-8", "replace")))
    with atomic_file(run.folder / "lines.json") as temporary:
        top = sorted(gone_lines.items(), key=lambda item: (-item[1], item[0]))[:1000]
        temporary.write_text(json.dumps(dict(top), ensure_ascii=False, indent=1) + "\n", "utf-8")
    return counts


def open_run(recipe: Recipe, out: Path, version: str, command: Iterable[str]) -> Run:
    """A new run for a recipe, or the one that is there when it was made by the same recipe."""
    if not (out / "run.json").exists():
        units(recipe)  # inputs that are not there are told before a folder is made
    other = f"{out}: holds a run of another recipe; name another folder with --out"
    return Run.of(out, "data", dump(recipe), other=other, version=version, command=command)


def _pack(folder: Path, asked: Pack, tokenizer: Tokenizer | None, show: Progress) -> dict[str, Any]:
    """Packed tokens of the corpus, and of what is held out, if the recipe asks for that."""

    def texts(held: bool) -> Iterator[str]:
        for row in kept(folder):
            if (deduplicate.text_key(row["id"]) < asked.held_out * 2**64) == held:
                yield row["text"]

    if tokenizer is None:
        assert asked.vocab is not None
        tokenizer = train_tokenizer(texts(False), asked.vocab)
    for name in ("tokens", "held-out"):
        shutil.rmtree(folder / name, ignore_errors=True)
    index = pack.pack(texts(False), tokenizer, folder / "tokens", show=show)
    results: dict[str, Any] = {"tokens": index.tokens, "bytes a token": round(index.bytes / index.tokens, 2)}
    if asked.held_out and next(texts(True), None) is not None:
        results["held-out tokens"] = pack.pack(texts(True), tokenizer, folder / "held-out", show=show).tokens
    return results


def make(
    run: Run,
    recipe: Recipe,
    *,
    workers: int = 1,
    memory: int | None = None,
    ray: str | None = None,
    show: Progress = silent,
    tokenizer_of: Callable[[str], Tokenizer] = lambda name: read_tokenizer(Path(name)),
) -> dict[str, Any]:
    """Do what is not done yet; the results. Bytes do not depend on `workers` or on interruptions.

    `memory`, in bytes, is what looking for duplicates may take (the recipe's by default); `ray` the address of a cluster that
    makes the parts, or "local". `tokenizer_of` finds the tokenizer that the recipe names.
    """
    parts = run.folder / "parts"
    named = recipe.pack and recipe.pack.tokenizer
    tokenizer = tokenizer_of(named) if named else None  # before any work, since it may not be there
    with run.working():
        parts.mkdir(exist_ok=True)
        for partial in [*run.folder.glob(".*.partial"), *parts.glob(".*.partial")]:  # of a process that was killed
            partial.unlink()
        work = units(recipe)
        names = hashlib.sha256(repr(work).encode()).hexdigest()
        mark = run.folder / "inputs.sha256"
        if mark.exists() and mark.read_text() != names:
            raise ConfigError(
                f"{run.folder}: the inputs are other files than when it was made; name another folder with --out"
            )
        with atomic_file(mark) as temporary:
            temporary.write_text(names)
        todo = [(i, work[i], recipe.rules, parts) for i in range(len(work)) if not _part_of(parts, i).exists()]
        for done, _ in enumerate(each(_part, todo, workers, ray), len(work) - len(todo) + 1):
            show("parts", done, len(work))
        stored = Stored(parts)
        scratch = run.folder / "scratch"
        shutil.rmtree(scratch, ignore_errors=True)
        asked = recipe.deduplicate
        memory = memory or asked.memory_mb << 20
        gone = _duplicates(stored, asked, memory, scratch, show)
        lines: frozenset[int] = frozenset()
        if asked.line_over is not None:
            kept = (str(stored[i]["text"]) for i in range(len(stored)) if i not in gone)
            count = sum(row["text"].count("\n") + 1 for row in stored)
            lines = deduplicate.frequent_lines(kept, scratch / "lines", memory, asked.line_over, count)
        counts = _write(run, recipe, stored, gone, lines)
        stored.close()
        shutil.rmtree(scratch, ignore_errors=True)
        lost = rules(run.folder)
        results: dict[str, Any] = {**counts, **{f"dropped {rule}": n for rule, n in sorted(lost.items())}}
        results["read"] = counts["documents"] + sum(lost.values())
        if recipe.pack is not None and counts["documents"]:
            results |= _pack(run.folder, recipe.pack, tokenizer, show)
        run.log(event="done", **results)
        run.finish(**results)
    return results


def dropped(folder: Path) -> Iterator[dict[str, Any]]:
    """Every document that went, with its rule, value and the beginning of its text."""
    for path in [*sorted((folder / "parts").glob("*.dropped")), folder / "dropped.jsonl"]:
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    yield msgspec.json.decode(line, type=dict[str, Any])


def kept(folder: Path) -> Iterator[dict[str, Any]]:
    """The documents of the corpus."""
    for path in sorted((folder / "texts").glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                yield msgspec.json.decode(line, type=dict[str, Any])


def rules(folder: Path) -> Counter[str]:
    """How many documents went by each rule."""
    return Counter(row["rule"] for row in dropped(folder))


def explain(folder: Path, name: str) -> dict[str, Any]:
    """What became of a document; ConfigError for an id that was never read."""
    for source in (dropped, kept):
        for row in source(folder):
            if row["id"] == name:
                return row
    raise ConfigError(f"{name}: no such document in {folder}; ids are paths as in the recipe, with #N in files of many")
