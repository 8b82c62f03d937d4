"""`estimate`: closed forms, standard errors, posterior samples, warnings; the network as start and prior."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import sciflow.jumps as jumps
from sciflow.core.errors import UserError
from sciflow.core.markov import generator, timescales, transition_matrices
from sciflow.domains.jumps import estimation
from sciflow.domains.jumps.counts import Transitions, occupancy, transitions
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.diagnostics import resolution_warning
from sciflow.domains.jumps.em import Labelled, pack, pack_rows
from sciflow.domains.jumps.fim_em import network_weight, noise_test, shrinkage_prior
from sciflow.domains.jumps.gibbs import sample_rates
from sciflow.domains.jumps.mle import mle
from sciflow.domains.jumps.rate_prior import NONE, GammaPrior, weak_prior
from sciflow.domains.jumps.result import Estimate
from sciflow.domains.jumps.uncertainty import observed_information

THREE = np.array([[0, 1.0, 0.5], [0.3, 0, 0.0], [0.8, 0.4, 0]])


def names(found: Estimate) -> set[str]:
    return {w.split(":")[0] for w in found.warnings}


def rmse(rates: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(np.square(pack_rows(rates) - pack_rows(truth)).mean()))


# ------------------------------------------------------------ every jump known


def test_mle_by_hand():
    """One path: 0 for 2, 1 for 1, 0 for 0.5, then 1 at the end: n01 = 2, n10 = 1, T = 2.5 and 1."""
    paths = Paths.of([[0.0, 2.0, 3.0, 3.5]], [[0, 1, 0, 1]], complete=True)
    found = mle(paths, NONE)
    assert found.rates[0, 1] == pytest.approx(2 / 2.5)
    assert found.rates[1, 0] == pytest.approx(1 / 1.0)
    assert found.stderr[0, 1] == pytest.approx(np.sqrt(2) / 2.5)
    start = found.initial[0]
    assert found.loglik == pytest.approx(np.log(start) + 2 * np.log(0.8) - 2.5 * 0.8 + np.log(1.0) - 1.0)
    prior = mle(paths, GammaPrior(0.5, 1.0))
    assert prior.rates[0, 1] == pytest.approx(2.5 / 3.5)
    assert prior.stderr[0, 1] == pytest.approx(np.sqrt(2.5) / 3.5)


def test_simulated_jumps_give_the_rates_back():
    """600 Gillespie paths; every rate within 4.42 standard errors, absent edges exactly 0 with a finite bound."""
    paths = jumps.simulate(THREE, 600, end=5.0, seed=1)
    found = jumps.estimate(paths, prior=NONE)
    assert found.method == "mle"
    assert (abs(pack_rows(found.rates - THREE)) <= 4.42 * pack_rows(found.stderr)).all()
    assert found.rates[1, 2] == 0
    low, high = found.intervals(0.95)
    assert low[1, 2] == 0 and 0 < high[1, 2] < 0.05


# ------------------------------------------------------------ uncertainty


def test_information_is_the_hessian():
    """Against central differences of the gradient."""
    F = generator(torch.from_numpy(THREE) + 0.1)
    lags = torch.tensor([0.5], dtype=torch.float64)
    model = Labelled(Transitions(lags, 200 * transition_matrices(F, lags)))
    theta = pack(F).log()

    def gradient(at: torch.Tensor) -> torch.Tensor:
        free = at.clone().requires_grad_()
        return torch.autograd.grad(model.value(free), free)[0]

    steps = 1e-5 * torch.eye(6, dtype=torch.float64)
    hessian = torch.stack([(gradient(theta + s) - gradient(theta - s)) / 2e-5 for s in steps])
    found = observed_information(model.value, theta, 6)
    assert found.identified and not found.at_zero.any()
    assert torch.allclose(torch.linalg.inv(-hessian), found.covariance, rtol=1e-5)


def test_errors_tend_to_those_of_complete_data():
    """A lag far below the holding times hides nothing: relative errors are 1/sqrt(n_ij)."""
    lags = torch.tensor([1e-3], dtype=torch.float64)
    F = generator(torch.from_numpy(THREE) + 0.1)
    counts = 1e6 * transition_matrices(F, lags)
    model = Labelled(Transitions(lags, counts))
    found = observed_information(model.value, pack(F).log(), 6)
    assert torch.allclose(found.covariance.diagonal(), 1 / pack(counts[0]), rtol=5e-3)


@pytest.mark.slow
def test_coverage_of_intervals():
    """90 % intervals over 24 data sets: 144 rates, share between .77 and .995 (binomial, false alarm 1e-5)."""
    hits = []
    truth = THREE + 0.2
    for seed in range(24):
        paths = jumps.simulate(truth, 30, times=np.arange(30) * 0.3, seed=seed)
        low, high = jumps.estimate(paths, "em").intervals(0.9)
        hits.append(pack_rows((low <= truth) & (truth <= high)))
    assert 0.77 <= np.mean(hits) <= 0.995


@pytest.mark.slow
def test_gibbs_agrees_with_the_information():
    """Posterior mean and deviation of bridge Gibbs against EM with the same prior: half a deviation."""
    paths = jumps.simulate(THREE + 0.2, 100, times=np.arange(20) * 0.5, seed=3)
    sampled, fitted = jumps.estimate(paths, "gibbs"), jumps.estimate(paths, "em")
    assert sampled.draws is not None and sampled.draws.shape == (200, 3, 3)
    error = pack_rows(fitted.stderr)
    assert (abs(pack_rows(sampled.rates - fitted.rates)) < 0.5 * error).all()  # 200 correlated draws
    assert np.allclose(pack_rows(sampled.stderr), error, rtol=0.35)
    low, high = sampled.intervals(0.9)
    assert (pack_rows(low) < pack_rows(sampled.rates)).all() and (pack_rows(high) > pack_rows(sampled.rates)).all()


def test_gibbs_with_dense_data_is_the_conjugate_posterior():
    """At a tiny lag jumps are seen: the posterior is Gamma(n + shape, T + rate), means within 5 standard errors."""
    counts = torch.tensor([[[400.0, 30.0], [50.0, 300.0]]], dtype=torch.float64)
    seen, prior = Transitions(torch.tensor([1e-4], dtype=torch.float64), counts), GammaPrior(0.5, 0.1)
    draws = sample_rates(seen, prior, np.ones((2, 2)), draws=200, burn_in=10)
    dwell = 1e-4 * counts[0].sum(1).numpy()
    for i, j, n in ((0, 1, 30), (1, 0, 50)):
        mean, deviation = (n + 0.5) / (dwell[i] + 0.1), np.sqrt(n + 0.5) / (dwell[i] + 0.1)
        assert draws[:, i, j].mean() == pytest.approx(mean, abs=5 * deviation / np.sqrt(200) + 0.01 * mean)
    with pytest.raises(UserError, match="proper posterior"):
        sample_rates(seen, NONE, np.ones((2, 2)))


# ------------------------------------------------------------ warnings and refusals


def test_named_warnings():
    grid = np.arange(6.0)
    two_of_three = Paths.of(grid, [[0, 1, 0, 0, 1, 1]] * 3, states_count=3)
    missing = jumps.estimate(two_of_three, "em")
    assert "never-visited" in names(missing) and np.isfinite(missing.rates).all()
    assert np.isinf(jumps.estimate(two_of_three, "em", prior=NONE).stderr[2, 0])
    one = jumps.estimate(Paths.of(grid, [[0] * 6] * 3, states_count=2), "em")
    assert "one-state data" in names(one)
    lonely = jumps.estimate(Paths.of([[0.0], grid], [[0], [0, 1, 0, 0, 1, 1]]), "em")
    assert "single observations" in names(lonely)
    units = jumps.estimate(Paths.of([grid, 1000 * grid], [[0, 1, 0, 0, 1, 1]] * 2), "em")
    assert "mixed time units" in names(units)


def test_recrossings_depend_on_the_lag():
    """Labels that flicker on top of slow switching: the slow scale grows with the lag; a chain's does not."""
    slow = jumps.simulate([[0, 0.05], [0.05, 0]], 40, times=np.arange(200.0), seed=0)
    assert "lag-dependent" not in names(jumps.estimate(slow, "em"))
    flicker = np.random.default_rng(0).random(slow.states.shape) < 0.1  # type: ignore[union-attr]
    noisy = Paths.of(np.arange(200.0), np.where(flicker, 1 - slow.states, slow.states))  # type: ignore[operator]
    assert "lag-dependent" in names(jumps.estimate(noisy, "em"))


