"""A judge's run over two runs: a folder that resumes after a kill, a line a verdict."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import msgspec

from herd import __version__
from herd.config import dump
from herd.errors import ConfigError
from herd.evals import judge
from herd.evals.run import Result, finished, results_of
from herd.evals.target import Target
from herd.evals.task import Task, all_tasks
from herd.progress import Progress, silent
from herd.runs import Run


def start(
    folder: Path, target: Target, first: Path, second: Path, limit: int | None, max_tokens: int, command: Sequence[str]
) -> Run:  # fmt: skip
    """The judging's run in `folder`: a new one, or the one that is there if the same is judged by the same."""
    recipe = dump({
        "judge": target.name, "first": str(first), "second": str(second), "max_tokens": max_tokens, "target": target.settings(),
        **({"limit": limit} if limit else {}),
    })  # fmt: skip
    other = f"{folder}: holds another judging; name another folder with --out"
    return Run.of(folder, "evals", recipe, other=other, version=__version__, command=command)


def compare(
    target: Target, first: Path, second: Path, run: Run, limit: int | None = None, max_tokens: int = 1024, progress: Progress = silent,
    tasks: Mapping[str, Task] | None = None,
) -> tuple[list[judge.Judged], dict[str, dict[str, Result]]]:  # fmt: skip
    """Every task with open questions that both runs have; verdicts that are there already are not asked for again."""
    a, b, known = results_of(first), results_of(second), tasks or all_tasks()
    names = [name for name in a if name in b and name in known and known[name].kind == "judge"]
    if not names:
        raise ConfigError(
            f"{first} and {second}: no task with open questions in common, such as mt_bench or arena_hard"
        )
    path = run.folder / "items.jsonl"
    done, table, results = finished(path), [], {}
    with run.working(), path.open("ab") as file:
        for name in names:
            items = list(
                islice(judge.questions(known[name], a[name], b[name], max_tokens), 2 * limit if limit else None)
            )
            looks = {one.id: done[name][one.id] for one in items if one.id in done.get(name, {})}
            progress(name, len(looks), len(items))
            for answer in target.answer([one for one in items if one.id not in looks]):
                one = answer.item
                looks[one.id] = Result(
                    task=name, id=one.id, scores={} if answer.error else judge.scores(one, answer.text), prompt=one.messages[-1].content,
                    reply=answer.text, gold="", finish=answer.finish, tokens=answer.tokens, error=answer.error,
                )  # fmt: skip
                file.write(msgspec.json.encode(looks[one.id]) + b"\n")
                file.flush()
                progress(name, len(looks), len(items))
            results[name] = looks
            table.append(judge.judged(name, list(looks.values())))
            run.log(judged=msgspec.to_builtins(table[-1]))
        run.finish(**{one.task: one.value for one in table})
    return table, results
