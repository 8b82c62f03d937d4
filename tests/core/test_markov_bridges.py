"""Uniformisation: matrices with positive terms, and bridges against expected counts and laws at inner times."""

from __future__ import annotations

import math

import pytest
import torch
from markov_toy import F64, dwell_of, jumps_of, random_chain, ratchet
from stats import FALSE_ALARM, chi_square

from sciflow.core import uniformisation
from sciflow.core.errors import UserError
from sciflow.core.markov import generator, occupation, transition_matrices
from sciflow.core.noise import PRIOR, Fresh, PerSample
from sciflow.core.uniformisation import bridges, uniformised

PATHS = 20_000
LIMIT = 5.3  # two-sided normal quantile of 1e-5/84: 42 means per test


def expected(chain, start: int, end: int, lag: float) -> tuple[torch.Tensor, torch.Tensor]:
    """E[n_ij] and E[T_i] of one path with both ends given, by the block exponential."""
    lags, W = torch.tensor([lag], dtype=F64), torch.zeros(1, 6, 6, dtype=F64)
    W[0, start, end] = 1 / transition_matrices(chain, lags)[0, start, end]
    M = occupation(chain, W, lags)[0]
    jumps = chain * M
    return jumps - torch.diag(jumps.diagonal()), M.diagonal()


def worst_z(values: torch.Tensor, mean: torch.Tensor) -> float:
    """Largest |z| of the means over paths (B, ...); entries that never vary must be equal."""
    error, spread = (values.mean(0) - mean).abs(), values.std(0) / math.sqrt(len(values))
    assert bool((error[spread == 0] < 1e-3).all())
    return float((error / spread)[spread > 0].max())


@pytest.mark.parametrize("start, end, lag", [(0, 4, 0.7), (2, 2, 3.0), (5, 0, 0.05)])
def test_bridges_have_the_expected_counts_and_times(start, end, lag):
    """Section 14, item 2. 36 + 6 means, z below 5.3: false alarm 1e-5. Events that stay are no jumps; ends are kept."""
    chain, ends = ratchet(), torch.full((PATHS,), end)
    paths = bridges(chain, torch.full((PATHS,), start), ends, torch.tensor(lag, dtype=F64), Fresh(0))
    jumps, times = expected(chain, start, end, lag)
    counts, dwell = jumps_of(paths, 6), dwell_of(paths, 6)
    assert worst_z(counts, jumps) < LIMIT and worst_z(dwell, times) < LIMIT
    assert bool((paths.states[:, 0] == start).all() and (paths.states[:, -1] == end).all())
    assert torch.equal(counts.sum((1, 2)).long(), paths.lengths - 2)
    torch.testing.assert_close(dwell.sum(1), torch.full((PATHS,), lag, dtype=F64))
    wrong, _ = expected(ratchet(1.3), start, end, lag)  # power: another potential
    if lag > 0.1:
        assert worst_z(counts, wrong) > LIMIT


def test_bridges_of_different_ends_and_durations_at_once():
    """Law at a third of the way, P_ax(D/3) P_xb(2D/3)/P_ab(D): chi-square for each of 12 kinds, false alarm 1e-6."""
    chain, n = random_chain(3, 1), 3000
    kinds = torch.cartesian_prod(torch.arange(3), torch.arange(2), torch.arange(2))
    durations = torch.tensor([0.2, 4.0], dtype=F64)
    start, end, length = kinds.repeat(n, 1).unbind(1)
    paths = bridges(chain, start, end, durations[length], Fresh(2))
    middle = paths.on_grid(durations[length][:, None] / 3)[:, 0]
    for a, b, d in kinds.tolist():
        P1, P2 = transition_matrices(chain, durations[d] * torch.tensor([1 / 3, 2 / 3], dtype=F64))
        law = P1[a] * P2[:, b] / (P1 @ P2)[a, b]
        chosen = middle[(start == a) & (end == b) & (length == d)]
        assert chi_square(chosen.bincount(minlength=3), law) > FALSE_ALARM / 10
        assert chi_square(chosen.bincount(minlength=3), law.roll(1)) < FALSE_ALARM


