r"""EM for hidden chains in continuous time: wrong labels or a raw signal on any grid (CT-HMM, section 10.5).

x ~ chain(F, p0), y_l ~ e(. | x(tau_l)). The marginal likelihood of all paths is one scaled forward recursion over time,
vectorised over paths, with P(D) gathered by the number of each step's lag; padding is steps of length 0. The backward
pass is the derivative of the forward one (`ascent`): dl/dF gives expected jumps and dwell times, dl/dlog e the
posterior of each state, p0 dl/dp0 that of the first ones.

Few long paths are multiplied together as a balanced tree of S x S products instead: log2(L) batched steps.
Parameters of the ascent: log-rates, then those of the emission, then logits of p0.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciflow.core.markov import generator
from sciflow.domains.jumps.counts import chain_matrices, lag_numbers
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import LOWEST, log_prior, rates_step, unpack
from sciflow.domains.jumps.emissions import Emission
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior

TREE_PATHS = 40  # up to so many paths a tree over time costs less than a loop over it


@dataclass(frozen=True, eq=False)
class Parameters:
    """Parameters of a hidden chain: generator (S, S), emission (q,), initial law (S,)."""

    F: Tensor
    emission: Tensor
    initial: Tensor


class Hidden:
    """Likelihood of a hidden chain (an `ascent.Likelihood`).

    Args:
        paths: What was observed.
        states: S.
        emission: How states are seen.
        prior: Of the rates.
        occupancy: (S,) law of the first state of paths that do not start from p0, and of one path added to p0;
            None: uniform.
        weight: Of the log-likelihood; below 1 for paths that repeat each other (sliding windows).
    """

    def __init__(
        self,
        paths: Paths,
        states: int,
        emission: Emission,
        prior: GammaPrior = NONE,
        occupancy: np.ndarray | None = None,
        weight: float = 1.0,
    ) -> None:
        self.weight = weight
        self.S, self.emission, self.prior = states, emission, prior
        self.lags, self.number = lag_numbers(paths)
        self.shared = bool((self.number == self.number[:1]).all())
        self.mask = torch.from_numpy(paths.mask)
        self.starts = torch.from_numpy(paths.starts)
        self.lowest = LOWEST / paths.duration
        law = np.full(states, 1 / states) if occupancy is None else 0.99 * occupancy + 0.01 / states
        self.occupancy = torch.from_numpy(law)

    def with_prior(self, prior: GammaPrior) -> Hidden:
        """The same likelihood with another prior."""
        other = copy(self)
        other.prior = prior
        return other

    def pack(self, rates: Tensor, emission: Tensor | None = None) -> Tensor:
        """theta of log-rates (S (S - 1),), emission parameters (None: their start) and p0 = the occupancy."""
        return torch.cat([rates, self.emission.start() if emission is None else emission, self.occupancy.log()])

    def split(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-rates, emission parameters, logits of p0."""
        edges = self.S * (self.S - 1)
        return theta[:edges], theta[edges : -self.S], theta[-self.S :]

    def parameters(self, theta: Tensor) -> Parameters:
        """What theta means."""
        rates, emission, initial = self.split(theta)
        return Parameters(generator(unpack(rates.exp(), self.S)), emission, initial.softmax(0))

    def loglik(self, F: Tensor, log_e: Tensor, initial: Tensor) -> Tensor:
        """Marginal log-likelihood of all paths, weighted.

        Args:
            F: Generator (S, S).
            log_e: (K, L, S) log e(y | x), 0 at padding.
            initial: p0 (S,).
        """
        top = log_e.detach().amax(-1, keepdim=True)
        first = torch.where(self.starts[:, None], initial, self.occupancy)
        P = chain_matrices(F, self.lags)
        product = _tree if len(log_e) <= TREE_PATHS else _loop
        return self.weight * (product(P, self.number, self.shared, first, (log_e - top).exp()) + top.sum())

    def value(self, theta: Tensor) -> Tensor:
        """Log-likelihood plus log-prior of theta (p,)."""
        now = self.parameters(theta)
        log_e = self.emission.log_likelihood(now.emission) * self.mask[..., None]
        return self.loglik(now.F, log_e, now.initial) + self._log_prior(theta)

    def _log_prior(self, theta: Tensor) -> Tensor:
        rates, emission, initial = self.split(theta)
        one_path = (self.occupancy * initial.log_softmax(0)).sum()
        return log_prior(rates, self.prior) + self.emission.log_prior(emission) + one_path

    def expectations(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Log-likelihood, dl/dF (S, S), posteriors (K, L, S), expected first states (S,), all weighted."""
        now = self.parameters(theta)
        log_e = (self.emission.log_likelihood(now.emission) * self.mask[..., None]).requires_grad_()
        F, initial = now.F.requires_grad_(), now.initial.requires_grad_()
        loglik = self.loglik(F, log_e, initial)
        slope, posterior, ratio = torch.autograd.grad(loglik, (F, log_e, initial))
        return loglik.detach(), slope, posterior * self.mask[..., None], initial.detach() * ratio

    def em_step(self, theta: Tensor) -> tuple[Tensor, float]:
        """Posteriors and expected jumps, then the parameters they give."""
        loglik, slope, posterior, first = self.expectations(theta)
        rates = rates_step(self.parameters(theta).F, slope, self.prior, self.lowest)
        emission = self.emission.update(posterior)
        following = torch.cat([rates, emission, (first + self.occupancy).log()])
        return following, float(loglik + self._log_prior(theta))


def _loop(P: Tensor, number: Tensor, shared: bool, first: Tensor, e: Tensor) -> Tensor:
    """Scaled forward recursion over time.

    The scales are constants of the derivative: they cancel in sum log c + log(sum alpha / prod c).

    Args:
        P: (n, S, S) by lag.
        number: (K, L - 1) of the lag of each step.
        shared: Whether all paths have the same grid.
        first: (K, S) law of the first state.
        e: (K, L, S) likelihood of the observations.
    """
    each = e.unbind(1)
    steps = P[number[0]].unbind(0) if shared else P[number.T.contiguous()].unbind(0)
    alpha, logs = first * each[0], e.new_zeros(len(e))
    for step, seen in zip(steps, each[1:], strict=True):
        scale = alpha.detach().sum(1, keepdim=True)
        logs = logs + scale[:, 0].log()
        alpha = alpha / scale
        alpha = (alpha @ step if shared else (alpha[:, None] @ step)[:, 0]) * seen
    return (logs + alpha.sum(1).log()).sum()


def _tree(P: Tensor, number: Tensor, shared: bool, first: Tensor, e: Tensor) -> Tensor:
    """The same as a product of the matrices P diag(e) in pairs, pairs of pairs, ... (arguments as `_loop`)."""
    product = P[number] * e[:, 1:, None, :]  # (K, L - 1, S, S)
    logs = e.new_zeros(len(e))
    while product.shape[1] > 1:
        odd = product[:, -1:] if product.shape[1] % 2 else None
        product = product[:, :-1:2] @ product[:, 1::2]
        scale = product.detach().amax((2, 3), keepdim=True)
        product, logs = product / scale, logs + scale.log().sum((1, 2, 3))
        product = product if odd is None else torch.cat([product, odd], 1)
    alpha = first * e[:, 0]
    if product.shape[1]:
        alpha = (alpha[:, None] @ product[:, 0])[:, 0]
    return (logs + alpha.sum(1).log()).sum()
