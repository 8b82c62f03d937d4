r"""The default: the pretrained network as start and prior of EM, with label noise found by likelihood.

The network's rates m with standard errors s enter as if they were one more measurement: a Gamma law of mean m worth a
dwell time 2 m/s^2 (its squared errors are measured to be about half of s^2). That dwell time stops growing where the
network stops learning from more data, so EM rules in the end; as long as the network is as good as the posterior, the
two agree and nothing is lost. With little data the stated variance says less (the law is skew): the dwell time is at
least a hundred times b0, that of the network's training prior. Both numbers were chosen on the flashing ratchet
(benchmarks/jump_estimators.py). Where data contradict the network's rates, `estimation.fit_fim_em` does without it.

The network has seen the same data, so this prior counts them twice. Standard errors therefore do not use it: they come
from the likelihood and a prior of strength b0 only, worth half a jump at least. b0 = mean/variance of the training
rates, 4.6 per tenth of the length of a path (section 3: mean 0.314, variance 0.068 for paths of length 10).
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
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.windows import windows

TRAINING_DWELL = 0.46  # b0 over the length of a path: 0.314 / 0.068 / 10, moments of the training rates (section 3)
LEAST = 100.0  # dwell time that the network is worth at least, over b0
LEAST_JUMPS = 0.5  # of the prior of standard errors: with none, a rate near 0 has any error
CALIBRATION = 2.0  # stated variance over measured squared error
POINTS = 100  # longer paths are cut, as for the network
TESTED_PATHS = 300  # that label noise is looked for in
TRIAL_NOISE = 3e-3  # share of wrong labels whose likelihood is compared with that of none
NO_NOISE = 1e-9


def network_priors(found: Estimate, paths: Paths) -> tuple[GammaPrior, GammaPrior]:
    """Two Gamma priors with the network's rates as means: that of the fit, and the weaker one of standard errors.

    Args:
        found: The network's estimate: means and standard errors of rates.
        paths: The data.
    """
    off = ~np.eye(found.states, dtype=bool)
    mean = np.where(off, np.maximum(found.rates, 1e-9 * np.abs(found.rates).max()), 0.0)
    share = min(1.0, (POINTS - 1) / max(paths.times.shape[1] - 1, 1))
    b0 = np.where(off, TRAINING_DWELL * share * float((paths.times[:, -1] - paths.times[:, 0]).max()), 0.0)
    stated = CALIBRATION * mean / np.where(off, np.maximum(found.stderr, 1e-3 * mean), 1.0) ** 2
    dwell = np.maximum(stated, LEAST * b0)
    weaker = np.where(off, np.maximum(b0 * mean, LEAST_JUMPS), 0.0)
    return GammaPrior(dwell * mean, dwell), GammaPrior(weaker, b0)


def noise_test(paths: Paths, rates: np.ndarray, prior: GammaPrior, start: np.ndarray) -> float:
    """Gain in log-likelihood from letting labels be wrong, less the price log(n)/2 of the parameter; -inf if none.

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
    return maximise(model, theta(start, 0.05), 10, 0).value - none - 0.5 * np.log(paths.observations)
