"""What paths say about a chain: transitions by lag, dwell times and jumps, first states.

Labels on a grid enter the likelihood only through N_ab(D), the number of times that b follows a at distance D
(section 10.4 of the specification of FIM-MJP); completely observed paths through the jumps n_ij and dwell times T_i.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.markov import distinct_lags, transition_matrices
from sciflow.core.uniformisation import uniformised
from sciflow.domains.jumps.data import Paths

FEW_LAGS = 40  # up to here matrix exponentials one by one are cheaper than powers of the uniformised chain
MOST_EVENTS = 500.0  # of the uniformised chain in the longest lag; beyond that matrix exponentials


@dataclass(frozen=True, eq=False)
class Transitions:
    """Lags (n,) float64, all positive, and the number of transitions a -> b at each: (n, S, S) float64."""

    lags: Tensor
    counts: Tensor

    @property
    def states(self) -> int:
        """S."""
        return self.counts.shape[-1]

    @property
    def total(self) -> Tensor:
        """N_ab over all lags, (S, S)."""
        return self.counts.sum(0)


def lag_numbers(paths: Paths, stride: int = 1) -> tuple[Tensor, Tensor]:
    """Distinct steps between observations `stride` places apart (n,), and the number of each step's value (K, ...).

    Lag 0 comes first when it occurs: padding and repeated observations are steps of length 0.
    """
    times = torch.from_numpy(paths.times)
    shared = len(times) > 1 and bool((times == times[:1]).all())
    times = times[:1] if shared else times
    lags, number = distinct_lags(times[:, stride:] - times[:, :-stride])
    return lags, number.expand(len(paths), -1)


def labelled(paths: Paths) -> np.ndarray:
    """The states (K, L).

    Raises:
        UserError: There are none, or fewer than two.
    """
    if paths.states is None:
        raise UserError(
            "estimate: the paths hold a signal and no states; label it (sciflow.domains.jumps.labelling.label) or use "
            'method "hmm_em" with emission="gaussian" and the number of states'
        )
    if paths.states_count < 2:
        raise UserError(
            f"estimate: one-state data, all {paths.observations} observations carry the same label and "
            "states_count is 1; a rate matrix needs at least 2 states (say states_count=2 if another one exists)"
        )
    return paths.states


def transitions(paths: Paths, stride: int = 1) -> Transitions:
    """Transitions by lag between neighbouring observations, or between those `stride` places apart (overlapping).

    Raises:
        UserError: No path has two observations at different times.
    """
    states, S = labelled(paths), paths.states_count
    before, after = states[:, :-stride], states[:, stride:]
    if (paths.lengths < states.shape[1]).any():  # few long paths among short ones are mostly padding
        real, times = paths.mask[:, stride:], paths.times
        lags, steps = distinct_lags(torch.from_numpy(times[:, stride:][real] - times[:, :-stride][real]))
        number, before, after = steps.numpy(), before[real], after[real]
    else:
        lags, steps = lag_numbers(paths, stride)
        number = steps.numpy()
    if not lags.numel() or float(lags[-1]) <= 0:
        raise UserError(
            f"estimate: all {len(paths)} paths have a single observation; rates need two, at different times"
        )
    code = (number * S + before) * S + after
    counts = torch.from_numpy(np.bincount(code.ravel(), minlength=len(lags) * S * S).reshape(-1, S, S)).double()
    kept = lags > 0
    return Transitions(lags[kept], counts[kept])


def jumps_and_dwells(paths: Paths) -> tuple[np.ndarray, np.ndarray]:
    """Jumps n_ij (S, S) and dwell times T_i (S,) of completely observed paths."""
    states, S = labelled(paths), paths.states_count
    before, after = states[:, :-1], states[:, 1:]
    dwell = np.bincount(before.ravel(), np.diff(paths.times, axis=1).ravel(), minlength=S)
    moved = before != after
    return np.bincount(before[moved] * S + after[moved], minlength=S * S).reshape(S, S).astype(float), dwell


def occupancy(paths: Paths) -> np.ndarray:
    """Share of the observations in each state, (S,)."""
    states = labelled(paths)
    counts = np.bincount(states[paths.mask], minlength=paths.states_count)
    return counts / counts.sum()


def first_states(paths: Paths) -> np.ndarray:
    """Number of paths that begin in each state (S,), plus one path spread as the occupancy.

    Only paths whose first observation is a draw of p0 count; the extra one keeps p0 away from 0 in small data.
    """
    return np.bincount(labelled(paths)[paths.starts, 0], minlength=paths.states_count) + occupancy(paths)


def chain_matrices(F: Tensor, lags: Tensor) -> Tensor:
    """P(D) = exp(F D) of each lag: (n, S, S); can be differentiated twice.

    Many lags (every interval its own) share the powers of the uniformised chain.
    """
    events = float(-F.detach().diagonal().min() * lags.max())
    return uniformised(F, lags) if len(lags) > FEW_LAGS and events < MOST_EVENTS else transition_matrices(F, lags)
