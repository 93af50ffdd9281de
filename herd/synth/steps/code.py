"""A step for code: a problem, tests, a program that is run with them in the sandbox and mended from its error messages."""

import re

import msgspec

from herd.errors import HerdError
from herd.synth.step import Ask, Asking, Lost, Made, Prompts, Row, dialog
from herd.text.messages import Message
from herd.tools.check import passes

_FENCE = re.compile(r"```[\w+#-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)
_SHOWN = 1500  # characters of an error message that the model is shown


class Code(msgspec.Struct, frozen=True, kw_only=True):
    """A program is run and mended at most `attempts` times. Without `check` nothing is run: for comparison alone, since
    training on programs that nobody ran does harm (Llama 3 paper, section 4.3.1).
    """

    attempts: int = 3
    check: bool = True
    seconds: float = 5.0


def program_of(reply: str) -> str:
    """The longest block of code in a reply, or all of it."""
    return max(_FENCE.findall(reply), key=len, default=reply).strip()


def code(row: Row, prompts: Prompts, options: Code) -> Asking:
    """Problem (the row's own, or one that its text suggests) -> tests -> program -> run -> mend. Tests that a function without a body
    passes prove nothing, and their row goes.
    """
    if "problem" not in row:
        row = {**row, **(yield prompts["problem"].ask(row))[0].value}
    name = row.get("name") or next(iter(re.findall(r"\b([a-z_]\w*)\(", row["problem"])), "solution")
    row = {**row, "name": name}
    if "tests" not in row:
        row["tests"] = _asserts(name, (yield prompts["tests"].ask(row))[0].value["cases"])
    tests = row["tests"] if isinstance(row["tests"], str) else "\n".join(row["tests"])
    if options.check and _run(f"def {name}(*_, **__):\n    return None\n", tests, options)[0]:
        return [Lost("tests_prove_nothing", tests, row["problem"])]
    ask: Ask = prompts["program"].ask({**row, "tests": tests})
    printed = ""
    for attempt in range(1, options.attempts + 1):
        reply = (yield ask)[0].text
        written = program_of(reply)
        if f"def {name}" not in written:
            right, printed = False, f"there is no function {name}"
        elif options.check:
            right, printed = _run(written, tests, options)
        else:
            right = True
        if right:
            turns = dialog(("user", row["problem"]), ("assistant", f"```python\n{written}\n```"))
            return [Made({"messages": turns, "tests": tests, "attempts": attempt}, written)]
        mend = prompts["repair"].ask({**row, "tests": tests, "error": printed[-_SHOWN:]}).messages[-1]
        ask = msgspec.structs.replace(ask, messages=(*ask.messages[:2], Message("assistant", reply), mend))
    return [Lost("tests_fail", printed[-300:], row["problem"])]


def _asserts(name: str, cases: list[dict[str, str]]) -> str:
    return "\n".join(f"assert {name}({case['arguments']}) == {case['expected']}" for case in cases)


def _run(program: str, tests: str, options: Code) -> tuple[bool, str]:
    try:
        return passes(f"{program}\n{tests}\n", "python", options.seconds)
    except HerdError:
        raise
    except (OSError, ValueError) as error:  # a program that cannot be handed over, such as one with a lone surrogate
        return False, str(error)
