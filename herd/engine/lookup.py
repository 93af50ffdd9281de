"""Guesses of what comes next, looked up in what was said before (prompt lookup decoding): copies, quotations, edited code, JSON.

A guess costs little where memory bounds decoding: several tokens are computed with one reading of the weights. Looking up is
free, so every token tells whether it would have been guessed, and nothing is guessed where that was mostly wrong.
"""

from herd.engine.pace import LONGEST, VERIFY, Odds, best_length

_FIRST = {6: 0.7, 3: 0.5, 2: 0.3}
"""Endings that are looked for, the longest first, and how often what followed them follows again, to begin with."""


class Lookup:
    """One sequence's guesses; their length follows how many are right. Each costs `cost` steps."""

    def __init__(self, cost: float = VERIFY) -> None:
        self._cost = cost
        self._follows: dict[tuple[int, ...], int] = {}  # an n-gram -> where what followed it last begins
        self._indexed = 0
        self._first = {size: Odds(rate) for size, rate in _FIRST.items()}
        self._later = Odds(0.8)  # of a guess whose first token was right
        self._expected: tuple[int, int] | None = None  # the ending's size, and what followed it

    def guess(self, tokens: list[int], most: int) -> list[int]:
        """Up to `most` tokens that may follow `tokens`; `tokens` begins with those of the last call."""
        if self._expected is not None and len(tokens) > self._indexed:
            size, token = self._expected
            right = tokens[self._indexed] == token
            self._first[size].add(int(right), 1)
        self._expected = None
        for at in range(self._indexed, len(tokens)):
            for size in _FIRST:
                if at >= size:
                    self._follows[tuple(tokens[at - size : at])] = at
        self._indexed = len(tokens)
        for size, odds in self._first.items():
            at = self._follows.get(tuple(tokens[-size:]), -1)
            if at >= 0:
                self._expected = size, tokens[at]
                return _repeated(tokens, at, best_length(odds.rate, self._later.rate, self._cost, min(most, LONGEST)))
        return []

    def learn(self, guessed: int, right: int) -> None:
        """So many of a guess were right."""
        if right and guessed > 1:
            self._later.add(right - 1, min(right, guessed - 1))


def _repeated(tokens: list[int], at: int, count: int) -> list[int]:
    """`count` tokens from `at` on, what ends before that goes on as a cycle."""
    guess = tokens[at : at + count]
    while len(guess) < count:
        guess += guess[: count - len(guess)]
    return guess
