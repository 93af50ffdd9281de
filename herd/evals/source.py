"""A task's data: found in a folder, beside the package, or on Hugging Face; read into rows that say what the task needs.

A reader turns one benchmark's own file into rows (dicts). Most need none: JSON lines, JSON lists, CSV and TSV are read as they are.
"""

import csv
import gzip
import hashlib
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herd.errors import ConfigError, FormatError, MissingDependencyError, first_line
from herd.evals import long
from herd.evals.task import Row, Task, fill

EMBEDDED = Path(__file__).parent / "data"


@dataclass(frozen=True)
class Places:
    """Where data is looked for: folders, what comes with herd, and Hugging Face if `hub` (a folder for what it fetches) is given."""

    folders: tuple[Path, ...] = ()
    hub: Path | None = None


class AbsentError(ConfigError):
    """A task's data is nowhere."""


def rows_of(task: Task, places: Places) -> list[Row]:
    """The rows of a task, each with an `id`. AbsentError when its data is nowhere; FormatError when it is not what it should be."""
    rows = long.rows(task.made) if task.made is not None else _load(task, task.file, places, check=True)
    if task.keep:
        rows = [row for row in rows if fill(task, task.keep, row) == "True"]
    for number, row in enumerate(rows):
        row.setdefault("id", str(number))
        row["id"] = str(row["id"])
    return rows


def shots_of(task: Task, places: Places) -> list[Row]:
    """The rows that examples are taken from."""
    if task.examples:
        return [dict(example) for example in task.examples]
    return _load(task, task.shots_file, places, check=False)


def _load(task: Task, name: str, places: Places, *, check: bool) -> list[Row]:
    for folder in (*places.folders, EMBEDDED):
        path = folder / name
        if name and path.is_file():
            return _read(task, path, check and folder != EMBEDDED)
    if task.hub and places.hub is not None:
        return _from_hub(task, name if name != task.file else "", places.hub)
    where = ", ".join(str(folder) for folder in places.folders) or "no --data folder given"
    hub = f"; on Hugging Face: {task.hub}" if task.hub else ""
    raise AbsentError(f"{task.name}: {name or task.hub} is not here ({where}{hub})")


def _read(task: Task, path: Path, check: bool) -> list[Row]:
    data = path.read_bytes()
    if check and task.sha256 and hashlib.sha256(data).hexdigest() != task.sha256:
        raise FormatError(
            f"{path}: SHA-256 is {hashlib.sha256(data).hexdigest()}; {task.name} was defined on {task.sha256}"
        )
    try:
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        rows = READERS[task.reader](data.decode("utf-8-sig"), path)
    except KeyError as error:
        if error.args and error.args[0] == task.reader:
            raise ConfigError(
                f"task {task.name}: reader {task.reader!r}; expected one of {', '.join(READERS)}"
            ) from error
        raise FormatError(f"{path}: a row without {error}") from error
    except (OSError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"{path}: not what the reader {task.reader} expects ({first_line(error)})") from error
    rows = [_renamed(row, task.columns) for row in rows if all(str(row.get(k)) == v for k, v in task.where.items())]
    if check and task.rows is not None and len(rows) != task.rows:
        raise FormatError(f"{path}: {len(rows)} rows; {task.name} has {task.rows}")
    return rows


def _renamed(row: Row, columns: dict[str, str]) -> Row:
    return {**row, **{ours: row[theirs] for ours, theirs in columns.items() if theirs in row}}


def _from_hub(task: Task, split: str, folder: Path) -> list[Row]:
    """Rows of a data set on Hugging Face, from its parquet files."""
    try:
        import pyarrow.parquet as parquet
        from huggingface_hub import HfFileSystem
    except ImportError as error:
        raise MissingDependencyError(
            f"{task.name}: reading from Hugging Face needs pyarrow; pip install 'llama-herd[evals]'"
        ) from error
    name, _, config = task.hub.partition(":")
    part = split or task.hub_split
    kept = folder / f"{name.replace('/', '--')}--{config or 'default'}--{part}.json"
    if not kept.exists():
        try:
            files = HfFileSystem()
            pattern = f"datasets/{name}@refs/convert/parquet/{config or '*'}/{part}/*.parquet"
            found = sorted(files.glob(pattern))
            if not found:
                raise AbsentError(
                    f"{task.name}: {name} has no parquet files for {config or 'its default'}, split {part}"
                )
            rows: list[Row] = []
            for file in found:
                with files.open(file, "rb") as opened:
                    rows += parquet.read_table(opened).to_pylist()
        except AbsentError:
            raise
        except Exception as error:  # the library raises what its transports raise
            raise AbsentError(f"{task.name}: {name} could not be fetched ({first_line(error)})") from error
        from herd.atomic import atomic_file

        folder.mkdir(parents=True, exist_ok=True)
        with atomic_file(kept) as temporary:
            temporary.write_text(json.dumps(rows, default=str))
    return [_renamed(row, task.columns) for row in json.loads(kept.read_text())]


# Readers.


def _rows(text: str, path: Path) -> list[Row]:
    """JSON lines, a JSON list (or an object with one), CSV or TSV, by the file's ending."""
    name = path.name.removesuffix(".gz")
    if name.endswith((".csv", ".tsv")):
        return [
            dict(row) for row in csv.DictReader(io.StringIO(text), delimiter="\t" if name.endswith(".tsv") else ",")
        ]
    if name.endswith(".jsonl"):
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    value = json.loads(text)
    if isinstance(value, dict):
        value = next(v for v in value.values() if isinstance(v, list))
    return list(value)


