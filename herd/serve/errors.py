"""Errors as OpenAI's clients expect them: a status, and a JSON object with message, type, param and code."""

from typing import Any

import msgspec
from starlette.responses import JSONResponse

from herd.errors import EngineStoppedError, HerdError, NotFiniteError, QueueFullError, RequestError

_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
RETRY_AFTER = 1
"""Seconds after which a client that found the queue full may come again."""


class ApiError(Exception):
    """What a client is told. `param` names the field of the request that is wrong."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: int = 0
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}

    def body(self) -> dict[str, Any]:
        """The JSON object."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def shaped(self, path: str) -> dict[str, Any]:
        """The JSON object in the shape that clients of a path know: OpenAI's, Anthropic's or Ollama's."""
        body = self.body()
        if path.startswith("/v1/messages"):
            kind = "api_error" if self.status >= 500 else body["error"]["type"]
            return {"type": "error", "error": {"type": kind, "message": self.message}}
        return {"error": self.message} if path.startswith("/api/") else body

    def response(self, path: str = "") -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.shaped(path), self.status, self.headers)


def late() -> ApiError:
    """A request's time was up."""
    return ApiError(504, "the request's time was up before the reply was complete", code="timeout")


def as_api_error(error: Exception) -> ApiError:
    """What to tell a client of any error."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, str(error), code="queue_full", retry_after=RETRY_AFTER)
    if isinstance(error, EngineStoppedError):
        return ApiError(503, str(error), retry_after=RETRY_AFTER)
    if isinstance(error, NotFiniteError):
        return ApiError(500, str(error), code="not_finite")
    if isinstance(error, RequestError):
        return ApiError(400, str(error), param=error.param, code=error.code)
    if isinstance(error, HerdError):
        return ApiError(400, str(error))
    if isinstance(error, RecursionError):
        return ApiError(400, "the request is nested too deeply")
    return ApiError(500, "the server made a mistake; its log has the details")


def decode(data: bytes, kind: type[Any]) -> Any:
    """A request's body as `kind`; ApiError naming the field that is wrong. A null is as if the field were not there, known or not."""
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            given = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
            left = {name: value for name, value in given.items() if bytes(value) != b"null"}
            if len(left) == len(given):
                raise
            return msgspec.json.decode(msgspec.json.encode(left), type=kind)
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        param = where.rstrip("`").lstrip(".") or None
        if "unknown field" in what:
            name = what.split("`")[1]
            param = f"{param}.{name}" if param else name
            what = f"{param} is not supported"
        elif "missing required field" in what:
            name = what.split("`")[1]
            param = f"{param}.{name}" if param else name
            what = f"{param} is required"
        elif param:
            what = f"{param}: {what[0].lower()}{what[1:]}"
        raise ApiError(400, what, param=param) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ApiError(400, f"the body is not valid JSON: {error}") from error
