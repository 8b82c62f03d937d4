"""Couplings: assignments against scipy, marginals by Kolmogorov-Smirnov (false-alarm rate 1e-5, fixed seeds)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from torch import Tensor

from sciflow.core.coupling import squared_distances
from sciflow.core.state import Layout, State
from sciflow.couplings.assignment import Assignment, NearestOfK
from sciflow.couplings.independent import Independent
from sciflow.couplings.minibatch_ot import MinibatchOT


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def dense(x: Tensor) -> State:
    return State({"x": x}, {"x": Layout(len(x))})


def source(*shape: int, seed: int = 100) -> Callable[[int], State]:
    return lambda k: dense(normal(*shape, seed=seed + k))


def ks_distance(u: Tensor) -> float:
    """sqrt(n) times the distance to U(0, 1); exceeds 2.47 with probability 1e-5 = 2 exp(-2 2.47^2)."""
    u = u.flatten().sort().values
    grid = torch.arange(len(u), dtype=torch.float64) / len(u)
    return math.sqrt(len(u)) * float(torch.maximum((u - grid).abs(), (u - grid - 1 / len(u)).abs()).max())


def test_distances():
    a, b = normal(5, 3, 2), normal(5, 3, 2, seed=1)
    got = squared_distances(dense(a), dense(b))
    torch.testing.assert_close(got, torch.tensor(cdist(a.reshape(5, -1), b.reshape(5, -1), "sqeuclidean")))


def test_distances_of_several_fields_and_masks():
    """Masked entries of the data do not count, whatever the prior end holds there."""
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]], dtype=torch.float64)[..., None]
    x, y, x1, y1 = normal(2, 3, 2), normal(2, 4, seed=1), normal(2, 3, 2, seed=2), normal(2, 4, seed=3)
    layouts = {"x": Layout(2, mask=mask), "y": Layout(2)}
    got = squared_distances(State({"x": x, "y": y}, layouts), State({"x": x1, "y": y1}, layouts))
    for i in range(2):
        for j in range(2):
            truth = (mask[i] * (x[i] - x1[j]) ** 2).sum() + ((y[i] - y1[j]) ** 2).sum()
            torch.testing.assert_close(got[i, j], truth)


def test_independent_keeps_the_draw():
    draw = source(6, 2)
    assert torch.equal(Independent().pair(dense(normal(6, 2)), draw)["x"], draw(0)["x"])
    assert Independent.preserves_marginal


@pytest.mark.parametrize(
    "coupling, metric", [(Assignment(), "euclidean"), (MinibatchOT(), "sqeuclidean")], ids=["assignment", "ot"]
)
def test_permutations_are_the_optimal_ones(coupling, metric):
    """Against scipy's assignment on scipy's distances; the two costs have different optima here."""
    x0, draw = normal(40, 2) * 2, source(40, 2)
    got = coupling.pair(dense(x0), draw)["x"]
    drawn = draw(0)["x"]
    best = linear_sum_assignment(cdist(x0, drawn, metric))[1]
    assert torch.equal(got, drawn[torch.as_tensor(best)])
    other = linear_sum_assignment(cdist(x0, drawn, "sqeuclidean" if metric == "euclidean" else "euclidean"))[1]
    assert (best != other).any()


@pytest.mark.parametrize("coupling", [Assignment(), MinibatchOT()], ids=["assignment", "ot"])
def test_permutations_preserve_the_prior(coupling):
    """The ends are a permutation of the draw, all fields and layouts together."""
    n = 128
    draws = State({"x": normal(n, 2), "y": normal(n, 3, seed=1)}, {"x": Layout(n), "y": Layout(n)})
    data = State({"x": 1 + 0.1 * normal(n, 2, seed=2), "y": normal(n, 3, seed=3)}, draws.layouts)
    got = coupling.pair(data, lambda k: draws)
    assert coupling.preserves_marginal
    whole, paired = (torch.cat([s["x"], s["y"]], 1) for s in (draws, got))
    order = {tuple(row.tolist()) for row in whole}
    assert {tuple(row.tolist()) for row in paired} == order and len(order) == n
    assert ks_distance(torch.special.ndtr(paired)) < 2.47
    assert squared_distances(data, got).diagonal().mean() < squared_distances(data, draws).diagonal().mean()


def test_nearest_of_k_keeps_the_nearest_and_says_that_it_changes_the_law():
    x0, draw = 0.5 * normal(500, 2), source(500, 2)
    got = NearestOfK(4).pair(dense(x0), draw)["x"]
    options = torch.stack([draw(k)["x"] for k in range(4)])
    nearest = ((options - x0) ** 2).sum(-1).argmin(0)
    assert torch.equal(got, options[nearest, torch.arange(500)])
    assert not NearestOfK.preserves_marginal
    assert ks_distance(torch.special.ndtr(got)) > 2.47
    assert torch.equal(NearestOfK(1).pair(dense(x0), draw)["x"], draw(0)["x"])


@pytest.mark.parametrize("coupling", [Assignment(), MinibatchOT(), NearestOfK()], ids=lambda c: type(c).__name__)
def test_ragged_fields_are_refused(coupling):
    index = torch.tensor([0, 0, 1])
    state = State({"pos": normal(3, 2)}, {"pos": Layout(2, index)})
    with pytest.raises(ValueError, match="ragged"):
        coupling.pair(state, lambda k: state)


def test_k_must_be_positive():
    with pytest.raises(ValueError, match="at least 1"):
        NearestOfK(0)
