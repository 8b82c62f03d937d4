"""Maximisation of a likelihood with hidden jumps: EM steps, then L-BFGS where EM is slow.

Fisher's identity does the E-step: expected jumps and dwell times given the observations are derivatives of the
marginal log-likelihood, E[T_i] = dl/dF_ii and E[n_ij] = F_ij dl/dF_ij, the entries of F taken as free (section 10.4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

EM_STEPS = 20  # before L-BFGS takes over
NEWTON_STEPS = 200  # of L-BFGS
TOLERANCE = 1e-7  # relative change of the log-likelihood


class Likelihood(Protocol):
    """A log-likelihood (plus log-prior) of unconstrained parameters, with an EM step."""

    def value(self, theta: Tensor) -> Tensor:
        """Log-likelihood plus log-prior at theta (p,), differentiable."""
        ...

    def em_step(self, theta: Tensor) -> tuple[Tensor, float]:
        """The parameters after one EM step from theta, and the value at theta."""
        ...


@dataclass(frozen=True, eq=False)
class Maximum:
    """Where an ascent ended.

    Attributes:
        theta: (p,) parameters.
        value: Log-likelihood plus log-prior there.
        values: The value before each EM step, and the last one: never decreasing.
        converged: Whether the tolerance was reached.
    """

    theta: Tensor
    value: float
    values: list[float]
    converged: bool


def maximise(
    model: Likelihood,
    theta: Tensor,
    em_steps: int = EM_STEPS,
    newton_steps: int = NEWTON_STEPS,
    tolerance: float = TOLERANCE,
) -> Maximum:
    """Climb from theta: at most `em_steps` of EM, then, if they did not converge, L-BFGS."""
    values: list[float] = []
    for _ in range(em_steps):
        following, value = model.em_step(theta)
        values.append(value)
        if len(values) > 1 and value - values[-2] <= tolerance * abs(value):
            return Maximum(theta, value, values, True)
        theta = following
    converged = False
    if newton_steps:
        theta, converged = _newton(model, theta, newton_steps, tolerance)
    with torch.no_grad():
        values.append(float(model.value(theta)))
    return Maximum(theta, values[-1], values, converged)


def _newton(model: Likelihood, theta: Tensor, steps: int, tolerance: float) -> tuple[Tensor, bool]:
    """L-BFGS from theta, and whether it converged; theta itself if nothing better was found."""
    with torch.no_grad():
        before = float(model.value(theta))
    point = theta.clone().requires_grad_()
    search = torch.optim.LBFGS(
        [point],
        max_iter=steps,
        tolerance_grad=0,
        tolerance_change=tolerance / 10,  # a single small step is no proof: stricter than for EM
        history_size=20,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        search.zero_grad()
        lost = -model.value(point) / max(abs(before), 1.0)
        lost.backward()
        return lost

    search.step(loss)  # type: ignore[arg-type]  # returns a tensor, as the optimiser expects
    converged = search.state[point]["n_iter"] < steps
    with torch.no_grad():
        after = float(model.value(point))
    return (point.detach(), converged) if after >= before else (theta, False)
