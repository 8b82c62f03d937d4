r"""What is observed of a hidden chain: wrong labels or a noisy signal, with the M-step of each (section 10.5).

| emission | e(y given x) | parameters |
|---|---|---|
| `UniformNoise` | 1 - rho if y = x, else rho/(S - 1) | logit rho |
| `Confusion` | C_xy, rows sum to 1 | log C_xy - log C_xx for y != x |
| `Gaussian` | N(y; mean_x, deviation_x^2) | S means, S log-deviations |

Parameters are free vectors, so that L-BFGS and Hessians need no constraints.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.domains.jumps.counts import labelled
from sciflow.domains.jumps.data import Paths

FIRST_NOISE = 0.05  # share of wrong labels that an ascent starts from
LEAST_NOISE = 1e-9
NARROWEST = 1e-3  # smallest deviation of a level, in deviations of the whole signal


class Emission(ABC):
    """Likelihood of each observation in each state, and the parameters that fit given posteriors best."""

    @abstractmethod
    def start(self) -> Tensor:
        """First parameters (q,)."""

    @abstractmethod
    def log_likelihood(self, parameters: Tensor) -> Tensor:
        """log e(y | x) of every observation in every state: (K, L, S), without regard to padding."""

    @abstractmethod
    def update(self, posterior: Tensor) -> Tensor:
        """M-step: parameters (q,) from the posterior of the states (K, L, S), 0 at padding."""

    def log_prior(self, parameters: Tensor) -> Tensor:
        """Log-density of the parameters that `update` maximises together with the likelihood; none by default."""
        return parameters.new_zeros(())

    @abstractmethod
    def report(self, parameters: Tensor, posterior: Tensor) -> dict[str, Any]:
        """What the result says: `noise_rate`, `confusion`, `means`, `deviations`; posterior (K, L, S), 0 at padding."""


class UniformNoise(Emission):
    """A label is wrong with probability rho, then any of the others.

    "Replaced with probability p by a uniform state" is rho = p (S - 1)/S.
    """

    def __init__(self, paths: Paths) -> None:
        self.S = paths.states_count
        self.right = torch.nn.functional.one_hot(torch.from_numpy(labelled(paths)), self.S).bool()

    def start(self) -> Tensor:
        """First parameters (q,)."""
        return torch.logit(torch.tensor([FIRST_NOISE], dtype=torch.float64))

    def log_likelihood(self, parameters: Tensor) -> Tensor:
        """log e(y | x), (K, L, S)."""
        wrong = torch.nn.functional.logsigmoid(parameters) - np.log(max(self.S - 1, 1))
        return torch.where(self.right, torch.nn.functional.logsigmoid(-parameters), wrong)

    def update(self, posterior: Tensor) -> Tensor:
        """M-step, (q,)."""
        rho = 1 - (posterior * self.right).sum() / posterior.sum()
        return torch.logit(rho.clamp(LEAST_NOISE, 1 - LEAST_NOISE)).reshape(1)

    def report(self, parameters: Tensor, posterior: Tensor) -> dict[str, Any]:
        """The noise rate."""
        return {"noise_rate": float(parameters.sigmoid())}


class Confusion(Emission):
    """Every state has its own law of labels: a full confusion matrix C (S, S), rows true, columns seen.

    A fraction of a count on every entry keeps labels that were never seen possible.
    """

    PSEUDO = 0.01

    def __init__(self, paths: Paths) -> None:
        self.S = paths.states_count
        self.labels = torch.from_numpy(labelled(paths))
        self.right = torch.nn.functional.one_hot(self.labels, self.S).double()
        self.off = ~torch.eye(self.S, dtype=torch.bool)

    def start(self) -> Tensor:
        """First parameters (q,)."""
        return torch.full((self.S * (self.S - 1),), FIRST_NOISE / (1 - FIRST_NOISE) / (self.S - 1)).double().log()

    def log_matrix(self, parameters: Tensor) -> Tensor:
        """log C (S, S)."""
        odds = parameters.new_zeros(self.S * self.S).scatter(0, self.off.flatten().nonzero()[:, 0], parameters)
        return odds.reshape(self.S, self.S).log_softmax(1)

    def log_likelihood(self, parameters: Tensor) -> Tensor:
        """log e(y | x), (K, L, S)."""
        return self.log_matrix(parameters).T[self.labels]

    def update(self, posterior: Tensor) -> Tensor:
        """M-step, (q,)."""
        seen = torch.einsum("klx,kly->xy", posterior, self.right) + self.PSEUDO
        return (seen.log() - seen.diagonal().log()[:, None])[self.off]

    def log_prior(self, parameters: Tensor) -> Tensor:
        """Of `update`: pseudo-counts."""
        return self.PSEUDO * self.log_matrix(parameters).sum()

    def report(self, parameters: Tensor, posterior: Tensor) -> dict[str, Any]:
        """C, and the share of labels that differ from the state."""
        rate = 1 - (posterior * self.right).sum() / posterior.sum()
        return {"noise_rate": float(rate), "confusion": self.log_matrix(parameters).exp().numpy()}


class Gaussian(Emission):
    """A raw signal: a level and a width for each state.

    Args:
        paths: With a signal.
        means: (S,) first levels, increasing.
        deviations: (S,) first widths.

    Raises:
        UserError: A constant signal.
    """

    def __init__(self, paths: Paths, means: np.ndarray, deviations: np.ndarray) -> None:
        assert paths.signal is not None
        values = paths.signal[paths.mask]
        if values.std() <= 0:
            raise UserError(f"emission: the signal is constant ({values[0]:g}); levels cannot be told apart")
        self.signal = torch.from_numpy(paths.signal)
        self.narrowest = NARROWEST * float(values.std())
        self.first = np.asarray(means, float), np.maximum(deviations, self.narrowest)

    def start(self) -> Tensor:
        """First parameters (q,)."""
        means, deviations = self.first
        return torch.from_numpy(np.concatenate([means, np.log(deviations)]))

    def log_likelihood(self, parameters: Tensor) -> Tensor:
        """log e(y | x), (K, L, S)."""
        means, widths = parameters.chunk(2)
        z = (self.signal[..., None] - means) * (-widths).exp()
        return -0.5 * z.square() - widths - 0.5 * np.log(2 * np.pi)

    def update(self, posterior: Tensor) -> Tensor:
        """M-step, (q,)."""
        weight = posterior.sum((0, 1)).clamp_min(1e-12)
        means = (posterior * self.signal[..., None]).sum((0, 1)) / weight
        spread = (posterior * (self.signal[..., None] - means).square()).sum((0, 1)) / weight
        return torch.cat([means, 0.5 * spread.clamp_min(self.narrowest**2).log()])

    def report(self, parameters: Tensor, posterior: Tensor) -> dict[str, Any]:
        """Levels and widths."""
        means, widths = parameters.chunk(2)
        return {"means": means.numpy(), "deviations": widths.exp().numpy()}


EMISSIONS = ("noise", "confusion", "gaussian")


def first_emission(name: str, paths: Paths, states: int, seed: int = 0) -> tuple[Emission, Paths]:
    """An emission by name, and the paths with a first guess of their states.

    Args:
        name: "noise", "confusion", or "gaussian": levels from a mixture fit, each value's guess is the nearest level.
        paths: With labels, for "gaussian" with a signal.
        states: Number of levels.
        seed: Of the mixture fit.

    Raises:
        UserError: Another name, or paths that lack what it needs.
    """
    if name not in EMISSIONS:
        raise UserError(f"emission: got '{name}', expected one of {', '.join(EMISSIONS)}")
    if name != "gaussian":
        labelled(paths)
        return (UniformNoise(paths) if name == "noise" else Confusion(paths)), paths
    from sciflow.domains.jumps.labelling import emission_start, label

    if paths.signal is None:
        raise UserError('emission "gaussian": the paths hold labels and no signal; use emission "noise"')
    if states < 2:
        raise UserError('emission "gaussian": the number of states is not known; say e.g. states=2')
    guess = paths if paths.states is not None else label(paths, states, seed=seed)
    means, variances = emission_start(paths, states, seed)
    return Gaussian(paths, means, np.sqrt(variances)), guess
