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

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.stats import chi2
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.domains.jumps.ascent import EM_STEPS, Maximum, maximise
from sciflow.domains.jumps.counts import Transitions, first_states, labelled, occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.diagnostics import data_warnings, label_warnings, resolution_warning
from sciflow.domains.jumps.em import Labelled, pack, two_states, unpack
from sciflow.domains.jumps.emissions import first_emission
from sciflow.domains.jumps.fim_em import network_weight, noise_test, shrinkage_prior
from sciflow.domains.jumps.gibbs import independent_draws, sample_rates
from sciflow.domains.jumps.hidden_em import Hidden
from sciflow.domains.jumps.mle import mle
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior, weak_prior
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.uncertainty import observed_information
from sciflow.domains.jumps.windows import at_lag

HIDDEN_EM_STEPS = 60  # a step costs as much as one of L-BFGS and is safer
SLOWER = 1.1  # the second start has rates divided by e^1.1 = 3: changes of state are often wrong labels
CONTRADICTION = 0.999  # level of the test of the network's rates against the data
FEW_DRAWS = 20  # independent ones below which the samples of gibbs are no posterior
NO_JUMPS = 1e-6  # expected jumps below which a rate is reported as 0
OUTSIDE = "fim-window"  # the network's warning that forbids shrinkage; with more states than trained it still helps
MOST_STATES = 50  # the Hessian has (S (S - 1))^2 entries: half a minute at 50 states


@dataclass(frozen=True, eq=False)
class Request:
    """What an estimator gets.

    Attributes:
        paths: The data.
        prior: Of the rates, None: the default of the method.
        error_prior: The prior whose information counts in standard errors; None: `prior`.
        emission: Of `hmm_em`: "noise", "confusion" or "gaussian".
        states: S (of a signal).
        alone: (K,) bool, sliding windows that do not overlap, the first of each path; None: all paths.
        seed: Of anything random.
        weak: The prior where none is given: the weak one of the paths as they came. Paths thinned to a longer lag hide
            exits, and their prior would pull rates down. None: that of `paths`.
    """

    paths: Paths
    prior: GammaPrior | None = None
    error_prior: GammaPrior | None = None
    emission: str = "noise"
    states: int = 0
    seed: int = 0
    alone: np.ndarray | None = None
    weak: GammaPrior | None = None

    @property
    def rate_prior(self) -> GammaPrior:
        """The given prior, else the weak one."""
        return self.prior or self.weak or weak_prior(self.paths)

    @property
    def seen(self) -> Transitions:
        """Transitions by lag; overlapping ones count in part."""
        seen = transitions(self.paths)
        return Transitions(seen.lags, self.weight * seen.counts)

    @property
    def weight(self) -> float:
        """Of each transition: the share of those in windows that do not overlap, spacing / lag in long paths."""
        steps = self.paths.lengths - 1
        return 1.0 if self.alone is None else float(steps[self.alone].sum() / steps.sum())

    @property
    def apart(self) -> Paths:
        """Paths that do not overlap: the first sliding window of each, for what takes paths as independent."""
        return self.paths if self.alone is None else self.paths.take(self.alone)


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
    count = states or paths.states_count
    _check(paths, method, prior, emission, lag, count)
    if paths.states is not None and count != paths.states_count:
        paths = paths.with_count(count)
    weak = None if paths.states is None else weak_prior(paths)
    alone = None
    if lag is not None:
        paths, alone = at_lag(paths, lag)
    emission = emission or ("noise" if paths.states is not None else "gaussian")
    request = Request(paths, prior, None, emission, count, seed, alone, weak)
    result = METHODS[method](request)
    if paths.states is not None:
        result = replace(result, visited=occupancy(paths) > 0)
    return result.warned(*data_warnings(paths))


