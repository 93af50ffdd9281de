"""Guessed tokens beside plain decoding: the same tokens, how many steps, how fast.

    python benchmarks/drafts.py [MODEL] [--rounds 5] [--threads 2]
    python benchmarks/drafts.py MODEL --draft DRAFT

Greedy replies, interleaved, medians; tokens a second count the reply alone, prompts are cached. The first form looks guesses up
(`--draft lookup`). In the second a draft model computes as many tokens as it would, but what it guesses is planted: the reply's own
next token with a given probability, another one otherwise. Beside it stands what Leviathan et al.'s formula gives with what a guess
costs here. Random weights will do.
"""

import argparse
import random
import statistics
import time
from typing import NamedTuple

from herd.cli.common import open_model
from herd.engine.backend import Row, Sampling, StepPlan
from herd.engine.backends.native import NativeBackend
from herd.engine.drafts import LookupDrafter, ModelDrafter, Wish
from herd.engine.engine import Engine
from herd.engine.grammar import Grammars, json_grammar
from herd.engine.pace import LONGEST, best_length, gain
from herd.engine.request import Request, SamplingParams
from herd.text.messages import Message
from herd.weights.checkpoint import Checkpoint
from herd.weights.memory import need

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


_TEXT, _NUMBER = {"type": "string", "maxLength": 20}, {"type": "number"}
_ITEM = {"item": {"type": "integer"}, "name": _TEXT, "price": _NUMBER, "stock": {"type": "integer"}}
SCHEMA = {
    "type": "array", "minItems": 10, "maxItems": 10,
    "items": {"type": "object", "properties": _ITEM, "required": list(_ITEM), "additionalProperties": False},
}  # fmt: skip
AGREEMENTS = (0.0, 0.6, 0.8, 0.9)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model", nargs="?", default="smollm2-135m")
    parser.add_argument("--draft")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    checkpoint = open_model(args.model)
    backend = NativeBackend(checkpoint, threads=args.threads, cache_tokens=4096)
    if args.draft:
        draft = open_model(args.draft)
        planted(backend, checkpoint, NativeBackend(draft, threads=args.threads, cache_tokens=4096), draft, args.rounds)
    else:
        looked_up(backend, checkpoint, args.rounds)


def looked_up(backend: NativeBackend, checkpoint: Checkpoint, rounds: int) -> None:
    """What is looked up in prompts that replies repeat, and in one of random tokens, continued at random."""
    chat = checkpoint.chat_format()
    backend.verifies_drafts = False
    plain_engine = Engine(backend, checkpoint.tokenizer)
    backend.verifies_drafts = True
    engines = [
        plain_engine,
        Engine(backend, checkpoint.tokenizer),
        Engine(backend, checkpoint.tokenizer, drafter=lambda _: LookupDrafter()),
    ]
    greedy = SamplingParams(temperature=0, max_tokens=256)
    cases = {
        task: Request(prompt=chat.encode([Message("user", text)]).tokens, params=greedy) for task, text in TASKS.items()
    }
    grammars = Grammars(checkpoint.tokenizer, checkpoint.config.vocab)
    held = grammars.constraint(json_grammar(SCHEMA))
    cases["JSON by a schema"] = Request(prompt=cases["JSON"].prompt, params=greedy, constraint=held)
    noise = random.Random(0)
    at_random = SamplingParams(temperature=5, max_tokens=256, seed=0, ignore_eos=True)
    cases["random tokens"] = Request(prompt=[noise.randrange(20, 49_000) for _ in range(300)], params=at_random)
    print(
        "| task | tokens | tokens a step | plain, tokens/s | forced by a grammar | and lookup | ratio |\n|---|---|---|---|---|---|---|"
    )
    for task, request in cases.items():
        runs = [[reply(engine, request) for engine in engines] for _ in range(rounds)]
        assert all(run[0].tokens == other.tokens for run in runs for other in run), "guesses changed a reply"
        plain, forced, guessed = (statistics.median(run[i].rate for run in runs) for i in range(3))
        last = runs[-1][2]
        print(
            f"| {task} | {len(last.tokens)} | {len(last.tokens) / last.steps:.2f} | {plain:.0f} | {forced:.0f} | {guessed:.0f} | {guessed / plain:.2f}x |"
        )


