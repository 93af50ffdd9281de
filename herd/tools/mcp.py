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
from herd.tools import ToolBox

T = TypeVar("T")
_START_SECONDS = 30.0
_CALL_SECONDS = 120.0


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
        self._stop: asyncio.Event = asyncio.Event()
        self._ended: list[Any] = []
        self._thread = threading.Thread(target=self.loop.run_forever, name="herd-mcp", daemon=True)
        self._thread.start()

    def wait(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of a coroutine that runs on the loop."""
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, seconds), self.loop).result()

    def connect(self, server: Any) -> Any:
        """A client that stays connected; it is opened and closed by one task, as its library asks."""
        ready: asyncio.Future[Any] = self.loop.create_future()

        async def live() -> None:
            from mcp import Client

            try:
                async with Client(server, read_timeout_seconds=_CALL_SECONDS) as client:
                    ready.set_result(client)
                    await self._stop.wait()
            except Exception as error:
                if not ready.done():
                    ready.set_exception(error)

        async def result() -> Any:
            return await ready

        self._ended.append(asyncio.run_coroutine_threadsafe(live(), self.loop))
        return self.wait(result(), _START_SECONDS)

    def close(self) -> None:
        """Disconnect, which ends the servers that were started."""
        self.loop.call_soon_threadsafe(self._stop.set)
        for task in self._ended:
            with contextlib.suppress(Exception):
                task.result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(5)


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
            client = loop.connect(where)
            tools = loop.wait(client.list_tools(), _START_SECONDS).tools
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ConfigError(f"--mcp {path}: server {name!r} does not answer ({_innermost(error)})") from error
        for tool in tools:
            if tool.name in box.runners:
                raise ConfigError(f"--mcp {path}: server {name!r} has a tool {tool.name!r}, and so has another")
            box.add(Tool(tool.name, tool.description or "", dict(tool.input_schema)), _runner(loop, client, tool.name))


def _runner(loop: _Loop, client: Any, name: str) -> Any:
    def run(arguments: dict[str, object], seconds: float | None) -> str:
        try:
            result = loop.wait(client.call_tool(name, arguments), min(_CALL_SECONDS, seconds or _CALL_SECONDS))
        except Exception as error:
            raise RequestError(f"the tool failed: {_innermost(error)}") from error
        text = "\n".join(getattr(item, "text", f"[{item.type}]") for item in result.content)
        return f"error: {text}" if result.is_error else text

    return run


def _innermost(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return first_line(error)