def test_bridges_that_need_many_jumps_in_no_time():
    """0 -> 1 -> 2 -> 3 one way in 1e-4: P is 1e-13, yet every path has its three jumps, uniformly placed."""
    rates = torch.diag(torch.ones(3, dtype=F64), 1)
    paths = bridges(
        generator(rates), torch.zeros(5000, dtype=torch.long), torch.full((5000,), 3), torch.tensor(1e-4), Fresh(0)
    )
    assert bool((paths.lengths == 5).all()) and paths.states[0].tolist() == [0, 1, 2, 3, 3]
    middle = paths.times[:, 2] / float(torch.tensor(1e-4))  # Beta(2, 2): variance 1/20
    assert abs(float(middle.mean()) - 0.5) < 4.42 * math.sqrt(1 / 20 / 5000)


def test_impossible_bridges_are_refused():
    chain = generator(torch.tensor([[0.0, 1], [0, 0]], dtype=F64))
    with pytest.raises(UserError, match="from state 1 to state 0 in 2 .and 1 more"):
        bridges(chain, torch.tensor([0, 1, 1]), torch.tensor([1, 0, 0]), torch.tensor(2.0), Fresh(0))
    still = bridges(chain, torch.tensor([0]), torch.tensor([0]), torch.tensor(0.0), Fresh(0))
    assert still.times.tolist() == [[0, 0]] and still.states.tolist() == [[0, 0]]
    assert len(bridges(chain, *[torch.zeros(0, dtype=torch.long)] * 2, torch.tensor(1.0), Fresh(0)).times) == 0


def test_a_bridge_does_not_depend_on_its_batch_mates():
    """With `PerSample`: the first 3 of 3 and of 50, although the longest path of the batch differs."""
    chain, times = random_chain(3, 1), torch.tensor(2.0)
    few, many = (
        bridges(chain, torch.arange(n) % 3, torch.arange(n) % 2, times, PerSample(7).at("s", PRIOR)) for n in (3, 50)
    )
    width = few.times.shape[1]
    assert many.times.shape[1] > width and torch.equal(few.lengths, many.lengths[:3])
    assert torch.equal(few.times, many.times[:3, :width]) and torch.equal(few.states, many.states[:3, :width])


@pytest.mark.parametrize("mean", [0.0, 1e-6, 0.3, 20.0, 3000.0])
def test_poisson_weights_lose_less_than_their_tail(mean):
    """The first weight left out is below 1e-30, and the weights sum to one."""
    weights = uniformisation._poisson(torch.tensor([mean], dtype=F64))[0]
    terms = len(weights)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-11)
    log_next = terms * math.log(mean) - mean - math.lgamma(terms + 1) if mean else -math.inf
    assert log_next < math.log(1e-30)


def test_uniformised_batches_and_entries_of_a_rare_jump():
    """Two chains, one of them at rest; P_03 of three jumps in 1e-4 is D^3/6, where differences would lose it."""
    rates = torch.stack([torch.diag(torch.ones(3, dtype=F64), 1), torch.zeros(4, 4, dtype=F64)])
    P = uniformised(generator(rates), torch.tensor([1e-4, 1.0], dtype=F64))
    assert P.shape == (2, 2, 4, 4) and torch.equal(P[1], torch.eye(4, dtype=F64).expand(2, 4, 4))
    assert float(P[0, 0, 0, 3]) == pytest.approx(1e-12 / 6, rel=1e-3)


def test_derivatives_at_lag_zero_are_zero():
    """P(0) = 1 whatever the rates: first and second derivatives vanish there and are finite at the other lags."""
    F = generator(torch.tensor([[0.0, 0.4, 0.1], [0.2, 0.0, 0.4], [0.1, 0.3, 0.0]], dtype=torch.float64))
    F.requires_grad_()
    (slope,) = torch.autograd.grad(uniformised(F, torch.tensor([0.0, 0.7]).double())[0].square().sum(), F)
    assert (slope == 0).all()
    (slope,) = torch.autograd.grad(
        uniformised(F, torch.tensor([0.0, 0.7]).double()).square().sum(), F, create_graph=True
    )
    (curvature,) = torch.autograd.grad(slope.sum(), F)
    assert slope.isfinite().all() and curvature.isfinite().all()
