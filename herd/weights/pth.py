"""PyTorch `.pth` files without torch and without running anything in them: read and write.

A `.pth` is a zip archive whose `data.pkl` is a pickle. A pickle is a program; this file interprets the twenty or so
instructions that a dictionary of tensors is made of, knows the four functions that such a dictionary names, and
refuses every other instruction and name.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from herd.errors import FormatError, first_line
from herd.weights.checkpoint import MappedFile, StoredTensor

_STORAGES = {
    "FloatStorage": "F32", "HalfStorage": "F16", "BFloat16Storage": "BF16", "Float8_e4m3fnStorage": "F8_E4M3",
}  # fmt: skip
_STORAGE_NAMES = {fmt: name for name, fmt in _STORAGES.items()}
_WRAPPERS = ("model", "state_dict", "model_state_dict", "module")
_MAX_PICKLE = 64 << 20
_MAX_ITEMS = 10_000_000


class _Storage(NamedTuple):
    format: str
    key: str
    elements: int


class PickledTensor(NamedTuple):
    """A tensor as the pickle describes it: `storage` is the archive entry, `offset` in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]


class _Mark:
    pass


class _Global(NamedTuple):
    name: str


_GLOBALS = {
    "collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter",
    *(f"torch {name}" for name in _STORAGES),
}  # fmt: skip


