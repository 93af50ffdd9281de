"""A hostile client in a process of its own, so that what it computes itself holds up nobody: python -m tests.serve.attack URL KIND."""

import itertools
import json
import os
import sys
import threading
from collections.abc import Iterator

import httpx

CHAT, EMBED = "/v1/chat/completions", "/v1/embeddings"
CLIENTS = 4  # at a time
_ALTERNATIVES = " | ".join(f'"w{i}"' for i in range(4500))
_SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"enum": [f"w{i}" for i in range(20_000)]}}}
HOSTILE = {
    "grammar": {"grammar": f"start: {_ALTERNATIVES}", "max_tokens": 2},
    "large grammar": {"grammar": "start: " + " | ".join(f'"w{i}"' for i in range(100_000))},
    "stops": {"stop": ["x" * 8] * 200_000},
    "long stops": {"stop": ["a" * 255 + str(i) for i in range(32)], "max_tokens": 64},
    "schema": {"response_format": _SCHEMA, "max_tokens": 4},
    "messages": {"messages": [{"role": "user", "content": "Hi"}] * 20_000, "max_tokens": 1},
    "hanging tool": {"tool_choice": {"type": "function", "function": {"name": "hang"}}, "max_tokens": 400, "timeout": 4},
    "long prompt": {"max_tokens": 1},
    "embeddings": {},
}  # fmt: skip


def bodies(kind: str) -> Iterator[tuple[str, bytes]]:
    """Requests of a kind, no two of which find the other in the cache."""
    fixed: dict = {"messages": [{"role": "user", "content": "Say hello."}], **HOSTILE[kind]}
    whole = json.dumps(fixed).encode()
    for i in itertools.count():
        if kind == "long prompt":
            text = " ".join(f"{i} {k}" for k in range(1200))
            yield CHAT, json.dumps({"messages": [{"role": "user", "content": text}], "max_tokens": 1}).encode()
        elif kind == "embeddings":
            yield EMBED, json.dumps({"input": [" ".join(f"{i} {k}" for k in range(300))] * 16}).encode()
        elif kind == "grammar":
            yield CHAT, json.dumps({**fixed, "grammar": f'{HOSTILE[kind]["grammar"]} | "x{i}"'}).encode()
        elif kind == "schema":
            yield CHAT, whole.replace(b'"w0"', b'"x%d"' % i)
        else:
            yield CHAT, whole


def main() -> None:
    os.nice(10)  # its place is another machine
    url, kind = sys.argv[1:]
    source, lock = bodies(kind), threading.Lock()

    def attack() -> None:
        with httpx.Client(timeout=120) as client:
            while True:
                with lock:
                    path, body = next(source)
                client.post(url + path, content=body)

    threads = [threading.Thread(target=attack, daemon=True) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    sys.stdin.read()  # until the parent closes it, or is gone


if __name__ == "__main__":
    main()
