"""Markdown on a terminal while it is being written: what is finished is printed for good, only the rest is drawn anew.

The rest is bounded, since long lists, tables and code are finished line by line, and it is drawn only as often as a tenth of
the time allows: the cost of showing a reply grows with its length and no faster.
"""

import time
from collections.abc import Iterator

from rich.console import Console
from rich.live import Live
from rich.markdown import Markdown

_SHARE = 9  # times as long as a drawing took, nothing is drawn after it
_LINES = 12  # of a block that is not finished


def show_markdown(console: Console, pieces: Iterator[str]) -> None:
    """Markdown as it comes."""
    tail, rest_until = "", 0.0
    with Live(console=console, auto_refresh=False, vertical_overflow="visible") as live:
        for piece in pieces:
            tail += piece
            now = time.monotonic()
            if now < rest_until:
                continue
            done, tail = finished(tail)
            if done.strip():
                live.update(Markdown(""), refresh=True)
                console.print(Markdown(done))
            live.update(Markdown(tail), refresh=True)
            after = time.monotonic()
            rest_until = after + _SHARE * (after - now)
        live.update(Markdown(tail), refresh=True)


def finished(text: str) -> tuple[str, str]:
    """Text that later text cannot change the look of, and the rest. Code that is cut is closed, and opened again."""
    fence, cut, at, lines = "", 0, 0, text.splitlines(keepends=True)
    for i, line in enumerate(lines[:-1] if lines and not lines[-1].endswith("\n") else lines):
        mark = line.lstrip()
        if mark.startswith("```"):
            fence = "" if fence else line
        at += len(line)
        if not fence and (not line.strip() or _item(lines, i + 1)):
            cut = at
    if fence and text.count("\n", cut) > _LINES:
        start = text.index(fence, cut) + len(fence)
        end = text.rindex("\n") + 1
        if text.count("\n", start, end) > _LINES:
            return f"{text[:end]}```\n", fence + text[end:]
    return text[:cut], text[cut:]


def _item(lines: list[str], i: int) -> bool:
    """Whether line `i` begins an item of a list after a long one, so that the items before can go."""
    if i < _LINES or i >= len(lines) or not lines[i].endswith("\n"):
        return False
    line = lines[i]
    return line.startswith(("- ", "* ", "+ ")) or line.split(". ", 1)[0].isdecimal()
