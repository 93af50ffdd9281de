"""`herd data learn` and `herd data count`: what the rules min_quality and max_divergence look at."""

from collections.abc import Iterator
from pathlib import Path

from herd.errors import FormatError


def learn_labels(path: Path, out: Path, at: float) -> None:
    """A classifier from JSON lines of {"text", "label"}; labels of `at` or more are good."""
    from herd.data.identify import identify
    from herd.data.quality import learn
    from herd.safety.models.linear import fit
    from herd.text.documents import json_lines

    def rows() -> Iterator[tuple[str, str, bool]]:
        for line, row in json_lines(path):
            text, label = row.get("text"), row.get("label")
            if not isinstance(text, str) or not isinstance(label, int | float):
                raise FormatError(f'{path}:{line}: expected {{"text": "...", "label": number}}')
            yield text, identify(text)[0], label >= at

    found = learn(rows(), fit, out)
    print(f"{out}: learnt from {found.rows:,} texts; of {found.held_out:,} others {found.accuracy:.1%} right, area under the curve {found.auc:.3f}")  # fmt: skip
    print(f'in a recipe: [rules] quality = "{out.name}", min_quality = 0.5')


def count_words(paths: list[Path], out: Path) -> None:
    """The words of a corpus: text files, JSON lines with `text`, or folders of either."""
    from herd.data.identify import identify
    from herd.data.quality import count
    from herd.text.documents import iter_documents

    def texts() -> Iterator[tuple[str, str]]:
        for path in paths:
            yield from ((text, identify(text)[0]) for text, _ in iter_documents(path))

    print(f"{out}: {count(texts(), out):,} words")