def _mmlu(text: str, path: Path) -> list[Row]:
    return [
        {"question": r["question"], "choices": [r[f"choice{i}"] for i in range(4)], "answer": int(r["answer"])} for r in _rows(text, path)
    ]  # fmt: skip


def _adapters(text: str, path: Path) -> list[Row]:
    """LLM-Adapters' wording: an instruction with numbered answers, and the right one's name."""
    found = []
    for row in _rows(text, path):
        body = row["instruction"]
        label = re.search(r"(Answer|Solution|Option|Ending)1:", body)
        if label is None:
            raise ValueError(f"no numbered answers in {body[:60]!r}")
        head, *answers = re.split(rf"\s*{label[1]}\d:\s*", body.split("Answer format:")[0].rstrip())
        question = re.sub(r"^Please choose[^:]*:\s*", "", head).strip()
        found.append(
            {"question": question, "choices": [a.strip() for a in answers], "answer": int(row["answer"][-1]) - 1}
        )
    return found


def _winogrande(text: str, path: Path) -> list[Row]:
    """The two sentences' beginnings, and the end that both share, which is what is scored."""
    found = []
    for row in _adapters(text, path):
        before, after = row["question"].split("_", 1)
        found.append({**row, "contexts": [before + choice for choice in row["choices"]], "ending": after.strip()})
    return found


def _agieval(text: str, path: Path) -> list[Row]:
    found = []
    for row in _rows(text, path):
        options = [re.sub(r"^\(?[A-E]\)?[.:]?\s*", "", o) for o in row["options"] or []]
        passage = f"{row['passage']}\n" if row["passage"] else ""
        answer: Any = "ABCDE".index(row["label"]) if row["label"] else row["answer"]
        found.append(
            {"passage": passage, "question": row["question"], "choices": options, "answer": answer, "cluster": passage}
        )
    return found


def _mgsm(text: str, path: Path) -> list[Row]:
    return [
        {"question": question, "answer": answer}
        for question, answer in csv.reader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE)
    ]


def _xquad(text: str, _path: Path) -> list[Row]:
    return [
        {"id": q["id"], "context": p["context"].lstrip("\ufeff"), "question": q["question"], "answers": [a["text"] for a in q["answers"]], "cluster": str(n)}
        for n, p in enumerate(p for article in json.loads(text)["data"] for p in article["paragraphs"])
        for q in p["qas"]
    ]  # fmt: skip


def _bfcl(text: str, path: Path) -> list[Row]:
    """Questions with the answers of the file of the same name in possible_answer/; without one, no call is right."""
    answers_file = path.parent / "possible_answer" / path.name
    answers = {}
    if answers_file.exists():
        answers = {a["id"]: a["ground_truth"] for a in map(json.loads, answers_file.read_text("utf-8").splitlines())}
    found = []
    for row in map(json.loads, filter(str.strip, text.splitlines())):
        functions = row["function"] if isinstance(row["function"], list) else [row["function"]]
        found.append(
            {"id": row["id"], "messages": row["question"][0], "functions": functions, "answer": answers.get(row["id"])}
        )
    return found


def _humaneval(text: str, path: Path) -> list[Row]:
    return [
        {"id": r["task_id"], "prompt": r["prompt"], "tests": f"\n{r['test']}\ncheck({r['entry_point']})\n", "solution": r["canonical_solution"]}
        for r in _rows(text, path)
    ]  # fmt: skip


def _mbpp(text: str, path: Path) -> list[Row]:
    """Tasks 11 to 510 are the test part; 2, 3 and 4 are the paper's three examples."""
    return [
        {
            "id": str(r["task_id"]), "text": r["text"], "test_list": r["test_list"], "code": r["code"].replace("\r\n", "\n"),
            "tests": "\n" + r["test_setup_code"] + "\n" + "\n".join(r["test_list"]) + "\n",
        }
        for r in _rows(text, path) if 11 <= r["task_id"] <= 510
    ]  # fmt: skip


def _multipl_e(text: str, path: Path) -> list[Row]:
    return [
        {"id": r["name"], "prompt": r["prompt"], "tests": r["tests"], "stop": r["stop_tokens"]}
        for r in _rows(text, path)
    ]


def _mt_bench(text: str, path: Path) -> list[Row]:
    return [
        {"id": str(r["question_id"]), "question": r["turns"][0], "turns": r["turns"], "category": r["category"]}
        for r in _rows(text, path)
    ]


def _wikitext(text: str, _path: Path) -> list[Row]:
    """WikiText-2's tokenized pages, put back into ordinary writing; a page starts with a heading of one equals sign."""
    pages = re.split(r"(?m)^(?= = [^=])", text)
    return [{"page": page} for page in pages if page.strip()]


def _text(text: str, _path: Path) -> list[Row]:
    return [{"page": text}]


READERS: dict[str, Callable[[str, Path], list[Row]]] = {
    "rows": _rows, "mmlu": _mmlu, "adapters": _adapters, "winogrande": _winogrande, "agieval": _agieval, "mgsm": _mgsm, "xquad": _xquad,
    "bfcl": _bfcl, "humaneval": _humaneval, "mbpp": _mbpp, "multipl_e": _multipl_e, "mt_bench": _mt_bench, "wikitext": _wikitext, "text": _text,
}  # fmt: skip


def present(tasks: Sequence[Task], places: Places) -> dict[str, bool]:
    """Which tasks have their data in a folder here."""
    return {
        t.name: t.made is not None
        or (bool(t.file) and any((f / t.file).is_file() for f in (*places.folders, EMBEDDED)))
        for t in tasks
    }
