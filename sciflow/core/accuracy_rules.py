r"""Accuracies of the senders of a circular Bayesian flow, for any moves of the clock.

A belief vM(arg C, |C|) starts at C = 0 and adds alpha e^{iy}, y ~ vM(x, alpha), at each move. The aim (Wu et al. 2025):
the mean entropy of the beliefs falls linearly in the clock,

    E H(|C_t|) = H(0) + (1 - t) (H(beta) - H(0)) = H(c*(t)),    c* the target concentrations.

From no knowledge |C| = alpha, so the first move has alpha = c*(s). Later |C| is random and no formula is exact for
every list of moves. Mean resultants add, whatever the moves: E C = sum alpha A(alpha) e^{ix}. A rule therefore names a
gain G(t) and gives the later moves alpha A(alpha) = G(s) - G(t).

`Closed`: G = c*. It takes the mean belief for the typical one; mean entropies miss the line by up to .16.

`Continuous`: G that is exact for infinitely many senders. Then C ~ N(G e^{ix}, G I), and because vM(arg C, |C|) is the
true posterior of x, E H(|C|) is a conditional entropy and falls with the gain as Guo, Shamai & Verdu (2005) state:

    dE H(|C|)/dG = -(1 - E A(|C|)^2)/2.

`Exact`: simulated beliefs, for the moves of a uniform grid; others as `Continuous`.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from sciflow.core.circular import entropy, entropy_slope, mean_resultant, solve, von_mises
from sciflow.core.config import Configurable
from sciflow.core.errors import UserError

NODES = 257  # of the tabulated gain; its relative error is below 1e-7
STEP, HALF = 0.4, 18  # points of the quadrature over a standard normal, from -7 to 7; its error is below 1e-9


class AccuracyRule(Configurable, ABC):
    """Which accuracy a move has. Clocks are (...), results float64; `beta` is the concentration c* at t = 0."""

    @abstractmethod
    def gain(self, t: Tensor, beta: float) -> Tensor:
        """G(t), from 0 at t = 1."""

    @abstractmethod
    def rate(self, t: Tensor, beta: float) -> Tensor:
        """-dG/dt."""

    def alpha(self, t: Tensor, s: Tensor, beta: float) -> Tensor:
        """Accuracy of a move t -> s: alpha = c*(s) from t = 1, else alpha A(alpha) = G(s) - G(t)."""
        gain = (self.gain(s, beta) - self.gain(t, beta)).clamp_min(0)
        later = solve(lambda k: k * mean_resultant(k), gain, beta + 2)
        return torch.where(t < 1, later, concentration(s, beta))

    def of_move(self, t: Tensor, s: Tensor, beta: float) -> Tensor:
        """As `alpha`, for a move that a sampler makes, which may be one of a uniform grid."""
        return self.alpha(t, s, beta)

    def table(self, steps: int, beta: float) -> Tensor:
        """Accuracies of `steps` equal moves from t = 1 to 0: (steps,)."""
        clocks = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        return self.alpha(clocks[:-1], clocks[1:], beta)


class Closed(AccuracyRule):
    """G = c*: close to the tables that the released CrysBFN code searches for (1-2 %; section 4 of the spec)."""

    def gain(self, t: Tensor, beta: float) -> Tensor:
        """c*."""
        return concentration(t, beta)

    def rate(self, t: Tensor, beta: float) -> Tensor:
        """-dc*/dt; it grows as (1 - t)^(-1/2) near t = 1."""
        return entropy_drop(beta) / -entropy_slope(concentration(t, beta).clamp_min(1e-9))


class Continuous(AccuracyRule):
    """Mean entropies on the line for infinitely many moves; for n moves they are below it by at most 0.3/n + .005."""

    def gain(self, t: Tensor, beta: float) -> Tensor:
        """The accuracy of an observation of e^{ix} in the plane."""
        return self._log_gain(t, beta)[0].expm1()

    def rate(self, t: Tensor, beta: float) -> Tensor:
        """-dG/dt = 2 (H(0) - H(beta))/(1 - E A^2)."""
        log, slope = self._log_gain(t, beta)
        return entropy_drop(beta) * slope * log.exp()

    def _log_gain(self, t: Tensor, beta: float) -> tuple[Tensor, Tensor]:
        """u = log(1 + G) and du/d(fallen entropy)."""
        table = (column.to(t.device) for column in _gains(beta))
        return hermite((1 - t.double()) * entropy_drop(beta), *table)


class Exact(Continuous):
    """On a uniform grid with any number of moves, accuracies that put the mean entropy of `bank` simulated beliefs on
    the line (common random numbers: the same table every time). Computed once per number of moves, about 10 ms each.

    Args:
        bank: Number of simulated beliefs.

    Raises:
        UserError: Fewer than 1 000 beliefs.
    """

    MOST = 5000  # moves; finer grids are those of the continuous rule

    def __init__(self, bank: int = 20_000) -> None:
        if bank < 1000:
            raise UserError(f"bank must be at least 1 000 simulated beliefs, got {bank}")
        self.bank = bank

    def of_move(self, t: Tensor, s: Tensor, beta: float) -> Tensor:
        """From the table of n moves if t -> s is one move of the uniform grid of n."""
        if t.ndim == 0 and s.ndim == 0 and float(t - s) > 1 / (self.MOST + 1):
            steps = round(1 / float(t - s))
            index = round((1 - float(t)) * steps)
            on_grid = abs(float(t - s) * steps - 1) < 1e-6 and abs((1 - float(t)) * steps - index) < 1e-6
            if on_grid and index < steps:
                return self.table(steps, beta)[index].to(t.device)
        return self.alpha(t, s, beta)

    def table(self, steps: int, beta: float) -> Tensor:
        """See the class."""
        return _searched(steps, beta, self.bank) if steps <= self.MOST else super().table(steps, beta)


def entropy_drop(beta: float) -> float:
    """H(0) - H(beta)."""
    return math.log(2 * math.pi) - float(entropy(torch.tensor(beta, dtype=torch.float64)))


def concentration(t: Tensor, beta: float) -> Tensor:
    """c*(t): H(c*) = H(0) + (1 - t) (H(beta) - H(0)), float64."""
    return solve(entropy, math.log(2 * math.pi) - (1 - t.double()) * entropy_drop(beta), beta)


def hermite(x: Tensor, nodes: Tensor, values: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """Cubic through values and slopes at increasing nodes (J,), and its slope, at x (...) within them."""
    right = torch.searchsorted(nodes, x.contiguous()).clamp(1, len(nodes) - 1)
    left = right - 1
    width, rise = nodes[right] - nodes[left], values[right] - values[left]
    p = (x - nodes[left]) / width
    first, last = slopes[left] * width - rise, rise - slopes[right] * width
    bend = (1 - p) * first + p * last
    value = values[left] + p * (rise + (1 - p) * bend)
    return value, (rise + (1 - 2 * p) * bend + p * (1 - p) * (last - first)) / width


@functools.cache
def _gains(beta: float) -> tuple[Tensor, Tensor, Tensor]:
    """Fallen entropies, u = log(1 + G) and du/d(fallen entropy) of the continuous rule: (NODES,) each."""
    u = torch.linspace(0, math.log(2 + beta), NODES, dtype=torch.float64)
    gain = u.expm1()
    z = (torch.arange(-HALF, HALF, dtype=torch.float64) + 0.5) * STEP
    along, across = gain.sqrt()[:, None] * z, gain.sqrt()[:, None] * z[HALF:]  # both signs of `across` are alike
    length = torch.hypot(gain[:, None, None] + along[:, :, None], across[:, None, :])
    weight = torch.exp(-(z[:, None] ** 2 + z[HALF:] ** 2) / 2)
    weight = weight / weight.sum()
    fallen = math.log(2 * math.pi) - (entropy(length) * weight).sum((1, 2))
    slope = (1 - (mean_resultant(length) ** 2 * weight).sum((1, 2))) / 2 * u.exp()
    return fallen, u, 1 / slope


@functools.cache
def _searched(steps: int, beta: float, bank: int) -> Tensor:
    """Accuracies of `Exact`: (steps,). The secant method from the continuous rule's, move by move."""
    generator = torch.Generator().manual_seed(0)
    levels = (torch.arange(bank, dtype=torch.float64) + 0.5)[None] / bank  # one belief per slice of the sender's law
    line = math.log(2 * math.pi) - torch.arange(1, steps + 1, dtype=torch.float64) / steps * entropy_drop(beta)
    alphas, total = Continuous().table(steps, beta), torch.zeros(bank, dtype=torch.complex128)
    for i in range(steps):
        order = torch.randperm(bank, generator=generator)

        def updated(alpha: Tensor, total: Tensor = total, order: Tensor = order) -> Tensor:
            return total + torch.polar(alpha.expand(bank), von_mises(alpha[None], levels)[0])[order]

        if i > 0:
            before, here = 0.99 * alphas[i], alphas[i]
            missed_before = entropy(updated(before).abs()).mean() - line[i]
            for _ in range(12):
                missed = entropy(updated(here).abs()).mean() - line[i]
                if abs(missed) < 1e-7 or missed == missed_before:
                    break
                step = missed * (here - before) / (missed - missed_before)
                before, missed_before, here = here, missed, (here - step).clamp(here / 3, here * 3)
            alphas[i] = here
        total = updated(alphas[i])
    return alphas
