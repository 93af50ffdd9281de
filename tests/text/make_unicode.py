"""Write herd/text/csrc/unicode.h: the ranges of characters that pre-tokenizers tell apart.

    python -m tests.text.make_unicode > herd/text/csrc/unicode.h

The classes are those of the `tokenizers` library, which are tiktoken's too.
"""

from collections.abc import Iterable, Iterator

from tokenizers import Regex, pre_tokenizers

from herd.text.pre_tokenizers import DEEPSEEK_LETTERS

CLASSES = {
    "UPPER": r"[\p{Lu}\p{Lt}]",
    "LOWER": r"\p{Ll}",
    "CASELESS": r"[\p{Lm}\p{Lo}]",
    "MARK": r"\p{M}",
    "NUMBER": r"\p{N}",
    "SPACE": r"\s",
    "PUNCTUATION": r"\p{P}",
    "SYMBOL": r"\p{S}",
}
_POINTS = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]
_LATE = 0x40000  # behind it nothing has a class but variation selectors


def points_of(pattern: str) -> list[int]:
    """Code points that a one-character pattern matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = []
    for start in range(0, len(_POINTS), 1 << 14):
        text = "".join(map(chr, _POINTS[start : start + (1 << 14)]))
        found += [ord(character) for piece, _ in split.pre_tokenize_str(text) for character in piece]
    return found


def ranges(points: list[int], steps: tuple[int, ...] = (1, 2)) -> Iterator[tuple[int, int, int]]:
    """First and last code point of each range, and the step in it: capitals and small letters often alternate."""
    start = 0
    while start < len(points):
        step = next((s for s in steps if points[start + 1 : start + 2] == [points[start] + s]), 1)
        end = start
        while points[end + 1 : end + 2] == [points[end] + step]:
            end += 1
        yield points[start], points[end], step
        start = end + 1


def table(name: str, entries: Iterable[str]) -> list[str]:
    """A C++ array of entries, several a line."""
    lines, line = [f"constexpr {name}[] = {{"], "   "
    for entry in entries:
        if len(line) + len(entry) > 118:
            lines.append(line)
            line = "   "
        line += f" {entry},"
    return [*lines, line, "};"]


def header() -> str:
    """The text of unicode.h."""
    classes = {name: points_of(pattern) for name, pattern in CLASSES.items()}
    late = [point for point in classes["MARK"] if point > _LATE]
    classes["MARK"] = [point for point in classes["MARK"] if point < _LATE]
    entries = [
        f"{{{first:#x}, {last:#x}, {step}, {name}}}"
        for name, points in classes.items()
        for first, last, step in ranges(points)
    ]
    letters = [f"{{{first:#x}, {last:#x}}}" for first, last, _ in ranges(points_of(DEEPSEEK_LETTERS), (1,))]
    names = ", ".join(f"{name} = {1 << i}" for i, name in enumerate(CLASSES))
    lines = [
        "// Made by tests/text/make_unicode.py: the classes of the tokenizers library. Do not edit.",
        "#pragma once\n\n#include <cstdint>\n\nnamespace herd::text {\n",
        f"enum Class : uint8_t {{\n  REST = 0, {names}\n}};\n",
        "struct Span {\n  uint32_t first, last;\n};\n",
        "struct Range {\n  uint32_t first, last, step;\n  Class kind;\n};\n",
        f"constexpr uint32_t LAST_CLASSED = {max(max(points) for points in classes.values()):#x};",
        f"constexpr Span LATE_MARKS = {{{late[0]:#x}, {late[-1]:#x}}};",
        *table("Range RANGES", entries),
        "// The letters of deepseek-llm's expression, in the order of Unicode.",
        *table("Span DEEPSEEK_LETTERS", letters),
        "\n}  // namespace herd::text",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(header(), end="")
