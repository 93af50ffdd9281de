"""Small files beside the weights."""

import json
from pathlib import Path
from typing import Any

from herd.errors import FormatError, first_line

_MAX_JSON = 100 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; FormatError when the file is missing, too large or not one."""
    try:
        if path.stat().st_size > _MAX_JSON:
            raise FormatError(f"{path}: larger than {_MAX_JSON:,} bytes; expected a small JSON file")
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise FormatError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not valid JSON ({first_line(error)})") from error
    if not isinstance(value, dict):
        raise FormatError(f"{path}: expected a JSON object")
    return value
