"""Running the application: a socket, signals, and replicas that are started anew when they die."""

import contextlib
import ipaddress
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from herd.errors import ConfigError

REPLICA = "HERD_REPLICA"
"""Environment variable by which a replica knows the socket and folder that its parent made."""


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """A socket that will listen; with `shared` other processes may listen on the same port. ConfigError if taken."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"cannot listen on {host}:{port} ({reason}); choose another --port or --host") from error
    return sock


def shown_address(sock: socket.socket) -> str:
    """A socket's address as it stands in a URL."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def allow_many_connections() -> None:
    """As many open files as the system lets this process have."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class _Server(uvicorn.Server):
    """uvicorn, with herd's way of stopping: the first signal ends it in order and with status 0, the second at once."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT while the server runs."""

        def stop(number: int, _: FrameType | None) -> None:
            if self.should_exit:
                os._exit(128 + number)
            self.should_exit = True

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _UntilClose(RequestResponseCycle):
    """An answer of HTTP/1.0, which has no chunks: without a known length it ends where the connection does."""

    endless = False

    async def send(self, message: Any) -> None:
        """Pass on a message of the application's."""
        if message["type"] == "http.response.start" and b"content-length" not in dict(message["headers"]):
            self.chunked_encoding = self.keep_alive = False
            self.endless = True
        elif self.endless:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Protocol(HttpToolsProtocol):
    def on_headers_complete(self) -> None:
        """A request's headers have come; its answer is made in a task that begins later."""
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0" and self.cycle is not None:
            self.cycle.__class__ = _UntilClose


def serve(
    app: ASGIApp,
    sock: socket.socket,
    *,
    grace: int = 30,
    certificate: str | None = None,
    key: str | None = None,
) -> Callable[[], None]:
    """A function that serves `app` until a signal comes; running replies have `grace` seconds to end."""
    allow_many_connections()
    config = uvicorn.Config(
        app, log_level="error", access_log=False, server_header=False, http=_Protocol, timeout_graceful_shutdown=grace,
        timeout_keep_alive=75, ssl_certfile=certificate, ssl_keyfile=key,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:
        raise ConfigError(f"--ssl-cert {certificate}, --ssl-key {key}: not usable ({error})") from error
    server = _Server(config)
    return lambda: server.run(sockets=[sock])


class Replicas:
    """Processes of the same command behind one port; the system deals out connections. One that dies is replaced."""

    def __init__(self, command: Sequence[str], count: int, sock: socket.socket, *, grace: int = 30) -> None:
        self._command, self._count, self._grace = list(command), count, grace
        self._sock = sock  # bound, so that the port stays ours, but not listening
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopping = threading.Event()

    def run(self) -> int:
        """Until a signal comes. Returns the exit status."""
        with tempfile.TemporaryDirectory(prefix="herd-metrics-") as folder:
            host, port = self._sock.getsockname()[:2]
            environment = {**os.environ, REPLICA: f"{host} {port}", "PROMETHEUS_MULTIPROC_DIR": folder}
            handlers = {n: signal.signal(n, self._stop) for n in (signal.SIGTERM, signal.SIGINT)}
            try:
                return self._watch(environment)
            finally:
                for number, handler in handlers.items():
                    signal.signal(number, handler)

    def _watch(self, environment: dict[str, str]) -> int:
        started = [0.0] * self._count
        fails = 0
        for i in range(self._count):
            self._processes.append(self._start(environment))
            started[i] = time.monotonic()
        while not self._stopping.wait(0.2):
            for i, process in enumerate(self._processes):
                status = process.poll()
                if status is None:
                    continue
                fails = fails + 1 if time.monotonic() - started[i] < 5 else 0
                if status == 2 or fails > 5:  # a mistake that the replica has explained, or no use in trying
                    self._end()
                    return 2
                print(f"herd: replica {process.pid} ended with status {status}; starting another", file=sys.stderr)
                self._processes[i] = self._start(environment)
                started[i] = time.monotonic()
        return self._end()

    def _start(self, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self._stopping.is_set():
            for process in self._processes:
                process.kill()
            os._exit(128 + number)
        self._stopping.set()

    def _end(self) -> int:
        for process in self._processes:
            process.terminate()
        deadline = time.monotonic() + self._grace + 5
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, deadline - time.monotonic()))
            process.kill()
        return 0
