"""Instructions that a program can check (IFEval, Zhou et al., arXiv 2311.07911): one function a kind, from a reply to yes or no.

What counts follows the authors' checkers, so that figures are theirs; the code is our own. Two kinds are told by rules of ours where theirs
need trained parts: sentences (`sentences`) and languages (`herd.text.language`). lm-evaluation-harness's checkers are the oracle in the tests.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from herd.errors import ConfigError, first_line
from herd.text.language import speaks

Arguments = Mapping[str, Any]
Checker = Callable[[str, Arguments], bool]

_ABBREVIATION = re.compile(
    r"(?i)(?:^|[\s(\"'])(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|etc|inc|ltd|co|no|e\.g|i\.e|[a-z]|(?:[a-z]\.)+[a-z])\.$"
)
_WORD = re.compile(r"(?i)\w+(?=n['’]t\b)|n['’]t\b|['’]\w+|\w+(?:[-.&/]\w+)*")
_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")


def sentences(text: str) -> int:
    """How many sentences: they end with . ! or ? (or their like in other scripts) before a space or the end, but not after an
    abbreviation. The authors use NLTK's trained Punkt, which this equals on ordinary prose only.
    """
    count, start = 0, 0
    for end in re.finditer(r"[.!?…]+[\"'”’)\]]*(?=\s|$)|[。！？।]+", text):
        piece = text[start : end.end()]
        if _ABBREVIATION.search(piece) and end.end() < len(text.rstrip()):
            continue
        count += bool(re.search(r"\w", piece))
        start = end.end()
    return count + bool(re.search(r"\w", text[start:]))


def _related(count: int, args: Arguments, wanted: str, relation: str = "relation") -> bool:
    """`count` against the wanted number: "less than" or "at least"."""
    how = args.get(relation) or "at least"
    if how not in ("less than", "at least"):
        raise ConfigError(f"relation {how!r}; expected 'less than' or 'at least'")
    return bool(count < args[wanted] if how == "less than" else count >= args[wanted])


def _found(pattern: str, text: str) -> int:
    """How often a keyword stands in a text, in any case. Keywords are regular expressions, as the authors have them."""
    try:
        return len(re.findall(pattern, text, re.IGNORECASE))
    except re.error:
        return len(re.findall(re.escape(pattern), text, re.IGNORECASE))


def _parts(text: str, mark: str) -> list[str] | None:
    """Parts between marks; empty ones only at the ends, where they do not count. None where one is empty in the middle."""
    parts = re.split(mark, text)
    if any(not part.strip() for part in parts[1:-1]):
        return None
    return [part for part in parts if part.strip()]


def _paragraphs(text: str, args: Arguments) -> bool:
    parts = _parts(text, r"\s?\*\*\*\s?")
    return parts is not None and len(parts) == args["num_paragraphs"]


def _first_word(text: str, args: Arguments) -> bool:
    """The nth paragraph, parted by empty lines, begins with a word, and there are as many paragraphs as wanted."""
    parts = re.split(r"\n\n", text)
    number = args["nth_paragraph"]
    if sum(bool(part.strip()) for part in parts) != args["num_paragraphs"] or not 0 < number <= args["num_paragraphs"]:
        return False
    words = parts[number - 1].split()
    first = re.match(r"[^.,?!'\"]*", words[0].lstrip("'").lstrip('"')) if words else None
    return first is not None and first[0].lower() == args["first_word"].lower()


def _postscript(text: str, args: Arguments) -> bool:
    marker = args["postscript_marker"]
    special = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}
    return bool(re.search(special.get(marker, re.escape(marker.lower())), text.lower()))


def _bullets(text: str, args: Arguments) -> bool:
    found = re.findall(r"(?m)^\s*\*[^*].*$", text) + re.findall(r"(?m)^\s*-.*$", text)
    return len(found) == int(args["num_bullets"])


def _highlights(text: str, args: Arguments) -> bool:
    one = [part for part in re.findall(r"\*[^\n*]*\*", text) if part.strip("*").strip()]
    two = [part for part in re.findall(r"\*\*[^\n*]*\*\*", text) if part[2:-2].strip()]
    return len(one) + len(two) >= int(args["num_highlights"])


def _json(text: str, _args: Arguments) -> bool:
    text = re.sub(r"\A```(?:json|Json|JSON)?", "", text.strip())
    try:
        json.loads(text.removesuffix("```").strip())
    except (ValueError, RecursionError):
        return False
    return True


def _title(text: str, _args: Arguments) -> bool:
    return any(title.lstrip("<").rstrip(">").strip() for title in re.findall(r"<<[^\n]+>>", text))


def _two_responses(text: str, _args: Arguments) -> bool:
    parts = _parts(text, re.escape("*" * 6))
    return parts is not None and len(parts) == 2 and parts[0].strip() != parts[1].strip()


def _quoted(text: str, _args: Arguments) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def _capital_words(text: str, args: Arguments) -> bool:
    count = sum(word.isupper() for word in _WORD.findall(text))
    return _related(count, args, "capital_frequency", "capital_relation")


def _letters(text: str, args: Arguments) -> bool:
    return _related(text.lower().count(args["letter"].lower()), args, "let_frequency", "let_relation")


CHECKERS: dict[str, Checker] = {
    "keywords:existence": lambda text, a: all(_found(word, text) for word in a["keywords"]),
    "keywords:frequency": lambda text, a: _related(_found(a["keyword"], text), a, "frequency"),
    "keywords:forbidden_words": lambda text, a: not any(_found(rf"\b{word}\b", text) for word in a["forbidden_words"]),
    "keywords:letter_frequency": _letters,
    "language:response_language": lambda text, a: speaks(text, a["language"]),
    "length_constraints:number_sentences": lambda text, a: _related(sentences(text), a, "num_sentences"),
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_words": lambda text, a: _related(len(re.findall(r"\w+", text)), a, "num_words"),
    "length_constraints:nth_paragraph_first_word": _first_word,
    "detectable_content:number_placeholders": lambda text, a: len(re.findall(r"\[.*?\]", text)) >= a["num_placeholders"],
    "detectable_content:postscript": _postscript,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:constrained_response": lambda text, _: any(answer in text for answer in _ANSWERS),
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:multiple_sections": lambda text, a: (
        len(re.findall(rf"\s?{a['section_spliter']}\s?\d+\s?", text)) >= a["num_sections"]
    ),
    "detectable_format:json_format": _json,
    "detectable_format:title": _title,
    "combination:two_responses": _two_responses,
    "combination:repeat_prompt": lambda text, a: (
        text.strip().lower().startswith(a["prompt_to_repeat"].strip().lower())
    ),
    "startend:end_checker": lambda text, a: (
        text.strip().strip('"').lower().endswith(a["end_phrase"].strip().lower())
    ),
    "startend:quotation": _quoted,
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": lambda text, _: text.isupper() and speaks(text, "en"),
    "change_case:english_lowercase": lambda text, _: text.islower() and speaks(text, "en"),
    "punctuation:no_comma": lambda text, _: "," not in text,
}  # fmt: skip


def follows(reply: str, kind: str, args: Arguments) -> bool:
    """Whether a reply follows one instruction; an empty reply follows none. ConfigError for an instruction that is not known."""
    if kind not in CHECKERS:
        raise ConfigError(f"instruction {kind!r}; herd checks {', '.join(CHECKERS)}")
    given = {key: value for key, value in args.items() if value is not None}
    try:
        return bool(reply.strip()) and CHECKERS[kind](reply, given)
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"instruction {kind}: its arguments are not as they should be ({first_line(error)})"
        ) from error


def _variants(reply: str) -> Iterator[str]:
    """The reply, and what is left without its first line, its last, both; each also without stars (the paper's loose criterion)."""
    lines = reply.split("\n")
    for text in (reply, *("\n".join(part).strip() for part in (lines[1:], lines[:-1], lines[1:-1]))):
        yield text
        yield text.replace("*", "")


def scores(reply: str, kinds: Sequence[str], arguments: Sequence[Arguments]) -> dict[str, float]:
    """One prompt's scores: whether all instructions are followed, strictly and loosely, and how many of how many."""
    if len(kinds) != len(arguments) or not kinds:
        raise ConfigError(
            f"{len(kinds)} instructions with {len(arguments)} sets of arguments; expected as many, at least one"
        )
    pairs = list(zip(kinds, arguments, strict=True))
    strict = [follows(reply, kind, args) for kind, args in pairs]
    loose = [any(follows(text, kind, args) for text in _variants(reply)) for kind, args in pairs]
    return {
        "prompt_strict": float(all(strict)), "prompt_loose": float(all(loose)),
        "strict": float(sum(strict)), "loose": float(sum(loose)), "instructions": float(len(pairs)),
    }  # fmt: skip


def pooled(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """What stands beside the strict accuracy of prompts: the loose one, both over instructions, and the mean of all four, which Meta reports."""
    total = sum(one.get("instructions", 0.0) for one in found) or 1.0
    values = {name: sum(one.get(name, 0.0) for one in found) / len(found) for name in ("prompt_strict", "prompt_loose")}
    values |= {f"instruction_{name}": sum(one.get(name, 0.0) for one in found) / total for name in ("strict", "loose")}
    return {
        **{name: value for name, value in values.items() if name != "prompt_strict"},
        "average": sum(values.values()) / 4,
    }