def planted(
    backend: NativeBackend, checkpoint: Checkpoint, draft: NativeBackend, small: Checkpoint, rounds: int
) -> None:
    """Guesses that are right as often as they are told to be."""
    prompt, params = list(range(100, 400)), SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)
    plain = Engine(backend, checkpoint.tokenizer)
    request = Request(prompt=prompt, params=params)
    truth = reply(plain, request).tokens
    single = timed(backend, 1)
    cost = timed(draft, 1) / single + (timed(backend, 5) / single - 1) / 4
    print(f"a guess costs {cost:.3f} of a step of {1000 * single:.1f} ms\n")
    print("| agreement | tokens a step | plain, tokens/s | drafted | ratio | formula |\n|---|---|---|---|---|---|")
    ratio = need(small).weights / need(checkpoint).weights
    for agreement in AGREEMENTS:
        engine = Engine(
            backend, checkpoint.tokenizer,
            drafter=lambda cache, a=agreement: Planted(ModelDrafter(draft, cache, ratio), [*prompt, *truth], a),
        )  # fmt: skip
        runs = [(reply(plain, request), reply(engine, request)) for _ in range(rounds)]
        assert all(a.tokens == b.tokens for a, b in runs), "guesses changed a reply"
        slow, fast = (statistics.median(run[i].rate for run in runs) for i in (0, 1))
        formula = gain(agreement, agreement, cost, best_length(agreement, agreement, cost, LONGEST))
        per_step = statistics.mean(len(b.tokens) / b.steps for _, b in runs)
        print(f"| {agreement:.0%} | {per_step:.2f} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f}x | {formula:.2f}x |")


class Planted:
    """A drafter whose guesses are replaced once they are computed."""

    def __init__(self, inner: ModelDrafter, truth: list[int], agreement: float) -> None:
        self._inner, self._truth, self._agreement = inner, truth, agreement
        self._chance = random.Random(7)
        self.learn, self.forget, self.close = inner.learn, inner.forget, inner.close

    def guess(self, wishes: list[Wish]) -> None:
        """Right tokens and wrong ones."""
        self._inner.guess(wishes)
        for wish in wishes:
            at = len(wish.sequence.tokens)
            right = self._truth[at : at + len(wish.guess)]
            wish.guess = [t if self._chance.random() < self._agreement else (t + 1) % 1000 for t in right]


class Reply(NamedTuple):
    """Tokens of a reply, how many came in a second, and its steps, without the prompt's."""

    tokens: tuple[int, ...]
    rate: float
    steps: int


def reply(engine: Engine, request: Request) -> Reply:
    """A reply to a prompt that is in the cache."""
    list(engine.run([Request(prompt=request.prompt, params=SamplingParams(temperature=0, max_tokens=1))]))
    steps = []
    inner = type(engine.backend).step
    engine.backend.step = lambda plan: (steps.append(1), inner(engine.backend, plan))[1]  # type: ignore[method-assign]
    begun = time.perf_counter()
    (done,) = engine.run([request])
    seconds = time.perf_counter() - begun
    del engine.backend.step
    return Reply(done.tokens, len(done.tokens) / seconds, len(steps))


def timed(backend: NativeBackend, tokens: int) -> float:
    """Seconds of a step with so many tokens of one sequence, one of them sampled and the others guessed; the median."""
    sampling = Sampling(SamplingParams(temperature=0), 0, 0)
    row = Row(list(range(tokens)), 300, list(range(20)), sampling, draft=tokens - 1)
    times = []
    for _ in range(20):
        begun = time.perf_counter()
        backend.step(StepPlan([row]))
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


if __name__ == "__main__":
    main()
