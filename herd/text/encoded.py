"""A conversation as tokens, with the mask of those that an assistant wrote: what training computes its loss on."""

from collections.abc import Callable, Sequence
from functools import cached_property

Span = tuple[int, int]


class Encoded:
    """`tokens`, and `loss_mask`, as long: True for tokens of an assistant's turn and for the one that ends it.

    The mask is made when it is asked for, since a prompt needs none. RequestError there for a template that does not
    tell which text is an assistant's.
    """

    def __init__(self, tokens: list[int], mask: Callable[[], list[bool]]) -> None:
        self.tokens = tokens
        self._mask = mask

    @cached_property
    def loss_mask(self) -> list[bool]:
        """Whether each token counts."""
        return self._mask()


def covered(lengths: Sequence[int], spans: Sequence[Span]) -> list[bool]:
    """Whether each of neighbouring pieces of these lengths has a part in one of the spans, which are sorted."""
    mask, start, i = [], 0, 0
    for length in lengths:
        while i < len(spans) and spans[i][1] <= start:
            i += 1
        mask.append(i < len(spans) and spans[i][0] < start + length)
        start += length
    return mask
