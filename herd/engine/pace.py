"""How many tokens to guess: as many as gain most, by how often guesses were right lately and what one costs."""

LONGEST = 15
"""Tokens guessed at once: with more rows than 16 arithmetic bounds a step, not memory."""
VERIFY = 0.12
"""What a guess adds to a step that decodes, in such steps: 0.07 to 0.14 at 135M parameters, the more the longer the guess."""
MASK = 0.2
"""What a grammar's mask for it adds, at 135M: 0.01 to 0.3 ms on a core that decodes meanwhile."""
_MEMORY = 0.9  # what is left of the weight of a trial after the next one


class Odds:
    """How often something came true, the latest counting most; it begins as a `rate` that two trials gave."""

    def __init__(self, rate: float) -> None:
        self._right, self._trials = 2 * rate, 2.0

    def add(self, right: int, trials: int) -> None:
        """So many of the next trials came true."""
        keep = _MEMORY**trials
        self._right, self._trials = self._right * keep + right, self._trials * keep + trials

    @property
    def rate(self) -> float:
        """Between 0 and 1."""
        return self._right / self._trials


def gain(first: float, later: float, cost: float, count: int) -> float:
    """Tokens that a step with `count` guesses gives for the time of a plain step.

    The first guess is right with probability `first`, each later one with `later` if those before it were: Leviathan et
    al. (arXiv 2211.17192), theorem 3.8, where both are alike. A guess costs `cost` steps.
    """
    expected = 1 + first * sum(later**i for i in range(count))
    return expected / (1 + cost * count)


def best_length(first: float, later: float, cost: float, most: int) -> int:
    """How many guesses, up to `most`, gain most; 0 where none does."""
    return max(range(max(most, 0) + 1), key=lambda count: gain(first, later, cost, count))


class Pace:
    """One sequence's guesses by a model, which `cost` even where they are wrong: after vain ones there are longer and longer pauses."""

    def __init__(self, cost: float) -> None:
        self._cost, self._odds = cost, Odds(0.7)
        self._vain, self._pause = 0, 0

    def length(self, most: int) -> int:
        """How many tokens to guess now."""
        if self._pause:
            self._pause -= 1
            return 0
        return max(best_length(self._odds.rate, self._odds.rate, self._cost, min(most, LONGEST)), min(most, 1))

    def learn(self, guessed: int, right: int) -> None:
        """So many of a guess were right."""
        self._odds.add(right, min(right + 1, guessed))
        rate = self._odds.rate
        pays = best_length(rate, rate, self._cost, LONGEST) > 0
        self._vain = 0 if pays else self._vain + 1
        self._pause = min(2 ** (self._vain + 2), 128) if self._vain else 0
