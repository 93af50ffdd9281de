"""Guesses of what comes next, looked up in what was said before (prompt lookup decoding): copies, quotations, edited code, JSON.

A guess costs little where memory bounds decoding: several tokens are computed with one reading of the weights.
"""

_SIZES = (3, 2)  # of the endings that are looked for, the longest first
_LONGEST = 15
_LONGEST_PAUSE = 8


class Lookup:
    """One sequence's guesses; their length follows how many were right."""

    def __init__(self) -> None:
        self._follows: dict[tuple[int, ...], int] = {}  # an n-gram -> where what followed it last begins
        self._indexed = 0
        self._length, self._misses, self._pause = 3, 0, 0

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `tokens`; `tokens` begins with those of the last call."""
        for at in range(self._indexed, len(tokens)):
            for size in _SIZES:
                if at >= size:
                    self._follows[tuple(tokens[at - size : at])] = at
        self._indexed = len(tokens)
        if self._pause:
            self._pause -= 1
            return []
        for size in _SIZES:
            at = self._follows.get(tuple(tokens[-size:]), -1)
            if at >= 0:
                return _repeated(tokens, at, min(self._length, most))
        return []

    def learn(self, guessed: int, right: int) -> None:
        """So many of a guess were right: longer ones after a right one, none for a while after wrong ones."""
        if right == guessed:
            self._length = min(2 * self._length + 1, _LONGEST)
        elif 2 * right < guessed:
            self._length = max(1, self._length // 2)
        self._misses = 0 if right else self._misses + 1
        self._pause = min(2**self._misses - 1, _LONGEST_PAUSE)


def _repeated(tokens: list[int], at: int, count: int) -> list[int]:
    """`count` tokens from `at` on, what ends before that goes on as a cycle."""
    guess = tokens[at : at + count]
    while len(guess) < count:
        guess += guess[: count - len(guess)]
    return guess
