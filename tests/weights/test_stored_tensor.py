"""Arrays as tensors of a checkpoint: by type, by raw bits, and what is refused."""

import numpy as np
import pytest
import torch

from herd.errors import FormatError
from herd.weights.checkpoint import StoredTensor

VALUES = np.array([[1.0, -2.5, 3.140625], [0.0, 65504.0, 1e-3]], np.float32)


@pytest.mark.parametrize("fmt, dtype", [("F32", torch.float32), ("F16", torch.float16), ("BF16", torch.bfloat16)])
def test_arrays_become_the_bytes_that_torch_has(fmt, dtype):
    expected = torch.from_numpy(VALUES).to(dtype)
    stored = StoredTensor.of(VALUES, fmt)
    assert stored.format == fmt
    assert stored.raw().tobytes() == expected.view(torch.uint8).numpy().tobytes()
    np.testing.assert_array_equal(stored.float32(), expected.float().numpy())
    np.testing.assert_array_equal(stored.float32(1, 2), expected.float().numpy()[1:])


def test_raw_bits_and_own_types():
    halves = torch.from_numpy(VALUES).bfloat16()
    assert (
        StoredTensor.of(halves.view(torch.uint16).numpy(), "BF16").raw().tobytes()
        == StoredTensor.of(VALUES, "BF16").raw()
    )
    assert StoredTensor.of(VALUES.astype(np.float16)).format == "F16"
    assert StoredTensor.of(VALUES.astype(np.float64)).format == "F32"
    vector = StoredTensor.of(VALUES[0])
    assert (vector.shape, vector.row_count, vector.float32().tolist()) == ((3,), 1, VALUES[0].tolist())
    scale = np.array([[0.5], [2.0]], np.float32)
    codes = torch.from_numpy(VALUES[:, :2]).clamp(-448, 448).to(torch.float8_e4m3fn)
    fp8 = StoredTensor.of(codes.view(torch.uint8).numpy(), "F8_E4M3", scale)
    np.testing.assert_array_equal(fp8.float32(), codes.float().numpy() * scale)
    with pytest.raises(FormatError, match="name its number format"):
        StoredTensor.of(np.zeros((2, 2), np.uint16))
    with pytest.raises(FormatError, match="raw BF16"):
        StoredTensor.of(np.zeros((2, 2), np.uint8), "BF16")
    with pytest.raises(FormatError, match="matrix or a vector"):
        StoredTensor.of(np.zeros((2, 2, 2), np.float32))


@pytest.mark.parametrize("dtype", [">f4", ">f2", ">f8"])
def test_the_order_of_an_arrays_bytes_changes_no_weight(dtype):
    np.testing.assert_array_equal(StoredTensor.of(VALUES.astype(dtype)).float32(), VALUES.astype(dtype))
    bits = StoredTensor.of(VALUES).raw().tobytes()
    assert StoredTensor.of(VALUES.view(np.uint32).astype(">u4"), "F32").raw().tobytes() == bits


@pytest.mark.parametrize(
    "array, word",
    [
        (torch.ones(2, 2), "a Tensor is no tensor; expected a numpy array"), ([[1.0]], "a list is no tensor"),
        (VALUES * 1j, "complex"), (VALUES.astype(object), "expected floats"), (VALUES.astype(str), "expected floats"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_floats_is_refused(array, word):
    with pytest.raises(FormatError, match=word):
        StoredTensor.of(array)


def test_scales_are_one_a_row():
    codes = np.zeros((3, 3), np.uint8)
    with pytest.raises(FormatError, match=r"expected one a row"):
        StoredTensor.of(codes, "F8_E4M3", np.ones(3, np.float32))
