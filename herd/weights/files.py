"""Small files beside the weights."""

import json
import stat
from pathlib import Path
from typing import Any

from herd.errors import FormatError, first_line

_MOST = 100 << 20


def read_small(path: Path) -> bytes:
    """The bytes of a small file; FormatError when it is missing, too large, or a pipe or device, which might never end."""
    try:
        status = path.stat()
        if status.st_size > _MOST:
            raise FormatError(f"{path}: larger than {_MOST:,} bytes; expected a small file")
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise FormatError(f"{path}: a pipe or a device; expected a file")
        return path.read_bytes()
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FormatError when the file is none or not a small one."""
    try:
        value = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object")
    return value
