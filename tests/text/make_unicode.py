"""Write herd/text/csrc/unicode.h: the ranges of letters, numbers and whitespace that pre-tokenizers tell apart.

    python -m tests.text.make_unicode > herd/text/csrc/unicode.h

The classes are those of the `tokenizers` library, which are tiktoken's too.
"""

from collections.abc import Iterator

from tokenizers import Regex, pre_tokenizers

CLASSES = (("LETTER", r"\p{L}"), ("NUMBER", r"\p{N}"), ("SPACE", r"\s"))
_POINTS = [p for p in range(0x110000) if not 0xD800 <= p < 0xE000]


def points_of(pattern: str) -> list[int]:
    """Code points that a one-character pattern matches."""
    split = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    found = []
    for start in range(0, len(_POINTS), 1 << 14):
        text = "".join(map(chr, _POINTS[start : start + (1 << 14)]))
        found += [ord(character) for piece, _ in split.pre_tokenize_str(text) for character in piece]
    return found


def ranges() -> Iterator[tuple[int, int, str]]:
    """First and last code point of each range, and its class."""
    for name, pattern in CLASSES:
        points = points_of(pattern)
        start = 0
        for i, point in enumerate(points):
            if i + 1 == len(points) or points[i + 1] != point + 1:
                yield points[start], point, name
                start = i + 1


def header() -> str:
    """The text of unicode.h."""
    entries = list(ranges())
    lines = [
        "// Made by tests/text/make_unicode.py: the classes of the tokenizers library. Do not edit.",
        "#pragma once\n\n#include <cstdint>\n\nnamespace herd::text {\n",
        "enum Class : uint8_t { OTHER, LETTER, NUMBER, SPACE };\n",
        "struct Range {\n  uint32_t first, last;\n  Class kind;\n};\n",
        f"constexpr uint32_t LAST_CLASSED = {max(last for _, last, _ in entries):#x};",
        "constexpr Range RANGES[] = {",
    ]
    line = "   "
    for first, last, name in entries:
        entry = f" {{{first:#x}, {last:#x}, {name}}},"
        if len(line) + len(entry) > 120:
            lines.append(line)
            line = "   "
        line += entry
    lines.append(f"{line}\n}};\n\n}}  // namespace herd::text")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(header(), end="")
