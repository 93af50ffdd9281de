"""A real server process for tests: started on a free port, stopped by its own process id."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx


class Server:
    """`herd serve` with flags. `url` is its root, `log` its access log."""

    def __init__(self, folder: Path, *flags: str, wait: bool = True) -> None:
        self.log = folder / "access.jsonl"
        self._error = folder / "stderr.txt"
        command = [sys.executable, "-m", "herd", "serve", "--port", "0", "--log", str(self.log), *flags]
        self.process = subprocess.Popen(command, stderr=self._error.open("wb"), stdout=subprocess.DEVNULL)
        self.url = ""
        if wait:
            self.wait()

    def stderr(self) -> str:
        return self._error.read_text()

    def wait(self, seconds: float = 60) -> None:
        """Until it says where it serves."""
        deadline = time.monotonic() + seconds
        while " at http" not in self.stderr():
            assert self.process.poll() is None, self.stderr()
            assert time.monotonic() < deadline, self.stderr()
            time.sleep(0.05)
        self.url = next(word for word in self.stderr().split() if word.startswith("http"))

    def records(self) -> list[dict]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def post(self, path: str, body, **options) -> httpx.Response:
        return httpx.post(self.url + path, json=body, timeout=60, **options)

    def chat(self, content: str = "Say hello.", **fields) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": content}], "max_tokens": 16, "temperature": 0, **fields}
        return self.post("/v1/chat/completions", body)

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        lines = httpx.get(self.url + "/metrics").text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    def stop(self, number: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Its exit status."""
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextmanager
def serving(folder: Path, *flags: str):
    server = Server(folder, *flags)
    try:
        yield server
    finally:
        server.stop()
