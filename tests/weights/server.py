"""A real HTTP server for tests of downloads, on 127.0.0.1: it can cut, lie and refuse."""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

from tests.listening import listening


class Site:
    """`files` by path; `cut` stops the next answers after so many bytes; the rest are lies, by name."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut: list[int] = []
        self.lie = ""
        self.status: dict[str, int] = {}
        self.log: list[tuple[str, str]] = []  # path and Range header


@contextlib.contextmanager
def serve(site: Site) -> Iterator[str]:
    """The site's address while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            path = self.path.partition("?")[0]
            site.log.append((path, self.headers.get("Range", "")))
            if path.startswith("/api/models/"):
                return self.api(path)
            path = re.sub(r"^/[^/]+/[^/]+/resolve/[^/]+/", "/", path)
            if path in site.status or path not in site.files:
                status = site.status.get(path, 404)
                self.send_response(status)
                if status == 403:
                    self.send_header("X-Error-Code", "GatedRepo")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            data = site.files[path]
            begin = 0
            span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            if span and site.lie != "ignores ranges":
                begin = int(span[1])
            if begin and begin >= len(data):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(data)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return None
            self.send_response(206 if begin else 200)
            claimed = len(data) - begin + (10 if site.lie == "too short" else 0)
            if site.lie == "huge":
                claimed = 10**15
            self.send_header("Content-Length", str(claimed))
            tag = hashlib.sha256(data).hexdigest()
            self.send_header("ETag", f'"{tag}"')
            self.send_header("X-Repo-Commit", "c" * 40)
            if begin:
                wrong = 1 if site.lie == "wrong range" else 0
                self.send_header("Content-Range", f"bytes {begin + wrong}-{len(data) - 1}/{len(data)}")
            self.end_headers()
            if not body:
                return None
            if site.lie == "corrupt":
                data = data[:-1] + bytes([data[-1] ^ 1])
            stop = begin + site.cut.pop(0) if site.cut else len(data)
            self.wfile.write(data[begin:stop])
            if stop < len(data) or site.lie:
                self.close_connection = True
            return None

        def api(self, path: str) -> None:
            repository = "/".join(path.split("/")[3:5])
            status = site.status.get(repository, 200)
            answer = {
                "id": repository, "modelId": repository, "sha": "c" * 40,
                "siblings": [{"rfilename": name[1:], "size": len(data)} for name, data in site.files.items()],
            }  # fmt: skip
            if "/tree/" in path:
                answer = [  # type: ignore[assignment]
                    {"type": "file", "path": name[1:], "size": len(data), "oid": "a" * 40}
                    for name, data in site.files.items()
                ]
            data = json.dumps(answer if status == 200 else {"error": "no"}).encode()
            self.send_response(status)
            if status == 403:
                self.send_header("X-Error-Code", "GatedRepo")
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    with listening(Handler) as url:
        yield url
