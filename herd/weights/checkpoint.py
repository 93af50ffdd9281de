"""A checkpoint whatever its file format: a shape, canonical tensors that are read when used, a tokenizer, a template.

Canonical are Meta's names (`layers.0.attention.wq.weight`) and Meta's rotary order (pairs 2i, 2i+1).
"""

import contextlib
import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herd.errors import FormatError, NoTokenizerError
from herd.family import ModelConfig
from herd.quant.formats import number_format
from herd.text.limited import LimitedTokenizer
from herd.text.tokenizer import Declared, Tokenizer

if TYPE_CHECKING:  # numpy takes a tenth of a second, which a chat from a GGUF file need not wait for
    import numpy as np
    from numpy.typing import NDArray

    from herd.text.chat_format import ChatFormat

    Bytes = NDArray[np.uint8]


@dataclass(frozen=True)
class StoredTensor:
    """A matrix [rows, columns], or a vector as one row, in some number format.

    `rows(first, last)` gives the raw bytes of those rows, [last - first, bytes a row]; nothing is read before.
    `scale` ([rows, 1] float32) multiplies the rows of an FP8 tensor. `view` is all bytes where they lie together in a file.
    """

    format: str
    shape: tuple[int, ...]
    rows: "Callable[[int, int], Bytes]"
    scale: "Callable[[], NDArray[np.float32]] | None" = None
    view: memoryview | None = None

    @staticmethod
    def of(array: "NDArray[Any]", fmt: str | None = None, scale: "NDArray[np.float32] | None" = None) -> "StoredTensor":
        """A matrix or vector of floats in format `fmt`: F32, F16 or BF16, by default the array's own type (else F32).

        An array of whole bytes or 16-bit words is taken as the format's raw bits, as in `weight.view(torch.uint16).numpy()`
        with BF16, or codes of F8_E4M3 with `scale` [rows, 1]. FormatError when the array fits neither.
        """
        import numpy as np

        from herd.quant.floats import encode

        if not isinstance(array, np.ndarray):
            raise FormatError(f"a {type(array).__name__} is no tensor; expected a numpy array, as `.numpy()` gives it")
        if not 1 <= array.ndim <= 2 or not array.size:
            raise FormatError(f"an array of shape {list(array.shape)} is no tensor; expected a matrix or a vector")
        if array.dtype.kind in "cOSU":
            raise FormatError(f"an array of {array.dtype.name} is no tensor; expected floats")
        if not array.dtype.isnative:
            array = array.astype(array.dtype.newbyteorder("="))
        if scale is not None and scale.shape != (len(np.atleast_2d(array)), 1):
            raise FormatError(
                f"a scale of shape {list(scale.shape)} for {list(array.shape)}; expected one a row, [rows, 1]"
            )
        bits = array.dtype.kind == "u"
        if not bits:
            own = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(array.dtype.name)
            fmt = fmt or own or "F32"
            bits = fmt == own
        if fmt is None or (bits and number_format(fmt).bytes != array.dtype.itemsize * number_format(fmt).block):
            raise FormatError(f"an array of {array.dtype.name} is not raw {fmt or 'weights'}; name its number format")
        whole = np.ascontiguousarray(np.atleast_2d(array))
        raw = whole.view(np.uint8) if bits else encode(whole.astype(np.float32), fmt)
        return StoredTensor(fmt, array.shape, lambda a, b: raw[a:b], None if scale is None else lambda: scale)

    @property
    def row_count(self) -> int:
        """Rows of the matrix; 1 for a vector."""
        return self.shape[0] if len(self.shape) == 2 else 1

    @property
    def nbytes(self) -> int:
        """Bytes of the weights in their format."""
        return self.row_count * number_format(self.format).row_bytes(self.shape[-1])

    def raw(self) -> memoryview:
        """All bytes; a view of the file where that is possible."""
        if self.view is not None:
            return self.view
        import numpy as np

        return memoryview(np.ascontiguousarray(self.rows(0, self.row_count)).reshape(-1))  # type: ignore[arg-type]

    def float32(self, first: int = 0, last: int | None = None) -> "NDArray[np.float32]":
        """Weights of rows `first` to `last` as float32, [rows, columns], or the whole vector."""
        import numpy as np

        from herd.quant.dequantize import dequantize

        last = self.row_count if last is None else last
        scale = None if self.scale is None else self.scale()[first:last]
        shape = (last - first, self.shape[-1]) if len(self.shape) == 2 else self.shape
        return dequantize(np.ascontiguousarray(self.rows(first, last)).reshape(-1), self.format, shape, scale)


