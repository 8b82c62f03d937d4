"""Markov jump processes in physical time: the prediction IS the row of jump rates of the present state."""

from __future__ import annotations

from torch import Tensor

from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Discrete
from sciflow.core.state import Layout


class Jump(Process):
    """Continuous-time Markov chain on `states` states; simulated with s > t on a `Physical` grid.

    Args:
        states: Number K of states. The field is (rows,) int64, a prediction (rows, K) rates; its entry at the
            present state is ignored.
    """

    kind = "rates"

    def __init__(self, states: int) -> None:
        super().__init__()
        self.states, self.space = states, Discrete(states)

    def rates(self, x: Tensor, pred: Prediction, t: Tensor, layout: Layout) -> Tensor:
        """Rates to the other states (rows, K), zero at the present one."""
        return pred.value.scatter(-1, x[..., None], 0.0)
