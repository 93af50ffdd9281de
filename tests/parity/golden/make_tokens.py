"""Make tokens.json with llama.cpp's tokenizer.

python tests/parity/golden/make_tokens.py LLAMA_CPP_FOLDER MODEL.gguf
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))
from tests.texts import texts

folder, model = sys.argv[1:]
golden = {}
for name, text in texts().items():
    with tempfile.NamedTemporaryFile("w", suffix=".txt", newline="") as file:
        file.write(text)
        file.flush()
        command = [f"{folder}/llama-tokenize", "-m", model, "-f", file.name, "--ids", "--no-bos", "--no-parse-special"]
        out = subprocess.run([*command, "--no-escape"], capture_output=True, text=True, check=True).stdout
    golden[name] = json.loads(out.strip().splitlines()[-1])
Path(__file__).with_name("tokens.json").write_text(json.dumps(golden, separators=(",", ":")) + "\n")
