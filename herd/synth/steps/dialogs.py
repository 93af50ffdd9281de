"""Steps that make dialogs: a persona's request and its reply, translations, tool use in several steps, refusals and harmless borderline requests."""

import msgspec

from herd.data.identify import identify
from herd.synth.step import Asking, Lost, Made, Prompts, Row, dialog
from herd.text.messages import Message
from herd.tools.check import numeric, refuses

LANGUAGES = {
    "en": "English", "de": "German", "fr": "French", "it": "Italian", "pt": "Portuguese", "hi": "Hindi",
    "es": "Spanish", "th": "Thai",
}  # fmt: skip
"""Those that Llama 3.1 speaks."""


class Translation(msgspec.Struct, frozen=True, kw_only=True):
    """Into these languages. A translation is kept that is in its language and whose length is within `ratio` of the text's, either way."""

    languages: tuple[str, ...] = ("de", "fr", "it", "pt", "hi", "es", "th")
    ratio: float = 3.0


class Tools(msgspec.Struct, frozen=True, kw_only=True):
    """Dialogs with fewer calls go. `required` has the model begin with a call, which small ones would not think of."""

    calls: int = 1
    required: bool = True


def personas(row: Row, prompts: Prompts, _: None) -> Asking:
    """Who would write a text like this, what that person would ask, and a reply (arXiv 2406.20094)."""
    persona = row.get("persona") or (yield prompts["persona"].ask(row))[0].value["persona"].strip()
    row = {**row, "persona": persona}
    request = (yield prompts["request"].ask(row))[0].value["request"].strip()
    reply = (yield prompts["reply"].ask({**row, "request": request}))[0].text
    if not reply:
        return [Lost("empty", "", request)]
    return [Made({"messages": dialog(("user", request), ("assistant", reply)), "persona": persona}, request)]


def translation(row: Row, prompts: Prompts, options: Translation) -> Asking:
    """A text in other languages; each that is not right is lost by itself."""
    made: list[Made | Lost] = []
    source = identify(row["text"])[0]
    for code in options.languages:
        if code == source:
            continue
        language = LANGUAGES[code]
        values = {**row, "language": language}
        prompt = prompts["translation"].ask(values)
        reply = (yield prompt)[0].text
        found, _ = identify(reply)
        share = len(reply) / max(1, len(row["text"]))
        if found != code:
            made.append(Lost("language", f"{found}, not {code}", reply[:300]))
        elif not 1 / options.ratio <= share <= options.ratio:
            made.append(Lost("length", round(share, 3), reply[:300]))
        else:
            turns = dialog(("user", prompt.messages[-1].content), ("assistant", reply))
            made.append(Made({"messages": turns, "language": code}, reply))
    return made


def tools(row: Row, prompts: Prompts, options: Tools) -> Asking:
    """A question (the row's own `question` or `problem`, or one that its text suggests) that the model answers with the recipe's
    tools, in as many steps as it takes. With an `answer` in the row the last reply must have that number.
    """
    question = row.get("question") or row.get("problem")
    if not question:
        question = (yield prompts["question"].ask(row))[0].value["question"].strip()
    ask = prompts["dialog"].ask({**row, "question": question})
    reply = (yield msgspec.structs.replace(ask, tools="required" if options.required else "auto"))[0]
    calls = [call for message in reply.messages for call in message.tool_calls]
    if len(calls) < options.calls:
        return [Lost("calls", len(calls), f"{question}\n{reply.text}")]
    if any(m.role == "ipython" and m.content.startswith("error:") for m in reply.messages):
        return [Lost("tool_failed", next(m.content for m in reply.messages if m.role == "ipython")[:200], question)]
    if "answer" in row and numeric(reply.text.split("=")[-1]) != numeric(str(row["answer"]).split("####")[-1]):
        return [Lost("answer_wrong", reply.text[-200:], question)]
    said: list[Message] = [*ask.messages, *reply.messages]
    made = Made({"messages": msgspec.to_builtins(said), "calls": len(calls)}, f"{question}\n{reply.text}")
    return [made]


def safety(row: Row, prompts: Prompts, _: None) -> Asking:
    """`kind` "refusal": a request of a hazard's category and a reply that declines it. "borderline": a harmless request that sounds
    like one, and a reply that helps. `hazard` says what the category is.
    """
    kind = row.get("kind")
    if kind not in ("refusal", "borderline"):
        return [Lost("kind", str(kind), "expected refusal or borderline")]
    request = row.get("request") or (yield prompts[kind].ask(row))[0].value["request"].strip()
    reply = (yield prompts[f"{kind}_reply"].ask({**row, "request": request}))[0].text
    if refuses(reply) != (kind == "refusal"):
        return [Lost("does_not_decline" if kind == "refusal" else "declines", reply[:200], request)]
    turns = dialog(("user", request), ("assistant", reply))
    return [Made({"messages": turns, "kind": kind, "category": row.get("category", "")}, f"{request}\n{reply}")]
