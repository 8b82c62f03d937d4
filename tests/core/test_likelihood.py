"""Likelihoods: flow densities against Gaussians in every space, divergences, variational bounds in closed form."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import LogSNR, Uniform
from sciflow.core.kernels import Gaussian
from sciflow.core.likelihood import ExactDivergence, Hutchinson, flow_log_prob, variational_bound
from sciflow.core.noise import PRIOR, Fresh, PerSample
from sciflow.core.process import Prediction
from sciflow.core.schedules import OU, VP, Schedule, SubVP
from sciflow.core.spaces import Euclidean, SymmetricMatrix, Torus, ZeroCoM
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked

ONE = torch.ones((), dtype=torch.float64)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def oracle(process: GaussianProcess, mean: float, spread: float):
    """Exact denoiser of data N(mean, spread) on the free coordinates."""

    def denoise(state, clocks):
        x, t, layout = state["x"], clocks["x"], state.layouts["x"]
        alpha, variance = process.schedule.alpha(t), process.schedule.variance(t)
        data = mean + alpha * spread / (alpha**2 * spread + variance) * (x - alpha * mean)
        return {"x": Prediction(data, "data", process, x, t, layout)}

    return denoise


MASK = torch.tensor([[1, 1, 1], [1, 1, 0]], dtype=torch.float64)
FIELDS = {
    "dense": (Euclidean(), Layout(2), (2, 4)),
    "padded": (Euclidean(), Layout(2, mask=MASK[..., None]), (2, 3, 2)),
    "zero_com": (ZeroCoM(), Layout(2, mask=MASK[..., None]), (2, 3, 2)),
    "symmetric": (SymmetricMatrix(), Layout(2, mask=MASK[:, :, None] * MASK[:, None, :]), (2, 3, 3)),
}


@pytest.mark.parametrize(
    "field, divergence",
    [(field, ExactDivergence()) for field in FIELDS] + [(f, Hutchinson()) for f in FIELDS if f != "zero_com"],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_flow_density_on_every_space(field, divergence):
    """log p of N(0, 0.25) on the FREE coordinates. The Jacobian is a multiple of the projection.

    One Rademacher probe is exact for diagonal Jacobians; the projection to zero-mean configurations is not diagonal.
    """
    space, layout, shape = FIELDS[field]
    process = GaussianProcess(VP(), space, "data")
    x = space.project(normal(*shape), layout)
    truth = Gaussian(torch.zeros_like(x), 0.5 * ONE, space, layout).log_prob(x)
    variance = process.schedule.alpha(ONE) ** 2 * 0.25 + process.schedule.variance(ONE)
    end = Gaussian(torch.zeros_like(x), variance.sqrt(), space, layout)
    state = State({"x": x}, {"x": layout})
    got = flow_log_prob(
        state, process, oracle(process, 0.0, 0.25), Fresh(0), steps=50, divergence=divergence, prior=end
    )
    torch.testing.assert_close(got, truth, rtol=0, atol=2e-3)


@pytest.mark.parametrize("schedule", [SubVP(), OU(2.0, 2.0)], ids=["subVP", "OU"])
def test_flow_density_of_other_schedules(schedule):
    """N(0.7, 0.25) at 0.2, 0.7, 1.5 with the exact law at t = 1."""
    process = GaussianProcess(schedule, kind="data")
    x = torch.tensor([[0.2], [0.7], [1.5]], dtype=torch.float64)
    alpha = schedule.alpha(ONE)
    end = Gaussian(
        torch.full_like(x, 0.7 * float(alpha)),
        (alpha**2 * 0.25 + schedule.variance(ONE)).sqrt(),
        process.space,
        Layout(3),
    )
    got = flow_log_prob(
        State({"x": x}, {"x": Layout(3)}), process, oracle(process, 0.7, 0.25), Fresh(0), steps=100, prior=end
    )
    truth = torch.distributions.Normal(0.7, 0.5).log_prob(x)[:, 0]
    torch.testing.assert_close(got, truth, rtol=0, atol=1e-4)


MATRIX = normal(5, 5, seed=8)


@pytest.mark.parametrize("space", [Euclidean(), ZeroCoM(), SymmetricMatrix()], ids=lambda space: type(space).__name__)
def test_hutchinson_is_unbiased(space):
    """Linear field J x: the mean of 1000 probes is the exact divergence; z test, false-alarm rate 1e-5 per space.

    The exact one is the trace over the free coordinates, computed here without `ExactDivergence`.
    """
    if isinstance(space, SymmetricMatrix):
        shape, pairs = (1, 4, 4), torch.triu_indices(4, 4, 1)
        jacobian = normal(6, 6, seed=4)

        def field(x: Tensor) -> Tensor:
            out = torch.zeros_like(x)
            values = x[:, pairs[0], pairs[1]] @ jacobian.T
            out[:, pairs[0], pairs[1]] = values
            return out + out.transpose(1, 2)

        truth = float(jacobian.trace())
    else:
        shape = (1, 5, 1)

        def field(x: Tensor) -> Tensor:
            return 2 * x + space.project(
                (MATRIX @ x[0])[None], Layout(1)
            )  # 2 x leaves the space off it: probes must not

        centre = torch.eye(5, dtype=torch.float64) - (0.2 if isinstance(space, ZeroCoM) else 0.0)
        truth = float((centre @ (MATRIX + 2 * torch.eye(5, dtype=torch.float64)) @ centre).trace())
    x = space.project(normal(*shape), Layout(1))
    value, exact = ExactDivergence()(field, x, space, Layout(1), Fresh(0))
    torch.testing.assert_close(value, field(x))
    assert float(exact) == pytest.approx(truth, abs=1e-12)
    draws = Fresh(2)
    probes = torch.cat([Hutchinson()(field, x, space, Layout(1), draws)[1] for _ in range(1000)])
    assert abs(float(probes.mean()) - truth) < 4.42 * float(probes.std()) / math.sqrt(1000)
    assert float(probes.std()) > 0.1


def test_hutchinson_is_exact_for_diagonal_jacobians():
    x = normal(3, 4)
    scale = torch.arange(1, 5, dtype=torch.float64)
    _, got = Hutchinson(2)(lambda y: scale * y**2, x, Euclidean(), Layout(3), Fresh(0))
    torch.testing.assert_close(got, (2 * scale * x).sum(1))


def test_hutchinson_takes_ragged_fields():
    index = torch.tensor([0, 0, 1])
    x = normal(3, 2)
    _, got = Hutchinson()(lambda y: y**3, x, Euclidean(), Layout(2, index), PerSample(0).at("x", PRIOR))
    torch.testing.assert_close(got, Layout(2, index).per_sample(3 * x**2))
    with pytest.raises(UserError, match="dense"):
        ExactDivergence()(lambda y: y, x, Euclidean(), Layout(2, index), Fresh(0))


def test_divergence_on_the_torus():
    """Unit probes are tangent vectors: they are not wrapped to zero."""
    x = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for divergence in (ExactDivergence(), Hutchinson()):
        _, got = divergence(lambda y: torch.sin(2 * math.pi * y), x, Torus(1.0), Layout(3), Fresh(0))
        torch.testing.assert_close(got, (2 * math.pi * torch.cos(2 * math.pi * x)).sum(1))


def test_flow_density_needs_one_field_with_a_flow():
    x = torch.zeros(1, dtype=torch.long)
    with pytest.raises(UserError, match="Jump"):
        flow_log_prob(State({"x": x}, {"x": Layout(1)}), Jump(3), lambda s, c: {}, Fresh(0))
    with pytest.raises(ValueError, match="probe"):
        Hutchinson(0)


def expected_bound(schedule: Schedule, clocks: Tensor, mean: float, spread: float) -> float:
    """Mean over data of the bound for the exact denoiser, by hand (Kingma et al. 2021, VDM).

    Each move costs (SNR_s - SNR_t)/2 E|x0 - D|^2 with E|x0 - D|^2 = spread sigma^2/(alpha^2 spread + sigma^2).
    """
    alpha, variance = schedule.alpha(clocks), schedule.variance(clocks)
    snr, error = alpha**2 / variance, spread * variance / (alpha**2 * spread + variance)
    t, s = slice(None, -2), slice(1, -1)
    moves = 0.5 * ((snr[s] - snr[t]) * error[t]).sum()
    prior = 0.5 * alpha[0] ** 2 * (mean**2 + spread) / variance[0]
    last = -0.5 * torch.log(2 * math.pi / snr[-2]) - 0.5 * error[-2] * snr[-2]
    return float(last - moves - prior)


@pytest.mark.parametrize("steps", [2, 10, 200])
def test_gaussian_bound_has_its_closed_form_and_converges(steps):
    """Mean over 4000 samples; z test, false-alarm rate 1e-5 per case.

    The mean bound lies below minus the entropy of the data (Gibbs) and reaches it as the moves get shorter.
    """
    schedule, mean, spread = VP(), 0.7, 0.25
    process, grid = GaussianProcess(schedule, kind="data"), LogSNR(schedule, end=1e-5)
    x = mean + math.sqrt(spread) * normal(4000, 1, seed=1)
    state = State({"x": x}, {"x": Layout(4000)})
    got = variational_bound(state, {"x": process}, oracle(process, mean, spread), PerSample(1), grid=grid, steps=steps)
    expected = expected_bound(schedule, grid.points(steps), mean, spread)
    assert abs(float(got.mean()) - expected) < 4.42 * float(got.std()) / math.sqrt(4000)
    minus_entropy = -0.5 * math.log(2 * math.pi * math.e * spread)
    gaps = [minus_entropy - expected_bound(schedule, grid.points(n), mean, spread) for n in (steps, 2000, 4000)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    assert gaps[2] < 0.02 and abs(gaps[1] / gaps[2] - 2) < 0.1  # first order in the length of a move


def test_bound_counts_the_mismatch_with_the_prior():
    """A schedule that keeps 46 % of the signal: KL(q(x_1 | x0) || prior) is not small. False-alarm rate 1e-5."""
    schedule, mean, spread = VP(0.1, 3.0), 0.7, 0.25
    process, grid = GaussianProcess(schedule, kind="data"), LogSNR(schedule, end=0.3)
    state = State({"x": mean + math.sqrt(spread) * normal(4000, 1, seed=2)}, {"x": Layout(4000)})
    got = variational_bound(state, {"x": process}, oracle(process, mean, spread), PerSample(1), grid=grid, steps=3)
    expected = expected_bound(schedule, grid.points(3), mean, spread)
    band = 4.42 * float(got.std()) / math.sqrt(4000)
    assert abs(float(got.mean()) - expected) < band < 0.08
    assert 0.5 * float(schedule.alpha(ONE) ** 2 / schedule.variance(ONE)) * (mean**2 + spread) > 0.09


TABLE = torch.tensor([[0.30, 0.02, 0.05], [0.03, 0.25, 0.02], [0.08, 0.05, 0.20]], dtype=torch.float64)


def pair_oracle(process: Masked):
    """p(x0_i | x_t) of two tokens with joint law TABLE, by enumeration; mask id 3."""
    rows, columns = TABLE.sum(1), TABLE.sum(0)
    first = torch.cat([(TABLE / columns).T, rows[None]])  # law of token 0 given token 1 = 0, 1, 2, mask
    second = torch.cat([TABLE / rows[:, None], columns[None]])

    def denoise(state, clocks):
        x = state["seq"]
        probs = torch.stack([first[x[:, 1]], second[x[:, 0]]], 1)
        return {"seq": Prediction(probs, "data", process, x, clocks["seq"], state.layouts["seq"])}

    return denoise


@pytest.mark.parametrize("pair", [(0, 0), (0, 1), (2, 1)])
@pytest.mark.parametrize("steps", [1, 2, 8, 50])
def test_masked_bound_has_its_closed_form(pair, steps):
    """E bound = log P(a, b) - (1/n) [log P(a, b) - log P(a) P(b)] on a uniform grid from 1 to 0.

    Given the other token the conditional is exact; both tokens fall into the same move with probability 1/n, and are
    then predicted independently. z test over 4000 copies, false-alarm rate 1e-5 per case (exact at n = 1).
    """
    n = 4000
    process = Masked(3, "data")
    state = State({"seq": torch.tensor([pair]).repeat(n, 1)}, {"seq": Layout(n)})
    grid = Uniform(1.0, 0.0)
    got = variational_bound(state, {"seq": process}, pair_oracle(process), PerSample(3), grid=grid, steps=steps)
    log_p = float(TABLE[pair].log())
    independent = float((TABLE.sum(1)[pair[0]] * TABLE.sum(0)[pair[1]]).log())
    expected = log_p - (log_p - independent) / steps
    assert abs(float(got.mean()) - expected) < 4.42 * float(got.std()) / math.sqrt(n) + 1e-6


def test_bound_names_what_a_process_lacks():
    state = State({"x": torch.zeros(1, dtype=torch.long)}, {"x": Layout(1)})
    with pytest.raises(UserError, match="Jump has no marginal, posterior, prior, reconstruction"):
        variational_bound(state, {"x": Jump(3)}, lambda s, c: {}, Fresh(0), grid=Uniform(), steps=2)


def test_likelihoods_prepare_the_state_once():
    """A denoiser that needs its `prepare` (anchors, encoded conditions) works as in the sampler."""
    process = GaussianProcess(VP(), kind="data")

    class Prepared:
        calls = 0

        def prepare(self, state):
            self.calls += 1
            return state.condition(mean=torch.full((2, 1), 0.7, dtype=torch.float64))

        def __call__(self, state, clocks):
            value = state.cond["mean"].expand_as(state["x"])
            return {"x": Prediction(value, "data", process, state["x"], clocks["x"], state.layouts["x"])}

    state = State({"x": torch.zeros(2, 1, dtype=torch.float64)}, {"x": Layout(2)})
    denoise = Prepared()
    assert flow_log_prob(state, process, denoise, Fresh(0), steps=4, start=0.1).shape == (2,)
    assert variational_bound(state, {"x": process}, denoise, Fresh(0), grid=Uniform(), steps=4).shape == (2,)
    assert denoise.calls == 2
