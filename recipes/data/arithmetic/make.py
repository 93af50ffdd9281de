"""Writes train.jsonl and valid.jsonl: sums, differences and products in words, none in both files."""

import json
import random
from pathlib import Path

FORMS = (
    "What is {a} {sign} {b}?", "Compute {a} {sign} {b}.", "{a} {sign} {b} =", "How much is {a} {word} {b}?",
    "Calculate {a} {word} {b}. Give the result.",
)  # fmt: skip
LARGEST = {"+": 50, "-": 50, "*": 12}
WORDS = {"+": "plus", "-": "minus", "*": "times"}
# an answer that shows the form, so that the untrained model is right now and then
EXAMPLE = [
    {"role": "system", "content": "You calculate."}, {"role": "user", "content": "What is 2 + 3?"},
    {"role": "assistant", "content": "2 + 3 = 5"},
]  # fmt: skip


def main() -> None:
    """Write both files beside this one."""
    draw = random.Random(0)
    seen: set[tuple[int, str, int]] = set()
    rows = []
    while len(rows) < 2200:
        sign = draw.choice("+-*")
        a, b = draw.randint(2, LARGEST[sign]), draw.randint(2, LARGEST[sign])
        if (a, sign, b) in seen and sign != "*":
            continue
        seen.add((a, sign, b))
        a, b = (max(a, b), min(a, b)) if sign == "-" else (a, b)
        asked = draw.choice(FORMS).format(a=a, b=b, sign=sign, word=WORDS[sign])
        prompt = [*EXAMPLE, {"role": "user", "content": asked}]
        rows.append(((a, sign, b), {"prompt": prompt, "answer": {"+": a + b, "-": a - b, "*": a * b}[sign]}))
    held = {key for key, _ in rows[:200]}
    parts = {"valid": rows[:200], "train": [row for row in rows[200:] if row[0] not in held]}
    for name, part in parts.items():
        lines = "".join(json.dumps(line) + "\n" for _, line in part)
        (Path(__file__).parent / f"{name}.jsonl").write_text(lines)


if __name__ == "__main__":
    main()
