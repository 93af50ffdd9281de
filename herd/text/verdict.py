"""What a judge said: verdicts stand in double brackets, as MT-Bench has them (Zheng et al., arXiv 2306.05685)."""

import re
from collections.abc import Iterable


def last_verdict(text: str, marks: Iterable[str]) -> str | None:
    """The last of `marks` that stands in a judge's words as [[MARK]]; None where there is none."""
    known = "|".join(map(re.escape, sorted(marks, key=len, reverse=True)))
    found = re.findall(rf"\[\[\s*({known})\s*\]\]", text)
    return found[-1] if found else None
