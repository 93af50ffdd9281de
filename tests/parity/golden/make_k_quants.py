"""Make k_quants.npz: one matrix of a random model in llama-quantize's k-formats.

python tests/parity/golden/make_k_quants.py LLAMA_CPP_FOLDER
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[3]))
from herd.weights.convert import convert
from herd.weights.open import open_checkpoint
from tests.parity.test_quantize import FORMATS, MATRIX, checkpoint

if __name__ == "__main__":
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "f32.gguf"
        convert(checkpoint(), source, "gguf")
        for fmt in FORMATS:
            out = Path(folder) / f"{fmt}.gguf"
            command = [f"{sys.argv[1]}/llama-quantize", "--pure", str(source), str(out), fmt]
            subprocess.run(command, check=True, capture_output=True)
            found[fmt] = open_checkpoint(out).tensors[MATRIX].raw()
    np.savez_compressed(Path(__file__).with_name("k_quants.npz"), **found)
