"""What writing data costs: K samples of a prompt beside K requests, and a run of many questions beside what `herd bench` says of the same lengths.

python benchmarks/synth.py [--model smollm2-135m] [--requests 256] [--batch 64] [--threads N]
"""

import argparse
import json
import time
from pathlib import Path

from herd.cli.common import open_model
from herd.engine.bench import bench
from herd.engine.engine import Engine
from herd.engine.open import open_backend
from herd.synth.step import Ask
from herd.synth.writer import Asked, EngineWriter
from herd.text.messages import Message

TEXT = (Path(__file__).parents[1] / "tests/data/udhr/en.txt").read_text("utf-8")


def ask(start: int, characters: int, n: int = 1, tokens: int = 48) -> Ask:
    """A question about a piece of the declaration."""
    piece = (TEXT * 2)[start : start + characters]
    return Ask(messages=(Message("user", f"{piece}\n\nExplain this."),), n=n, max_tokens=tokens, temperature=1.0)


def run(writer: EngineWriter, asks: list[Ask]) -> tuple[int, float]:
    """Tokens that were written, and the seconds it took."""
    left = [Asked(number, one, number) for number, one in enumerate(asks)]
    begun = time.perf_counter()
    tokens = sum(r.tokens for _, found in writer.run(lambda: left.pop(0) if left else None) for r in found)
    return tokens, time.perf_counter() - begun


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=256)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int)
    asked = parser.parse_args()
    checkpoint = open_model(asked.model)
    backend = open_backend(checkpoint, threads=asked.threads, cache_tokens=65_536)
    with Engine(backend, checkpoint.tokenizer, max_sequences=asked.batch) as engine:
        writer = EngineWriter(engine, checkpoint.chat_format(), {})
        run(writer, [ask(9000, 400)])
        together, seconds = run(writer, [ask(0, 1600, n=16)])
        apart_tokens, apart = 0, 0.0
        for number in range(16):  # one after another, each with a prompt of its own
            more, took = run(writer, [ask(1600 + 37 * number, 1600)])
            apart_tokens, apart = apart_tokens + more, apart + took
        asks = [ask(37 * number, 800) for number in range(asked.requests)]
        lengths = [len(writer.format.encode(one.messages).tokens) for one in asks]
        written, took = run(writer, asks)
    prompt, generate = round(sum(lengths) / len(asks)), round(written / len(asks))
    # one after another, since both would keep the processor's threads busy
    backend = open_backend(checkpoint, threads=asked.threads, cache_tokens=asked.batch * (prompt + generate + 32))
    alone = bench(backend, prompt=prompt, generate=generate, batch=asked.batch, repeat=1)
    backend.close()
    expected = sum(lengths) / alone["prefill_tokens_per_second"] + written / alone["decode_tokens_per_second"]
    print(json.dumps({
        "sixteen samples, tokens a second": round(together / seconds, 1),
        "sixteen requests in turn, tokens a second": round(apart_tokens / apart, 1),
        "ratio": round(together / seconds / (apart_tokens / apart), 2),
        "run": {"requests": len(asks), "prompt": prompt, "generate": generate, "seconds": round(took, 2)},
        "seconds by herd bench": round(expected, 2), "share of its speed": round(expected / took, 3),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
