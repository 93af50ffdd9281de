"""Replies to questions about code, made into whole programs with their tests."""

import re

from herd.evals.prompts import Item

_FENCE = re.compile(r"```[\w+#-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def program(item: Item, reply: str, *, chat: bool) -> str:
    """The whole program of a reply: a dialog's code block, or the prompt continued; then the tests."""
    prompt = str(item.row.get("prompt", ""))
    if chat:
        blocks = _FENCE.findall(reply)
        code = max(blocks, key=len) if blocks else reply
        name = re.search(r"(?m)^def (\w+)", prompt)
        if name and f"def {name[1]}" not in code:
            code = prompt + code
        elif name:  # what the prompt imports and defines before its function
            code = prompt[: prompt.rfind(f"def {name[1]}")] + code
        return code + "\n" + str(item.row["tests"])
    return prompt + reply + "\n" + str(item.row["tests"])
