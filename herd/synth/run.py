"""A recipe -> rows that a model wrote, as a run.

    RUN/rows.jsonl      what became of each input row, appended as it ends: the rows it gave, and why others did not come
    RUN/data.jsonl      the data: `herd train` reads it
    RUN/dropped.jsonl   every row that is lost: id, step, rule, value, the text's beginning
    RUN/card.md         model, licence, prompts, counts

A row's seeds come from the recipe's seed and the row's own id, and the engine's replies do not depend on what else is asked. So whoever
is killed goes on where rows.jsonl ends and gets the same bytes.
"""

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from herd.atomic import whole_lines
from herd.errors import ConfigError, FormatError
from herd.progress import Progress, silent
from herd.runs import Run
from herd.synth import finish
from herd.synth.recipe import Recipe
from herd.synth.rows import input_rows
from herd.synth.step import Ask, Asking, Lost, Made, Prompts, Reply, Row, read_prompts
from herd.synth.steps import STEPS
from herd.synth.writer import Asked, Writer

SAMPLE = 300


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of input row `number`: a line of rows.jsonl."""

    number: int
    id: str
    made: tuple[Made, ...] = ()
    lost: tuple[tuple[str, Lost], ...] = ()  # (step, why)
    asked: int = 0  # questions
    tokens: int = 0  # of all replies, those too that came to nothing


class _NoReply(Exception):
    """No whole reply came; why the first did not."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.problem)
        self.rule = reply.rule


class _Under(NamedTuple):
    """A row under way."""

    id: str
    way: "_Way"
    steps: Iterator[Any]


class _Way:
    """What one row has been through."""

    def __init__(self) -> None:
        self.lost: list[tuple[str, Lost]] = []
        self.asked = self.tokens = 0


def _steps(row: Row, names: tuple[str, ...], recipe: Recipe, prompts: dict[str, Prompts], way: _Way) -> Asking:
    """All steps from `names` on for a row, and for each row that comes of it."""
    name, rest = names[0], names[1:]
    try:
        found = yield from STEPS[name](row, prompts[name], getattr(recipe.options, name, None))
    except _NoReply as problem:
        found = [Lost(problem.rule, str(problem), _beginning(row))]
    made: list[Made | Lost] = []
    for one in found:
        if isinstance(one, Lost):
            way.lost.append((name, msgspec.structs.replace(one, sample=one.sample[:SAMPLE])))
        elif rest:
            made += yield from _steps({**row, **one.row}, rest, recipe, prompts, way)
        else:
            made.append(one)
    return made


def _beginning(row: Row) -> str:
    text = next((str(row[key]) for key in ("text", "problem", "question", "prompt") if key in row), "")
    return text[:SAMPLE]


class Rows:
    """The input's rows on their way through the steps. `take` gives the next question, `give` takes its replies."""

    def __init__(
        self, recipe: Recipe, prompts: dict[str, Prompts], done: dict[int, str], ended: Callable[[Outcome], None]
    ) -> None:
        self._recipe, self._prompts, self._done, self._ended = recipe, prompts, done, ended
        self._source = zip(count(), input_rows(recipe), strict=False)
        self._ready: deque[Asked] = deque()
        self._under: dict[int, _Under] = {}

    def take(self) -> Asked | None:
        """The next question: of rows under way first, so that few are open at a time."""
        while not self._ready:
            number, (key, row) = next(self._source, (-1, ("", {})))
            if number < 0:
                return None
            if number in self._done:
                if self._done[number] != key:
                    raise ConfigError(
                        f"inputs: row {number} was {self._done[number]} when the run was made and is {key} now; name another folder with --out"
                    )
                continue
            if isinstance(row, Lost):
                self._ended(Outcome(number=number, id=key, lost=(("input", row),)))
                continue
            way = _Way()
            steps = _steps(row, self._recipe.steps, self._recipe, self._prompts, way)
            self._under[number] = _Under(key, way, steps)
            self._go_on(number, lambda steps=steps: next(steps))  # type: ignore[misc]
        return self._ready.popleft()

    def give(self, number: int, replies: list[Reply]) -> None:
        """The replies to a row's question."""
        under = self._under[number]
        under.way.tokens += sum(reply.tokens for reply in replies)
        whole = [reply for reply in replies if not reply.problem]
        if whole:
            self._go_on(number, lambda: under.steps.send(whole))  # type: ignore[attr-defined]
        else:
            self._go_on(number, lambda: under.steps.throw(_NoReply(replies[0])))  # type: ignore[attr-defined]

    def _go_on(self, number: int, move: Callable[[], Ask]) -> None:
        under = self._under[number]
        way = under.way
        try:
            ask = move()
        except StopIteration as end:
            del self._under[number]
            made = tuple(one for one in end.value if isinstance(one, Made))
            self._ended(
                Outcome(number=number, id=under.id, made=made, lost=tuple(way.lost), asked=way.asked, tokens=way.tokens)
            )
            return
        self._ready.append(Asked(number, ask, seed_of(self._recipe.seed, under.id, way.asked)))
        way.asked += 1


def seed_of(seed: int, key: str, asked: int) -> int:
    """63 bits for a row's question."""
    digest = hashlib.blake2b(f"{seed} {asked} {key}".encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def prompts_of(recipe: Recipe) -> dict[str, Prompts]:
    """The prompts of all steps."""
    files = {name: Path(recipe.folder) / file for name, file in recipe.prompts.items()}
    return {name: read_prompts(name, files.get(name)) for name in recipe.steps}


def outcomes(folder: Path) -> Iterator[Outcome]:
    """What rows.jsonl holds so far, in the input's order."""
    found = []
    path = folder / "rows.jsonl"
    for number, line in enumerate(whole_lines(path), 1):
        try:
            found.append(msgspec.json.decode(line, type=Outcome))
        except msgspec.MsgspecError as error:
            raise FormatError(f"{path}:{number}: not a row's outcome ({error})") from error
    return iter(sorted(found, key=lambda one: one.number))


def make(
    run: Run, recipe: Recipe, writer: Writer, questions: list[tuple[str, str, str]], *, show: Progress = silent
) -> dict[str, Any]:
    """Write what is not written yet, then the data without duplicates and without `questions` (task, id, text); the results."""
    prompts = prompts_of(recipe)
    with run.working():
        _same_prompts(run, prompts)
        done = {one.number: one.id for one in outcomes(run.folder)}
        left = sum(1 for _ in input_rows(recipe))
        if not left:
            raise ConfigError("the inputs hold no rows")
        with (run.folder / "rows.jsonl").open("ab", buffering=0) as journal:

            def ended(outcome: Outcome) -> None:
                journal.write(msgspec.json.encode(outcome) + b"\n")
                done[outcome.number] = outcome.id
                show("rows", len(done), left)

            rows = Rows(recipe, prompts, done, ended)
            for number, replies in writer.run(rows.take):
                rows.give(number, replies)
        results = finish.write(run.folder, recipe, outcomes(run.folder), questions, show)
        finish.write_card(run.folder, recipe, writer.card, prompts, results)
        run.log(event="done", **results)
        run.finish(**results)
    return results


def _same_prompts(run: Run, prompts: dict[str, Prompts]) -> None:
    """ConfigError when prompts have changed since the run was begun: its rows would be of two kinds."""
    digest = hashlib.sha256("".join(p.text for p in prompts.values()).encode()).hexdigest()
    mark = run.folder / "prompts.sha256"
    if mark.exists() and mark.read_text() != digest:
        raise ConfigError(f"{run.folder}: the prompts are others than when it was made; name another folder with --out")
    mark.write_text(digest)
