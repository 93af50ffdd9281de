"""The torch and native backends beside transformers: the same model, prompt and threads, interleaved, medians.

    python benchmarks/torch_speed.py [--threads 2] [--rounds 5]

Greedy, one sequence, a prompt of 128 tokens, 64 generated. Torch and transformers compute in float32 from the same weights.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from herd.cli.common import open_model
from herd.engine.open import open_engine
from herd.engine.request import Request, SamplingParams
from herd.weights.convert import convert

PROMPT, GENERATED = 128, 64


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    checkpoint = open_model("smollm2-135m")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "hf"
        convert(checkpoint, folder, "hf", "F32")
        theirs = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engines = {name: open_engine(checkpoint, name, threads=args.threads) for name in ("torch", "native")}
    seconds: dict[str, list[float]] = {"transformers": [], "torch": [], "native": []}
    for number in range(args.rounds + 1):
        prompt = [(number * 977 + i * 131) % 40_000 + 100 for i in range(PROMPT)]
        params = SamplingParams(temperature=0, max_tokens=GENERATED, ignore_eos=True)
        for name, engine in engines.items():
            begun = time.perf_counter()
            engine.complete(Request(prompt=prompt, params=params))
            seconds[name].append(time.perf_counter() - begun)
        begun = time.perf_counter()
        with torch.inference_mode():
            theirs.generate(
                torch.tensor([prompt]),
                max_new_tokens=GENERATED,
                min_new_tokens=GENERATED,
                do_sample=False,
                pad_token_id=0,
            )
        seconds["transformers"].append(time.perf_counter() - begun)
    print(f"{args.threads} threads, prompt {PROMPT}, {GENERATED} generated, median of {args.rounds}\n")
    print("| backend | tokens/s, prompt included | of transformers |\n|---|---|---|")
    base = GENERATED / statistics.median(seconds["transformers"][1:])
    for name, spent in seconds.items():
        rate = GENERATED / statistics.median(spent[1:])
        print(f"| {name} | {rate:.1f} | {rate / base:.2f}x |")
    for engine in engines.values():
        engine.close()


if __name__ == "__main__":
    main()
