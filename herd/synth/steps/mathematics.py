"""A step for mathematics: problems solved in steps of arithmetic, each computed anew, and answers that several solutions agree on."""

from collections import Counter
from typing import Any

import msgspec

from herd.errors import RequestError
from herd.synth.step import Asking, Lost, Made, Prompts, Row, dialog
from herd.tools.calculator import calculate
from herd.tools.check import numeric


class Mathematics(msgspec.Struct, frozen=True, kw_only=True):
    """`answers` solutions are asked for; at least `agree` whose steps are right must end in the same number, which must be the
    row's `answer` where it has one. `keep` of them are kept.
    """

    answers: int = 4
    agree: int = 2
    keep: int = 1


def mathematics(row: Row, prompts: Prompts, options: Mathematics) -> Asking:
    """Problem (the row's own `problem` or `question`, or one that its text suggests) -> solutions -> those whose steps hold."""
    problem = row.get("problem") or row.get("question")
    if not problem:
        problem = (yield prompts["problem"].ask(row))[0].value["problem"].strip()
    replies = yield prompts["solution"].ask({**row, "problem": problem}, n=options.answers)
    right: dict[str, list[Any]] = {}
    wrong: Counter[str] = Counter()
    for reply in replies:
        fault = wrong_step(reply.value)
        if fault:
            wrong[fault] += 1
        else:
            right.setdefault(reply.value["answer"], []).append(reply.value)
    if "answer" in row:
        wanted = numeric(str(row["answer"]).split("####")[-1])
        right = {answer: found for answer, found in right.items() if wanted is not None and float(answer) == wanted}
    if not right:
        return [Lost("steps_wrong" if wrong else "answer_wrong", wrong.most_common(1)[0][0] if wrong else "", problem)]
    answer, found = max(right.items(), key=lambda item: (len(item[1]), -float(item[0])))
    if "answer" not in row and len(found) < options.agree:
        return [Lost("disagree", {answer: len(one) for answer, one in right.items()}, problem)]
    made = []
    for text in dict.fromkeys(map(solution_text, found)):
        turns = dialog(("user", problem), ("assistant", text))
        made.append(Made({"messages": turns, "answer": answer, "agree": len(found)}, f"{problem}\n{text}"))
    return [*made[: options.keep]]


def wrong_step(value: Any) -> str:
    """The first step whose expression does not have its result, or an answer that no last step has; "" when all holds."""
    for step in value["steps"]:
        try:
            computed = float(calculate(step["expression"]))
        except (RequestError, ValueError, OverflowError) as error:
            return f"{step['expression']}: {error}"[:200]
        if abs(computed - float(step["result"])) > 1e-6 * max(1.0, abs(computed)):
            return f"{step['expression']} is not {step['result']}"
    if float(value["steps"][-1]["result"]) != float(value["answer"]):
        return f"the answer {value['answer']} is not the last step's"
    return ""


def solution_text(value: Any) -> str:
    """A solution as people write one."""
    lines = [f"{step['text'].strip()} {step['expression']} = {step['result']}" for step in value["steps"]]
    return "\n".join([*lines, f"The answer is {value['answer']}."])
