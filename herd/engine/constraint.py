"""A caller's constraint, so held that nothing it does wrong reaches other requests: a step goes on, the error is kept."""

from typing import TYPE_CHECKING

from herd.engine.request import Constraint
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
        import numpy as np

        try:
            found = np.ascontiguousarray(self._constraint.mask())
            if found.dtype != np.uint32 or found.shape != (self._words,):
                raise ConstraintError(
                    f"the constraint's mask is {found.dtype} {list(found.shape)}; expected uint32 [{self._words}]"
                )
            if not found.any():
                raise ConstraintError("the constraint allows no token")
            return found
        except Exception as error:
            self._keep(error)
            return np.full(self._words, 0xFFFFFFFF, np.uint32)

    def advance(self, token: int) -> None:
        """Take a chosen token into account."""
        try:
            self._constraint.advance(token)
        except Exception as error:
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        if not isinstance(error, ConstraintError):
            known = ConstraintError(f"the constraint failed: {type(error).__name__}: {first_line(error)}")
            known.__cause__ = error
            error = known
        self.error = self.error or error
