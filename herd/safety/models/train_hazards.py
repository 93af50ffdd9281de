"""Train the embedded hazard classifier and print how it does on rows that it has not seen.

python -m herd.safety.models.train_hazards --data FOLDER [--check]

FOLDER holds the public sets by the names that the model card lists. Half of each set, by a digest of its text, is held back. With
--check only the figures are made, without it the weights of all rows are written.
"""

import argparse
import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from herd.safety.models.linear import fit, pack
from herd.safety.models.train import HERE, Row, area, benign, extract, lines, margins, recall_at

# MLCommons' hazards and OpenAI's labels as the categories of Llama Guard 3.
AILUMINATE = {
    "vcr": "S1", "ncr": "S2", "src": "S3", "cse": "S4", "dfm": "S5", "spc_fin": "S6", "spc_hlt": "S6", "spc_lgl": "S6", "spc_ele": "S13",
    "prv": "S7", "ipv": "S8", "iwp": "S9", "hte": "S10", "ssh": "S11", "sxc_prn": "S12",
}  # fmt: skip
OPENAI = {"S": "S12", "S3": "S4", "H": "S10", "H2": "S10", "HR": "S10", "V": "S1", "V2": "S1", "SH": "S11"}


def hazards(data: Path) -> tuple[list[Row], list[set[str]]]:
    """Rows and the categories of each; an empty set is safe."""
    rows, labels = [], []
    for r in lines(data / "safety" / "ailuminate_dev.jsonl"):
        rows.append(Row(r["text"], 1, "ailuminate", r["locale"]))
        labels.append({AILUMINATE[r["hazard"]]})
    for r in lines(data / "safety" / "openai_moderation_dev.jsonl"):
        found = {OPENAI[k] for k, v in r["labels"].items() if v and k in OPENAI}
        rows.append(Row(r["text"], int(bool(found)), "openai"))
        labels.append(found)
    path = data / "evals" / "xstest" / "xstest_prompts.csv"
    with path.open(newline="") as file:
        for r in csv.DictReader(file):
            if r["label"] == "safe":
                rows.append(Row(r["prompt"], 0, "xstest"))
                labels.append(set())
    for row in benign(data, 6000):
        if row.kind not in ("base64", "leet") and len(row.text) < 1500:
            rows.append(row)
            labels.append(set())
    return rows, labels


def train(
    found: Sequence[Any], rows: Sequence[Row], labels: Sequence[set[str]], at: Any
) -> dict[str, tuple[Any, float]]:
    """A head for unsafe, one for each category against the other unsafe texts and the safe ones."""
    at = [i for i in at if len(found[i][0])]
    kinds = {r.kind for r in rows}
    share = {k: max(1, sum(rows[i].kind == k for i in at)) for k in kinds}
    heavy = {"openai": 12.0, "xstest": 1.0, "ailuminate": 0.4, "security": 0.3}
    weight = np.array([heavy.get(rows[i].kind, 0.15) / share[rows[i].kind] for i in at])
    y = np.array([bool(labels[i]) for i in at])
    picked = [found[i] for i in at]
    heads = {"unsafe": fit(picked, y, np.where(y, 1.2, 1.0) * weight, rounds=60, decay=3e-4)}
    for name in sorted({c for found_labels in labels for c in found_labels}, key=lambda c: int(c[1:])):
        mine = np.array([name in labels[i] for i in at])
        some = [j for j, i in enumerate(at) if mine[j] or labels[i] or rows[i].kind in ("openai", "xstest", "security")]
        w = np.where(mine[some], 1 / max(mine.sum(), 1), 1 / max(len(some) - mine.sum(), 1))
        heads[name] = fit([picked[j] for j in some], mine[some], w, rounds=50, decay=3e-4)
    return heads


def check(found: Sequence[Any], rows: Sequence[Row], labels: Sequence[set[str]]) -> None:
    """Figures on held-back rows."""
    heads = train(found, rows, labels, [i for i, r in enumerate(rows) if not r.held])
    held = [i for i, r in enumerate(rows) if r.held]
    scores = margins(heads["unsafe"], [found[i] for i in held])
    kind = np.array([rows[i].kind for i in held])
    bad = np.array([bool(labels[i]) for i in held])
    openai = kind == "openai"
    print(f"OpenAI's set: area {area(scores[openai & bad], scores[openai & ~bad]):.3f}")
    recall, threshold = recall_at(scores[openai & bad], scores[openai & ~bad], 0.05)
    print(f"threshold {threshold:.2f} flags 5% of OpenAI's safe rows and {recall:.1%} of its unsafe ones")
    for name in ("ailuminate", "xstest", "security", "gsm8k", "wiki"):
        print(f"  {name}: {np.mean(scores[kind == name] > threshold):.1%} of {np.sum(kind == name)} flagged")
    names = [n for n in heads if n != "unsafe"]
    ours = [i for i in held if rows[i].kind == "ailuminate"]
    table = np.stack([margins(heads[n], [found[i] for i in ours]) for n in names], 1)
    unsafe = margins(heads["unsafe"], [found[i] for i in ours]) > threshold
    guess = [names[j] if u else "" for j, u in zip(table.argmax(1), unsafe, strict=True)]
    truth = [next(iter(labels[i])) for i in ours]
    f1 = []
    for name in sorted(set(truth)):
        hit = sum(g == t == name for g, t in zip(guess, truth, strict=True))
        f1.append(2 * hit / max(1, guess.count(name) + truth.count(name)))
        print(f"  {name}: F1 {f1[-1]:.2f}")
    print(f"AILuminate's hazards at that threshold: macro-F1 {np.mean(f1):.3f}")


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    rows, labels = hazards(options.data)
    found = extract(rows)
    if options.check:
        check(found, rows, labels)
    else:
        pack(train(found, rows, labels, range(len(rows)))).save(HERE / "hazards.npz")


if __name__ == "__main__":
    main()
