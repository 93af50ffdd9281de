"""Make greedy.json: llama.cpp's greedy continuations of 50 prompts over 32 tokens, on the default model in F16.

python tests/parity/golden/make_greedy.py LLAMA_CPP_FOLDER F16.gguf
"""

import json
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from benchmarks.preset import QUESTIONS

PROMPTS = [question for question, _ in QUESTIONS[:40]] + [
    "Once upon a time", "The quick brown fox", "def fibonacci(n):", "In 1969, humans", "The meaning of life is",
    "Dear Sir or Madam,", "import numpy as np\n", "She opened the door and", "The stock market", "A recipe for bread:",
]  # fmt: skip

if __name__ == "__main__":
    folder, model = sys.argv[1:]
    golden = {}
    for prompt in PROMPTS:
        command = [
            f"{folder}/llama-completion",
            "-m",
            model,
            "-t",
            "2",
            "-p",
            prompt,
            "-n",
            "32",
            "-no-cnv",
            "--no-warmup",
        ]
        command += ["--temp", "0", "--ignore-eos", "--no-display-prompt"]
        done = subprocess.run(command, capture_output=True, check=True, stdin=subprocess.DEVNULL)
        golden[prompt] = done.stdout.decode("utf-8", "replace")
    Path(__file__).with_name("greedy.json").write_text(json.dumps(golden, indent=0) + "\n")
