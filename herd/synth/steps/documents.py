"""Steps on documents: instructions that a passage answers, questions and answers about it, labels of its quality."""

import re

import msgspec

from herd.synth.step import Asking, Lost, Made, Prompts, Row, dialog

_WORD = re.compile(r"[^\W_]{3,}")
_SENTENCE = re.compile(r"(?<=[.!?।。])\s+|\n+")


class Instructions(msgspec.Struct, frozen=True, kw_only=True):
    """Pairs that the model itself rates under `least` of 5 go; 1 keeps all and asks for no rating."""

    least: int = 4


class Questions(msgspec.Struct, frozen=True, kw_only=True):
    """At least `grounded` of the answer's words must stand in the passage. `whole` puts the whole document before the question."""

    grounded: float = 0.6
    whole: bool = True


class Labels(msgspec.Struct, frozen=True, kw_only=True):
    """Labels are 0 to `best`."""

    best: int = 5


def instructions(row: Row, prompts: Prompts, options: Instructions) -> Asking:
    """Back-translation: the instruction whose answer a passage is, rated by the model (arXiv 2308.06259)."""
    found = (yield prompts["instruction"].ask(row))[0].value["instruction"].strip()
    rating = None
    if options.least > 1:
        rating = (yield prompts["rating"].ask({**row, "instruction": found}))[0].value["score"]
        if rating < options.least:
            return [Lost("rating", rating, found)]
    turns = dialog(("user", found), ("assistant", row["text"]))
    return [Made({"messages": turns, "rating": rating}, found)]


def sentences(text: str) -> list[str]:
    """A text's sentences, by their marks and line ends."""
    return [part.strip() for part in _SENTENCE.split(text) if part.strip()]


def questions(row: Row, prompts: Prompts, options: Questions) -> Asking:
    """A question about a passage, its answer, and the sentence it rests on; the model can only name a sentence that is there.

    With a cut document the question is put to the whole of it, as the Llama 3 paper makes its long-context data (section 4.3.4).
    """
    parts = sentences(row["text"])
    if not parts:
        return [Lost("no_sentence", len(row["text"]), row["text"])]
    prompt = prompts["question"]
    schema = _with_choices(prompt.schema or {}, "sentence", list(range(1, len(parts) + 1)))
    numbered = "\n".join(f"[{i}] {part}" for i, part in enumerate(parts, 1))
    found = (yield prompt.ask({**row, "sentences": numbered}, schema=schema))[0].value
    question, answer = found["question"].strip(), found["answer"].strip()
    words = {word.casefold() for word in _WORD.findall(answer)} or {word.casefold() for word in answer.split()}
    share = sum(word in row["text"].casefold() for word in words) / len(words) if words else 0.0
    if share < options.grounded:
        return [Lost("grounded", round(share, 3), f"{question} {answer}")]
    context = row.get("document", row["text"]) if options.whole else row["text"]
    turns = dialog(("user", f"{context}\n\n{question}"), ("assistant", answer))
    return [Made({"messages": turns, "evidence": parts[found["sentence"] - 1]}, f"{question}\n{answer}")]


def labels(row: Row, prompts: Prompts, options: Labels) -> Asking:
    """A number for a text's quality, as FineWeb-Edu asks for one, for classifiers to learn from."""
    prompt = prompts["label"]
    schema = _with_choices(prompt.schema or {}, "score", list(range(options.best + 1)))
    found = (yield prompt.ask({**row, "best": options.best}, schema=schema))[0].value
    return [Made({"text": row["text"], "label": found["score"], "reason": found.get("reason", "")}, "")]


def _with_choices(schema: dict[str, object], name: str, values: list[int]) -> dict[str, object]:
    properties = schema.get("properties")
    assert isinstance(properties, dict)
    return {**schema, "properties": {**properties, name: {"enum": values}}}
