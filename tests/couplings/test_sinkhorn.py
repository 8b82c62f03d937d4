"""`sinkhorn` against POT, exact assignment, and its own marginals where plain sweeps fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.couplings.sinkhorn import sinkhorn

ot = pytest.importorskip("ot")


def problem(n, m, scale, seed=0, d=3):
    """Squared distances of two clouds times `scale`, and uneven weights."""
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d)) + 0.5
    a, b = rng.uniform(0.5, 1.5, n), rng.uniform(0.5, 1.5, m)
    cost = ((x[:, None] - y) ** 2).sum(-1) * scale
    return [torch.from_numpy(v) for v in (cost, a / a.sum(), b / b.sum())]


@pytest.mark.parametrize("n, m", [(20, 30), (30, 20), (25, 25)])
def test_equals_pot(n, m):
    cost, a, b = problem(n, m, 1.0)
    plan = sinkhorn(cost, a, b)
    truth = ot.bregman.sinkhorn_log(a.numpy(), b.numpy(), cost.numpy(), 1.0, stopThr=1e-13, numItermax=20_000)
    np.testing.assert_allclose(plan.log.exp().numpy(), truth, rtol=0, atol=1e-10)
    torch.testing.assert_close(plan.log, plan.f[:, None] + plan.g - cost, rtol=0, atol=1e-9)
    direct = float((plan.log.exp() * (plan.log + cost)).sum())
    assert plan.value == pytest.approx(direct, abs=1e-8)


@pytest.mark.parametrize("n, m, scale", [(50, 50, 50.0), (150, 120, 300.0), (60, 90, 5e4), (60, 90, 1e8)])
def test_stiff_costs_keep_the_marginals(n, m, scale):
    """Gaps of hundreds of nats: thousands of plain sweeps; here the marginals hold to 1e-6 and better."""
    cost, a, b = problem(n, m, scale)
    plan = sinkhorn(cost, a, b)
    coupling = plan.log.exp()
    assert plan.error < 1e-6
    assert float((coupling.sum(1) - a).abs().sum()) < 1e-6
    assert float((coupling.sum(0) - b).abs().sum()) < 1e-6


def test_small_noise_gives_the_optimal_assignment():
    """Equal weights: a permutation, that of the Hungarian method; here with 12 nats between best and second best."""
    from scipy.optimize import linear_sum_assignment

    cost, _, _ = problem(30, 30, 1e5, seed=3)
    even = torch.full((30,), 1 / 30, dtype=torch.float64)
    coupling = 30 * sinkhorn(cost, even, even).log.exp()
    best = torch.zeros(30, 30, dtype=torch.float64)
    best[linear_sum_assignment(cost.numpy())] = 1
    torch.testing.assert_close(coupling, best, rtol=0, atol=1e-5)


def test_large_noise_gives_the_product():
    cost, a, b = problem(20, 30, 1e-9)
    torch.testing.assert_close(sinkhorn(cost, a, b).log.exp(), a[:, None] * b, rtol=0, atol=1e-9)


def test_cells_of_zero_weight_get_nothing():
    cost, a, b = problem(10, 12, 1.0)
    a[3], b[5] = 0, 0
    a, b = a / a.sum(), b / b.sum()
    plan = sinkhorn(cost, a, b)
    coupling = plan.log.exp()
    assert float(coupling[3].sum()) == float(coupling[:, 5].sum()) == 0
    torch.testing.assert_close(coupling.sum(1), a, rtol=0, atol=1e-9)
    assert float(plan.g[5]) == -np.inf


def test_a_cost_that_is_not_finite_is_refused():
    cost, a, b = problem(4, 4, 1.0)
    cost[1, 2] = torch.nan
    with pytest.raises(UserError, match="smaller dt"):
        sinkhorn(cost, a, b)
