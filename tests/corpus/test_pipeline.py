"""`herd data` as people run it: real files, killed and gone on, everything that goes explained."""

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from herd.data.read import read

UDHR = Path(__file__).parents[1] / "data" / "udhr"
HERD = [sys.executable, "-m", "herd", "data"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.getcwd()}


def herd(place, *words, code=0):
    done = subprocess.run(
        [*HERD, *map(str, words)], cwd=place, env=ENVIRONMENT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def place(tmp_path):
    pages = tmp_path / "pages"
    pages.mkdir()
    for language in ("en", "de", "fr", "it", "es", "pt", "hi", "th"):
        lines = (UDHR / f"{language}.txt").read_text("utf-8").split("\n")
        for i in range(3):
            body = "".join(f"<p>{line}</p>" for line in lines[i * 20 : i * 20 + 20])
            (pages / f"{language}{i}.html").write_text(f"<html><body><nav>Menu</nav><article>{body}</article>", "utf-8")
    (pages / "en9.html").write_bytes((pages / "en1.html").read_bytes())
    (pages / "short.html").write_text("<p>This page is in English and is too short to be kept.")
    (pages / "bomb.html.gz").write_bytes(gzip.compress(b"<p>" + b"a" * 30_000_000))
    (pages / "cut.html.gz").write_bytes(gzip.compress(b"<p>text " * 10_000)[:60])
    rows = [
        json.dumps({"text": (pages / "fr2.html").read_text("utf-8").replace("<p>", "\n"), "url": "http://a/1"}),
        "{not json",
        "[]",
    ]
    rows += [json.dumps({"html": (pages / "de2.html").read_text("utf-8"), "url": f"http://a/{i}"}) for i in range(2)]
    (tmp_path / "more.jsonl").write_bytes("\n".join(rows).encode() + b"\n\xff\xfe\n" + b"x" * 100)
    (tmp_path / "r.toml").write_text(
        'inputs = ["pages", "more.jsonl"]\n[rules]\nmax_short_lines = 1.0\n[deduplicate]\nline_over = 6\n'
    )
    return tmp_path


def digest(folder):
    files = [
        *(folder / "texts").iterdir(),
        *(folder / "parts").iterdir(),
        folder / "dropped.jsonl",
        folder / "lines.json",
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def test_nothing_vanishes_and_every_run_gives_the_same_bytes(place):
    herd(place, "r.toml", "--out", "one")
    results = json.loads((place / "one" / "run.json").read_text())["results"]
    assert results["read"] == 24 + 4 + 7  # pages, hostile and double ones, lines
    assert results["documents"] + sum(n for key, n in results.items() if key.startswith("dropped")) == results["read"]
    assert "exact" in herd(place, "explain", "one", "pages/en9.html")
    assert "min_words" in herd(place, "explain", "one", "pages/short.html")
    assert "longer than" in herd(place, "explain", "one", "pages/bomb.html.gz")
    assert "EOFError" in herd(place, "explain", "one", "pages/cut.html.gz#damaged")
    assert "not JSON" in herd(place, "explain", "one", "more.jsonl#2")
    assert "no such document" in herd(place, "explain", "one", "nonsense", code=2)
    herd(place, "report", "one")
    page = (place / "one" / "report.html").read_text("utf-8")
    assert "min_words" in page
    assert "en9.html" in page
    herd(place, "r.toml", "--out", "two", "--workers", "2")
    assert digest(place / "two") == digest(place / "one")
    assert "another recipe" in herd(place, "r.toml", "--out", "one", "--set", "rules.min_words=1", code=2)


def test_a_killed_run_goes_on_to_the_same_bytes(place):
    herd(place, "r.toml", "--out", "whole")
    for wait in (0.6, 1.2, 2.0):
        process = subprocess.Popen(
            [*HERD, "r.toml", "--out", "killed"], cwd=place, env=ENVIRONMENT, stdout=subprocess.DEVNULL
        )
        time.sleep(wait)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    herd(place, "r.toml", "--out", "killed")
    assert digest(place / "killed") == digest(place / "whole")


def test_warc_records_are_read(tmp_path):
    path = tmp_path / "a.warc.gz"
    body = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>Hello there</p>"
    records = b""
    for i in range(3):
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:0000000{i}-0000-0000-0000-000000000000>\r\nWARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: http://a/{i}\r\nContent-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
        records += gzip.compress(head.encode() + body + b"\r\n\r\n")
    path.write_bytes(records)
    found = list(read(path, "a"))
    assert [(one.id, one.url, one.content) for one in found] == [
        (f"a#{i + 1}", f"http://a/{i}", b"<p>Hello there</p>") for i in range(3)
    ]
    path.write_bytes(records[:-40])
    assert len(list(read(path, "a"))) >= 2


def test_what_cannot_be_is_one_line(place):
    (place / "bad.toml").write_text('inputs = ["nowhere/*.html"]\n')
    assert "nowhere" in herd(place, "bad.toml", code=2)
    (place / "bad.toml").write_text('inputs = ["r.toml"]\n')
    assert "cannot tell" in herd(place, "bad.toml", code=2)
    (place / "bad.toml").write_text('inputs = ["pages"]\n[deduplicate]\nsimilar = 2.0\n')
    assert "similar" in herd(place, "bad.toml", code=2)
