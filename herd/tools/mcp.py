"""Tools of MCP servers, by the official client. The file is the one that other programs use:

{"mcpServers": {"files": {"command": "some-server", "args": ["--root", "."]}, "web": {"url": "http://localhost:9000/mcp"}}}
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from herd.errors import ConfigError, MissingDependencyError, RequestError, first_line
from herd.text.messages import Tool
from herd.tools import Run, ToolBox

T = TypeVar("T")
_START_SECONDS = 30.0
_CALL_SECONDS = 120.0
_CLOSED = -32000  # the library's code for a connection that has ended


class _Server(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    command: str | None = None
    args: list[str] = []
    env: dict[str, str] | None = None
    cwd: str | None = None
    url: str | None = None
    type: str | None = None


class _File(msgspec.Struct, frozen=True):
    servers: dict[str, _Server] = msgspec.field(name="mcpServers")


class _Loop:
    """An event loop on a thread: the clients live there, and the tools are called from anywhere."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="herd-mcp", daemon=True)
        self._thread.start()
        self.connections: list[_Connection] = []

    def wait(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of a coroutine that runs on the loop."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self.loop).result()

    def close(self) -> None:
        """Disconnect, which ends the servers that were started."""
        for connection in self.connections:
            connection.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


class _Connection:
    """A client of one server. One that has ended is connected to, or started, anew."""

    def __init__(self, loop: _Loop, server: Any) -> None:
        self._loop, self._server = loop, server
        self._lock = threading.Lock()
        self._stop = asyncio.Event()
        self._living: Any = None
        self._client: Any = self._open()
        loop.connections.append(self)

    def _open(self) -> Any:
        """A client that stays connected; it is opened and closed by one task, as its library asks."""
        stop = self._stop = asyncio.Event()
        ready: asyncio.Future[Any] = self._loop.loop.create_future()

        async def live() -> None:
            from mcp import Client

            try:
                async with Client(self._server, read_timeout_seconds=_CALL_SECONDS) as client:
                    ready.set_result(client)
                    await stop.wait()
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)

        async def result() -> Any:
            return await ready

        self._living = asyncio.run_coroutine_threadsafe(live(), self._loop.loop)
        return self._loop.wait(result(), _START_SECONDS)

    def tools(self) -> list[Any]:
        """What the server offers."""
        found: list[Any] = self._loop.wait(self._client.list_tools(), _START_SECONDS).tools
        return found

    def call(self, name: str, arguments: dict[str, object], seconds: float) -> Any:
        """What a tool gives. Nothing is called twice: when the server has ended, the call fails and the next one finds it anew."""
        client = self._client
        try:
            return self._loop.wait(client.call_tool(name, arguments), seconds)
        except TimeoutError:
            raise
        except Exception as error:
            code = getattr(getattr(error, "error", None), "code", None)
            if code is not None and code != _CLOSED:
                raise  # the server's own answer
            with self._lock:
                if self._client is client:  # not by another call meanwhile
                    self.close()
                    self._client = self._open()
            raise RequestError("the tool's server had ended and was started again; the call may be repeated") from error

    def close(self) -> None:
        """Disconnect."""
        self._loop.loop.call_soon_threadsafe(self._stop.set)
        with contextlib.suppress(Exception):
            self._living.result(5)


def add_servers(box: ToolBox, path: Path) -> None:
    """Put the tools of all servers of a file in a box. ConfigError for a file or a server that does not work."""
    try:
        import mcp
    except ImportError as error:
        raise MissingDependencyError("--mcp needs the mcp package; pip install 'llama-herd[serve]'") from error
    try:
        servers = msgspec.json.decode(path.read_bytes(), type=_File).servers
    except (OSError, msgspec.MsgspecError) as error:
        raise ConfigError(f"--mcp {path}: expected a JSON object with mcpServers ({error})") from error
    loop = _Loop()
    box.closers.append(loop.close)
    for name, server in servers.items():
        if (server.command is None) == (server.url is None):
            raise ConfigError(f"--mcp {path}: server {name!r} needs a command or a url")
        where: Any = server.url
        if server.command is not None:
            where = mcp.StdioServerParameters(command=server.command, args=server.args, env=server.env, cwd=server.cwd)
        try:
            connection = _Connection(loop, where)
            tools = connection.tools()
        except Exception as error:
            raise ConfigError(f"--mcp {path}: server {name!r} does not answer ({_innermost(error)})") from error
        for tool in tools:
            if tool.name in box.runners:
                raise ConfigError(f"--mcp {path}: server {name!r} has a tool {tool.name!r}, and so has another")
            box.add(Tool(tool.name, tool.description or "", dict(tool.input_schema)), _runner(connection, tool.name))


def _runner(connection: _Connection, name: str) -> Run:
    def run(arguments: dict[str, object], seconds: float | None) -> str:
        try:
            result = connection.call(name, arguments, min(_CALL_SECONDS, seconds or _CALL_SECONDS))
        except TimeoutError as error:
            raise RequestError("the tool took too long") from error
        except RequestError:
            raise
        except Exception as error:
            raise RequestError(f"the tool failed: {_innermost(error)}") from error
        text = "\n".join(getattr(item, "text", f"[{item.type}]") for item in result.content)
        return f"error: {text}" if result.is_error else text

    return run


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return first_line(error)
