"""No pairing: prior ends as they are drawn."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from sciflow.core.coupling import Coupling
from sciflow.core.state import State


class Independent(Coupling):
    """The product coupling."""

    preserves_marginal: ClassVar[bool] = True

    def pair(self, x0: State, draw: Callable[[int], State]) -> State:
        """The first draw."""
        return draw(0)