class _Machine:
    """Runs the instructions of one pickle; anything outside the table is refused."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def refuse(self, what: str) -> FormatError:
        return FormatError(f"{self.where}: {what}; herd loads checkpoints of plain tensors and runs no code from them")

    def run(self, data: bytes) -> Any:
        """The object that the pickle builds."""
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
                if opcode.name == "STOP":
                    return self.stack.pop()
                if count > _MAX_ITEMS:
                    raise self.refuse("the pickle has too many instructions")
                handler = getattr(self, "op_" + opcode.name.lower(), None)
                if opcode.name in _PUSHED:
                    self.stack.append(argument)
                elif handler is not None:
                    handler(argument)
                elif opcode.name not in ("PROTO", "FRAME"):
                    raise self.refuse(f"the pickle uses {opcode.name}")
        except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error, OverflowError) as error:
            raise FormatError(f"{self.where}: damaged pickle ({first_line(error)})") from error
        raise FormatError(f"{self.where}: damaged pickle (it does not end)")

    def op_global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise self.refuse(f"the pickle names {name.replace(' ', '.', 1)}")
        self.stack.append(_Global(name))

    def op_stack_global(self, _: object) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.op_global(f"{module} {attribute}")

    def op_none(self, _: object) -> None:
        self.stack.append(None)

    def op_newtrue(self, _: object) -> None:
        self.stack.append(True)

    def op_newfalse(self, _: object) -> None:
        self.stack.append(False)

    def op_empty_dict(self, _: object) -> None:
        self.stack.append({})

    def op_empty_list(self, _: object) -> None:
        self.stack.append([])

    def op_empty_tuple(self, _: object) -> None:
        self.stack.append(())

    def op_mark(self, _: object) -> None:
        self.stack.append(_Mark)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(_Mark)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def op_tuple(self, _: object) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple_of(self, count: int) -> None:
        items = tuple(self.stack.pop() for _ in range(count))
        self.stack.append(items[::-1])

    def op_tuple1(self, _: object) -> None:
        self._tuple_of(1)

    def op_tuple2(self, _: object) -> None:
        self._tuple_of(2)

    def op_tuple3(self, _: object) -> None:
        self._tuple_of(3)

    def _set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise ValueError("items set on something that is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise ValueError("a dictionary's key is neither text nor a number")
            target[key] = value

    def op_setitem(self, _: object) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set_items([key, value])

    def op_setitems(self, _: object) -> None:
        self._set_items(self._since_mark())

    def op_build(self, _: object) -> None:
        self.stack.pop()  # attributes of an OrderedDict (`_metadata`) mean nothing to us
        if not isinstance(self.stack[-1], dict):
            raise ValueError("state set on something that is no dictionary")

    def op_append(self, _: object) -> None:
        item = self.stack.pop()
        self.stack[-1].append(item)

    def op_appends(self, _: object) -> None:
        items = self._since_mark()
        self.stack[-1].extend(items)

    def op_binput(self, slot: int) -> None:
        self.memo[slot] = self.stack[-1]

    op_long_binput = op_put = op_binput

    def op_memoize(self, _: object) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def op_binget(self, slot: int) -> None:
        self.stack.append(self.memo[slot])

    op_long_binget = op_get = op_binget

    def op_binpersid(self, _: object) -> None:
        tag, kind, key, _location, elements = self.stack.pop()
        if tag != "storage" or not isinstance(kind, _Global) or not kind.name.startswith("torch "):
            raise self.refuse("the pickle refers to something that is no storage")
        if not isinstance(key, str) or not isinstance(elements, int) or elements < 0:
            raise ValueError("a storage's key or size")
        self.stack.append(_Storage(_STORAGES[kind.name.removeprefix("torch ")], key, elements))

    def op_reduce(self, _: object) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise self.refuse("the pickle calls something that is no function")
        if function.name == "collections OrderedDict" and not arguments:
            self.stack.append({})
        elif function.name == "torch._utils _rebuild_parameter":
            self.stack.append(arguments[0])
        elif function.name == "torch._utils _rebuild_tensor_v2":
            self.stack.append(self._tensor(*arguments[:4]))
        else:
            raise self.refuse(f"the pickle calls {function.name.replace(' ', '.')}")

    def _tensor(self, storage: Any, offset: Any, shape: Any, strides: Any) -> PickledTensor:
        sizes = (offset, *shape, *strides)
        if not isinstance(storage, _Storage) or not all(type(n) is int and 0 <= n < 1 << 48 for n in sizes):
            raise ValueError("a tensor's storage, offset, shape or strides")
        elements = 1
        for size, stride in zip(reversed(shape), reversed(strides), strict=True):
            if size != 1 and stride != elements:
                raise self.refuse("a tensor is not contiguous")
            elements *= size
        if offset + elements > storage.elements:
            raise ValueError("a tensor reaches past its storage")
        return PickledTensor(storage, offset, tuple(shape))


_PUSHED = {
    "BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINFLOAT", "INT", "LONG",
}  # fmt: skip


class PthFile:
    """An open `.pth`: tensors by name, their bytes memory-mapped."""

    def __init__(self, path: Path) -> None:
        self.file = MappedFile(path)
        where = str(path)
        try:
            with zipfile.ZipFile(path) as archive:
                infos = {info.filename: info for info in archive.infolist()}
                pickle = next((name for name in infos if name.count("/") == 1 and name.endswith("/data.pkl")), None)
                if pickle is None:
                    raise FormatError(f"{where}: no data.pkl inside; expected a .pth file that torch.save wrote")
                if infos[pickle].file_size > _MAX_PICKLE or infos[pickle].compress_type != zipfile.ZIP_STORED:
                    raise FormatError(f"{where}: data.pkl is compressed or larger than {_MAX_PICKLE:,} bytes")
                order = infos.get(pickle.removesuffix("data.pkl") + "byteorder")
                if order is not None and archive.read(order)[:16] != b"little":
                    raise FormatError(f"{where}: big-endian; herd reads little-endian files")
                with archive.open(pickle) as stream:
                    data = stream.read(_MAX_PICKLE)
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, EOFError) as error:
            raise FormatError(
                f"{where}: not a .pth file of torch 1.6 or newer, or damaged ({first_line(error)}); fetch it again"
            ) from error
        self.tensors = _tensors(_Machine(where).run(data), where)
        self._prefix = pickle.removesuffix("data.pkl") + "data/"
        self._infos = infos

    def tensor(self, name: str) -> StoredTensor:
        """Tensor `name`, one- or two-dimensional."""
        stored = self.tensors[name]
        where = f"{self.file.path}: tensor {name}"
        info = self._infos.get(self._prefix + stored.storage.key)
        if not 1 <= len(stored.shape) <= 2 or 0 in stored.shape:
            raise FormatError(f"{where}: has shape {list(stored.shape)}; expected a matrix or a vector")
        if info is None or info.compress_type != zipfile.ZIP_STORED:
            raise FormatError(f"{where}: its storage is missing or compressed")
        header = self.file.bytes(info.header_offset, 30, f"tensor {name}")
        name_length, extra_length = struct.unpack_from("<HH", header.tobytes(), 26)
        start = info.header_offset + 30 + name_length + extra_length
        element = {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}[stored.storage.format]
        if stored.storage.elements * element > info.file_size:
            raise FormatError(f"{where}: its storage is shorter than the pickle says; the file is damaged")
        return self.file.tensor(stored.storage.format, stored.shape, start + stored.offset * element, f"tensor {name}")


def _tensors(found: Any, where: str) -> dict[str, PickledTensor]:
    """The dictionary of tensors that a pickle holds, as it is or as the only one under a name that trainers use."""
    if _all_tensors(found):
        return dict(found)
    inside = [key for key in _WRAPPERS if isinstance(found, dict) and _all_tensors(found.get(key))]
    if len(inside) == 1:
        return dict(found[inside[0]])
    keys = ", ".join(map(str, list(found)[:8])) if isinstance(found, dict) else type(found).__name__
    raise FormatError(
        f"{where}: expected a dictionary of tensors, or one under one of {', '.join(_WRAPPERS)}; found {keys or 'nothing'}"
    )


def _all_tensors(found: Any) -> bool:
    return (
        isinstance(found, dict)
        and bool(found)
        and all(isinstance(key, str) and isinstance(value, PickledTensor) for key, value in found.items())
    )


def write_pth(
    file: BinaryIO,
    tensors: dict[str, tuple[str, tuple[int, ...]]],
    shared: dict[str, str],
    chunks: Callable[[str], Iterator[bytes]],
) -> None:
    """Write tensors (name -> format, shape) as torch.save does; `shared[name]` is stored as another tensor's bytes."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        archive.writestr("consolidated/data.pkl", _pickle(tensors, shared))
        archive.writestr("consolidated/byteorder", "little")
        for key, name in enumerate(n for n in tensors if n not in shared):
            info = zipfile.ZipInfo(f"consolidated/data/{key}")
            # torch maps storages in memory only where they start on a multiple of 64 bytes
            padding = -(file.tell() + 30 + len(info.filename) + 20 + 4) % 64
            info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            with archive.open(info, "w", force_zip64=True) as entry:
                for chunk in chunks(name):
                    entry.write(chunk)
        archive.writestr("consolidated/version", "3\n")


