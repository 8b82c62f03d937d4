"""Engine gp_ipf: the regression against plain matrix inversion, IPF against the Gaussian closed form and LV figures.

Golden values: sbirr.md, section 12 (Bunne et al. 2023) and targets 4 of section 13.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.metrics.transport import wasserstein
from sciflow.networks.references import OU, Brownian, LotkaVolterra
from sciflow.training.schrodinger.engine import Problem
from sciflow.training.schrodinger.gaussian_process import AboutReference, ExactGP, NystromGP, SquaredExponential
from sciflow.training.schrodinger.gp_ipf import GaussianProcessIPF
from sciflow.training.schrodinger.regressors import MLP, DriftData
from sciflow.training.schrodinger.snapshots import Snapshots


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def walks(paths: int = 4, steps: int = 10, sigma: float = 0.3) -> DriftData:
    """Random walks in the plane, dt 0.1; the mean drift says -2 x."""
    moves = 0.1 * torch.randn(paths, steps + 1, 2, generator=generator(), dtype=torch.float64)
    times = torch.linspace(1, 2, steps + 1, dtype=torch.float64)
    return DriftData.of(moves.cumsum(1), times, sigma, lambda x, t: -2 * x)


def test_increments():
    paths = torch.tensor([[[0.0], [1.0], [3.0]]], dtype=torch.float64)
    data = DriftData.of(paths, torch.tensor([5.0, 5.5, 6.0], dtype=torch.float64), 0.1, lambda x, t: x)
    inputs, targets = data.rows()
    assert inputs.tolist() == [[0.0, 5.0], [1.0, 5.5]]
    assert targets.tolist() == [[2.0], [4.0]]
    assert data.dt == 0.5


def test_exact_gp_is_the_posterior_mean():
    data = walks()
    inputs, targets = (value.numpy() for value in data.rows())

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.exp(-np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))) / data.dt

    noise = data.sigma**2 / data.dt + 1e-6
    weights = np.linalg.inv(kernel(inputs, inputs) + noise * np.eye(len(inputs))) @ targets
    x = torch.randn(5, 2, generator=generator(1), dtype=torch.float64)
    expected = kernel(np.c_[x.numpy(), np.full(5, 1.3)], inputs) @ weights
    found = ExactGP().fit(data, generator())(x, torch.tensor(1.3, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), expected, rtol=0, atol=1e-6)  # cdist: 1e-8 at distance 0
    far = ExactGP().fit(data, generator())(x + 100, torch.tensor(1.3))
    assert far.abs().max() < 1e-12  # the prior mean


def test_inducing_inputs_at_all_data_are_the_exact_gp():
    data, x = walks(), torch.randn(5, 2, generator=generator(1), dtype=torch.float64)
    t = torch.tensor(1.3, dtype=torch.float64)
    kernel = SquaredExponential(0.3)
    exact = ExactGP(kernel).fit(data, generator())(x, t)
    # the inducing inputs carry a jitter of 1e-6: agreement to its root
    assert (NystromGP(100, 100, kernel).fit(data, generator())(x, t) - exact).abs().max() < 1e-3 * exact.abs().max()
    few = NystromGP(2, 3, kernel).fit(data, generator())(x, t)
    assert (few - exact).abs().max() > 1e-2 * exact.abs().max()


def test_regression_about_the_reference():
    data, t = walks(), torch.tensor(1.3, dtype=torch.float64)
    far = torch.full((1, 2), 100.0, dtype=torch.float64)
    fit = AboutReference().fit(data, generator())
    torch.testing.assert_close(fit(far, t), -2 * far)
    inputs, targets = data.rows()
    near = DriftData(data.inputs, data.targets + 2 * data.inputs[..., :2], data.sigma, data.dt, data.mean)
    residual = ExactGP().fit(near, generator())
    x = inputs[:3, :2]
    torch.testing.assert_close(fit(x, t), -2 * x + residual(x, t))


def test_mlp_learns_a_linear_drift():
    data = walks(50)
    linear = DriftData(data.inputs, 3 - 2 * data.inputs[..., :2], 0.1, 0.1, data.mean)
    fit = MLP(width=32, steps=200, lr=1e-2).fit(linear, generator())
    x = linear.inputs[:, 4, :2]
    assert (fit(x, linear.inputs[0, 4, 2]) - (3 - 2 * x)).square().mean().sqrt() < 0.1


def gaussians(n: int) -> Snapshots:
    """N(0, 1) at 0 and N(3, 0.25) at 1, n cells each at exact quantiles: no sampling error in the ends."""
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)[:, None]
    z = z / z.std(correction=0)
    return Snapshots.of([z.numpy(), 3 + 0.5 * z.flip(0).numpy()], [0.0, 1.0])


def test_gaussian_bridge_and_the_bias_of_the_gp():
    """sigma = 1: the bridge has mean 1.5 and variance 0.666 at 1/2, ends in N(3, 0.25), and Cov(X_0, X_1) = 0.207.

    The truth is no fixed point of IPF with shrunk drifts. Measured over 5 seeds with 50 cells, dt 0.1, 5 iterations:
    mean 1.51 to 1.77 and variance 0.72 to 0.91 at 1/2, end mean 2.83 to 2.95, end deviation 0.59 to 0.90, covariance
    0.23 to 0.43. So the bridge is met in its mean within 0.3 and comes out too wide; the limits allow twice that.
    """
    law = GaussianProcessIPF(iterations=5).bridge(Problem(gaussians(50), 1.0, 0.1), Brownian(), {})
    start = torch.as_tensor(law.snapshots.points[0]).repeat(20, 1)
    paths = law.through(0, start, generator(1))[..., 0]
    middle, end = paths[:, 5], paths[:, -1]
    assert abs(float(middle.mean()) - 1.5) < 0.6
    assert abs(float(end.mean()) - 3) < 0.4
    assert 0.5 < float(middle.var()) < 1.2
    assert 0.4 < float(end.std()) < 1.3
    assert 0.1 < float(torch.cov(torch.stack([paths[:, 0], end]))[0, 1]) < 0.65


def small() -> tuple[Snapshots, GaussianProcessIPF]:
    draw = np.random.default_rng(0)
    clouds = [draw.normal(size=(n, 2)) + k for k, n in enumerate((6, 7, 8))]
    return Snapshots.of(clouds, [0.0, 1.0, 3.0]), GaussianProcessIPF(iterations=1)


def test_law_runs_through_every_cell():
    snapshots, engine = small()
    law = engine.bridge(Problem(snapshots, 0.5, 0.25), OU(2, 0.5), {})
    times = torch.tensor([0.0, 0.1, 1.0, 2.9, 3.0], dtype=torch.float64)
    paths = law.sample(21, times, generator())
    assert paths.shape == (21, 5, 2)
    for position, k in ((0, 0), (2, 1), (4, 2)):  # each cell is on exactly one path
        cells = torch.as_tensor(snapshots.points[k])
        hits = (torch.cdist(paths[:, position], cells) < 1e-9).sum(0)
        assert hits.tolist() == [1] * len(cells)
    plan = law.coupling(1)
    np.testing.assert_allclose(plan.sum(1), snapshots.weights[1], atol=1e-12)
    np.testing.assert_allclose(plan.sum(0), snapshots.weights[2], atol=1e-12)
    data = law.increments(generator())
    assert data.x.shape == (21 * 12, 2)  # 4 + 8 steps
    assert float(data.weight.sum()) == pytest.approx(3.0)
    assert np.isfinite(law.objective)
    assert law.objective > 0
    x = torch.zeros(1, 2, dtype=torch.float64)
    later, t = law.intervals[1], torch.tensor(1.0, dtype=torch.float64)
    torch.testing.assert_close(law.drift(x, 1.0), later.forward(x, t))


def test_same_seed_same_law():
    snapshots, engine = small()
    first, second = (engine.bridge(Problem(snapshots, 0.5, 0.25), Brownian(), {}) for _ in range(2))
    assert first.objective == second.objective


def test_weights_choose_the_cells():
    snapshots, engine = small()
    only = snapshots.weighted([np.eye(6)[2], None, None])
    law = engine.bridge(Problem(only, 0.5, 0.25), Brownian(), {})
    start = law.sample(21, torch.tensor([0.0, 3.0], dtype=torch.float64), generator())[:, 0]
    hits = (torch.cdist(start, torch.as_tensor(only.points[0])) < 1e-9).sum(0)
    assert int(hits[2]) == 6  # the paths through the first snapshot
    assert int(hits.sum()) == 6


def test_bad_input():
    with pytest.raises(UserError, match="iterations"):
        GaussianProcessIPF(iterations=0)
    snapshots, engine = small()
    law = engine.bridge(Problem(snapshots, 0.5, 0.5), Brownian(), {})
    with pytest.raises(UserError, match="between the first and the last snapshot"):
        law.sample(2, torch.tensor([3.5]), generator())


@pytest.mark.slow
def test_lotka_volterra_interval(data_dir):
    """Targets 4 of section 13; measured 0.044 and 0.068 at this seed."""
    file = np.load(data_dir / "singlecell" / "lv_published.npz")
    train = Snapshots.of([file["X0"], file["X2"]], [0.0, 2.0])
    start = torch.as_tensor(train.points[0])
    law = GaussianProcessIPF(iterations=4).bridge(Problem(train, 0.1, 0.02), Brownian(), {})
    assert wasserstein(law.through(0, start, generator())[:, -1].numpy(), file["X2"]) < 0.1
    truth = LotkaVolterra(1.0, 0.4, 0.4, 0.1)
    law = GaussianProcessIPF(iterations=1).bridge(Problem(train, 0.1, 0.02), truth, {})
    assert wasserstein(law.through(0, start, generator())[:, 50].numpy(), file["X1"]) < 0.08
