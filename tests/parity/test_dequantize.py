"""Every block format against the `gguf` package: random bytes, bit-identical floats."""

import gguf
import numpy as np
import pytest

from herd.quant.dequantize import bf16_to_f32, dequantize, e4m3_table, f32_to_bf16
from herd.quant.formats import FORMATS

QUANTIZED = [f for f in FORMATS.values() if f.gguf_type is not None]


@pytest.mark.parametrize("fmt", QUANTIZED, ids=lambda f: f.name)
def test_blocks_decode_as_the_gguf_package_does(fmt):
    rng = np.random.default_rng(fmt.gguf_type)
    columns = 256 * 4
    data = rng.integers(0, 256, (8, fmt.row_bytes(columns)), dtype=np.uint8)
    ours = dequantize(data.reshape(-1), fmt.name, (8, columns))
    with np.errstate(all="ignore"):
        theirs = gguf.dequantize(data.copy(), gguf.GGMLQuantizationType(fmt.gguf_type))
    np.testing.assert_array_equal(ours, theirs.reshape(8, columns))


def test_bf16_and_fp8_equal_torch():
    torch = pytest.importorskip("torch")
    codes = np.arange(65536, dtype=np.uint16)
    np.testing.assert_array_equal(
        bf16_to_f32(codes.view(np.uint8)), torch.from_numpy(codes.view(np.int16)).view(torch.bfloat16).float().numpy()
    )
    values = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32).view(np.float32)
    values = values[~np.isnan(values)]
    np.testing.assert_array_equal(
        f32_to_bf16(values).view(np.int16), torch.from_numpy(values.copy()).bfloat16().view(torch.int16).numpy()
    )
    bytes_ = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float().numpy()
    np.testing.assert_array_equal(e4m3_table(), bytes_)