def _pickle(tensors: dict[str, tuple[str, tuple[int, ...]]], shared: dict[str, str]) -> bytes:
    """Protocol 2, the instructions that torch.save writes for a dictionary of tensors."""
    out = io.BytesIO()

    def text(value: str) -> None:
        data = value.encode()
        out.write(b"X" + struct.pack("<I", len(data)) + data)

    def integer(value: int) -> None:
        if value < 1 << 31:
            out.write(b"J" + struct.pack("<i", value))
        else:
            data = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
            out.write(b"\x8a" + bytes([len(data)]) + data)

    def numbers(values: tuple[int, ...]) -> None:
        out.write(b"(")
        for value in values:
            integer(value)
        out.write(b"t")

    keys = {name: str(key) for key, name in enumerate(n for n in tensors if n not in shared)}
    out.write(b"\x80\x02}(")
    for name, (fmt, shape) in tensors.items():
        elements = 1
        strides: list[int] = []
        for size in reversed(shape):
            strides.insert(0, elements)
            elements *= size
        text(name)
        out.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        text("storage")
        out.write(f"ctorch\n{_STORAGE_NAMES[fmt]}\n".encode())
        text(keys[shared.get(name, name)])
        text("cpu")
        integer(elements)
        out.write(b"tQ")
        integer(0)
        numbers(shape)
        numbers(tuple(strides))
        out.write(b"\x89ccollections\nOrderedDict\n)RtR")
    out.write(b"u.")
    return out.getvalue()
