"""What a Shield costs: processor time a request, of the question and of an answer that comes word by word.

python benchmarks/shield.py TEXT [--policies annotate,block]

TEXT is any file of text; its pieces of 300 characters are asked, its pieces of 600 characters are the answers. Nothing is generated.
"""

import argparse
import time
from pathlib import Path

from herd.engine.agent import Part
from herd.engine.request import Usage
from herd.safety.policy import read_policy
from herd.safety.shield import Shield
from herd.text.messages import Message

_REQUESTS = 200


def main() -> None:
    """Print a line a policy."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    parser.add_argument("--policies", default="annotate,block")
    given = parser.parse_args()
    text = given.text.read_text("utf-8")
    asked = [text[i : i + 300] for i in range(0, len(text), 900)][: _REQUESTS + 1]
    answers = [text[i + 300 : i + 900] for i in range(0, len(text), 900)][: _REQUESTS + 1]
    for name in given.policies.split(","):
        with Shield(read_policy(name)) as shield:
            times = [_request(shield, *pair) for pair in zip(asked, answers, strict=True)][
                1:
            ]  # the first one loads weights
        question, answer = (sum(column) / len(times) * 1e3 for column in zip(*times, strict=True))
        print(f"{name}: {len(times)} requests, processor time a question {question:.2f} ms, an answer {answer:.2f} ms")


def _request(shield: Shield, question: str, answer: str) -> tuple[float, float]:
    watch = shield.watch([Message("user", question)])
    begin = time.process_time()
    watch.clean()
    watch.settle(watch.question().wait())
    middle = time.process_time()
    words = answer.split(" ")
    for i, word in enumerate(words):
        end = i == len(words) - 1
        look = watch.take(Part(0, f"{word} ", reason="stop" if end else None, usage=Usage(0, 0, 0) if end else None))
        if look is not None:
            watch.settle(look.wait(), 0)
        list(watch.ready(0))
    return middle - begin, time.process_time() - middle


if __name__ == "__main__":
    main()
