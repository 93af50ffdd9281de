"""A client of OpenAI-compatible servers against a real one on a free port that is full, silent or wrong at will."""

import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler

import pytest

from herd.engine import remote
from herd.engine.remote import Remote
from herd.errors import RequestError, UnreachableError
from tests.listening import listening


@contextmanager
def server(answers):
    """Gives (status, headers, body) in turn, the last one again and again; `times` says when it was asked."""
    times = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            times.append(time.monotonic())
            status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
            if status is None:  # the connection is lost
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {"content-length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with listening(Handler) as url:
        yield f"{url}/v1", times


GOOD = (200, {}, json.dumps({"choices": []}).encode())


def test_what_may_pass_is_tried_again_when_the_server_says():
    full = (429, {"retry-after": "0.2"}, b"full")
    with server([full, (None, {}, b""), GOOD]) as (url, times), Remote(url, "m") as client:
        assert client.post("/chat/completions", {}) == {"choices": []}
    assert len(times) == 3
    assert times[1] - times[0] >= 0.2


def test_what_will_not_pass_is_told_at_once():
    with server([(401, {}, b"no such key")]) as (url, times), Remote(url, "m") as client:
        with pytest.raises(UnreachableError, match="/completions: status 401: no such key"):
            client.post("/completions", {})
        assert len(times) == 1


def test_a_date_to_come_back_at_is_no_crash(monkeypatch):
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.01)
    with server([(503, {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, b"")]) as (url, times):  # noqa: SIM117
        with Remote(url, "m") as client, pytest.raises(UnreachableError, match="status 503"):
            client.post("/completions", {})
    assert len(times) == remote.ATTEMPTS


def test_answers_that_are_no_object_are_refused():
    for body in (b"<html>", b"[1]"):
        with server([(200, {}, body)]) as (url, _), Remote(url, "m") as client, pytest.raises(RequestError, match="JSON"):  # fmt: skip
            client.post("/completions", {})


def test_no_more_requests_a_minute_than_asked_for():
    with server([GOOD]) as (url, times), Remote(url, "m", per_minute=600) as client:
        threads = [threading.Thread(target=client.post, args=("/completions", {})) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(times) - min(times) >= 0.35  # five at a tenth of a second


def test_a_request_that_is_refused_is_told_apart():
    with server([(400, {}, b"too long")]) as (url, times), Remote(url, "m") as client:
        with pytest.raises(RequestError, match="status 400: too long"):
            client.post("/completions", {})
        assert len(times) == 1
