"""What `estimate` says beside the rates: labels with memory, scales below the lag, a network out of its depth."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import sciflow.jumps as jumps
from sciflow.core.errors import UserError
from sciflow.core.markov import generator, transition_matrices
from sciflow.domains.jumps import diagnostics, estimation
from sciflow.domains.jumps.counts import Transitions, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.gibbs import independent_draws
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior, weak_prior
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.windows import at_lag

THREE = generator(torch.tensor([[0, 1.0, 0.5], [0.3, 0, 0.2], [0.8, 0.4, 0]], dtype=torch.float64)).numpy()


def names(found: Estimate) -> set[str]:
    return {w.split(":")[0] for w in found.warnings}


def stands_in(monkeypatch: pytest.MonkeyPatch, rates: np.ndarray, *warnings: str, weight: float | None = None) -> None:
    """A network that says these rates, with that weight in the default method."""
    network = Estimate.of(rates, np.full(len(rates), 1 / len(rates)), "fim", warnings=warnings)
    monkeypatch.setattr(estimation, "network_rates", lambda request: network)
    if weight is not None:
        monkeypatch.setattr(estimation, "network_weight", lambda misfit, states: weight)


def flickering() -> tuple[Paths, Paths]:
    """Two slow states, and the same with labels that flip one time in ten."""
    slow = jumps.simulate([[0, 0.02], [0.02, 0]], 40, times=np.arange(400.0), seed=0)
    flicker = np.random.default_rng(0).random((40, 400)) < 0.1
    return slow, Paths.of(slow.times[0], np.where(flicker, 1 - slow.states, slow.states))  # type: ignore[operator]


# ------------------------------------------------------------ outside of the network's training


def test_network_outside_of_its_training_is_left_out(monkeypatch: pytest.MonkeyPatch):
    """The rates are em's to the last digit; the network's other warnings stay."""
    paths = jumps.simulate(THREE, 60, times=np.arange(40) * 0.1, seed=4)
    stands_in(monkeypatch, 3 * THREE, "fim-window: about 90 jumps", "odd: something else")
    found, own = jumps.estimate(paths), jumps.estimate(paths, "em")
    assert np.array_equal(found.rates, own.rates) and found.details["network_weight"] == 0
    assert names(found) == {"network left out", "odd"}
    stands_in(monkeypatch, 1.3 * THREE, "fim-states: 9 states")
    shrunk = jumps.estimate(paths)
    assert "fim-states" in names(shrunk) and not np.allclose(shrunk.rates, own.rates, rtol=1e-3)


@pytest.mark.parametrize("lag", [25.0, 50.0])
def test_alanine_at_long_lags(data_dir: Path, lag: float):
    """More jumps in a path than the network knows: 37.8 and 25.8 ps by shrinkage, where em has 22.9 and 4.6."""
    del data_dir
    paths = jumps.jump_set("alanine_dipeptide")
    found, own = jumps.estimate(paths, lag=lag), jumps.estimate(paths, "em", lag=lag)
    assert np.allclose(found.timescales(), own.timescales(), rtol=1e-6)
    assert {"network left out", "unresolved"} <= names(found)


# ------------------------------------------------------------ labels with memory


@pytest.mark.parametrize("method", ["em", "fim", "gibbs", "fim+em"])
def test_memory_is_found_at_any_lag(monkeypatch: pytest.MonkeyPatch, method: str):
    """Memory is found with the usual limit; a chain shows none within five deviations (false alarm 6e-7 each)."""
    draws = lambda seen, prior, start, seed: start[None].repeat(20, 0)  # noqa: E731  # gibbs: not needed
    monkeypatch.setattr(estimation, "sample_rates", draws)
    slow, noisy = flickering()
    for lag in (None, 2.0, 3.0):
        with monkeypatch.context() as strict:
            strict.setattr(diagnostics, "DEVIATIONS", 5.0)
            assert "lag-dependent" not in names(jumps.estimate(slow, method, lag=lag))
        found = names(jumps.estimate(noisy, method, lag=lag))
        assert ("label noise" if method == "fim+em" and lag is None else "lag-dependent") in found


def test_memory_of_real_labels(data_dir: Path):
    """The slow scale of alanine dipeptide grows until a lag of 5 ps, that of HP35 until 50 ns (section 8)."""
    del data_dir
    for name, lags in (
        ("alanine_dipeptide", {0.5: True, 1: True, 2.5: True, 10: False}),
        ("hp35_two_state", {10: True}),
    ):
        for lag, expected in lags.items():
            found = names(jumps.estimate(jumps.jump_set(name), "em", lag=lag))
            assert ("lag-dependent" in found) is expected, (name, lag)


@pytest.mark.parametrize(("lag", "rate"), [(1.0, 0.6), (5.0, 0.13)])
def test_chains_have_no_memory(lag: float, rate: float):
    """Twice the lag is two time scales. Changes over their error have a root mean square below 0.75 (measured, 25 sets
    of each of 24 kinds), so one set alarms with a probability below 0.008, and 4 of 15 with one below 6e-6."""
    seeds = np.random.default_rng(7).integers(1 << 30, size=15)
    F = [[0, rate], [0.6 * rate, 0]]
    sets = [jumps.simulate(F, 1, times=np.arange(600.0), seed=int(seed)) for seed in seeds]
    alarms = sum("lag-dependent" in names(jumps.estimate(one, "em", lag=lag)) for one in sets)
    assert alarms <= 3


def test_error_of_the_slowest_scale_is_that_of_frequencies():
    """Against 4000 draws of multinomial rows: the deviation of a deviation is 1/sqrt(8000), 4.42 of them are 5 %; 2 %
    more for the curvature of the log."""
    lag, counts = 0.7, np.array([900, 500, 700])
    P = transition_matrices(torch.from_numpy(THREE), torch.tensor([lag], dtype=torch.float64))[0].numpy()
    noise = np.random.default_rng(0)
    drawn = np.stack([noise.multinomial(n, row, 4000) / n for n, row in zip(counts, P, strict=True)], 1)
    values = np.sort(abs(np.linalg.eigvals(drawn)), 1)[:, 1]
    scales = -lag / np.log(values)
    assert diagnostics._error(THREE, counts, lag) == pytest.approx(np.log(scales).std(), rel=0.07)


def test_pairs_that_overlap_count_in_part(monkeypatch: pytest.MonkeyPatch):
    """2000 points at a lag of 5 spacings: 1990 pairs two lags apart, which are 199 independent ones."""
    caught: list[float] = []
    monkeypatch.setattr(diagnostics, "CHANGE", 0.0)
    monkeypatch.setattr(diagnostics, "_error", lambda F, counts, lag: caught.append(counts.sum()) or np.inf)
    paths = jumps.simulate([[0, 0.1], [0.1, 0]], 1, times=np.arange(2000.0), seed=0)
    jumps.estimate(paths, "em", lag=5.0)
    assert caught == [pytest.approx(199)]


# ------------------------------------------------------------ what is judged is the fit to the data alone


def test_shrinkage_is_no_memory(monkeypatch: pytest.MonkeyPatch):
    """A network that is quite wrong and believed entirely: the rates are its own, the labels still a chain's (1e-5)."""
    monkeypatch.setattr(diagnostics, "DOUBT", 1e-5)
    monkeypatch.setattr(diagnostics, "DEVIATIONS", 5.0)
    paths = jumps.simulate(THREE, 100, times=np.arange(60) * 0.2, seed=5)
    stands_in(monkeypatch, 2 * THREE, weight=0.9999)
    monkeypatch.setattr(estimation, "CONTRADICTION", 1.0)
    found = jumps.estimate(paths)
    assert np.allclose(found.rates, 2 * THREE, rtol=0.02)
    assert not names(found)


