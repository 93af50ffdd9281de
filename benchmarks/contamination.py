"""How fast a corpus is looked through for benchmarks, what is found of leaks that were planted in it, and how often what was not is.

python benchmarks/contamination.py --data FOLDER --corpus FOLDER [--tasks mmlu,arc_challenge,mgsm,xquad,small] [--leaks 200]

The corpus should be text that cannot have the questions, such as documentation. A leak is 50 tokens of a question within one of its documents.
"""

import argparse
import random
import time
from pathlib import Path

from herd.data.overlap import VERBATIM, Index, tokens
from herd.evals.corpus import documents_of, files_of
from herd.evals.overlap import questions
from herd.evals.source import Places
from herd.evals.task import choose


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--tasks", default="mmlu,arc_challenge,mgsm,xquad,small")
    parser.add_argument("--leaks", type=int, default=200)
    args = parser.parse_args()
    draw = random.Random(0)
    texts, _ = questions(choose(args.tasks.split(",")), Places((args.data,)))
    documents = [document for file in files_of([args.corpus]) for document in documents_of(file)]

    started = time.process_time()
    clean = Index(texts)
    built = time.process_time() - started
    started, wall = time.process_time(), time.monotonic()
    size = sum(clean.scan(documents)) / 1e6
    spent, wall = time.process_time() - started, time.monotonic() - wall
    matches = [match for found in clean.matches().values() for match in found]
    print(f"{len(texts):,} questions, index in {built:.1f} s; {len(documents):,} documents of {size:.0f} MB at {size / spent:.0f} MB/s of processor time, {size / wall:.0f} of wall time")  # fmt: skip
    for threshold in (0.1, 0.3, 0.5, 0.8):
        print(f"false alarms at {threshold}: {sum(m.share >= threshold for m in matches) / len(matches):.3%}")
    print(f"false alarms of {VERBATIM} in a row: {sum(m.longest >= VERBATIM for m in matches) / len(matches):.3%}")

    whole = [number for number, match in enumerate(matches) if match.tokens >= VERBATIM]
    leaked = draw.sample(whole, min(args.leaks, len(whole)))
    for number in leaked:
        text = texts[number][2].lower().encode()
        begin = [*tokens(text)[1], len(text)]
        start = draw.randrange(len(begin) - VERBATIM)
        spot = draw.randrange(len(documents))
        documents[spot] += "\n" + text[begin[start] : begin[start + VERBATIM]].decode()
    index = Index(texts)
    sum(index.scan(documents))
    found = [match for one in index.matches().values() for match in one]
    print(f"leaks found: {sum(found[number].verbatim for number in leaked)} of {len(leaked)}")


if __name__ == "__main__":
    main()
