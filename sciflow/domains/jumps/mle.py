"""Completely observed paths: every jump and dwell time is known, so the rates have a closed form (section 10.3)."""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from sciflow.domains.jumps.counts import first_states, jumps_and_dwells, labelled
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import pack_rows
from sciflow.domains.jumps.rate_prior import GammaPrior
from sciflow.domains.jumps.result import Estimate


def mle(paths: Paths, prior: GammaPrior) -> Estimate:
    """F_ij = (n_ij + shape) / (T_i + rate), the posterior mean; without a prior the maximum of the likelihood n_ij/T_i.

    The posterior of F_ij is Gamma(n_ij + shape, T_i + rate): relative error 1/sqrt(n_ij + shape).

    Args:
        paths: `complete`.
        prior: Of the rates; `rate_prior.NONE` for none.
    """
    jumps, dwell = jumps_and_dwells(paths)
    shape, rate = (values.numpy() for values in prior.tensors(paths.states_count))
    events, time = jumps + shape, np.broadcast_to(dwell[:, None], jumps.shape) + rate
    rates = np.divide(events, time, out=np.zeros_like(events), where=time > 0)
    firsts = first_states(paths)
    initial = firsts / firsts.sum()
    seen = np.bincount(labelled(paths)[paths.starts, 0], minlength=paths.states_count)
    off = ~np.eye(paths.states_count, dtype=bool)
    loglik = float((xlogy(jumps, rates) - dwell[:, None] * rates)[off].sum() + xlogy(seen, initial).sum())
    edges = pack_rows(events)
    return Estimate.of(
        rates,
        initial,
        "mle",
        log_covariance=np.diag(np.divide(1.0, edges, out=np.zeros_like(edges), where=edges > 0)),
        slopes=np.where(edges > 0, 0.0, pack_rows(time)),
        loglik=loglik,
        unit=paths.unit,
        names=paths.names,
    )
