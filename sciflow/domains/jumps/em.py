r"""EM for chains seen exactly on a grid: rates from N_ab(D), the transitions counted at each lag D (section 10.4).

log-likelihood = sum_D sum_ab N_ab(D) log P_ab(D) with P(D) = exp(F D). M-step:
F_ij <- (E n_ij + shape) / (E T_i + rate) (`GammaPrior`; 0 and 0 give maximum likelihood). Parameters of the ascent are
theta = log F_ij, off-diagonals row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciflow.core.markov import generator
from sciflow.domains.jumps.ascent import maximise
from sciflow.domains.jumps.counts import Transitions, chain_matrices
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior

SMALLEST = 1e-12  # of P: an impossible transition that was seen costs much, not infinitely much
LOWEST = 1e-10  # jumps per observed time: where rates that tend to 0 end


def pack(rates: Tensor) -> Tensor:
    """Off-diagonals of (S, S) row by row, (S (S - 1),)."""
    return rates[~torch.eye(len(rates), dtype=torch.bool)]


def pack_rows(matrix: np.ndarray) -> np.ndarray:
    """`pack` of numpy arrays."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def unpack(values: Tensor, states: int) -> Tensor:
    """Matrix (S, S) of those off-diagonals, 0 on the diagonal; can be differentiated."""
    place = (~torch.eye(states, dtype=torch.bool)).flatten().nonzero()[:, 0]
    return values.new_zeros(states * states).scatter(0, place, values).reshape(states, states)


@dataclass(frozen=True, eq=False)
class Labelled:
    """Likelihood of exactly observed labels (an `ascent.Likelihood`).

    Attributes:
        seen: Transitions by lag.
        prior: Of the rates.
    """

    seen: Transitions
    prior: GammaPrior = NONE

    def with_prior(self, prior: GammaPrior) -> Labelled:
        """The same likelihood with another prior."""
        return Labelled(self.seen, prior)

    @property
    def lowest(self) -> float:
        """Smallest rate that is told from 0."""
        return LOWEST / float((self.seen.counts.sum((1, 2)) * self.seen.lags).sum())

    def start(self) -> Tensor:
        """log of the transition frequencies over the lag, plus a little everywhere."""
        counts, lags = self.seen.counts, self.seen.lags
        time = (counts.sum(2) * lags[:, None]).sum(0)[:, None]  # a transition's time is given to its first state
        mean = float(pack(self.seen.total).sum() / time.sum())
        guess = (self.seen.total + 0.01) / (time + 0.01 / max(mean, self.lowest))
        return pack(guess).log()

    def fitted(self) -> np.ndarray:
        """The most likely rates (S, S) alone, without anything about their errors."""
        theta = maximise(self, self.start()).theta
        return generator(unpack(theta.exp(), self.seen.states)).numpy()

    def loglik(self, F: Tensor) -> Tensor:
        """Log-likelihood of the generator F (S, S)."""
        return (self.seen.counts * chain_matrices(F, self.seen.lags).clamp_min(SMALLEST).log()).sum()

    def value(self, theta: Tensor) -> Tensor:
        """Log-likelihood plus log-prior of log-rates (p,)."""
        return self.loglik(generator(unpack(theta.exp(), self.seen.states))) + log_prior(theta, self.prior)

    def em_step(self, theta: Tensor) -> tuple[Tensor, float]:
        """Expected jumps and dwell times, then the rates they give."""
        F = generator(unpack(theta.exp(), self.seen.states)).requires_grad_()
        value = self.loglik(F)
        (slope,) = torch.autograd.grad(value, F)
        value = value.detach() + log_prior(theta, self.prior)
        return rates_step(F.detach(), slope, self.prior, self.lowest), float(value)


def log_prior(theta: Tensor, prior: GammaPrior) -> Tensor:
    """Log-density of log-rates (p,), without its constant."""
    states = (1 + math.isqrt(1 + 4 * len(theta))) // 2
    shape, rate = map(pack, prior.tensors(states))
    return (shape * theta - rate * theta.exp()).sum()


def rates_step(F: Tensor, slope: Tensor, prior: GammaPrior, lowest: float) -> Tensor:
    """M-step: log-rates (p,) from the derivative of the log-likelihood with respect to the entries of F (S, S)."""
    shape, rate = prior.tensors(len(F))
    jumps, dwell = F * slope, slope.diagonal()[:, None]
    rates = (jumps.clamp_min(0) + shape) / (dwell.clamp_min(0) + rate).clamp_min(1e-300)
    unseen = (dwell + rate) <= 0  # a state never visited, and no prior: nothing is known
    return pack(torch.where(unseen, 0.0, rates)).clamp_min(lowest).log()


@dataclass(frozen=True)
class TwoStates:
    """Closed form of a two-state chain at one lag: rates and whether such a chain exists (embeddability)."""

    forward: float
    backward: float
    embeddable: bool


def two_states(counts: Tensor, lag: float) -> TwoStates:
    """Maximum-likelihood rates 0 -> 1 and 1 -> 0 from counts N_ab (2, 2) at one lag, without a prior.

    With p01 = N01/N0., p10 = N10/N1.: s = -log(1 - p01 - p10)/D, F01 = s p01/(p01 + p10). No chain has
    p01 + p10 >= 1; its boundary is infinitely fast switching with the law that maximises the likelihood.
    """
    rows = counts.sum(1)
    p01, p10 = (float(n / row) if row > 0 else 0.0 for n, row in ((counts[0, 1], rows[0]), (counts[1, 0], rows[1])))
    total = p01 + p10
    if total <= 0:
        return TwoStates(0.0, 0.0, True)
    if total < 1:
        speed = -math.log1p(-total) / lag
        return TwoStates(speed * p01 / total, speed * p10 / total, True)
    share = float(counts[:, 1].sum() / counts.sum())  # rows of P are equal there: the law of the later states
    speed = -math.log(BOUNDARY) / lag
    return TwoStates(speed * share, speed * (1 - share), False)


BOUNDARY = 1e-6  # slowest mode that is left after one lag at the boundary of embeddability
