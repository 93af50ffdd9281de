"""HTML -> the text that a reader came for: code kept byte for byte, mathematics as TeX, tables as rows, no boilerplate.

Our own pruning on resiliparse's tree. What is inside the tree's C library is left there (parsing, collapsing white space);
Python looks at blocks only, never at each node. Pages whose nesting would make any parser slow are read without a tree.
"""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Literal

LIMIT = 8 << 20
"""Bytes of a page that are read; what is longer is cut there."""
DEPTH = 500
"""Elements inside one another. Parsing takes time in the square of it."""
TAGS = 200_000
"""Tags that a page may have to be read as a tree."""
_CUT = (
    "script:not([type^='math/tex']),style,noscript,template,iframe,object,svg,canvas,audio,video,nav,footer,form,button,select,"
    "input,textarea,dialog,menu,a.headerlink,[hidden],[role=navigation],[role=banner],[role=contentinfo],[role=search],"
    "[role=complementary],[role=dialog],.MathJax,.MathJax_Display,.MathJax_Preview,.MathJax_SVG,.katex-html"
)
_MAIN = "[role=main],main,[itemprop=articleBody]"
_BLOCKS = "div,section,aside,ul,ol,header,p,figure,blockquote,dl,table,h2,h3,h4"
# Words of a class or an id that say a block is no part of its page's text.
_ASIDE = re.compile(
    r"(?:^|[\s_-])(?:nav|navbar|menu|sidebar|side-bar|sidebars?|breadcrumbs?|footer|footnav|masthead|share|sharing|sharedaddy|social|"
    r"related|recommend(?:ed|ations?)?|more-?(?:stories|on|from|news)|most-?(?:read|popular)|trending|popular|newsletter|subscribe|"
    r"subscription|signup|sign-up|promo|promos|promotion|advert(?:isement)?|ads?|adsbygoogle|sponsor(?:ed)?|outbrain|taboola|teaser|"
    r"cookies?|consent|gdpr|banner|modal|popup|overlay|comments?|disqus|respond|byline|author-?(?:bio|box|info)?|dateline|timestamp|"
    r"pub-?date|publish(?:ed)?-?(?:date|on|time)?|post-?meta|entry-?meta|article-?meta|meta|tags?|tag-?list|topics|caption|"
    r"wp-caption-text|credits?|copyright|gallery|carousel|slideshow|widget|toolbar|pagination|pager|skip|screen-reader-text|"
    r"visually-hidden|sr-only|hidden|sphinxsidebar|toc|hatnote|navbox|catlinks|printfooter|editsection|mw-editsection)(?=$|[\s_-]|\d)",
    re.IGNORECASE,
)
_BODY = re.compile(r"(?:^|[\s_-])(?:article-?(?:body|content|text)|story-?(?:body|content|text)|entry-?content|post-?(?:body|content)|body-?text)", re.I)  # fmt: skip
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)")
_OPEN_ENDED = frozenset(
    [
        "p",
        "li",
        "br",
        "img",
        "input",
        "meta",
        "link",
        "hr",
        "td",
        "th",
        "tr",
        "dd",
        "dt",
        "option",
        "wbr",
        "col",
        "source",
        "base",
        "area",
        "embed",
        "param",
        "track",
        "tbody",
        "thead",
    ]
)
_FLAT = re.compile(r"<[^<>]*>")
_BREAKS = re.compile(r"\n{3,}")


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
    markup = _decode(page[:LIMIT]) if isinstance(page, bytes) else page[:LIMIT]
    markup = markup.replace("\0", "")
    if "<" not in markup:
        return Page("", markup.strip(), "flat" if markup.strip() else "empty")
    if _deep(markup):
        return Page("", _flat(markup), "flat")
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(markup)
    if tree.body is None:
        return Page("", "", "empty")
    title = " ".join((tree.title or "").split())
    text = _text(tree, _Kept(markup))
    return Page(title, text, "tree" if text else "empty")


def _decode(page: bytes) -> str:
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    try:
        return page.decode("utf-8-sig")
    except UnicodeDecodeError:
        return bytes_to_str(page, detect_encoding(page[:65536], from_html_meta=True) or "utf-8", errors="replace")


