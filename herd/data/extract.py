"""HTML -> the text that a reader came for: code kept byte for byte, mathematics as TeX, tables as rows, no boilerplate.

resiliparse (lexbor) parses; what is cut, kept and written is our own, in C++ (csrc/) on the tree that it writes out. Pages
whose nesting would make any parser slow are read without a tree.
"""

import re
from dataclasses import dataclass
from typing import Literal

from herd.data._page import deep, main_text

LIMIT = 8 << 20
"""Bytes of a page that are read; what is longer is cut there."""
DEPTH = 500
"""Elements inside one another. Parsing takes time in the square of it."""
TAGS = 200_000
"""Tags that a page may have to be read as a tree."""
_FLAT = re.compile(r"<[^<>]*>")


@dataclass(frozen=True)
class Page:
    """What a page says: its `title`, its `text` (paragraphs apart by an empty line), and how it was read."""

    title: str
    text: str
    read: Literal["tree", "flat", "empty"]


def extract(page: bytes | str) -> Page:
    """The main text of a page. Never raises for what is in the page; a page without text gives an empty one.

    Bytes are decoded by their declared or detected encoding; what is invalid becomes U+FFFD.
    """
    markup = _utf8(page[:LIMIT]) if isinstance(page, bytes) else page[:LIMIT].encode("utf-8", "replace")
    markup = markup.replace(b"\0", b"")
    if b"<" not in markup:
        text = markup.decode("utf-8", "replace").strip()
        return Page("", text, "flat" if text else "empty")
    if deep(markup, DEPTH, TAGS):
        return Page("", _flat(markup.decode("utf-8", "replace")), "flat")
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse_from_bytes(markup, "utf-8")
    if tree.body is None:
        return Page("", "", "empty")
    title = " ".join((tree.title or "").split())
    text = main_text(tree.body.html)
    return Page(title, text, "tree" if text else "empty")


def _utf8(page: bytes) -> bytes:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        page.decode("utf-8")
        return page.removeprefix(b"\xef\xbb\xbf")
    except UnicodeDecodeError:
        encoding = detect_encoding(page[:65536], from_html_meta=True) or "utf-8"
        return str(bytes_to_str(page, encoding, errors="replace")).encode("utf-8", "replace")


def _flat(markup: str) -> str:
    """Text between tags, in time that grows with the page's length whatever is in it."""
    import html

    pieces = re.split(r"<(script|style|template)\b", markup, flags=re.IGNORECASE)
    kept = [pieces[0]]
    for name, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        kept.append(piece.partition(f"</{name}")[2])
    text = html.unescape(_FLAT.sub(" ", "".join(kept)))
    return "\n".join(line for line in (" ".join(one.split()) for one in text.splitlines()) if line)
