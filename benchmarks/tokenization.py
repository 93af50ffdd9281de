"""Tokenizers on 10 MB of text in eight languages: Meta's through herd and through tiktoken itself, and a GGUF one.

python benchmarks/tokenization.py [--rounds 5]
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import tiktoken

from herd.cli.common import open_model
from herd.text.meta import TiktokenTokenizer
from herd.text.pre_tokenizers import LLAMA3_PATTERN

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    text = "\n".join(path.read_text() for path in sorted((ROOT / "tests" / "data" / "udhr").glob("*.txt")))
    text = (text * (10_000_000 // len(text.encode()) + 1)).encode()[:10_000_000].decode("utf-8", "ignore")
    spec = importlib.util.find_spec("llama_models")
    if spec is None or spec.origin is None:
        raise SystemExit(
            "needs the llama-models package, which carries Meta's tokenizer: pip install 'llama-herd[dev]'"
        )
    ours = TiktokenTokenizer.from_file(Path(spec.origin).parent / "llama3" / "tokenizer.model")
    plain = tiktoken.Encoding(
        "plain", pat_str=LLAMA3_PATTERN, mergeable_ranks=ours.ranks, special_tokens=ours.special_tokens
    )
    small = open_model("smollm2-135m").tokenizer
    contenders: dict[str, Callable[[str], list[int]]] = {
        "tiktoken, Llama 3 ranks": plain.encode_ordinary,
        "herd, Meta's tokenizer.model": ours.encode,
        "herd, the default model's GGUF vocabulary": small.encode,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, encode in contenders.items():
            begun = time.perf_counter()
            encode(text)
            seconds[name].append(time.perf_counter() - begun)
    print(f"{len(text.encode()) / 1e6:.0f} MB, median of {rounds}\n\n| tokenizer | MB/s |\n|---|---|")
    for name, spent in seconds.items():
        print(f"| {name} | {len(text.encode()) / 1e6 / statistics.median(spent):.1f} |")


if __name__ == "__main__":
    main()
