"""Make rope.json: llama.cpp's ten likeliest next tokens of a small random model under each rotary scaling.

python tests/parity/golden/make_rope.py LLAMA_CPP_FOLDER
"""

import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from herd.weights.convert import convert
from tests.parity.test_rotary import SCALINGS, long_prompt, model


def asked(port: int, prompt: list[int]) -> list | None:
    """Length of the prompt and the likeliest tokens; None where the first of them is no whole character."""
    body = {"prompt": prompt, "n_predict": 1, "n_probs": 10, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request) as answer:
        found = json.load(answer).get("completion_probabilities")
    return found and [len(prompt), [(one["id"], round(one["logprob"], 5)) for one in found[0]["top_logprobs"]]]


def likeliest(folder: str, file: Path) -> list:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [f"{folder}/llama-server", "-m", file, "-t", "2", "-c", "4096", "-np", "1", "-ctk", "f32", "-ctv", "f32", "-fa", "off",
         "--host", "127.0.0.1", "--port", str(port), "--no-warmup"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        for _ in range(100):
            try:
                return next(found for length in range(1400, 1500) if (found := asked(port, long_prompt()[:length])))
            except OSError:
                time.sleep(0.2)
        raise SystemExit("llama-server did not answer")
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    golden = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, scaling in SCALINGS.items():
            file = Path(temporary) / f"{name}.gguf"
            convert(model(scaling), file, "gguf")
            golden[name] = likeliest(sys.argv[1], file)
    Path(__file__).with_name("rope.json").write_text(json.dumps(golden) + "\n")
