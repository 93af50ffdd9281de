"""The conversations that responses ended with, for requests that go on from them: a bounded number of bytes."""

import threading
from collections import OrderedDict
from typing import Any

import msgspec

from herd.errors import RequestError

_KEPT_BYTES = 64 << 20  # of responses that later ones may go on from, of all users together
_MOST_BYTES = 4 << 20  # of one


class Store:
    """The conversations that responses ended with, by user and id; the oldest are forgotten when there are too many bytes."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._size, self._lock = 0, threading.Lock()

    def put(self, user: str, name: str, items: list[Any]) -> None:
        """Keep input and output of a response."""
        data = msgspec.json.encode(items)
        if len(data) > _MOST_BYTES:
            return
        with self._lock:
            self._kept[user, name] = data
            self._size += len(data)
            while self._size > _KEPT_BYTES:
                self._size -= len(self._kept.popitem(last=False)[1])

    def get(self, user: str, name: str) -> list[Any]:
        """Input and output up to a response; RequestError for one that is not kept, or is another user's."""
        with self._lock:
            data = self._kept.get((user, name))
        if data is None:
            raise RequestError(
                f"previous_response_id {name!r} is not kept here (any more); send the whole input",
                param="previous_response_id", code="previous_response_not_found",
            )  # fmt: skip
        found: list[Any] = msgspec.json.decode(data)
        return found
