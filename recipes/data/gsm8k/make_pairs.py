"""Writes pairs.jsonl and pairs-valid.jsonl from example_model_solutions.jsonl of github.com/openai/grade-school-math:
a right and a wrong solution of one question. Questions 1, 3, 5, ... train, 2, 4, 6, ... are held out.

    python make_pairs.py example_model_solutions.jsonl
"""

import json
import re
import sys
from pathlib import Path

MODELS = ("175b_verification", "175b_finetuning", "6b_verification", "6b_finetuning")
HELD_OUT = 60


def clean(solution: str) -> str:
    """Without the calculator's marks, and with the answer as GSM8K's own solutions give it."""
    text = re.sub(r"<<.*?>>", "", solution).strip()
    return re.sub(r"\nA: ?(.*)$", r"\n#### \1", text)


def main() -> None:
    """Write both files beside this one."""
    parts: list[list[dict[str, str]]] = [[], []]
    for number, line in enumerate(Path(sys.argv[1]).read_text("utf-8").splitlines()):
        row = json.loads(line)
        right = [clean(row[m]["solution"]) for m in MODELS if row[m]["is_correct"]]
        wrong = [clean(row[m]["solution"]) for m in MODELS if not row[m]["is_correct"]]
        if right and wrong:
            parts[number % 2].append({"prompt": row["question"], "chosen": right[0], "rejected": wrong[0]})
    for name, rows in (("pairs", parts[0]), ("pairs-valid", parts[1][:HELD_OUT])):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (Path(__file__).parent / f"{name}.jsonl").write_text(text, "utf-8")


if __name__ == "__main__":
    main()