def test_unresolved_whatever_the_method(monkeypatch: pytest.MonkeyPatch):
    """A fast scale of a tenth of the lag; the network would have it slower than the lag."""
    F = np.array([[0, 0.1, 0.0], [0.05, 0, 5.0], [0.0, 5.0, 0]])
    slow = np.array([[0, 0.1, 0.0], [0.05, 0, 0.4], [0.0, 0.4, 0]])
    paths = jumps.simulate(F, 100, times=np.arange(30.0), seed=1)
    for method in ("em", "hmm_em", "fim", "fim+em"):
        stands_in(monkeypatch, slow, weight=0.9999)
        assert "unresolved" in names(jumps.estimate(paths, method)), method


@pytest.mark.slow
@pytest.mark.parametrize(("states", "count"), [(12, 300), (20, 100)])
def test_many_states_are_not_called_non_embeddable(monkeypatch: pytest.MonkeyPatch, states: int, count: int):
    """True chains, tested at 1e-5 and at five deviations; the library tests at 1e-3 and two."""
    monkeypatch.setattr(diagnostics, "DOUBT", 1e-5)
    monkeypatch.setattr(diagnostics, "DEVIATIONS", 5.0)
    noise = np.random.default_rng(states)
    F = noise.exponential(1, (states, states)) * (noise.random((states, states)) < 0.3)
    F[np.arange(states), (np.arange(states) + 1) % states] += 0.3
    found = jumps.estimate(jumps.simulate(F, count, times=np.linspace(0, 10, 101), seed=states))
    assert not names(found) & {"non-embeddable", "lag-dependent"}


# ------------------------------------------------------------ sliding windows, many states, padding