def _check(
    paths: Paths, method: str, prior: GammaPrior | None, emission: str | None, lag: float | None, count: int
) -> None:
    """Refuse what the method cannot use."""
    if method not in METHODS:
        raise UserError(f"method: got '{method}', expected one of {', '.join(METHODS)}")
    if paths.complete != (method == "mle"):
        raise UserError(
            f"method {method}: got paths observed {'completely' if paths.complete else 'on a grid'}; "
            + ('expected method "mle"' if paths.complete else "mle needs every jump (complete=True); use em or fim+em")
        )
    if paths.complete and lag is not None:
        raise UserError(f"lag: got {lag:g} with method mle; complete paths have jumps and no lag: leave it out")
    if prior is not None and method == "fim":
        raise UserError("prior: got one with method fim, whose network has its own; expected none, or method fim+em")
    if emission is not None and method != "hmm_em":
        raise UserError(f"emission: got '{emission}' with method {method}; expected none, or method hmm_em")
    if count > MOST_STATES and not paths.complete:
        raise UserError(
            f"estimate: got {count} states, expected at most {MOST_STATES} ({count * (count - 1)} rates and their "
            "errors would take minutes to days): merge states that are rare or exchange fast, or check that the labels "
            "are states and not values of a signal"
        )


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


def fit_em(request: Request, method: str = "em") -> Estimate:
    """Right labels on a grid."""
    result = _fit_labels(request, method)
    return result.warned(*_label_warnings(request, result))


def _fit_labels(request: Request, method: str, start: np.ndarray | None = None) -> Estimate:
    """EM; `start`: rates (S, S), None: transition frequencies."""
    seen, paths = request.seen, request.paths
    if seen.states == 2 and len(seen.lags) == 1 and request.prior is NONE:
        return _fit_two_states(request, seen, method)
    model = Labelled(seen, request.rate_prior)
    best = maximise(model, model.start() if start is None else _log_rates(start, model.lowest))
    firsts = first_states(paths)
    result = _estimate(request, method, model, best.theta, 0, firsts / firsts.sum())
    loglik = float(model.loglik(torch.from_numpy(result.rates))) + _first_loglik(paths, result.initial)
    return replace(result, loglik=loglik, values=tuple(best.values)).warned(*_unfinished(best))


def _fit_two_states(request: Request, seen: Transitions, method: str) -> Estimate:
    """The closed form of two states at one lag without a prior."""
    found = two_states(seen.counts[0], float(seen.lags[0]))
    model = Labelled(seen, NONE)
    rates = torch.tensor([found.forward, found.backward], dtype=torch.float64)
    firsts = first_states(request.paths)
    result = _estimate(request, method, model, rates.clamp_min(model.lowest).log(), 0, firsts / firsts.sum())
    loglik = float(model.loglik(torch.from_numpy(result.rates))) + _first_loglik(request.paths, result.initial)
    result = replace(result, loglik=loglik, values=(loglik,))
    if found.embeddable:
        return result
    return result.warned(
        f"non-embeddable: half or more of the labels change within one lag ({float(seen.lags[0]):g}); no chain of "
        "two states does that. The rates are a lower bound: use a shorter lag, or hmm_em for wrong labels"
    )


def _label_warnings(request: Request, fitted: Estimate) -> list[str]:
    """What the labels say against rates that were fitted to them alone; nothing more if no chain has them."""
    if any(sentence.startswith("non-embeddable") for sentence in fitted.warnings):
        return []
    return label_warnings(request.paths, request.seen, fitted.rates, request.rate_prior, request.weight)


def _unfinished(best: Maximum) -> list[str]:
    return [] if best.converged else ["not converged: the ascent stopped at its last step; the rates may still move"]


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
    states = request.states
    emission, guess = first_emission(request.emission, request.paths, states, request.seed)
    guessed = replace(request, paths=guess)
    model = Hidden(guess, states, emission, guessed.rate_prior, occupancy(guess), request.weight)
    labels = Labelled(guessed.seen, guessed.rate_prior)
    starts = [labels.start(), labels.start() - SLOWER] if start is None else [_log_rates(start, model.lowest)]
    ascents = [maximise(model, model.pack(start), 5, 0) for start in starts]
    first = max(ascents, key=lambda ascent: ascent.value)
    best = maximise(model, first.theta, em_steps)
    now = model.parameters(best.theta)
    loglik, _, posterior, _ = model.expectations(best.theta)
    report = emission.report(now.emission, posterior)
    result = _estimate(request, method, model, best.theta, states, now.initial.numpy(), **report)
    result = replace(result, loglik=float(loglik), values=(*first.values[:-1], *best.values))
    # No test at twice the lag: noise and rates are fitted together, wrong labels hide among pairs further apart, and
    # what changes with the lag has already gone into the noise. It would also cost a second fit, seconds to minutes.
    lags = model.lags[model.lags > 0]
    return result.warned(*_unfinished(best), *resolution_warning(float(lags.min()), result.rates, request.paths.unit))


