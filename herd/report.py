"""One offline HTML file that anyone can open: text, tables, curves, folded examples with filters. Every report of herd is one.

Nothing is loaded from anywhere, everything that comes from models or files is escaped, light and dark follow the reader's system.
"""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from herd.atomic import atomic_file

_STYLE = """
:root{color-scheme:light dark;--ink:#1d2329;--soft:#5d6873;--line:#d9dee3;--ground:#fff;--band:#f5f7f9}
@media(prefers-color-scheme:dark){:root{--ink:#e4e8ec;--soft:#9aa5b1;--line:#343c45;--ground:#14181c;--band:#1c2228}}
body{font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--ground);max-width:64rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.5rem}p.note,figcaption,.soft{color:var(--soft)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}.scroll{overflow-x:auto}
th,td{text-align:left;padding:.35rem .7rem;border-bottom:1px solid var(--line);vertical-align:top}th{color:var(--soft);font-weight:600}
td.number,th.number{text-align:right;white-space:nowrap}tr:hover td{background:var(--band)}
pre{background:var(--band);padding:.7rem;white-space:pre-wrap;overflow-wrap:anywhere;border-radius:6px}
details{border-bottom:1px solid var(--line);padding:.45rem 0}summary{cursor:pointer}figure{margin:1rem 0}
svg{width:100%;height:auto}.filters{display:flex;gap:1rem;flex-wrap:wrap;margin:.7rem 0}select{font:inherit}
"""
_FILTER = """
document.querySelectorAll('.filters').forEach(bar=>{const list=bar.nextElementSibling,count=bar.querySelector('output');
const show=()=>{let n=0;for(const item of list.children){const fits=[...bar.querySelectorAll('select')].every(
s=>!s.value||item.dataset['f'+s.dataset.n]===s.value);item.hidden=!fits;n+=fits}count.textContent=n+' shown'};
bar.addEventListener('change',show);show()})
"""
_RIGHT = ' class="number"'
_COLOURS = ("#2f6fde", "#d9622b", "#2a9d63", "#9b51c9", "#c23b5a", "#7a7f1f", "#1895a8", "#8a6a4a")


def number(value: Any, digits: int = 4) -> str:
    """A cell's text: numbers short, nothing for None."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:,.{digits}g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


class Report:
    """Collects parts in the order they are added; `write` makes the file."""

    def __init__(self, title: str, note: str = "") -> None:
        self.title = title
        self._parts = [f"<h1>{html.escape(title)}</h1>"]
        self._filters = False
        if note:
            self.note(note)

    def heading(self, text: str) -> None:
        """A section begins."""
        self._parts.append(f"<h2>{html.escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{html.escape(text)}</p>")

    def note(self, text: str) -> None:
        """A paragraph in a softer colour: how figures were made, what they do not say."""
        self._parts.append(f'<p class="note">{html.escape(text)}</p>')

    def code(self, text: str) -> None:
        """Text as it stands: commands, samples."""
        self._parts.append(f"<pre>{html.escape(text)}</pre>")

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str = "") -> None:
        """A table; columns that hold numbers only are set to the right."""
        body = [[*row] for row in rows]
        right = [
            bool(body) and all(isinstance(row[i], int | float) or row[i] is None for row in body)
            for i in range(len(columns))
        ]

        def cells(tag: str, row: Sequence[Any]) -> str:
            return "".join(
                f"<{tag}{_RIGHT if right[i] else ''}>{html.escape(number(cell))}</{tag}>" for i, cell in enumerate(row)
            )

        head = f"<thead><tr>{cells('th', columns)}</tr></thead>"
        lines = "".join(f"<tr>{cells('td', row)}</tr>" for row in body)
        under = f'<p class="note">{html.escape(caption)}</p>' if caption else ""
        self._parts.append(f'<div class="scroll"><table>{head}<tbody>{lines}</tbody></table></div>{under}')

    def lines(
        self,
        curves: Mapping[str, Sequence[tuple[float, float]]],
        *,
        x: str,
        y: str,
        log_x: bool = False,
        title: str = "",
    ) -> None:
        """Curves of (x, y) points in one picture; points that are not finite are left out."""
        self._parts.append(
            f"<figure>{chart(curves, x=x, y=y, log_x=log_x)}<figcaption>{html.escape(title)}</figcaption></figure>"
        )

    def fold(self, summary: str, body: str) -> None:
        """Text behind a line that opens it."""
        self._parts.append(_details(summary, body))

    def examples(self, filters: Sequence[str], items: Iterable[tuple[Sequence[str], str, str]]) -> None:
        """Folded examples, each (its value for each of `filters`, a line, a text), with a menu for each filter."""
        found = [(list(values), summary, body) for values, summary, body in items]
        menus = []
        for i, name in enumerate(filters):
            values = sorted({item[0][i] for item in found})
            options = "".join(f'<option value="{html.escape(v)}">{html.escape(v)}</option>' for v in values)
            menus.append(
                f'<label>{html.escape(name)} <select data-n="{i}"><option value="">all</option>{options}</select></label>'
            )
        rows = "".join(
            _details(summary, body, "".join(f' data-f{i}="{html.escape(v)}"' for i, v in enumerate(values)))
            for values, summary, body in found
        )
        self._filters = True
        self._parts.append(f'<div class="filters">{"".join(menus)}<output></output></div><div>{rows}</div>')

    def html(self) -> str:
        """The whole page."""
        script = f"<script>{_FILTER}</script>" if self._filters else ""
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>{html.escape(self.title)}</title><style>{_STYLE}</style><body>{''.join(self._parts)}{script}</body></html>\n"
        )

    def write(self, path: Path) -> None:
        """Write the page whole or not at all."""
        with atomic_file(path) as temporary:
            temporary.write_text(self.html(), "utf-8", "replace")


def _details(summary: str, body: str, data: str = "") -> str:
    return f"<details{data}><summary>{html.escape(summary)}</summary><pre>{html.escape(body)}</pre></details>"


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers within [low, high]."""
    step = 10.0 ** math.floor(math.log10((high - low) / 4))
    step *= next(f for f in (1, 2, 5, 10) if (high - low) / (step * f) <= 5)
    first = math.ceil(low / step)
    return [n * step for n in range(first, math.floor(high / step) + 1)]


