"""A task is one frozen record: what is asked, how it is laid out, what counts as right, where its data comes from.

Tasks stand in `tasks/*.toml`, one file a source. Keys at the top of a file are defaults of its tasks; a task with `subsets` becomes one
task for each, with {subset} filled in everywhere.
"""

import tomllib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import jinja2
import msgspec
from jinja2.sandbox import ImmutableSandboxedEnvironment

from herd.errors import ConfigError, first_line

Row = dict[str, Any]

Kind = Literal["choice", "rolling", "generate", "code", "calls", "judge"]
METRICS: dict[str, tuple[str, ...]] = {
    # kind -> the metrics it can have, the first its default
    "choice": ("acc", "acc_norm"),
    "rolling": ("bits_per_byte", "byte_perplexity", "word_perplexity"),
    "generate": ("exact", "number", "contains", "f1", "letter", "refusal", "refusal_wanted", "prompt_strict", "recall"),
    "code": ("passes",),
    "calls": ("calls", "irrelevance"),
    "judge": ("judged",),
}


class Made(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Rows made from text: the `kind` of question, about how many tokens a row has, how many rows, and the seed they are drawn with."""

    kind: Literal["needle", "needles", "variables", "common_words"]
    tokens: int
    rows: int = 40
    seed: int = 1


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One benchmark.

    `prompt`, `answer` and `choices` are Jinja templates over a row (`choices` is a list of them, or names a column that is a list);
    `gold` names the column with the number or letter of the right choice, or the wanted answer, or is a template of it. `shots` examples come before, from `shots_file` or `examples`,
    parted by `separator`; `delimiter` parts prompt and answer. A generation ends at `stop` or after `max_tokens`; what `extract`
    (regular expressions, tried in order) finds in it, the `pick`-ed match, is the answer.

    `made` is for rows that need no data: a kind of `herd.evals.long` and its size. `keep` is a template that is "True" for rows that stay.
    `where` keeps the rows whose columns have these values. `file` is looked up in data folders, `hub` is ORG/NAME or ORG/NAME:CONFIG on Hugging Face with `hub_split`. `rows` and `sha256` are
    those of the local file. `reproduces` names the setting whose published figure this is.
    """

    name: str
    kind: Kind
    source: str
    licence: str
    cite: str = ""
    groups: tuple[str, ...] = ()
    subsets: tuple[str, ...] = ()
    file: str = ""
    reader: str = "rows"
    hub: str = ""
    hub_split: str = "test"
    columns: dict[str, str] = {}
    where: dict[str, str] = {}
    keep: str = ""
    made: Made | None = None
    rows: int | None = None
    sha256: str = ""
    description: str = ""
    prompt: str = ""
    answer: str = ""
    choices: str | tuple[str, ...] = "choices"
    gold: str = "answer"
    delimiter: str = " "
    separator: str = "\n\n"
    shots: int = 0
    shots_file: str = ""
    examples: tuple[dict[str, Any], ...] = ()
    metric: str = ""
    extract: tuple[str, ...] = ()
    pick: Literal["first", "last"] = "first"
    max_tokens: int = 256
    stop: tuple[str, ...] = ()
    language: str = "python"
    cluster: str = ""
    category: str = ""
    reproduces: str = ""

    def __post_init__(self) -> None:
        if self.metric and self.metric not in METRICS[self.kind]:
            raise ConfigError(
                f"task {self.name}: metric {self.metric!r}; kind {self.kind} has {', '.join(METRICS[self.kind])}"
            )
        if not self.file and not self.hub and self.made is None:
            raise ConfigError(f"task {self.name}: no file and no hub; where is its data?")
        if self.shots and not (self.shots_file or self.examples):
            raise ConfigError(f"task {self.name}: {self.shots} shots, but neither shots_file nor examples")
        if self.shots > len(self.examples) and self.examples:
            raise ConfigError(f"task {self.name}: {self.shots} shots of {len(self.examples)} examples")

    @property
    def main_metric(self) -> str:
        """The metric whose figure stands for the task."""
        return self.metric or METRICS[self.kind][0]


@lru_cache(maxsize=4096)
def _template(text: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False
    )
    environment.filters["letter"] = lambda number: "ABCDEFGHIJ"[number]
    return environment.from_string(text)


def fill(task: Task, template: str, row: Row) -> str:
    """A template of a task over a row; ConfigError naming the task where they do not go together."""
    try:
        return _template(template).render(row, this=row)
    except (jinja2.TemplateError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ConfigError(f"task {task.name}, row {row.get('id')}: {template[:60]!r}: {first_line(error)}") from error


def read_tasks(text: str, where: str) -> list[Task]:
    """The tasks of one TOML file; ConfigError naming the task and the key that is wrong."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML: {error}") from error
    entries = values.pop("task", [])
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{where}: no [[task]] in it")
    found = []
    for entry in entries:
        merged = {**values, **entry}
        subsets = merged.pop("subsets", [])
        for filled in [_filled(merged, name) for name in subsets] if subsets else [merged]:
            try:
                found.append(msgspec.convert(filled, Task))
            except msgspec.ValidationError as error:
                raise ConfigError(f"{where}: task {filled.get('name', '?')}: {error}") from error
    return found


def _filled(values: Any, subset: str) -> Any:
    """`values` with {subset} and {title} (its name in words) filled in; a dict with a "subsets" table of its own keys wins."""
    if isinstance(values, str):
        return values.replace("{subset}", subset).replace("{title}", subset.replace("_", " "))
    if isinstance(values, Mapping):
        per = values.get("per", {}) if "name" in values else {}
        own = {key: _filled(value, subset) for key, value in values.items() if key != "per"}
        return {**own, **per.get(subset, {})} if per else own
    if isinstance(values, list):
        return [_filled(value, subset) for value in values]
    return values


@lru_cache(maxsize=1)
def all_tasks() -> dict[str, Task]:
    """Every task that comes with herd, by name."""
    found: dict[str, Task] = {}
    for path in sorted((Path(__file__).parent / "tasks").glob("*.toml")):
        for task in read_tasks(path.read_text("utf-8"), path.name):
            if task.name in found:
                raise ConfigError(f"{path.name}: task {task.name} is defined twice")
            found[task.name] = task
    return found


def groups() -> dict[str, list[str]]:
    """Names of tasks by group; every source file's tasks share a group, and "all" has them all."""
    found: dict[str, list[str]] = {}
    for task in all_tasks().values():
        for group in (*task.groups, "all"):
            found.setdefault(group, []).append(task.name)
    return found


def known_tasks(more: Iterable[Path] = ()) -> dict[str, Task]:
    """Tasks by name, those of the user's own TOML files among them. ConfigError for a file that cannot be read."""
    known = dict(all_tasks())
    for path in more:
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path}: cannot be read as a file of tasks ({error})") from error
        known |= {task.name: task for task in read_tasks(text, str(path))}
    return known


def choose(names: Iterable[str], more: Iterable[Path] = ()) -> list[Task]:
    """Tasks by name or group, in order, each once; `more` are TOML files of the user's own tasks.

    ConfigError for a name that is neither, with those that are alike.
    """
    import difflib

    known, grouped = known_tasks(more), groups()
    found: dict[str, Task] = {}
    for name in names:
        if name in known:
            found[name] = known[name]
        elif name in grouped:
            found |= {one: known[one] for one in grouped[name]}
        else:
            like = difflib.get_close_matches(name, [*known, *grouped], 3) or ["arc_challenge", "mmlu", "gsm8k"]
            raise ConfigError(
                f"no task or group {name!r}; did you mean {', '.join(like)}? `herd eval --list` shows all"
            )
    return list(found.values())