def _log_rates(rates: np.ndarray, lowest: float) -> Tensor:
    return pack(torch.from_numpy(rates)).clamp_min(lowest).log()


def fit_gibbs(request: Request) -> Estimate:
    """Posterior samples, whose mean is the estimate; of sliding windows only one: bridges need whole transitions."""
    start = fit_em(request, "gibbs")
    draws = sample_rates(transitions(request.apart), request.rate_prior, start.rates, seed=request.seed)
    seen = Labelled(request.seen, request.rate_prior)
    loglik = float(seen.loglik(torch.from_numpy(draws.mean(0)))) + _first_loglik(request.paths, start.initial)
    apart = independent_draws(draws)
    slow = [f"not converged: of {len(draws)} draws of a rate only about {apart:.0f} are independent; use em"]
    return Estimate.of(
        draws.mean(0),
        start.initial,
        "gibbs",
        draws=draws,
        loglik=loglik,
        warnings=(*start.warnings, *(slow if apart < FEW_DRAWS else [])),
        unit=start.unit,
        names=start.names,
    )


def fit_fim(request: Request) -> Estimate:
    """The pretrained network alone; the labels are judged by rates fitted to them."""
    found = network_rates(request)
    fitted = Labelled(request.seen, request.rate_prior).fitted()
    return found.warned(*_label_warnings(request, replace(found, rates=fitted)))


def network_rates(request: Request) -> Estimate:
    """What the pretrained network says."""
    from sciflow.domains.jumps.amortised import infer_rates

    labelled(request.paths)
    return infer_rates(request.apart)


def fit_fim_em(request: Request) -> Estimate:
    """EM from the network's rates, and shrunk to them; with label noise in their place if the likelihood asks for it.

    A prior that was given is kept, and nothing is shrunk. The network is left out where paths have more or fewer jumps
    than it knows, and where the data contradict its rates: true ones would do worse in 1 of 1000 cases.
    """
    network, weak = network_rates(request), request.rate_prior
    left_out = [text.split(": ", 1)[1] for text in network.warnings if text.startswith(OUTSIDE)]
    start = None if left_out else network.rates
    own = _fit_labels(request, "fim+em", start)
    others = [text for text in network.warnings if not text.startswith(OUTSIDE)]
    if request.weight == 1 and noise_test(request.paths, own.rates, weak, own.rates if start is None else start) > 0:
        result = fit_hidden(request, "fim+em", EM_STEPS, start)
        return result.warned(
            *others,
            f"label noise: about {100 * (result.noise_rate or 0.0):.2g} % of the labels look wrong (visits too short "
            "for any rates); the fit allows for that. Labels with memory (recrossings) look the same: compare rates at "
            "longer lags. Method em takes labels as right",
        )
    found = [*_label_warnings(request, own), *others]
    if request.prior is not None:
        return own.warned(*found)
    fits = [float(Labelled(request.seen).loglik(torch.from_numpy(F))) for F in (own.rates, network.rates)]
    known = int((occupancy(request.paths) > 0).sum()) * (request.states - 1)  # nothing is known of unseen states
    misfit, most = 2 * (fits[0] - fits[1]), chi2.ppf(CONTRADICTION, known)
    if misfit > most and not left_out:
        left_out = [f"the data contradict its rates (misfit {misfit:.3g}, at most {most:.3g} expected)"]
    if left_out:
        found += [f"network left out: {reason}. Rates are those of method em" for reason in left_out]
        return replace(own, details={**own.details, "network_weight": 0.0}).warned(*found)
    weight = network_weight(misfit, known)
    prior = shrinkage_prior(network.rates, weight, request.apart, weak)
    result = _fit_labels(replace(request, prior=prior, error_prior=weak), "fim+em", start)
    return replace(result, details={**result.details, "network_weight": weight}).warned(*found)


METHODS = {
    "fim+em": fit_fim_em,
    "em": fit_em,
    "hmm_em": fit_hidden,
    "gibbs": fit_gibbs,
    "fim": fit_fim,
    "mle": fit_mle,
}
