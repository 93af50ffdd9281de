"""A model behind an OpenAI-compatible URL: requests that wait for their turn, are tried again, and come back or say why not."""

import threading
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from herd.errors import RequestError, UnreachableError, first_line

ATTEMPTS = 6
LONGEST_WAIT = 60.0  # seconds between two attempts
_AGAIN = (408, 429, 500, 502, 503, 504)
_REFUSED = (400, 413, 422)


@dataclass
class Remote:
    """A server's model; use as a context manager. `url` ends in /v1; at most `per_minute` requests begin in a minute (0: any number).

    Any number of threads may `post` at a time.
    """

    url: str
    model: str
    key: str | None = None
    timeout: float = 600.0
    per_minute: float = 0.0
    _client: Any = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def __enter__(self) -> "Remote":
        import httpx

        headers = {"authorization": f"Bearer {self.key}"} if self.key else {}
        limits = httpx.Limits(max_connections=None)
        self._client = httpx.Client(base_url=self.url.rstrip("/"), headers=headers, timeout=self.timeout, limits=limits)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._client.close()

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What the server answers. What may pass (a full server, a lost connection) is tried again, later each time, or when the
        server says. RequestError for a request that the server does not take, UnreachableError where it would take no other either.
        """
        import httpx

        for attempt in range(ATTEMPTS):
            self._turn()
            wait = float(2**attempt)
            try:
                response = self._client.post(path, json={"model": self.model, **body})
            except httpx.TransportError as error:
                failure = f"{self.url}: {first_line(error)}"
            else:
                if response.status_code == 200:
                    return _object(response, path)
                failure = f"{path}: status {response.status_code}: {response.text[:200]}"
                if response.status_code in _REFUSED:
                    raise RequestError(failure)
                if response.status_code not in _AGAIN:
                    break
                wait = _seconds(response.headers.get("retry-after"), wait)
            if attempt + 1 < ATTEMPTS:
                time.sleep(min(LONGEST_WAIT, wait))
        raise UnreachableError(failure)

    def _turn(self) -> None:
        """Wait until one more request may begin."""
        if not self.per_minute:
            return
        with self._lock:
            now = time.monotonic()
            begin = max(now, self._next)
            self._next = begin + 60.0 / self.per_minute
        time.sleep(begin - now)


def _object(response: Any, path: str) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError as error:
        raise RequestError(f"{path}: the server's answer is not JSON ({first_line(error)})") from error
    if not isinstance(found, dict):
        raise RequestError(f"{path}: the server's answer is no JSON object")
    return found


def _seconds(text: str | None, otherwise: float) -> float:
    """What Retry-After says in seconds; a date there, or nothing, gives `otherwise`."""
    try:
        return max(0.0, float(text)) if text else otherwise
    except ValueError:
        return otherwise
