"""What can go wrong, in one line each. Every message says what is wrong, what was expected and what to do next.

The command line prints the message and exits with status 2; the server answers with an HTTP 4xx.
"""

import re

_MOST = 2000  # characters of a message: a file may put a list of a million numbers where a name belongs


class HerdError(Exception):
    """Base of every error that a user can cause or mend. Its message is one line, whatever a file put into it."""

    def __init__(self, message: str) -> None:
        if len(message) > _MOST:
            message = f"{message[: _MOST // 2]} ... {message[-_MOST // 2 :]}"
        super().__init__("".join(c if c.isprintable() else "?" for c in message))


class ConfigError(HerdError):
    """A setting, flag or model shape is wrong or impossible."""


class FormatError(HerdError):
    """A file is not what it claims to be, is damaged, or uses a feature that herd does not run."""


class NoTokenizerError(FormatError):
    """A checkpoint has weights but no tokenizer beside them."""


class DownloadError(HerdError):
    """A model could not be fetched whole."""


class RequestError(HerdError):
    """A generation request cannot be served as it stands. `param` names its wrong field, `code` the kind of mistake in
    OpenAI's words, so that nobody reads meaning out of the message.
    """

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.code = param, code


class UnreachableError(HerdError):
    """A server that a model stands behind cannot be reached, or serves nobody with this key and name."""


class QueueFullError(RequestError):
    """Too many requests wait; the same one may be served a little later."""


class EngineStoppedError(RequestError):
    """The engine has failed or was closed; nothing can be served until it is started again."""


class ConstraintError(RequestError):
    """What a reply was held to (a grammar, a caller's own constraint) failed or allowed no token; the request has ended."""


class NotFiniteError(RequestError):
    """The model computed a NaN or an infinity for a request, which has ended: its weights are damaged, or overflow."""


class MissingDependencyError(HerdError):
    """A feature needs an optional package that is not installed."""


def in_one_line(error: BaseException) -> str | None:
    """What to tell a user of an error that is theirs or the system's; None for one that is a bug."""
    text = _explained(error)
    return None if text is None else str(HerdError(text))


def _explained(error: BaseException) -> str | None:
    if isinstance(error, HerdError):
        return str(error)
    if isinstance(error, UnicodeEncodeError):
        wrong = error.object[error.start : error.end]
        return f"{wrong!r} cannot be written in {error.encoding}; use UTF-8 (PYTHONIOENCODING=utf-8)"
    if isinstance(error, UnicodeError):
        return f"not UTF-8 text: {first_line(error)}"
    if isinstance(error, OSError):
        name = re.sub(r"\.([^/]+)\.[0-9a-f]{8}\.partial\b", r"\1", str(error.filename or ""))  # what is written first
        return f"{name}: {error.strerror}" if name else error.strerror or first_line(error)
    if isinstance(error, MemoryError):
        return "not enough memory; close other programs, or take a smaller model or a shorter context"
    return None


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