def test_gibbs_at_a_lag_has_whole_transitions(monkeypatch: pytest.MonkeyPatch):
    """All 49 transitions of one window of 2000 points at 40 spacings; shares of overlapping ones are no counts."""
    caught: list[Transitions] = []

    def caught_rates(seen: Transitions, prior: object, start: np.ndarray, seed: int) -> np.ndarray:
        caught.append(seen)
        return start[None].repeat(20, 0)

    monkeypatch.setattr(estimation, "sample_rates", caught_rates)
    F = np.random.default_rng(1).exponential(1, (8, 8))
    jumps.estimate(jumps.simulate(F, 1, times=np.arange(2000) * 0.05, seed=2), "gibbs", lag=2.0)
    (seen,) = caught
    assert torch.equal(seen.counts, seen.counts.round()) and float(seen.counts.sum()) == 49


def test_prior_at_a_lag_is_that_of_the_data(monkeypatch: pytest.MonkeyPatch):
    """Thinned paths hide exits; the default method and em have the same weak prior."""
    paths = jumps.simulate(THREE, 1, times=np.arange(4000) * 0.1, seed=3)
    stands_in(monkeypatch, THREE, "fim-window: outside")
    wanted = jumps.estimate(paths, "em", lag=2.0, prior=weak_prior(paths)).rates
    for method in ("fim+em", "em"):
        assert np.allclose(jumps.estimate(paths, method, lag=2.0).rates, wanted)
    more = jumps.estimate(paths, "em", lag=2.0, states=4)  # a state more than labels: the prior has its size, too
    assert more.rates.shape == (4, 4) and "never-visited" in names(more)


def test_refused_at_the_entrance():
    labels = np.arange(51)
    with pytest.raises(UserError, match="at most 50.*merge states"):
        jumps.estimate(Paths.of(np.arange(51.0), [labels]), "em")
    complete = Paths.of([[0.0, 2.0, 3.0]], [[0, 1, 1]], complete=True)
    with pytest.raises(UserError, match="complete paths have jumps and no lag"):
        jumps.estimate(complete, lag=1.0)
    assert jumps.estimate(Paths.of(np.arange(52.0), [[*labels, 50]], complete=True)).states == 51  # a closed form


def test_padding_costs_nothing():
    """One long path among short ones: counts as path by path, in less memory than one padded array has."""
    noise = np.random.default_rng(0)
    sizes = [20_000, *noise.integers(2, 10, 200)]
    labels = [noise.integers(0, 3, size) for size in sizes]
    paths = Paths.of([0.5 * np.arange(size) for size in sizes], labels, states_count=3)
    tracemalloc.start()
    seen = transitions(paths, 2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < paths.times.nbytes / 2
    wanted = np.zeros((3, 3))
    for path in labels:
        np.add.at(wanted, (path[:-2], path[2:]), 1)
    assert seen.lags.tolist() == [1.0] and np.array_equal(seen.total.numpy(), wanted)
    thinned, _ = at_lag(paths, 1.0)
    assert np.array_equal(transitions(thinned).total.numpy(), wanted)


# ------------------------------------------------------------ found by a review


def test_short_paths_at_their_own_length():
    """Nine observations, the lag as long as the path: one pair each, and the estimate is that of these pairs."""
    paths = jumps.simulate(THREE, 300, times=np.arange(9) * 0.1, seed=1)
    assert paths.states is not None
    ends = Paths.of(np.array([0.0, 0.8]), paths.states[:, [0, 8]], states_count=3)
    prior = GammaPrior(0.5, 0.3)
    at_lag, direct = jumps.estimate(paths, "em", lag=0.8, prior=prior), jumps.estimate(ends, "em", prior=prior)
    assert np.allclose(at_lag.rates, direct.rates, rtol=1e-3)
    assert np.allclose(at_lag.stderr, direct.stderr, rtol=1e-3)


def test_states_beyond_those_of_the_paths():
    """An estimate of five states judges paths of three."""
    paths = jumps.simulate(THREE, 50, times=np.arange(20) * 0.2, seed=2)
    found = jumps.estimate(paths, "em", states=5)
    assert found.ck_test(paths).predicted.shape[1:] == (5, 5)
    assert np.isfinite(found.hellinger(paths, sets=3).score)


def test_a_slow_sampler_says_so():
    """Draws that wander: an autoregression of coefficient .99 has about one in 200 independent draws."""
    noise = np.random.default_rng(0).normal(size=(400, 2, 2))
    assert independent_draws(noise) > 100
    walk = np.zeros_like(noise)
    for k in range(1, len(walk)):
        walk[k] = 0.99 * walk[k - 1] + noise[k]
    assert independent_draws(walk) < 20


def test_repeated_times_two_apart():
    """All pairs two observations apart have no lag: nothing to test, and em works."""
    times, states = [[0.0, 0.0, 0.0, 0.0], [0.0, 1.0], [0.0, 1.0]], [[0, 0, 0, 0], [0, 1], [1, 0]]
    assert np.isfinite(jumps.estimate(Paths.of(times, states, states_count=2), "em").rates).all()


def test_network_takes_no_prior():
    paths = jumps.simulate(THREE, 5, times=np.arange(20) * 0.2, seed=2)
    with pytest.raises(UserError, match="prior: got one with method fim"):
        jumps.estimate(paths, "fim", prior=NONE)
