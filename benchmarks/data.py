"""Every step of `herd data` beside its peers in one run: datatrove, trafilatura and resiliparse where they are installed.

make bench-data HTML=FOLDER [PAGES=FOLDER]     (make peer-datatrove first)

HTML: any folder of HTML. PAGES: article-extraction-benchmark, ground_truth.json and html/*.html.gz. All times are of the
processor, so other work on the machine moves them little: MB/s are a core's.
"""

import argparse
import gzip
import html
import importlib.util
import json
import random
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.html import HTMLTree

from herd.cli.common import open_model
from herd.data.deduplicate import band_keys, shingles
from herd.data.extract import extract
from herd.data.filters import Rules, clean, judge
from herd.data.identify import identify
from herd.data.pack import pack
from herd.data.redact import redact

ROOT = Path(__file__).parents[1]
Extractor = Callable[[bytes], str]
Line = tuple[str, str, float, str]  # step, program, MB/s of processor time, what else is measured


def extractors() -> dict[str, Extractor]:
    """Name -> bytes of a page to its text."""
    found: dict[str, Extractor] = {
        "herd": lambda page: extract(page).text,
        "resiliparse": lambda page: extract_plain_text(
            HTMLTree.parse_from_bytes(page, "utf-8"), main_content=True, preserve_formatting=True
        ),
    }
    if importlib.util.find_spec("trafilatura"):
        import trafilatura

        found["trafilatura"] = lambda page: (
            trafilatura.extract(page.decode("utf-8", "replace"), include_comments=False, include_tables=False) or ""
        )
    return found


def four_words(text: str) -> Counter[tuple[str, ...]]:
    """Four words in a row, counted, as article-extraction-benchmark does."""
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3))) if words else Counter()


def score(pairs: list[tuple[str, str]]) -> tuple[float, float, float]:
    """Precision, recall and F1 of (expected, found): means over pages, then their harmonic mean."""
    precisions, recalls = [], []
    for expected, found in pairs:
        one, other = four_words(expected), four_words(found)
        both = (one & other).total()
        if other:
            precisions.append(both / other.total())
        if one:
            recalls.append(both / one.total())
    precision, recall = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return precision, recall, 2 * precision * recall / (precision + recall)


def spent(run: Callable[[Any], Any], things: list[Any], rounds: int = 3) -> tuple[float, list[Any]]:
    """Least processor seconds of `rounds` over all things, and what came of them."""
    best, made = float("inf"), []
    for _ in range(rounds):
        begun = time.process_time()
        made = [run(thing) for thing in things]
        best = min(best, time.process_time() - begun)
    return best, made


def news(folder: Path) -> list[Line]:
    """Extraction from news pages whose text is known."""
    truth = {key: value["articleBody"] for key, value in json.loads((folder / "ground_truth.json").read_text()).items()}
    pages = [gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()) for key in truth]
    found = []
    for name, run in extractors().items():
        seconds, texts = spent(run, pages)
        figures = "precision {:.3f}, recall {:.3f}, F1 {:.3f}".format(*score(list(zip(truth.values(), texts, strict=True))))  # fmt: skip
        found.append(("extraction, news", name, sum(map(len, pages)) / 1e6 / seconds, figures))
    return found


def documentation(pages: list[bytes]) -> list[Line]:
    """Extraction from documentation: how many <pre> come out as they were."""
    found = []
    for name, run in extractors().items():
        seconds, texts = spent(run, pages)
        blocks = [
            html.unescape(re.sub(r"<[^>]*>", "", block)).removeprefix("\n") in text
            for page, text in zip(pages, texts, strict=True)
            for block in re.findall(r"<pre\b[^>]*>(.*?)</pre>", page.decode("utf-8", "replace"), re.DOTALL)
        ]
        figures = f"`<pre>` equal {sum(blocks)} of {len(blocks)}"
        found.append(("extraction, documentation", name, sum(map(len, pages)) / 1e6 / seconds, figures))
    return found


