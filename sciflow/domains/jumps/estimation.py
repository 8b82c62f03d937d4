"""`estimate`: rates of a jump process from paths, by one of the methods of section 10 of the specification.

| method | data | what |
|---|---|---|
| mle | every jump known | closed form |
| em | right labels on any grid | EM on transition counts, then L-BFGS |
| hmm_em | wrong labels, or a raw signal | EM of the hidden chain; noise or levels are learned |
| gibbs | right labels | posterior samples by bridges |
| fim | labels | the pretrained network alone, no fitting |
| fim+em | labels | the network as start and prior of at most 20 EM steps (`fim_em`) |
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.domains.jumps.ascent import EM_STEPS, maximise
from sciflow.domains.jumps.counts import Transitions, first_states, labelled, occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.diagnostics import data_warnings, embeddability_warning, lag_warning, resolution_warning
from sciflow.domains.jumps.em import Labelled, pack, two_states, unpack
from sciflow.domains.jumps.emissions import Confusion, Emission, Gaussian, UniformNoise
from sciflow.domains.jumps.fim_em import network_weight, noise_test, shrinkage_prior
from sciflow.domains.jumps.gibbs import sample_rates
from sciflow.domains.jumps.hidden_em import Hidden
from sciflow.domains.jumps.mle import mle
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior, weak_prior
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.uncertainty import observed_information
from sciflow.domains.jumps.windows import at_lag

HIDDEN_EM_STEPS = 60  # a step costs as much as one of L-BFGS and is safer
SLOWER = 1.1  # the second start has rates divided by e^1.1 = 3: changes of state are often wrong labels
CONTRADICTION = 0.999  # level of the test of the network's rates against the data
NO_JUMPS = 1e-6  # expected jumps below which a rate is reported as 0


@dataclass(frozen=True, eq=False)
class Request:
    """What an estimator gets.

    Attributes:
        paths: The data.
        prior: Of the rates, None: the default of the method.
        error_prior: The prior whose information counts in standard errors; None: `prior`.
        emission: Of `hmm_em`: "noise", "confusion" or "gaussian".
        states: S (of a signal).
        shifts: By how many sliding windows each observation is counted.
        seed: Of anything random.
    """

    paths: Paths
    prior: GammaPrior | None = None
    error_prior: GammaPrior | None = None
    emission: str = "noise"
    states: int = 0
    shifts: int = 1
    seed: int = 0

    @property
    def rate_prior(self) -> GammaPrior:
        """The given prior, else the weak one of the paths."""
        return weak_prior(self.paths) if self.prior is None else self.prior

    @property
    def seen(self) -> Transitions:
        """Transitions by lag; overlapping ones count in part."""
        seen = transitions(self.paths)
        return Transitions(seen.lags, seen.counts / self.shifts)

    @property
    def apart(self) -> Paths:
        """Paths that do not overlap: the first sliding window of each, for what takes paths as independent."""
        return self.paths if self.shifts == 1 else self.paths.take(slice(None, None, self.shifts))


def estimate(
    paths: Paths,
    method: str | None = None,
    *,
    prior: GammaPrior | None = None,
    emission: str | None = None,
    states: int | None = None,
    lag: float | None = None,
    seed: int = 0,
) -> Estimate:
    """Rates of a jump process with uncertainty.

    Args:
        paths: Observations; see `Paths.of`.
        method: See the module's table; None: "mle" if every jump is known, else "hmm_em" for a raw signal, else
            "fim+em".
        prior: Of the rates; None: the weak Gamma prior of section 10.7 (`fim+em`: the network's). `rate_prior.NONE`
            gives maximum likelihood.
        emission: For "hmm_em": "noise" (one share of wrong labels), "confusion" (a full matrix), "gaussian" (a signal
            with a level and width per state); None: "noise" with labels, "gaussian" without.
        states: Number of states, needed for a signal without labels.
        lag: Look at the paths every `lag` only (sliding windows), for labels with memory; None: as they are.
        seed: Of clustering and sampling.

    Raises:
        UserError: Unknown method, data that the method cannot use.
    """
    if not isinstance(paths, Paths):
        raise UserError(
            f"estimate: got {type(paths).__name__}, expected Paths: Paths.of(times, states) for lists and arrays, "
            "read_paths(source) for files and tables"
        )
    method = method or ("mle" if paths.complete else "hmm_em" if paths.states is None else "fim+em")
    if method not in METHODS:
        raise UserError(f"method: got '{method}', expected one of {', '.join(METHODS)}")
    if paths.complete != (method == "mle"):
        raise UserError(
            f"method {method}: got paths observed {'completely' if paths.complete else 'on a grid'}; "
            + ('expected method "mle"' if paths.complete else "mle needs every jump (complete=True); use em or fim+em")
        )
    shifts = 1
    if lag is not None:
        prior = weak_prior(paths) if prior is None and paths.states is not None and method != "fim+em" else prior
        paths, shifts = at_lag(paths, lag)
    count = states or paths.states_count
    if paths.states is not None and count > paths.states_count:
        paths = paths.with_states(paths.states, count)
    if emission is not None and method != "hmm_em":
        raise UserError(f"emission: got '{emission}' with method {method}; expected none, or method hmm_em")
    emission = emission or ("noise" if paths.states is not None else "gaussian")
    request = Request(paths, prior, None, emission, count, shifts, seed)
    result = METHODS[method](request)
    return result.warned(*data_warnings(paths))


def fit_mle(request: Request) -> Estimate:
    """Completely observed paths; rows that are no jumps show that they may not be."""
    result, paths = mle(request.paths, request.rate_prior), request.paths
    states = labelled(paths)
    inner = np.arange(2, states.shape[1] + 1) < paths.lengths[:, None]  # the last row of a path ends its observation
    still = int(((states[:, 1:] == states[:, :-1])[:, :-1] & inner[:, :-1]).sum()) if states.shape[1] > 1 else 0
    if not still:
        return result
    return result.warned(
        f"not jumps: {still} rows repeat the state before them; mle takes every row as a jump (time of entry, state). "
        "Paths observed on a grid have jumps between rows, which mle misses: rates come out too small; use em"
    )


def fit_em(request: Request, method: str = "em", em_steps: int = EM_STEPS, start: np.ndarray | None = None) -> Estimate:
    """Right labels on a grid; `start`: rates (S, S), None: transition frequencies."""
    seen, paths = request.seen, request.paths
    if seen.states == 2 and len(seen.lags) == 1 and request.prior is NONE:
        return _fit_two_states(request, seen)
    model = Labelled(seen, request.rate_prior)
    best = maximise(model, model.start() if start is None else _log_rates(start, model.lowest), em_steps)
    firsts = first_states(paths)
    result = _estimate(request, method, model, best.theta, 0, firsts / firsts.sum())
    loglik = float(model.loglik(torch.from_numpy(result.rates))) + _first_loglik(paths, result.initial)
    result = replace(result, loglik=loglik, values=tuple(best.values))
    return _checked(result, request, seen, best.converged)


def _fit_two_states(request: Request, seen: Transitions) -> Estimate:
    """The closed form of two states at one lag without a prior."""
    found = two_states(seen.counts[0], float(seen.lags[0]))
    model = Labelled(seen, NONE)
    rates = torch.tensor([found.forward, found.backward], dtype=torch.float64)
    firsts = first_states(request.paths)
    result = _estimate(request, "em", model, rates.clamp_min(model.lowest).log(), 0, firsts / firsts.sum())
    loglik = float(model.loglik(torch.from_numpy(result.rates))) + _first_loglik(request.paths, result.initial)
    result = replace(result, loglik=loglik, values=(loglik,))
    if not found.embeddable:
        return result.warned(
            f"non-embeddable: half or more of the labels change within one lag ({float(seen.lags[0]):g}); no chain of "
            "two states does that. The rates are a lower bound: use a shorter lag, or hmm_em for wrong labels"
        )
    return _checked(result, request, seen, True)


def _checked(result: Estimate, request: Request, seen: Transitions, converged: bool) -> Estimate:
    found = [] if converged else ["not converged: the ascent stopped at its last step; the rates may still move"]
    found += resolution_warning(seen, result)
    if request.shifts == 1:  # tests of significance need independent counts
        found += embeddability_warning(seen, result.rates) + lag_warning(request.paths, result)
    return result.warned(*found)


def _estimate(
    request: Request,
    method: str,
    model: Labelled | Hidden,
    theta: Tensor,
    fixed: int,
    initial: np.ndarray,
    **others: Any,
) -> Estimate:
    """Result at the maximum `theta` of `model`, with standard errors; `fixed` logits of p0 at the end."""
    states = request.states
    edges = states * (states - 1)
    point = theta
    if request.error_prior is not None:
        model = model.with_prior(request.error_prior)
        point = maximise(model, theta).theta
    information = observed_information(model.value, point, edges, fixed)
    rates = theta[:edges].exp()
    nothing = rates * request.paths.duration < NO_JUMPS
    result = Estimate.of(
        unpack(torch.where(nothing, 0.0, rates), states).numpy(),
        initial,
        method,
        log_covariance=information.covariance.numpy(),
        slopes=information.slope.numpy(),
        unit=request.paths.unit,
        names=request.paths.names or tuple(map(str, range(states))),
        **others,
    )
    if information.identified:
        return result
    return result.warned("not identified: the data leave some rates open; their standard errors are only large")


def _first_loglik(paths: Paths, initial: np.ndarray) -> float:
    """log p0 of the first states of paths that begin there."""
    return float(np.log(initial[labelled(paths)[paths.starts, 0]]).sum())


def fit_hidden(
    request: Request, method: str = "hmm_em", em_steps: int = HIDDEN_EM_STEPS, start: np.ndarray | None = None
) -> Estimate:
    """Wrong labels or a raw signal; `start`: rates (S, S), None: the better of two guesses after five steps."""
    if request.emission not in EMISSIONS:
        raise UserError(f"emission: got '{request.emission}', expected one of {', '.join(EMISSIONS)}")
    emission, guess = EMISSIONS[request.emission](request)
    states = request.states
    guessed = replace(request, paths=guess)
    model = Hidden(guess, states, emission, guessed.rate_prior, occupancy(guess), 1 / request.shifts)
    labels = Labelled(guessed.seen, guessed.rate_prior)
    starts = [labels.start(), labels.start() - SLOWER] if start is None else [_log_rates(start, model.lowest)]
    ascents = [maximise(model, model.pack(start), 5, 0) for start in starts]
    first = max(ascents, key=lambda ascent: ascent.value)
    best = maximise(model, first.theta, em_steps)
    now = model.parameters(best.theta)
    result = _estimate(request, method, model, best.theta, states, now.initial.numpy(), **emission.report(now.emission))
    loglik = float(model.expectations(best.theta)[0])
    result = replace(result, loglik=loglik, values=(*first.values[:-1], *best.values))
    if not best.converged:
        result = result.warned("not converged: the ascent stopped at its last step; the rates may still move")
    return result


def _log_rates(rates: np.ndarray, lowest: float) -> Tensor:
    return pack(torch.from_numpy(rates)).clamp_min(lowest).log()


def _noise(request: Request) -> tuple[Emission, Paths]:
    labelled(request.paths)
    return UniformNoise(request.paths), request.paths


def _confusion(request: Request) -> tuple[Emission, Paths]:
    labelled(request.paths)
    return Confusion(request.paths), request.paths


def _gaussian(request: Request) -> tuple[Emission, Paths]:
    """Levels from a mixture fit; labels of the nearest level are the first guess of the states."""
    from sciflow.domains.jumps.labelling import emission_start, label

    if request.states < 2:
        raise UserError('emission "gaussian": the number of states is not known; say e.g. states=2')
    paths = request.paths
    guess = paths if paths.states is not None else label(paths, request.states, seed=request.seed)
    means, variances = emission_start(paths, request.states, request.seed)
    return Gaussian(paths, means, np.sqrt(variances)), guess


EMISSIONS: dict[str, Callable[[Request], tuple[Emission, Paths]]] = {
    "noise": _noise,
    "confusion": _confusion,
    "gaussian": _gaussian,
}


def fit_gibbs(request: Request) -> Estimate:
    """Posterior samples; the estimate is their mean."""
    start = fit_em(request, "gibbs")
    draws = sample_rates(request.seen, request.rate_prior, start.rates, seed=request.seed)
    seen = Labelled(request.seen, request.rate_prior)
    loglik = float(seen.loglik(torch.from_numpy(draws.mean(0)))) + _first_loglik(request.paths, start.initial)
    return Estimate.of(
        draws.mean(0),
        start.initial,
        "gibbs",
        draws=draws,
        loglik=loglik,
        warnings=start.warnings,
        unit=start.unit,
        names=start.names,
    )


def fit_fim(request: Request) -> Estimate:
    """The pretrained network alone."""
    from sciflow.domains.jumps.amortised import infer_rates

    labelled(request.paths)
    return infer_rates(request.apart)


def fit_fim_em(request: Request) -> Estimate:
    """EM from the network's rates, and shrunk to them; with label noise in their place if the likelihood asks for it.

    A prior that was given is kept, and nothing is shrunk.
    """
    network = fit_fim(request)
    result, weak = fit_em(request, "fim+em", EM_STEPS, network.rates), request.rate_prior
    if request.shifts == 1 and noise_test(request.paths, result.rates, weak, network.rates) > 0:
        result = fit_hidden(request, "fim+em", EM_STEPS, network.rates)
        return result.warned(
            f"label noise: about {100 * (result.noise_rate or 0.0):.2g} % of the labels look wrong (visits too short "
            "for any rates); the fit allows for that. Method em takes labels as right"
        )
    if request.prior is not None:
        return result
    fits = [float(Labelled(request.seen).loglik(torch.from_numpy(F))) for F in (result.rates, network.rates)]
    misfit = 2 * (fits[0] - fits[1])
    weight = network_weight(misfit, request.states)
    prior = shrinkage_prior(network.rates, weight, request.apart, weak)
    result = fit_em(replace(request, prior=prior, error_prior=weak), "fim+em", EM_STEPS, network.rates)
    result = replace(result, details={**result.details, "network_weight": weight})
    if misfit < chi2.ppf(CONTRADICTION, request.states * (request.states - 1)):
        return result
    return result.warned(f"network doubted: the data contradict its rates, which weigh {100 * weight:.2g} %")


METHODS: dict[str, Callable[[Request], Estimate]] = {
    "fim+em": fit_fim_em,
    "em": fit_em,
    "hmm_em": fit_hidden,
    "gibbs": fit_gibbs,
    "fim": fit_fim,
    "mle": fit_mle,
}
