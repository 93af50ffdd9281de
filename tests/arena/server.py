"""A real `herd arena serve` process, and a voter that talks with it as the page does."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx


class ArenaServer:
    """`herd arena serve` on a free port; stopped by its own process id."""

    def __init__(self, folder: Path, *places: str, flags: tuple[str, ...] = ()) -> None:
        self.votes = folder / "votes.db"
        self._error = folder / "arena.txt"
        command = [sys.executable, "-m", "herd", "arena", "serve", *places, "--port", "0", "--votes", str(self.votes), *flags]  # fmt: skip
        with self._error.open("wb") as error:
            self.process = subprocess.Popen(command, stderr=error, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while " at http" not in self.stderr():
            assert self.process.poll() is None, self.stderr()
            assert time.monotonic() < deadline, self.stderr()
            time.sleep(0.05)
        self.url = next(word for word in self.stderr().split() if word.startswith("http"))

    def stderr(self) -> str:
        return self._error.read_text()

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            os.kill(self.process.pid, number)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


@contextlib.contextmanager
def arena(folder: Path, *places: str, flags: tuple[str, ...] = ()):
    server = ArenaServer(folder, *places, flags=flags)
    try:
        yield server
    finally:
        server.stop()


class Voter:
    """One browser's worth of requests. `received` is every byte that came."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=60)
        self.received = b""
        self.get("/")

    def get(self, path: str) -> httpx.Response:
        response = self.client.get(path)
        self.received += response.content + repr(response.headers.raw).encode()
        return response

    def ask(self, question: str | None = None) -> list[dict]:
        """The events of a round."""
        response = self.client.post("/api/ask", json={"question": question})
        self.received += response.content + repr(response.headers.raw).encode()
        assert response.status_code == 200, response.text
        return [json.loads(line[6:]) for line in response.text.split("\n\n") if line]

    def vote(self, events: list[dict], winner: str) -> httpx.Response:
        return self.client.post("/api/vote", json={"round": events[0]["round"], "winner": winner})


def said(events: list[dict], side: str) -> str:
    return "".join(event.get(side, "") for event in events)


def replies(path: Path, **answers: str) -> str:
    """A file of replies by prompt; its path."""
    path.write_text("".join(json.dumps({"prompt": p.replace("_", " "), "reply": r}) + "\n" for p, r in answers.items()))
    return str(path)
