"""Run tasks on a target: a run's folder that resumes after a kill, a line an item, figures with intervals at the end."""

import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from herd import __version__
from herd.atomic import whole_lines
from herd.config import dump
from herd.errors import ConfigError, FormatError
from herd.evals import code, instructions, judge, score
from herd.evals.prompts import Item, chosen_shots, item
from herd.evals.source import AbsentError, Places, rows_of, shots_of
from herd.evals.target import Answer, Target
from herd.evals.task import Task
from herd.progress import Progress, silent
from herd.runs import Run
from herd.statistics import Interval, mean
from herd.tools import check


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """One item's verdict, as it stands in items.jsonl: everything that was asked and answered can be read there."""

    task: str
    id: str
    scores: dict[str, float]
    prompt: str
    reply: str
    gold: str
    cluster: str = ""
    category: str = ""
    finish: str = ""
    tokens: int = 0
    error: str = ""


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """A task's figure with its interval, or why there is none."""

    task: str
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    items: int = 0
    failed: int = 0
    others: dict[str, float] = {}
    seconds: float = 0.0
    tokens: int = 0
    absent: str = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is the same for all tasks of a run. `limit` is items a task, `shots` replaces the tasks' own, `seed` above 0 draws them."""

    limit: int | None = None
    shots: int | None = None
    seed: int = 0
    system: str = ""


def evaluate(
    target: Target, tasks: Sequence[Task], places: Places, run: Run, settings: Settings | None = None,
    progress: Progress = silent,
) -> list[Figure]:  # fmt: skip
    """Figures of `tasks`, in order. What the run's folder has answers for already is not asked again."""
    settings = settings or Settings()
    names = [task.name for task in tasks]
    done = finished(run.folder / "items.jsonl")
    figures: dict[str, Figure] = {}
    with run.working(), ThreadPoolExecutor(2) as pool, (run.folder / "items.jsonl").open("ab") as file:
        for task in tasks:
            try:
                items = list(_items(task, places, settings, target.chat))
            except AbsentError as error:
                figures[task.name] = Figure(task=task.name, metric=task.main_metric, absent=f"data absent: {error}")
                run.log(task=task.name, absent=str(error))
                continue
            reason = check.missing(task.language) if task.kind == "code" else None
            if reason:
                figures[task.name] = Figure(task=task.name, metric=task.main_metric, absent=reason)
                continue
            wanted = {one.id for one in items}
            earlier = done.get(task.name, {}).items()
            results = {key: result for key, result in earlier if key.removesuffix(judge.SECOND) in wanted}
            started = time.monotonic()
            progress(task.name, len(results), len(items))
            turns = [items]
            for batch in turns:
                todo = [one for one in batch if one.id not in results]
                for result in _verdicts(target.answer(todo), pool, target.chat):
                    file.write(msgspec.json.encode(result) + b"\n")
                    file.flush()
                    results[result.id] = result
                    progress(task.name, len(results), len(items))
                if task.kind == "judge" and len(turns) == 1:
                    turns.append(judge.second_turns(items, {key: r.reply for key, r in results.items() if not r.error}))
            figures[task.name] = figure(task, list(results.values()), time.monotonic() - started)
            run.log(figure=msgspec.to_builtins(figures[task.name]))
        run.finish(**{f.task: f.value for f in figures.values() if f.value is not None})
    return [figures[name] for name in names]


def _items(task: Task, places: Places, settings: Settings, chat: bool) -> Iterator[Item]:
    rows = rows_of(task, places)
    count = task.shots if settings.shots is None else settings.shots
    pool = shots_of(task, places) if count and (task.shots_file or task.examples) else []
    for row in rows[: settings.limit]:
        shots = chosen_shots(task, pool, row, count, settings.seed) if pool else []
        yield item(task, row, shots, chat=chat, system=settings.system)


def _verdicts(answers: Iterator[Answer], pool: ThreadPoolExecutor, chat: bool) -> Iterator[Result]:
    """Answers -> results; code runs beside the model, a few programs at a time."""
    running: list[Future[Result]] = []
    for answer in answers:
        if answer.item.task.kind == "code" and not answer.error:
            running.append(pool.submit(_code_result, answer, chat))
        else:
            yield _result(answer)
        for future in [one for one in running if one.done()]:
            running.remove(future)
            yield future.result()
    for future in running:
        yield future.result()


def _code_result(answer: Answer, chat: bool) -> Result:
    task = answer.item.task
    right, printed = check.passes(code.program(answer.item, answer.text, chat=chat), task.language)
    return _result(answer, {"passes": float(right)}, f"\n--- {printed}" if printed else "")


