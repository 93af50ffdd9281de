"""A step for preferences: K answers to a prompt, which share what is computed for it; a rule or a judge says which is best and worst."""

from typing import Literal

import msgspec

from herd.synth.step import Asking, Lost, Made, Prompts, Reply, Row
from herd.text.messages import Message
from herd.tools.check import numeric


class Preferences(msgspec.Struct, frozen=True, kw_only=True):
    """`rule` "answer": answers that end in the row's number are better. "judge": the model gives each 1 to 10.

    `form` "pairs" is best and worst, for DPO and reward models; "ranked" is all, the best first.
    """

    answers: int = 4
    rule: Literal["answer", "judge"] = "judge"
    form: Literal["pairs", "ranked"] = "pairs"


def preferences(row: Row, prompts: Prompts, options: Preferences) -> Asking:
    """Prompt (`prompt`, `question` or `problem`, text or messages) -> answers -> scores -> a pair, or a ranking."""
    prompt = row.get("prompt") or row.get("question") or row.get("problem")
    if not prompt:
        return [Lost("no_prompt", ", ".join(row), "expected prompt, question or problem")]
    given = [Message("user", prompt)] if isinstance(prompt, str) else msgspec.convert(prompt, list[Message])
    asked = given[-1].content
    ask = prompts["answer"].ask({**row, "prompt": asked}, n=options.answers)
    ask = msgspec.structs.replace(ask, messages=(*ask.messages[:-1], *given[:-1], ask.messages[-1]))
    replies = {reply.text: reply for reply in (yield ask) if reply.text}
    if len(replies) < 2:
        return [Lost("all_alike", len(replies), asked)]
    if options.rule == "answer":
        if "answer" not in row:
            return [Lost("no_answer", ", ".join(row), "the rule answer needs the row's answer")]
        wanted = numeric(str(row["answer"]).split("####")[-1])
        scores = {text: float(wanted is not None and _last_number(text) == wanted) for text in replies}
    else:
        scores = {}
        for text in replies:
            judged: list[Reply] = yield prompts["judge"].ask({**row, "prompt": asked, "reply": text})
            scores[text] = float(judged[0].value["score"])
    ranked = sorted(replies, key=lambda text: -scores[text])
    best, worst = ranked[0], ranked[-1]
    if scores[best] == scores[worst]:
        return [Lost("all_equal", scores[best], asked)]
    plain = msgspec.to_builtins(given)
    if options.form == "pairs":
        made = {"prompt": plain, "chosen": best, "rejected": worst, "scores": [scores[best], scores[worst]]}
    else:
        made = {"prompt": plain, "answers": ranked, "scores": [scores[text] for text in ranked]}
    return [Made(made, best)]


def _last_number(text: str) -> float | None:
    import re

    found = re.findall(r"-?\$?\d[\d,]*(?:\.\d+)?", text)
    return numeric(found[-1]) if found else None