def chart(curves: Mapping[str, Sequence[tuple[float, float]]], *, x: str, y: str, log_x: bool = False) -> str:
    """Curves as an SVG picture of 760 x 300 with axes and a legend."""
    shown = {
        name: [(math.log10(a) if log_x else a, b) for a, b in points if math.isfinite(b) and (a > 0 or not log_x)]
        for name, points in curves.items()
    }
    xs = [a for points in shown.values() for a, _ in points] or [0.0, 1.0]
    ys = [b for points in shown.values() for _, b in points] or [0.0, 1.0]
    (x0, x1), (y0, y1) = (min(xs), max(xs)), (min(ys), max(ys))
    x1, y1 = x1 if x1 > x0 else x0 + 1, y1 if y1 > y0 else y0 + 1
    left, top, width, height = 64, 12, 560, 240

    def place(a: float, b: float) -> tuple[float, float]:
        return left + (a - x0) / (x1 - x0) * width, top + (y1 - b) / (y1 - y0) * height

    parts = []
    for tick in _ticks(y0, y1):
        at = place(x0, tick)[1]
        parts.append(f'<path d="M{left} {at:.1f}h{width}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 8}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>')
    for tick in _ticks(x0, x1):
        label = number(10**tick if log_x else tick)
        parts.append(f'<text x="{place(tick, y0)[0]:.1f}" y="{top + height + 18}" text-anchor="middle">{label}</text>')
    for i, (name, points) in enumerate(shown.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        path = "L".join(f"{a:.1f} {b:.1f}" for a, b in (place(*point) for point in points))
        if len(points) > 1:
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        elif points:
            a, b = place(*points[0])
            parts.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>')
        parts.append(
            f'<text x="{left + width + 12}" y="{top + 14 + 18 * i}" fill="{colour}">{html.escape(name)}</text>'
        )
    axes = (
        f'<text x="{left + width / 2}" y="{top + height + 38}" text-anchor="middle">{html.escape(x)}</text>'
        f'<text x="14" y="{top + height / 2}" text-anchor="middle" transform="rotate(-90 14 {top + height / 2})">{html.escape(y)}</text>'
    )
    rows = max(300, top + 24 + 18 * len(shown))
    return (
        f'<svg viewBox="0 0 760 {rows}" role="img" font-size="12" fill="currentColor" font-family="system-ui,sans-serif">'
        f"{''.join(parts)}{axes}</svg>"
    )
