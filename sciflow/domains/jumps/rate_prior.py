"""Gamma priors of rates: conjugate to jumps and dwell times, one for each edge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sciflow.domains.jumps.data import Paths

UNIT = 2.5  # the weak prior's unit of time is the length of a path divided by this (section 10.7)


@dataclass(frozen=True, eq=False)
class GammaPrior:
    """F_ij ~ Gamma(shape_ij, rate_ij): as if `shape` jumps had been seen in a dwell time `rate`.

    Modes are taken in log F, whose density is shape log F - rate F + const; the M-step of EM is then
    (E n_ij + shape) / (E T_i + rate), the posterior mean given complete data. shape = rate = 0 is no prior.

    Attributes:
        shape: (S, S) or a number, not negative.
        rate: (S, S) or a number, in the paths' unit of time, not negative.
    """

    shape: np.ndarray | float = 0.0
    rate: np.ndarray | float = 0.0

    def tensors(self, states: int) -> tuple[Tensor, Tensor]:
        """Shape and rate, (S, S) float64 each."""
        shape, rate = (np.broadcast_to(np.asarray(v, float), (states, states)) for v in (self.shape, self.rate))
        return torch.from_numpy(shape.copy()), torch.from_numpy(rate.copy())


NONE = GammaPrior()


def weak_prior(paths: Paths) -> GammaPrior:
    """Gamma(1/2, 1) in units of t_end/2.5, with t_end the longest path: cures the one-path case (section 10.7).

    The unit of state i is at most (S - 1) of its mean dwell times, at the upper end (95 %) of what the observed exits
    allow, so that the prior's half jump comes no later than the data's own. Without that, rates of a single long
    trajectory, whose t_end is all there is, or of a rare state would be pulled to 0.
    """
    unit = float((paths.times[:, -1] - paths.times[:, 0]).max()) / UNIT
    if paths.states is None:
        return GammaPrior(0.5, unit)
    before, S = paths.states[:, :-1], paths.states_count
    dwell = np.bincount(before.ravel(), np.diff(paths.times, axis=1).ravel(), minlength=S)
    exits = np.bincount(before[before != paths.states[:, 1:]], minlength=S)
    none = exits == 0  # such a state is taken as all others together
    dwell, exits = np.where(none, dwell.sum(), dwell), np.maximum(np.where(none, exits.sum(), exits), 1)
    longest = 2 * dwell / chi2.ppf(0.05, 2 * exits)  # 2 dwell / mean is chi-square with 2 exits degrees of freedom
    return GammaPrior(0.5, np.minimum(unit, (S - 1) * longest)[:, None])
