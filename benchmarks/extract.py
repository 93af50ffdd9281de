"""Quality and speed of extraction: herd beside resiliparse and, where it is installed, trafilatura, in one run.

python benchmarks/extract.py --pages FOLDER     article-extraction-benchmark: ground_truth.json and html/*.html.gz
python benchmarks/extract.py --html FOLDER      any folder of HTML: speed, and how many <pre> come out as they were
"""

import argparse
import gzip
import html
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from herd.data.extract import extract

Extractor = Callable[[bytes], str]


def extractors() -> dict[str, Extractor]:
    """Name -> bytes of a page to its text."""
    found: dict[str, Extractor] = {
        "herd": lambda page: extract(page).text,
        "resiliparse": lambda page: extract_plain_text(
            HTMLTree.parse_from_bytes(page, "utf-8"), main_content=True, preserve_formatting=True
        ),
    }
    try:
        import trafilatura
    except ImportError:
        return found
    found["trafilatura"] = lambda page: (
        trafilatura.extract(page.decode("utf-8", "replace"), include_comments=False, include_tables=False) or ""
    )
    return found


def shingles(text: str) -> Counter[tuple[str, ...]]:
    """Four words in a row, counted, as the benchmark does."""
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))) if words else Counter()


def score(pairs: list[tuple[str, str]]) -> tuple[float, float, float]:
    """Precision, recall and F1 of (expected, found): means over pages, then their harmonic mean."""
    precisions, recalls = [], []
    for expected, found in pairs:
        one, other = shingles(expected), shingles(found)
        both = (one & other).total()
        if other:
            precisions.append(both / other.total())
        if one:
            recalls.append(both / one.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return precision, recall, 2 * precision * recall / (precision + recall)


def main() -> None:
    """Print a line an extractor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--count", type=int, default=150, help="pages of --html, drawn with a fixed seed")
    asked = parser.parse_args()
    truth: dict[str, str] = {}
    if asked.pages:
        truth = {key: value["articleBody"] for key, value in json.loads((asked.pages / "ground_truth.json").read_text()).items()}  # fmt: skip
        pages = [gzip.decompress((asked.pages / "html" / f"{key}.html.gz").read_bytes()) for key in truth]
    elif asked.html:
        paths = sorted(asked.html.rglob("*.html"))
        random.Random(1).shuffle(paths)
        pages = [path.read_bytes() for path in paths if path.stat().st_size < 4_000_000][: asked.count]
    else:
        parser.error("give --pages or --html")
    size = sum(map(len, pages)) / 1e6
    for name, run in extractors().items():
        began = time.process_time()
        texts = [run(page) for page in pages]
        line = f"{name:12} {size / (time.process_time() - began):6.1f} MB/s a core"
        if truth:
            line += "  precision {:.4f} recall {:.4f} F1 {:.4f}".format(
                *score(list(zip(truth.values(), texts, strict=True)))
            )
        else:
            blocks = [
                html.unescape(re.sub(r"<[^>]*>", "", block)).removeprefix("\n") in text
                for page, text in zip(pages, texts, strict=True)
                for block in re.findall(r"<pre\b[^>]*>(.*?)</pre>", page.decode("utf-8", "replace"), re.DOTALL)
            ]
            line += f"  <pre> equal {sum(blocks)} of {len(blocks)}"
        print(line)


if __name__ == "__main__":
    main()