def test_scales_far_below_the_lag_are_called_unresolved():
    F = generator(torch.from_numpy(THREE))
    slow, fast = timescales(F).tolist()
    for lag, count in ((2.9 * fast, 0), (3.1 * fast, 1), (3.1 * slow, 2)):
        warnings = resolution_warning(lag, F.numpy(), "ms")
        assert len(warnings) == min(count, 1) and all(f"{count} of 2" in sentence for sentence in warnings)


def test_refusals():
    grid = np.arange(3.0)
    with pytest.raises(UserError, match="expected one of fim"):
        jumps.estimate(Paths.of(grid, [[0, 1, 0]]), "maximum")
    with pytest.raises(UserError, match="one-state data"):
        jumps.estimate(Paths.of(grid, [[0, 0, 0]]), "em")
    with pytest.raises(UserError, match="every jump"):
        jumps.estimate(Paths.of(grid, [[0, 1, 0]]), "mle")
    with pytest.raises(UserError, match='expected method "mle"'):
        jumps.estimate(Paths.of(grid, [[0, 1, 0]], complete=True), "em")


# ------------------------------------------------------------ default


def test_noise_is_found_and_only_where_it_is():
    clean = jumps.simulate(THREE, 100, times=np.arange(24) * 0.25, seed=0)
    replaced = np.random.default_rng(0).random(clean.states.shape) < 0.05  # type: ignore[union-attr]
    labels = np.where(replaced, np.random.default_rng(1).integers(0, 3, replaced.shape), clean.states)  # type: ignore
    noisy = Paths.of(clean.times[0], labels, states_count=3)
    for paths, expected in ((clean, False), (noisy, True)):
        rates = jumps.estimate(paths, "em").rates
        assert bool(noise_test(paths, rates, weak_prior(paths), rates) > 0) is expected


