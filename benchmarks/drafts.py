"""Guesses looked up in prompt and reply (`--draft lookup`) beside plain decoding: the same tokens, how many steps, how fast.

    python benchmarks/drafts.py [MODEL] [--rounds 5] [--threads 2]

Greedy replies of the default model, interleaved, medians; tokens a second count the reply alone, prompts are cached.
"""

import argparse
import statistics
import time

from herd.cli.common import open_model
from herd.engine.backends.native import NativeBackend
from herd.engine.engine import Engine
from herd.engine.request import Request, SamplingParams
from herd.text.messages import Message

REPORT = (
    "The harbour bridge was closed on Monday after inspectors found cracks in two of its steel beams. The city engineer, Maria Lund, said "
    "that repairs would take about six weeks and cost 2.4 million crowns. Buses are sent over the northern tunnel, and the ferry between "
    "the old market and the shipyard runs every ten minutes instead of every twenty. Shop owners near the bridge ask for help: "
    '"Half of our customers came over that bridge," said the baker Jonas Holt. The council will decide on Thursday.'
)
CODE = """def total(prices, taxes):
    result = 0
    for price, tax in zip(prices, taxes):
        result = result + price * (1 + tax)
    return result


def average(prices, taxes):
    if len(prices) == 0:
        return 0
    return total(prices, taxes) / len(prices)
"""
TABLE = "\n".join(f"item {i}, name Part{i:03d}, price {i * 7 % 50}.50, stock {i * 13 % 90}" for i in range(1, 11))
TASKS = {
    "summary": f"Summarize this article in its own words, quoting the important sentences:\n\n{REPORT}",
    "code edit": f"Rename the variable result to amount in this code and print all of the code again:\n\n{CODE}",
    "JSON": f"Write these lines as a JSON list of objects with the keys item, name, price and stock:\n\n{TABLE}",
    "nothing to copy": "Tell me a story about a lighthouse keeper who finds a letter.",
}


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    checkpoint = open_model(args.model)
    chat = checkpoint.chat_format()
    backend = NativeBackend(checkpoint, threads=args.threads, cache_tokens=8192)
    engines = {draft: Engine(backend, checkpoint.tokenizer, draft=draft) for draft in (None, "lookup")}
    print("| task | tokens | tokens a step | plain, tokens/s | lookup | ratio |\n|---|---|---|---|---|---|")
    for task, text in TASKS.items():
        prompt = chat.encode([Message("user", text)]).tokens
        rates: dict[str | None, list[float]] = {None: [], "lookup": []}
        found = {}
        for _ in range(args.rounds):
            for draft, engine in engines.items():
                found[draft] = reply(engine, prompt)
                rates[draft].append(len(found[draft][0]) / found[draft][1])
        assert found[None][0] == found["lookup"][0], "guesses changed a reply"
        plain, lookup = statistics.median(rates[None]), statistics.median(rates["lookup"])
        tokens = len(found[None][0])
        print(
            f"| {task} | {tokens} | {tokens / found['lookup'][2]:.2f} | {plain:.0f} | {lookup:.0f} | {lookup / plain:.2f}x |"
        )


def reply(engine: Engine, prompt: list[int]) -> tuple[tuple[int, ...], float, int]:
    """Tokens of a greedy reply, its seconds and its steps, without the prompt's."""
    params = SamplingParams(temperature=0, max_tokens=1)
    list(engine.run([Request(prompt=prompt, params=params)]))
    steps = []
    inner = type(engine.backend).step
    engine.backend.step = lambda plan: (steps.append(1), inner(engine.backend, plan))[1]  # type: ignore[method-assign]
    begun = time.perf_counter()
    (done,) = engine.run([Request(prompt=prompt, params=SamplingParams(temperature=0, max_tokens=256))])
    return done.tokens, time.perf_counter() - begun, len(steps)


if __name__ == "__main__":
    main()