@dataclass
class Checkpoint:
    """An open checkpoint. `kind` is meta, hf or gguf; `tensors` are the canonical ones, each exactly once."""

    path: Path
    kind: str
    config: ModelConfig
    tensors: Mapping[str, StoredTensor]
    load_tokenizer: Callable[[], Tokenizer]
    chat_template: str | None = None
    tool_template: str | None = None  # serves where tools are offered
    sampling: Mapping[str, float] = field(default_factory=dict)  # what it recommends, by the names of SamplingParams
    name: str = ""
    about: Mapping[str, bytes] = field(
        default_factory=dict
    )  # a GGUF file's general.*: author, licence, ..., as its bytes
    load_declared: Callable[[], Declared] = Declared  # what is declared where there is no tokenizer
    files: tuple[Path, ...] = ()
    maps: tuple["MappedFile", ...] = field(default=(), repr=False)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer beside the weights; FormatError when there is none."""
        tokenizer = self.load_tokenizer()
        spare = tokenizer.vocab_size > self.config.vocab
        return LimitedTokenizer(tokenizer, self.config.vocab) if spare else tokenizer

    @property
    def declared(self) -> Declared:
        """What the checkpoint says of its tokens, with or without a tokenizer beside it."""
        try:
            return self.tokenizer.declared
        except NoTokenizerError:
            return self.load_declared()

    def check_writable(self) -> None:
        """FormatError for a checkpoint whose tokenizer, or a declared start or end, does not fit its weights."""
        with contextlib.suppress(NoTokenizerError):
            if isinstance(self.tokenizer, LimitedTokenizer):
                raise FormatError(f"{self.path}: {self.tokenizer.refusal}")
        for token in (self.declared.bos, self.declared.eos, *self.declared.stops):
            if token is not None and token >= self.config.vocab:
                raise FormatError(
                    f"{self.path}: declares token {token} as its start or an end; expected one of the {self.config.vocab:,} tokens"
                )

    def chat_format(self) -> "ChatFormat":
        """How the model talks; FormatError for one that only continues text."""
        from herd.text.chat_format import chat_format

        return chat_format(self.tokenizer, self.chat_template, self.tool_template)

    def forget(self) -> None:
        """Give the pages that were read back to the system; they are read anew when used again."""
        for file in self.maps:
            file.forget()

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class MappedFile:
    """A read-only memory-mapped file; every access is checked against its size."""

    def __init__(self, path: Path) -> None:
        self.path = path
        if path.exists() and not path.is_file():
            raise FormatError(f"{path}: a folder, a pipe or a device; expected a file")
        try:
            with path.open("rb") as file:
                file.seek(0, 2)
                self.size = file.tell()
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.size else None
        except OSError as error:
            raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
        self.data = memoryview(b"" if self._map is None else self._map)

    def bytes(self, first: int, count: int, what: str) -> memoryview:
        """A view of `count` bytes; FormatError naming `what` when the file is shorter."""
        if first < 0 or count < 0 or first + count > self.size:
            raise FormatError(
                f"{self.path}: {what} would end at byte {first + count:,}, but the file has {self.size:,}; "
                "it is truncated or damaged, fetch it again"
            )
        return self.data[first : first + count]

    def tensor(self, fmt: str, shape: tuple[int, ...], first: int, what: str) -> StoredTensor:
        """A contiguous tensor that starts at byte `first`."""
        row_bytes = number_format(fmt).row_bytes(shape[-1])
        row_count = shape[0] if len(shape) == 2 else 1
        view = self.bytes(first, row_count * row_bytes, what)

        def rows(a: int, b: int) -> "Bytes":
            import numpy as np

            return np.frombuffer(view, np.uint8).reshape(row_count, row_bytes)[a:b]

        return StoredTensor(fmt, shape, rows, view=view)

    def forget(self) -> None:
        """Drop resident pages."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_DONTNEED)


def permuted(tensor: StoredTensor, source_row: "NDArray[np.int64]") -> StoredTensor:
    """`tensor` with row i taken from row `source_row[i]`."""

    def rows(first: int, last: int) -> "Bytes":
        return tensor.rows(0, tensor.row_count)[source_row[first:last]]

    scale = tensor.scale
    return StoredTensor(tensor.format, tensor.shape, rows, None if scale is None else lambda: scale()[source_row])


def check_tensors(config: ModelConfig, tensors: Mapping[str, StoredTensor], where: str) -> dict[str, StoredTensor]:
    """The tensors of `config` in order; FormatError naming the first that is missing, unexpected or of a wrong shape."""
    shapes = config.tensor_shapes()
    for name in tensors:
        if name not in shapes:
            raise FormatError(
                f"{where}: tensor {name} has no place in the Llama architecture; herd does not run this model"
            )
    for name, shape in shapes.items():
        if name not in tensors:
            raise FormatError(f"{where}: tensor {name} is missing; the checkpoint is incomplete, fetch it again")
        if tensors[name].shape != shape:
            raise FormatError(f"{where}: tensor {name} has shape {list(tensors[name].shape)}; expected {list(shape)}")
    return {name: tensors[name] for name in shapes}


def positive_int(values: Mapping[str, Any], key: str, where: str) -> int:
    """`values[key]` when it is a whole number above 0; FormatError otherwise."""
    value = values.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise FormatError(f"{where}: {key} is {value!r:.60}; expected a positive whole number")
    return value


def number(values: Mapping[str, Any], key: str, default: float, where: str) -> float:
    """`values[key]` as a float, `default` where it is missing; FormatError for anything but a number."""
    value = values.get(key, default)
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FormatError(f"{where}: {key} is {value!r:.60}; expected a number")
    try:
        return float(value)
    except OverflowError as error:
        raise FormatError(f"{where}: {key} is {value!r:.60}; expected a number that a float holds") from error