@pytest.mark.parametrize(("misfit", "weight"), [(-1.0, 0.9999), (3.0, 0.9999), (12.0, 0.5), (60.0, 0.1)])
def test_shrinkage_is_that_of_james_and_stein(misfit: float, weight: float):
    """With the jumps known, the prior takes rates the share min(1, d/D) of the way to the network; d = 6."""
    paths = jumps.simulate(THREE, 50, times=np.arange(40) * 0.1, seed=0)
    spent = occupancy(paths) / occupancy(paths).sum() * paths.duration
    network, data = np.full((3, 3), 2.0) - 8 * np.eye(3), THREE + 0.1
    prior = shrinkage_prior(network, network_weight(misfit, 6), paths, NONE)
    shrunk = (data * spent[:, None] + prior.shape) / (spent[:, None] + prior.rate)
    off = ~np.eye(3, dtype=bool)
    assert np.allclose(shrunk[off], (weight * network + (1 - weight) * data)[off])


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_default_with_a_network_that_is_right_or_wrong(monkeypatch: pytest.MonkeyPatch, factor: float):
    """True rates take most of EM's error away; rates three times as fast are left out, with a warning.

    The misfit of true rates is beyond the limit, here of 1e-5, in one of 100 000 seeds.
    """
    monkeypatch.setattr(estimation, "CONTRADICTION", 1 - 1e-5)
    paths = jumps.simulate(THREE, 60, times=np.arange(40) * 0.1, seed=4)
    network = Estimate.of(factor * generator(torch.from_numpy(THREE)).numpy(), np.full(3, 1 / 3), "fim")
    monkeypatch.setattr(estimation, "network_rates", lambda request: network)
    found, own = jumps.estimate(paths), jumps.estimate(paths, "em")
    moved = rmse(found.rates, THREE if factor == 1 else own.rates)
    assert moved < rmse(own.rates, THREE) / 3
    assert ("network left out" in names(found)) is (factor > 1) is (found.details["network_weight"] == 0)
    edges = THREE > 0
    assert np.allclose((found.stderr / found.rates)[edges], (own.stderr / own.rates)[edges], rtol=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 30, 300])
