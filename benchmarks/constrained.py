"""What holding a reply to a JSON schema costs: tokens a second with and without, interleaved, medians.

python benchmarks/constrained.py [--batch 1,8] [--rounds 7]
"""

import argparse
import statistics
import time

from herd.cli.common import open_model
from herd.engine.grammar import Grammars, json_grammar
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams

ITEM = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "n": {"type": "integer"},
    },
    "required": ["name", "tags", "n"],
    "additionalProperties": False,
}
SCHEMA = {"type": "array", "items": ITEM, "minItems": 1000}
TOKENS = 128


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", default="1,8")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    checkpoint = open_model()
    with open_engine(checkpoint) as engine:
        grammars = Grammars(checkpoint.tokenizer, checkpoint.config.vocab)
        held = grammars.constraint(json_grammar(SCHEMA))
        prompt = checkpoint.tokenizer.encode("A list of fruits in JSON:\n")

        def speed(batch: int, constraint: object) -> float:
            params = SamplingParams(temperature=0.8, max_tokens=TOKENS, ignore_eos=True)
            requests = [Request(prompt=[*prompt, i], params=params, constraint=constraint) for i in range(batch)]
            begun, count = time.perf_counter(), 0
            for event in engine.generate(requests):
                count += len(event.tokens)
            return count / (time.perf_counter() - begun)

        print("| sequences | free | held to a schema | cost |\n|---|---|---|---|")
        for batch in map(int, options.batch.split(",")):
            free, constrained = [], []
            for _ in range(options.rounds):
                free.append(speed(batch, None))
                constrained.append(speed(batch, held))
            a, b = statistics.median(free), statistics.median(constrained)
            print(f"| {batch} | {a:.0f} | {b:.0f} | {1 - b / a:.1%} |")
        grammars.close()


if __name__ == "__main__":
    main()
