"""How well the guards do on labelled files: what `herd guard --data` prints and `benchmarks/safety.py` puts beside others."""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from herd.errors import FormatError
from herd.safety.code_shield import scan
from herd.safety.code_shield.cwe import same_family

Row = dict[str, Any]
# code, language -> the CWE names found
Scanner = Callable[[str, str], Sequence[str]]


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file, or of every one in a folder; FormatError names the line that is no object."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise FormatError(f"{path}: no .jsonl file in it; give a file or folder of labelled rows")
    rows = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{file}: cannot be read: {error}") from error
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise FormatError(f"{file}: line {number} is not JSON") from error
            if not isinstance(row, dict):
                raise FormatError(f"{file}: line {number} is not an object")
            rows.append(row)
    return rows


def herd_scanner(code: str, language: str) -> list[str]:
    """The CWE names that herd's code shield finds."""
    return [finding.cwe for finding in scan(code, language)]


def code_table(rows: Sequence[Row], scanner: Scanner = herd_scanner, by: str = "language") -> list[list[str]]:
    """Agreement with labelled insecure code (`origin_code`, `language`, `cwe_identifier`): a header, a line a group, one for all.

    Right is a flagged row among whose findings is the label's CWE or one of its family, of the flagged rows. Times are for one
    snippet, in milliseconds.
    """
    groups: dict[str, list[tuple[bool, bool, float]]] = {}
    for row in rows:
        begin = time.perf_counter()
        found = scanner(str(row["origin_code"]), str(row["language"]))
        took = 1e3 * (time.perf_counter() - begin)
        right = any(same_family(cwe, str(row["cwe_identifier"])) for cwe in found)
        for name in (str(row[by]), "all"):
            groups.setdefault(name, []).append((bool(found), right, took))
    table = [[by, "rows", "flagged", "family right", "mean ms", "p95 ms"]]
    for name in [*sorted(g for g in groups if g != "all"), "all"]:
        marks = groups[name]
        flagged = sum(m[0] for m in marks)
        times = sorted(m[2] for m in marks)
        table.append(
            [
                name,
                str(len(marks)),
                f"{flagged / len(marks):.1%}",
                f"{sum(m[1] for m in marks) / max(flagged, 1):.1%}",
                f"{statistics.mean(times):.2f}",
                f"{times[int(0.95 * (len(times) - 1))]:.2f}",
            ]
        )
    return table


def guard_table(rows: Sequence[Row]) -> list[list[str]]:
    """Prompts and texts: how many of each kind of row are flagged at the guards' own thresholds.

    Attacks have `user_input`, harmless prompts `prompt` or `mutated_prompt`, moderation rows `text` with `labels` or `hazard`.
    """
    from herd.safety import hazards, prompt_guard

    prompts: dict[str, list[str]] = {}
    texts: dict[str, list[str]] = {}
    for row in rows:
        if "user_input" in row:
            prompts.setdefault(f"attacks: {row.get('injection_variant', 'all')}", []).append(str(row["user_input"]))
        elif "mutated_prompt" in row or "prompt" in row:
            prompts.setdefault("harmless prompts", []).append(str(row.get("mutated_prompt", row.get("prompt"))))
        elif "text" in row and isinstance(row.get("labels"), dict):
            texts.setdefault("labelled unsafe" if any(row["labels"].values()) else "labelled safe", []).append(
                str(row["text"])
            )
        elif "text" in row and "hazard" in row:
            texts.setdefault(f"hazard {row['hazard']}", []).append(str(row["text"]))
    table = [["rows", "count", "flagged", "by"]]
    limit = prompt_guard.THRESHOLDS["user"]
    for name, group in sorted(prompts.items()):
        share = statistics.mean(1 - s.benign >= limit for s in prompt_guard.score(group))
        table.append([name, str(len(group)), f"{share:.1%}", "prompt guard"])
    dial = hazards.STRICTNESS["medium"]
    for name, group in sorted(texts.items()):
        share = statistics.mean(s["unsafe"] >= dial for s in hazards.score(group))
        table.append([name, str(len(group)), f"{share:.1%}", "hazards"])
    return table


def is_code_row(row: Row) -> bool:
    """Whether a row is labelled code."""
    return {"origin_code", "language", "cwe_identifier"} <= row.keys()


def show(table: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([lines[0], "|" + "---|" * len(table[0]), *lines[1:]])