def test_default_is_as_good_as_both(data_dir: Path, count: int):
    """Mean RMSE over 5 draws of the ratchet: no worse than EM with its prior and the network."""
    del data_dir
    full, truth = jumps.jump_set("dfr_V1"), jumps.true_rates("dfr_V1")
    assert truth is not None
    errors: dict[str, list[float]] = {}
    for seed in range(5):
        paths = full.take(np.random.default_rng(seed).choice(len(full), count, replace=False))
        for method in ("fim+em", "em", "fim"):
            errors.setdefault(method, []).append(rmse(jumps.estimate(paths, method).rates, truth))
    best = min(np.mean(errors["em"]), np.mean(errors["fim"]))
    assert np.mean(errors["fim+em"]) <= 1.001 * best


def test_counts_of_windows(data_dir: Path):
    """A lag of one spacing is no lag at all."""
    del data_dir
    paths = jumps.jump_set("dfr_V1").take(range(20))
    assert np.allclose(jumps.estimate(paths, "em", lag=2.5 / 99).rates, jumps.estimate(paths, "em").rates)
    assert float(transitions(paths).total.sum()) == 20 * 99


def test_observations_on_a_grid_are_not_taken_for_jumps_in_silence():
    """mle on a grid misses jumps; repeated states betray it, the last row of a path (end of observation) does not."""
    jumps_only = Paths.of([[0.0, 1.0, 3.0], [0.0, 2.0]], [[0, 1, 1], [1, 1]], states_count=2, complete=True)
    assert not jumps.estimate(jumps_only).warnings
    grid = Paths.of([[0.0, 1.0, 2.0, 3.0], [0.0, 2.0]], [[0, 0, 1, 1], [1, 1]], states_count=2, complete=True)
    assert any(word.startswith("not jumps: 1 rows") for word in jumps.estimate(grid).warnings)


def test_draws_are_generators():
    """Draws of a network come without a diagonal; time scales and the errors of exit rates need it."""
    draws = np.random.default_rng(0).gamma(50.0, 0.02, (500, 3, 3)) * (1 - np.eye(3))
    found = Estimate.of(draws.mean(0), np.full(3, 1 / 3), "fim", draws=draws)
    np.testing.assert_allclose(found.posterior(20).sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(found.stderr.diagonal(), draws.sum(-1).std(0))


def test_never_visited_states_do_not_make_labels_look_non_markovian():
    F = generator(torch.tensor([[0.0, 1.0], [0.7, 0.0]], dtype=torch.float64)).numpy()
    seen = jumps.simulate(F, 60, times=np.linspace(0, 10, 51), seed=1)
    assert seen.states is not None
    found = jumps.estimate(seen.with_states(seen.states, 4), "fim+em")
    assert any(word.startswith("never-visited") for word in found.warnings)
    assert not any(word.startswith("lag-dependent") for word in found.warnings)


def test_errors_near_an_absorbing_state():
    """Rates that the data bound by 1/T have errors of that size, and intervals that hold the estimate."""
    F = generator(torch.tensor([[0, 1, 0.3], [0.5, 0, 0.8], [0, 0, 0]], dtype=torch.float64)).numpy()
    seen = jumps.simulate(F, 100, times=np.linspace(0, 10, 31), initial=[0.4, 0.4, 0.2], seed=1)
    assert seen.states is not None
    dwell = 10 / 30 * (seen.states == 2).sum()
    found = jumps.estimate(seen)
    high = found.intervals(0.9)[1]
    assert (found.stderr[2, :2] < 5 / dwell).all()
    assert (high[2, :2] >= found.rates[2, :2]).all()


def test_more_refusals():
    seen = jumps.simulate([[0, 1], [1, 0]], 5, times=np.arange(10.0), seed=0)
    with pytest.raises(UserError, match="expected Paths"):
        jumps.estimate([[0, 1, 0]])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="method hmm_em"):
        jumps.estimate(seen, "em", emission="noise")
    with pytest.raises(UserError, match="lag: got nan"):
        jumps.estimate(seen, "em", lag=float("nan"))