def _result(answer: Answer, scores: dict[str, float] | None = None, more: str = "") -> Result:
    one, task = answer.item, answer.item.task
    reply = (
        answer.text
        + "".join(f"\n{call.name}({msgspec.json.encode(call.arguments).decode()})" for call in answer.calls)
        + more
    )
    if scores is None and not answer.error:
        if task.kind == "choice":
            scores = score.choice(one, answer.logprobs)
            reply = "\n".join(f"{p:.3f} {t!r}" for p, t in zip(answer.logprobs, one.continuations, strict=True))
        elif task.kind == "rolling":
            scores = score.rolling(one.continuations[0], answer.logprobs[0])
        elif task.kind == "judge":
            scores = {}
        elif task.kind == "calls":
            scores = {task.main_metric: score.calls(one, answer.calls)}
        elif task.main_metric == "prompt_strict":
            scores = instructions.scores(answer.text, one.row["instruction_id_list"], one.row["kwargs"])
        else:
            scores = {task.main_metric: score.GENERATED[task.main_metric](one, answer.text)}
    prompt = "\n".join(one.contexts) or "\n".join(f"{m.role}: {m.content}" for m in one.messages)
    return Result(
        task=task.name, id=one.id, scores=scores or {}, prompt=prompt or one.continuations[0][:2000], reply=reply,
        gold=str(one.gold), cluster=str(one.row.get(task.cluster, "")) if task.cluster else "",
        category=str(one.row.get(task.category, "")) if task.category else "", finish=answer.finish, tokens=answer.tokens,
        error=answer.error,
    )  # fmt: skip


def figure(task: Task, results: Sequence[Result], seconds: float) -> Figure:
    """A task's figure over its items; items that failed count as wrong, and are said."""
    kept = [r for r in results if not r.error]
    failed = len(results) - len(kept)
    tokens = sum(r.tokens for r in results)
    if task.kind == "judge" and kept:
        return Figure(
            task=task.name, metric=task.main_metric, items=len(results), failed=failed, seconds=seconds, tokens=tokens,
            absent=f"{len(kept)} replies are kept; herd eval judge compares them with another run's",
        )  # fmt: skip
    if not results or (task.kind == "rolling" and not kept):
        return Figure(
            task=task.name, metric=task.main_metric, failed=failed, seconds=seconds, absent="no item was answered"
        )
    if task.kind == "rolling":
        value, others = _rolling(task.main_metric, kept)
        interval = Interval(value, math.nan, math.nan)
        if len(kept) > 1 and task.main_metric == "bits_per_byte":
            weights = [r.scores["bytes"] for r in kept]
            scaled = [
                r.scores["bits_per_byte"] * w / (sum(weights) / len(weights))
                for r, w in zip(kept, weights, strict=True)
            ]
            interval = mean(scaled)
    else:
        clusters = [r.cluster or r.id for r in results] if task.cluster else None
        values = {
            name: [r.scores.get(name, 0.0) for r in results]
            for name in dict.fromkeys(n for r in kept for n in r.scores)
        }
        interval = mean(values.get(task.main_metric, [0.0] * len(results)), clusters)
        others = {name: sum(v) / len(v) for name, v in values.items() if name != task.main_metric}
        if task.main_metric == "prompt_strict":
            others = instructions.pooled([r.scores for r in results])
    low, high = (None if math.isnan(b) else b for b in (interval.low, interval.high))
    return Figure(
        task=task.name, metric=task.main_metric, value=interval.value, low=low, high=high, items=len(results), failed=failed,
        others=others, seconds=seconds, tokens=tokens,
    )  # fmt: skip


def _rolling(metric: str, results: Sequence[Result]) -> tuple[float, dict[str, float]]:
    total = {name: math.fsum(r.scores[name] for r in results) for name in ("bytes", "words", "logprob")}
    found = {
        "bits_per_byte": -total["logprob"] / total["bytes"] / math.log(2),
        "byte_perplexity": math.exp(-total["logprob"] / total["bytes"]),
        "word_perplexity": math.exp(-total["logprob"] / total["words"]),
    }
    return found.pop(metric), found


def finished(path: Path) -> dict[str, dict[str, Result]]:
    """Results by task and item of an earlier start; half a line at the end, from a kill, is cut off. Failures are asked again."""
    found: dict[str, dict[str, Result]] = {}
    for number, line in enumerate(whole_lines(path), 1):
        try:
            result = msgspec.json.decode(line, type=Result)
        except msgspec.MsgspecError as error:
            raise FormatError(f"{path}:{number}: not a result ({error})") from error
        if not result.error:
            found.setdefault(result.task, {})[result.id] = result
    return found


def results_of(folder: Path) -> dict[str, dict[str, Result]]:
    """The results of a run's folder, by task and item; ConfigError when it has none."""
    found = finished(Run.open(folder, "evals").folder / "items.jsonl")
    if not found:
        raise ConfigError(f"{folder}: no results yet")
    return found


def start(folder: Path, target: Target, tasks: Sequence[Task], settings: Settings, command: Sequence[str]) -> Run:
    """The run in `folder`: a new one, or the one that is there if it asks the same of the same."""
    wanted = {
        "model": target.name, "tasks": [task.name for task in tasks], "settings": msgspec.to_builtins(settings),
        "target": target.settings(),
    }  # fmt: skip
    recipe = dump(wanted)
    other = f"{folder}: holds a run of other tasks, settings or model; name another folder with --out"
    return Run.of(folder, "evals", recipe, other=other, version=__version__, command=command)
