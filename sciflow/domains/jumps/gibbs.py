"""Bridge Gibbs: posterior samples of rates from labels on a grid (section 10.6).

Given the rates, the hidden jumps between neighbouring observations are drawn exactly (endpoint-conditioned bridges by
uniformisation); given jumps n_ij and dwell times T_i, the rates are Gamma(n_ij + shape, T_i + rate) (Fearnhead &
Sherlock, J. R. Stat. Soc. B 68, 2006).
"""

from __future__ import annotations

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.markov import generator
from sciflow.core.noise import Fresh
from sciflow.core.uniformisation import bridges
from sciflow.domains.jumps.counts import Transitions
from sciflow.domains.jumps.rate_prior import GammaPrior

BATCHES = 10
SMALLEST_RATE = 1e-9  # of the mean rate: draws of Gamma laws with shape < 1 underflow


def sample_rates(
    seen: Transitions, prior: GammaPrior, start: np.ndarray, draws: int = 200, burn_in: int = 50, seed: int = 0
) -> np.ndarray:
    """Posterior samples of the rates, (draws, S, S).

    Args:
        seen: Transitions by lag, whole counts.
        prior: Proper: shape and rate positive.
        start: (S, S) rates to begin with.
        draws: Samples kept, one per sweep.
        burn_in: Sweeps before.
        seed: Of everything random.

    Raises:
        UserError: No prior.
    """
    shape, rate = prior.tensors(seen.states)
    if float(shape.min()) <= 0 or float(rate.min()) <= 0:
        raise UserError("gibbs: got a prior with shape or rate 0, expected positive ones (a proper posterior)")
    noise = np.random.default_rng(seed)
    lag, first, last = seen.counts.nonzero().T
    repeat = seen.counts[lag, first, last].long()
    lag, first, last = (index.repeat_interleave(repeat) for index in (lag, first, last))
    durations, fresh = seen.lags[lag], Fresh(seed)
    F = _positive(torch.from_numpy(np.asarray(start, float)))
    kept = []
    for sweep in range(burn_in + draws):
        jumps, dwell = bridges(F, first, last, durations, fresh).statistics(seen.states)
        drawn = noise.gamma((jumps.double() + shape).numpy(), 1 / (dwell[:, None].double() + rate).numpy())
        F = _positive(torch.from_numpy(drawn))
        if sweep >= burn_in:
            kept.append(F.numpy())
    return np.stack(kept)


def independent_draws(draws: np.ndarray) -> float:
    """Of samples (n, S, S), by batch means of the rate that mixes slowest: n for independent ones."""
    rates = draws[:, ~np.eye(draws.shape[-1], dtype=bool)]
    batches = rates[: len(rates) // BATCHES * BATCHES].reshape(BATCHES, -1, rates.shape[1]).mean(1)
    return float((BATCHES * rates.var(0) / np.maximum(batches.var(0, ddof=1), 1e-300)).min())


def _positive(rates: torch.Tensor) -> torch.Tensor:
    """Generator whose rates are all positive: every observed pair can be joined."""
    off = rates[~torch.eye(len(rates), dtype=torch.bool)]
    return generator(rates.clamp_min(SMALLEST_RATE * float(off.mean())))