def steps(texts: list[str]) -> list[Line]:
    """Filters, languages, signatures and redaction over the same texts."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    rules = Rules()
    ours: list[tuple[str, Callable[[str], Any]]] = [
        ("filters", lambda text: judge(text, "en", rules)),
        ("languages", identify),
        ("MinHash signatures", lambda text: band_keys(shingles(text, "en"))),
        ("redaction", redact),
    ]
    found = [(step, "herd", size / spent(run, texts)[0], "") for step, run in ours]
    if importlib.util.find_spec("datatrove") is None:
        return found
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.formatters.pii import PIIFormatter

    filters = [GopherRepetitionFilter(), GopherQualityFilter(), C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()]  # fmt: skip
    signature = MinhashDedupSignature(tempfile.gettempdir(), MinhashConfig(num_buckets=20, hashes_per_bucket=6))
    theirs: list[tuple[str, Callable[[str], Any]]] = [
        ("filters", lambda text: [one.filter(Document(text=text, id="")) for one in filters]),
        ("MinHash signatures", lambda text: signature.get_signature(signature.get_shingles(text))),
        ("redaction", PIIFormatter().format),
    ]
    some = texts[: max(1, len(texts) // 10)]  # a tenth is enough at their pace
    part = sum(len(text.encode()) for text in some) / 1e6
    return found + [(step, "datatrove", part / spent(run, some, 1)[0], "") for step, run in theirs]


def redaction(file: Path) -> list[Line]:
    """Marked personal data: precision over what is found, recall over what is marked, of each program's own kinds."""
    mark = re.compile("«([a-z]+):([^»]+)»")
    lines = file.read_text("utf-8").splitlines()
    plain = [mark.sub(lambda found: found[2], line) for line in lines]
    results = {"herd": [redact(text)[0] for text in plain]}
    if importlib.util.find_spec("datatrove"):
        from datatrove.pipeline.formatters.pii import PIIFormatter

        their = PIIFormatter(email_replacement="<EMAIL>", ip_replacement="<IP>")
        results["datatrove"] = [their.format(text) for text in plain]
    out: list[Line] = []
    for name, made in results.items():
        expected = found = right = 0
        for line, text in zip(lines, made, strict=True):
            marks = mark.findall(line)
            expected += len(marks)
            found += len(re.findall("<[A-Z]+>", text))
            right += sum(value not in text for _, value in marks)
        figures = f"{file.stem}: precision {min(right, found) / max(found, 1):.3f}, recall {right / expected:.3f} of {expected}"
        out.append(("personal data, all kinds", name, float("nan"), figures))
    return out


def packing(texts: list[str], folder: Path) -> list[Line]:
    """Texts -> packed tokens on disk, by the default model's tokenizer."""
    size = sum(len(text.encode()) for text in texts) / 1e6
    tokenizer = open_model().tokenizer
    begun = time.process_time()
    index = pack(texts, tokenizer, folder / "herd")
    found = [("tokens, packed", "herd", size / (time.process_time() - begun), f"{index.tokens:,} tokens")]
    if importlib.util.find_spec("datatrove"):
        from datatrove.data import Document
        from datatrove.pipeline.tokens import DocumentTokenizer

        step = DocumentTokenizer(str(folder / "datatrove"), str(folder / "herd" / "tokenizer.json"), shuffle_documents=False)  # fmt: skip
        some = texts[: max(1, len(texts) // 16)]
        part = sum(len(text.encode()) for text in some) / 1e6
        documents = [Document(text=text, id=str(i)) for i, text in enumerate(some)]
        begun = time.process_time()
        step.run(iter(documents), 0, 1)
        found.append(("tokens, packed", "datatrove", part / (time.process_time() - begun), ""))
    return found


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--count", type=int, default=150, help="pages of --html, drawn with a fixed seed")
    asked = parser.parse_args()
    lines: list[Line] = []
    if asked.pages:
        lines += news(asked.pages)
    if asked.html:
        paths = sorted(asked.html.rglob("*.html"))
        random.Random(1).shuffle(paths)
        pages = [path.read_bytes() for path in paths if path.stat().st_size < 4_000_000][: asked.count]
        texts = [text for page in pages if (text := clean(extract(page).text))]
        folder = Path(tempfile.mkdtemp())
        try:
            lines += documentation(pages) + steps(texts) + packing(texts * 16, folder)
        finally:
            shutil.rmtree(folder)
    if not lines:
        parser.error("give --pages or --html")
    for file in sorted((ROOT / "tests" / "data").glob("redaction*.txt")):
        lines += redaction(file)
    print("| step | program | MB/s a core | |\n|---|---|---|---|")
    for step, name, speed, figures in lines:
        print(f"| {step} | {name} | {'' if speed != speed else f'{speed:.2f}'} | {figures} |")


if __name__ == "__main__":
    main()
