"""A caller's constraint, so held that nothing it does wrong reaches other requests: a step goes on, the error is kept.

That is so for every BaseException: a panic of llguidance's Rust is one, and Ctrl-C never reaches the engine's thread.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from herd.engine.request import Constraint, Walkable
from herd.errors import ConstraintError, first_line

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class GuardedConstraint:
    """`constraint` for a vocabulary of `vocab` tokens; `error` is what went wrong, and then every token is allowed."""

    def __init__(self, constraint: Constraint, vocab: int) -> None:
        self._constraint, self._words = constraint, -(-vocab // 32)
        self.error: ConstraintError | None = None

    def mask(self) -> "NDArray[np.uint32]":
        """One bit a token, [ceil(vocab / 32)]."""
        return self._checked(self._constraint.mask, (self._words,))

    def advance(self, token: int) -> None:
        """Take a chosen token into account."""
        try:
            self._constraint.advance(token)
        except BaseException as error:
            self._keep(error)

    def _checked(self, masks: "Callable[[], NDArray[np.uint32]]", shape: tuple[int, ...]) -> "NDArray[np.uint32]":
        import numpy as np

        try:
            found = np.ascontiguousarray(masks())
            if found.dtype != np.uint32 or found.shape[-1:] != shape[-1:] or len(found.shape) != len(shape):
                raise ConstraintError(
                    f"the constraint's mask is {found.dtype} {list(found.shape)}; expected uint32 {list(shape)}"
                )
            if not len(found) or len(found) > shape[0]:
                raise ConstraintError(f"the constraint gives {len(found)} masks; expected 1 to {shape[0]}")
            if not found.any(axis=-1).all():
                raise ConstraintError("the constraint allows no token")
            return found
        except BaseException as error:
            self._keep(error)
            return np.full(self._words, 0xFFFFFFFF, np.uint32)

    def _keep(self, error: BaseException) -> None:
        if not isinstance(error, ConstraintError):
            known = ConstraintError(f"the constraint failed: {type(error).__name__}: {first_line(error)}")
            known.__cause__ = error
            error = known
        self.error = self.error or error


class GuardedWalkable(GuardedConstraint):
    """The same for one that can look ahead."""

    def __init__(self, constraint: Walkable, vocab: int) -> None:
        super().__init__(constraint, vocab)
        self._walkable = constraint

    def forced(self) -> Sequence[int]:
        """Tokens that probably come next."""
        try:
            return self._walkable.forced()
        except BaseException as error:
            self._keep(error)
            return ()

    def walk(self, guess: Sequence[int]) -> "Callable[[], NDArray[np.uint32]]":
        """What gives the masks, [up to 1 + guess, ceil(vocab / 32)]."""
        try:
            masks = self._walkable.walk(guess)
        except BaseException as error:
            self._keep(error)
            masks = self._constraint.mask
        return lambda: self._checked(masks, (1 + len(guess), self._words))


def guarded(constraint: Constraint, vocab: int) -> GuardedConstraint:
    """The guard that suits a constraint."""
    return (
        GuardedWalkable(constraint, vocab) if isinstance(constraint, Walkable) else GuardedConstraint(constraint, vocab)
    )
