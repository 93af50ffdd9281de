"""One page about a corpus: how many documents each rule took, languages, lengths, examples, duplicates side by side."""

from collections import Counter
from itertools import islice
from pathlib import Path

from herd.data import pipeline
from herd.data.pack import read_index
from herd.report import Report

EXAMPLES = 5
"""Examples of each rule, and of each language that stayed."""


def write_report(folder: Path, out: Path) -> None:
    """The page of a run that is done."""
    report = Report(f"Corpus {folder.name}", "Every document that went has its rule: herd data explain RUN ID")
    taken = pipeline.rules(folder)
    languages: Counter[str] = Counter()
    sizes: Counter[int] = Counter()
    shown: list[tuple[list[str], str, str]] = []
    redacted: Counter[str] = Counter()
    for row in pipeline.kept(folder):
        languages[row["language"]] += 1
        sizes[len(row["text"]).bit_length()] += 1
        redacted.update(row.get("redacted", {}))
        if languages[row["language"]] <= EXAMPLES:
            shown.append((["kept", row["language"]], row["id"], row["text"][: 4 * pipeline.SAMPLE]))
    stayed = sum(languages.values())
    left = stayed + sum(taken.values())
    rows: list[list[object]] = [["read", None, left]]
    for rule, count in taken.most_common():
        left -= count
        rows.append([rule, count, left])
    report.heading("What each rule took")
    report.table(["rule", "took", "left"], rows)
    report.heading("Languages")
    report.table(["language", "documents"], languages.most_common())
    report.heading("Lengths")
    report.table(["characters, up to", "documents"], [[2**size, count] for size, count in sorted(sizes.items())])
    packs = {name: read_index(folder / name) for name in ("tokens", "held-out") if (folder / name).exists()}
    if packs:
        report.heading("Packed tokens")
        report.table(
            ["folder", "documents", "tokens", "bytes a token", "shards", "vocabulary"],
            [
                [name, one.documents, one.tokens, round(one.bytes / one.tokens, 2), len(one.shards), one.vocab]
                for name, one in packs.items()
            ],
        )
    if redacted:
        report.heading("Personal data that was redacted")
        report.table(["kind", "times"], redacted.most_common())
    seen: Counter[str] = Counter()
    pairs = []
    for row in pipeline.dropped(folder):
        seen[row["rule"]] += 1
        if seen[row["rule"]] <= EXAMPLES:
            shown.append(
                ([row["rule"], row.get("language", "")], f"{row['id']}: {row['value']}", row.get("sample", ""))
            )
            if "of" in row:
                pairs.append([row["rule"], row["value"], row["sample"], row["of_sample"]])
    if pairs:
        report.heading("Duplicates")
        report.table(["rule", "similarity", "went", "stayed"], list(islice(pairs, 20)))
    report.heading("Examples")
    report.examples(["rule", "language"], shown)
    report.write(out)