def _deep(markup: str) -> bool:
    """Whether elements nest deeper than DEPTH, or so many are left open that a parser would open them again and again."""
    if markup.count("<") > TAGS:
        return True
    opened: dict[str, int] = {}
    depth = 0
    for close, name in _TAG.findall(markup):
        if name in _OPEN_ENDED:
            continue
        count = opened.get(name, 0)
        if not close:
            opened[name], depth = count + 1, depth + 1
            if depth > DEPTH:
                return True
        elif count:
            opened[name], depth = count - 1, depth - 1
    return False


def _flat(markup: str) -> str:
    """Text between tags, in time that grows with the page's length whatever is in it."""
    import html

    pieces = re.split(r"<(script|style|template)\b", markup, flags=re.IGNORECASE)
    kept = [pieces[0]]
    for name, piece in zip(pieces[1::2], pieces[2::2], strict=True):
        kept.append(piece.partition(f"</{name}")[2])
    text = html.unescape(_FLAT.sub(" ", "".join(kept)))
    return "\n".join(line for line in (" ".join(one.split()) for one in text.splitlines()) if line)


class _Kept:
    """Text that goes through the tree's collapsing of white space as marks and comes back as it was."""

    def __init__(self, markup: str) -> None:
        self._mark = next((c for c in map(chr, range(0xE000, 0xF900)) if c not in markup), "")
        self._texts: list[str] = []

    def put(self, text: str) -> str:
        if not self._mark:
            return text
        self._texts.append(text)
        return f"{self._mark}{len(self._texts) - 1}{self._mark}"

    def restore(self, text: str) -> str:
        if not self._mark:
            return text
        for _ in range(3):  # a formula within a table within code
            text = re.sub(f"{self._mark}(\\d+){self._mark}", lambda found: self._texts[int(found[1])], text)
        return text


def _text(tree: Any, kept: _Kept) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    body = tree.body
    _mathematics(tree, body, kept)
    for node in _all(body, "pre"):
        _replace(tree, node, "\n" + kept.put(node.text.removeprefix("\n")) + "\n", "p")
    documentation = _prune(body)
    root = documentation or body
    if documentation is None or not _all(documentation, "pre,dl,code"):
        root = _root(root)
        _trim(root)
    for node in _all(root, "table"):
        _table(tree, node, kept)
    if not _same(root, body):
        body.replace_children(root)
    text = extract_plain_text(tree, preserve_formatting=True, alt_texts=False)
    return kept.restore(_BREAKS.sub("\n\n", text).strip("\n "))


def _same(one: Any, other: Any) -> bool:
    return bool(one == other)


def _replace(tree: Any, node: Any, text: str, tag: str) -> None:
    """Put an element with this text in a node's place."""
    new = tree.create_element(tag)
    new.text = text
    if node.parent is not None:
        node.parent.replace_child(new, node)


def _mathematics(tree: Any, body: Any, kept: _Kept) -> None:
    """Every formula once, as TeX: from MathML's annotation, a math/tex script, or the alternative text of its picture."""
    for node in _all(body, "script[type^='math/tex']"):
        edge = "$$" if "display" in (node.getattr("type") or "") else "$"
        _replace(tree, node, kept.put(f"{edge}{(node.text or '').strip()}{edge}"), "span")
    for node in _all(body, "math"):
        annotation = node.query_selector("annotation[encoding*='tex' i]")
        tex = annotation.text if annotation is not None else (node.getattr("alttext") or node.text)
        edge = "$$" if node.getattr("display") == "block" else "$"
        _replace(tree, node, kept.put(f"{edge}{' '.join(tex.split())}{edge}"), "span")
    for node in _all(
        body, "img.math,img.tex,img.mwe-math-fallback-image-inline,img[class*='latex'],mjx-container[aria-label]"
    ):
        label = node.getattr("alt") or node.getattr("aria-label") or ""
        around = node.closest(".mwe-math-element") if "mwe" in (node.class_name or "") else None
        if label.strip() and (around is None or "$" not in around.text):
            _replace(tree, node, kept.put(f"${' '.join(label.split())}$"), "span")


def _all(node: Any, selector: str) -> list[Any]:
    """Elements that fit, as a list. (Taken as a slice: resiliparse 2.0 looks through the whole tree for each step of a loop.)"""
    found = node.query_selector_all(selector)
    return list(found[0 : len(found)])


