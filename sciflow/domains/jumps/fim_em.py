r"""The default: rates fitted by EM, shrunk to those of the pretrained network as far as the data let them be.

A positive-part estimate in the manner of James and Stein (Proc. 4th Berkeley Symp. 1961). With m the network's rates,
d the number of rates out of states that occur, and D = 2 (l(EM) - l(m)) the misfit of m, the network weighs w =
min(1, d/D). True rates have D = d in the mean where all are well away from 0 (Wilks), so rates as good as the truth
are believed, and worse ones lose their weight as 1/D. (James and Stein have d - 2, which protects from any m; ours
has seen the same data.) Where true rates are out of the question, `estimation.fit_fim_em` leaves the network out. The
weight enters as a Gamma prior of mean m, worth w/(1 - w) of the time that the data have spent in each state, beside
the weak prior of EM. The network has seen the same data, so standard errors do not use it.

`noise_test` asks the likelihood whether some labels are wrong.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from sciflow.domains.jumps.ascent import maximise
from sciflow.domains.jumps.counts import occupancy
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import pack
from sciflow.domains.jumps.emissions import UniformNoise
from sciflow.domains.jumps.hidden_em import Hidden
from sciflow.domains.jumps.rate_prior import GammaPrior
from sciflow.domains.jumps.windows import windows

MOST_WEIGHT = 0.9999  # of the network: w = 1 would be an infinite prior
POINTS = 100  # longer paths are cut, as for the network
TESTED_PATHS = 300  # that label noise is looked for in
TRIAL_NOISE = 3e-3  # share of wrong labels whose likelihood is compared with that of none
NO_NOISE = 1e-9
CHANCE_GAIN = 4.8  # half of the 0.998 quantile of chi-square: one parameter, zero at its boundary in half of all cases


def network_weight(misfit: float, known: int) -> float:
    """w = d/D for `known` rates and a misfit of any sign (EM has a prior; it may explain the data less well)."""
    return min(known / max(misfit, 1e-9), MOST_WEIGHT)


def shrinkage_prior(rates: np.ndarray, weight: float, paths: Paths, weak: GammaPrior) -> GammaPrior:
    """The prior that pulls rates to the network's.

    Args:
        rates: (S, S) of the network.
        weight: w, below 1.
        paths: The data.
        weak: Prior of EM; its dwell times are the least that the data's count for, so that rates out of states never
            seen are the network's, too.
    """
    off = ~np.eye(len(rates), dtype=bool)
    seen = occupancy(paths)
    spent = seen / seen.sum() * (paths.times[:, -1] - paths.times[:, 0]).sum()
    dwell = weight / (1 - weight) * np.maximum(spent[:, None], weak.rate)
    return GammaPrior(weak.shape + dwell * np.where(off, rates, 0.0), weak.rate + dwell)


def noise_test(paths: Paths, rates: np.ndarray, prior: GammaPrior, start: np.ndarray) -> float:
    """Gain in log-likelihood from letting labels be wrong, less what right ones would give in 1 of 1000 cases.

    -inf if there is none.

    A first look compares a few wrong labels with none at the fitted rates (two forward passes): wrong labels look like
    visits that are far too short. Only if that gains, the noise is fitted.

    Args:
        paths: The data; 300 paths or windows of 100 observations are looked at.
        rates: (S, S) fitted as if labels were right.
        prior: Of the rates.
        start: (S, S) rates to start the fit with noise from.
    """
    paths = windows(paths, POINTS) if paths.times.shape[1] > POINTS else paths
    if len(paths) > TESTED_PATHS:
        paths = paths.take(np.linspace(0, len(paths) - 1, TESTED_PATHS).astype(int))
    model = Hidden(paths, paths.states_count, UniformNoise(paths), prior, occupancy(paths))

    def theta(matrix: np.ndarray, noise: float) -> Tensor:
        edges = pack(torch.from_numpy(matrix)).clamp_min(model.lowest).log()
        return model.pack(edges, torch.logit(torch.tensor([noise], dtype=torch.float64)))

    with torch.no_grad():
        none, few = (float(model.value(theta(rates, noise))) for noise in (NO_NOISE, TRIAL_NOISE))
    if few < none:
        return -np.inf
    return maximise(model, theta(start, 0.05), 10, 0).value - none - CHANCE_GAIN
