"""Markov jump processes in physical time: the prediction IS the row of jump rates of the present state."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import embedding

from sciflow.core.errors import UserError
from sciflow.core.markov import generator
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Discrete
from sciflow.core.state import Layout, State


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


class Chain(Jump):
    """A homogeneous chain whose rates are known: exact moves of any length (`solvers.uniformisation`).

    Args:
        rates: Rate matrix (K, K); its diagonal is ignored.

    Raises:
        UserError: Not a square matrix of rates that are finite and not negative.
    """

    generator: Tensor

    def __init__(self, rates: Sequence[Sequence[float]] | Tensor) -> None:
        F = torch.as_tensor(rates, dtype=torch.float64)
        if F.ndim != 2 or F.shape[0] != F.shape[1]:
            raise UserError(f"Chain: got rates of shape {tuple(F.shape)}, expected a square matrix")
        F = generator(F)
        if not bool(F.isfinite().all() and (F.triu(1) >= 0).all() and (F.tril(-1) >= 0).all()):
            raise UserError("Chain: got negative or infinite rates, expected F[i, j] >= 0 off the diagonal")
        super().__init__(len(F))
        self.register_buffer("generator", F)


class KnownRates:
    """What a network would say if it knew the rates: a denoiser for the sampler.

        process = Jump(6)
        sampler = Sampler({"s": process}, {"s": Gillespie(record=True)}, Physical(0.0, 2.5))
        start = State({"s": states}, {"s": Layout(len(states))})
        paths = sampler.run(start, KnownRates(process, F), Fresh(seed), steps=1).memory["s"].paths()

    Args:
        process: The process of the field.
        rates: Rate matrix (K, K), or a function of states x (rows, ...) and clocks t, () or (rows,), that returns rates
            (rows, ..., K).
        field: The field that jumps.
    """

    def __init__(self, process: Jump, rates: Tensor | Callable[[Tensor, Tensor], Tensor], field: str = "s") -> None:
        self.process, self.rates, self.field = process, rates, field

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        """The rates of the present states."""
        x, t = state[self.field], clocks[self.field]
        value = embedding(x, self.rates) if isinstance(self.rates, Tensor) else self.rates(x, t)  # row of each state
        return {self.field: Prediction(value, "rates", self.process, x, t, state.layouts[self.field])}