def _prune(body: Any) -> Any | None:
    """Cut what is no text by its element, role, class or place; the element that the page itself calls its main one, if any."""
    for node in _all(body, _CUT):
        if node.tag not in ("form", "noscript", "button", "nav", "footer") or len(_all(node, "p")) < 5:
            _cut(node)
    whole = len(body.text)
    main = next((node for node in _all(body, _MAIN) if len(node.text) > 0.25 * whole), None)
    for node in _all(main or body, _BLOCKS):
        names = f"{node.getattr('class') or ''} {node.getattr('id') or ''}"
        if (
            len(names) < 1000 and names != " " and _ASIDE.search(names) and not _BODY.search(names)
        ) or node.tag == "aside":
            size = len(node.text)
            if size < 0.2 * whole or (size < 0.5 * whole and not _all(node, "p")):
                _cut(node)
    return main


def _cut(node: Any) -> None:
    if node.parent is not None:
        node.parent.remove_child(node)


def _root(body: Any) -> Any:
    """The element that holds most of the paragraphs' text near to itself: each paragraph gives its parent its length, its
    parent's parent half (after Readability); it grows to a parent that holds half as much again.
    """
    own: dict[Any, int] = defaultdict(int)
    for node in _all(body, "p,blockquote,h2,h3"):
        size = len(node.text)
        if size >= 25 and node.parent is not None:
            own[node.parent] += size
    scores: dict[Any, float] = defaultdict(float)
    under: dict[Any, int] = defaultdict(int)
    for parent, size in own.items():
        scores[parent] += size
        above, depth = parent, 0
        while above is not None and depth < 30:
            under[above] += size
            if depth == 1:
                scores[above] += size / 2
            above, depth = above.parent, depth + 1
    if not scores:
        return body
    best = max(scores, key=lambda node: scores[node])
    above = best.parent
    for _ in range(6):
        if above is None or above.tag in ("html", "#document"):
            break
        if under[above] > 1.5 * under[best]:
            best = above
        above = above.parent
    return body if best.tag in ("html", "#document") else best


_TAIL = re.compile(
    r"^\W*(?:read more|related|see also|you may also|more from|more on|also read|read also|recommended|share this|follow us|"
    r"most (?:read|popular)|sign up|subscribe|comments?\b|leave a (?:reply|comment)|tags?:|filed under|copyright|©|advertisement)",
    re.IGNORECASE,
)


_ENDS = re.compile(
    r"^\W*(?:you may also|you might also|related (?:stories|articles|posts|content|news)|more (?:stories|news|from|in)\b|read next|"
    r"recommended|trending|comments?\W*$|leave a reply|most (?:read|popular)|latest news|top stories|resources\W*$)",
    re.IGNORECASE,
)


def _cut_after(node: Any, root: Any) -> None:
    """Cut a heading that ends a text, and what stands after it beside it, if that is short."""
    rest, after = [node], node.next_element_sibling
    while after is not None:
        rest.append(after)
        after = after.next_element_sibling
    if sum(len(one.text) for one in rest) < 0.4 * len(root.text):
        for one in rest:
            _cut(one)


def _trim(root: Any) -> None:
    """Cut lists and blocks within the root that are links and little else, and lines that only lead elsewhere."""
    for node in _all(root, "ul,ol,div,section,p,h2,h3,h4"):
        if node.parent is None or _same(node, root):
            continue
        text = node.text
        size = len(text)
        if size < 60 and node.tag != "p" and _ENDS.match(text):
            _cut_after(node, root)
        elif size < 90 and _TAIL.match(text):
            _cut(node)
        elif size <= 3000 and node.tag in ("ul", "ol", "div", "section"):
            links = sum(len(link.text) for link in _all(node, "a"))
            if links > 0.6 * size:
                _cut(node)


def _table(tree: Any, node: Any, kept: _Kept) -> None:
    """A table of data as rows `a | b`; tables that lay a page out (one cell a row, or long cells, or tables within) stay."""
    if node.query_selector("table") is not None or node.parent is None:
        return
    rows = []
    for row in _all(node, "tr")[:5000]:
        cells = [" ".join(cell.text.split()) for cell in _all(row, "td,th")[:200]]
        if any(cells):
            rows.append(cells)
    if (
        len(rows) < 2
        or max(map(len, rows)) < 2
        or sum(len(cell) for row in rows for cell in row) > 500 * sum(map(len, rows))
    ):
        return
    _replace(tree, node, kept.put("\n" + "\n".join(" | ".join(row) for row in rows) + "\n"), "p")
