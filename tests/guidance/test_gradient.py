"""Gradient guidance: gradients against differences and formulas, exact laws where first order is exact, planted faults.

Statistical tests have a false-alarm rate <= 1e-5 and fixed seeds.
"""

from __future__ import annotations

import pytest
import torch
from oracles import F64, GaussianOracle
from oracles import FIELD as POINT
from stats import FALSE_ALARM, Z_LIMIT, batch_state, chi_square, mean_z
from token_toy import ALPHA, DENOISER, FIELD, MASK, PARTIAL, TableDenoiser, codes, masked_state, reward
from torch import Tensor

import sciflow.guidance.gradient as module
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook, Transition
from sciflow.core.kernels import Gaussian
from sciflow.core.noise import Move, PerSample
from sciflow.core.process import Prediction
from sciflow.core.row_cache import RowCache
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout, State
from sciflow.guidance.gradient import GradientGuidance
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder
from sciflow.solvers.dpmpp import DDIM


class OthersOnly(TableDenoiser):
    """Toy A's oracle as a network without self-connections: the prediction at a position ignores what is there."""

    def data(self, x: Tensor) -> Tensor:
        if not x.is_floating_point():
            return super().data(x)
        columns = []
        for i in range(x.shape[1]):
            masked = torch.zeros_like(x[:, i])
            masked[:, MASK] = 1
            columns.append(super().data(torch.cat([x[:, :i], masked[:, None], x[:, i + 1 :]], 1))[:, i])
        return torch.stack(columns, 1)


def relaxed_reward(clean: State) -> Tensor:
    assert clean[FIELD].is_floating_point()
    assert clean[FIELD].shape[-1] == 3  # clean tokens only
    return reward(clean[FIELD])


def token_gradient(x: Tensor, hook: GradientGuidance) -> Tensor:
    denoiser, state = OthersOnly(DENOISER), State({FIELD: x}, {FIELD: Layout(len(x))})
    hook.prepare(state)
    denoise = hook.wrap(denoiser)
    denoise(state, {FIELD: torch.tensor(0.5)})
    return hook.gradients(Transition(state, Move(0, 0.5, 0.4), denoise, PerSample(0)))[FIELD]


def first_order_gain(x: Tensor) -> Tensor:
    """What filling masked position i with v changes to first order in the predicted probabilities: (64, 3, 3).

    dr/dx0_i (e_v - p_i) + sum over masked j != i of dr/dx0_j (p_j(child) - p_j), r multilinear.
    """
    p = torch.where((x == MASK)[..., None], DENOISER[codes(x)], torch.nn.functional.one_hot(x % 3, 3).to(F64))
    p = p.requires_grad_()
    slope = torch.autograd.grad(reward(p).sum(), p)[0]
    gains = torch.zeros(len(x), 3, 3, dtype=F64)
    for i in range(3):
        for v in range(3):
            child = x.clone()
            child[:, i] = v
            after = torch.where((x == MASK)[..., None], DENOISER[codes(child)], p)
            after[:, i] = torch.nn.functional.one_hot(torch.tensor(v), 3).to(F64)
            gains[:, i, v] = (slope * (after - p)).sum((1, 2))
    return gains.detach()


def test_token_gradient_is_the_first_order_gain():
    """g_v - g_mask for every masked position of every partial state of Toy A (one-hot inputs are float32)."""
    gradient = token_gradient(PARTIAL, GradientGuidance(relaxed_reward))
    masked = PARTIAL == MASK
    gain = gradient[..., :3] - gradient[..., 3:]
    assert torch.allclose(gain[masked], first_order_gain(PARTIAL)[masked].float(), rtol=0, atol=2e-6)


def test_planted_fault_logarithms_for_probabilities(monkeypatch: pytest.MonkeyPatch):
    """The released guidance feeds log-probabilities to the reward (drakes.md, section 9)."""

    def logarithms(prediction: Prediction) -> Tensor:
        x = prediction.x
        return x[..., :-1] + x[..., -1:] * prediction.to("data").clamp_min(1e-9).log()

    monkeypatch.setattr(module, "expected_clean", logarithms)
    gradient = token_gradient(PARTIAL, GradientGuidance(relaxed_reward))
    gain, masked = gradient[..., :3] - gradient[..., 3:], PARTIAL == MASK
    assert (gain[masked] - first_order_gain(PARTIAL)[masked]).abs().max() > 0.1


SITES = torch.tensor(
    [[0.0, 1.0, -0.5, 0.3], [0.4, -1.0, 0.0, 0.2], [2.0, 1.0, 0.0, -1.0]], dtype=F64
)  # additive reward
PRIOR = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.25] * 4, [0.05, 0.15, 0.3, 0.5]], dtype=F64)


def independent(process: Masked):
    def denoise(state: State, clocks) -> dict[str, Prediction]:
        x, layout = state[FIELD], state.layouts[FIELD]
        return {FIELD: Prediction(PRIOR.expand(len(x), 3, 4), "data", process, x, clocks[FIELD], layout)}

    return denoise


def additive(clean: State) -> Tensor:
    return (clean[FIELD] * SITES).sum((1, 2))


@pytest.mark.parametrize(("solver", "steps"), [(AnyOrder(), 3), (Ancestral(), 5)])
def test_exact_for_independent_tokens_and_additive_rewards(solver, steps: int):
    """p*_i = p_i exp(r_i/alpha)/Z_i at every site, for any number of tokens per move (with Ancestral also masks wait:
    their probability is tilted by exp(-g), which the law of the tokens does not see once all are revealed)."""
    process = Masked(4, "data")
    hook = GradientGuidance(additive, 1 / ALPHA)
    sampler = Sampler({FIELD: process}, {FIELD: solver}, Uniform(end=0.0), hooks=[RowCache(clock_free=True), hook])
    x = sampler.run(masked_state(8_000, 4, 3), independent(process), PerSample(2), steps=steps).state[FIELD]
    target = (PRIOR.log() + SITES / ALPHA).softmax(-1)
    for i in range(3):
        assert chi_square(torch.bincount(x[:, i], minlength=4), target[i]) > FALSE_ALARM
        assert chi_square(torch.bincount(x[:, i], minlength=4), PRIOR[i]) < FALSE_ALARM


MEAN, VARIANCE = 2.0, 0.25
PROCESS = GaussianProcess(VP(), kind="data")
TRUTH = GaussianOracle(PROCESS, MEAN, VARIANCE)


def points(hook: Hook, count: int, steps: int, solver=None) -> Tensor:
    noise = PerSample(4)
    sampler = Sampler({POINT: PROCESS}, {POINT: solver or Ancestral()}, Uniform(), hooks=[hook])
    start = sampler.prior(batch_state(torch.zeros(count, 1, dtype=F64)), noise)
    return sampler.run(start, TRUTH, noise, steps=steps).state[POINT]


def test_gaussian_with_a_linear_reward_is_tilted_exactly():
    """r = x0: the mean is shifted by variance/alpha, up to O(1/steps) (measured at 400: < 0.01)."""
    x = points(GradientGuidance(lambda clean: clean[POINT][:, 0], 1 / ALPHA), 4_000, 400)
    assert abs(float(x.mean()) - (MEAN + VARIANCE / ALPHA)) < 0.02 + Z_LIMIT * float(x.std()) / 4_000**0.5
    assert abs(float(x.var()) / VARIANCE - 1) < 0.03 + Z_LIMIT * (2 / 4_000) ** 0.5
    assert mean_z(points(Hook(), 4_000, 100), MEAN + VARIANCE / ALPHA) > 3 * Z_LIMIT


def test_gaussian_gradient_against_differences():
    """The gradient is that of r(E[x0 | x_t]) with respect to x_t, and of each sample alone."""
    hook = GradientGuidance(lambda clean: (clean[POINT] ** 3).sum(1))
    x = torch.tensor([[0.3], [-1.1]], dtype=F64)
    state, move = batch_state(x), Move(0, 0.6, 0.5)
    hook.prepare(state)
    denoise = hook.wrap(TRUTH)
    denoise(state, {POINT: torch.tensor(0.6, dtype=F64)})
    gradient = hook.gradients(Transition(state, move, denoise, PerSample(0)))[POINT]
    t, h = torch.tensor(0.6, dtype=F64), 1e-6
    high, low = (TRUTH.data(x + d, t, Layout(2)) ** 3 for d in (h, -h))
    assert torch.allclose(gradient, (high - low) / (2 * h), rtol=1e-6)


def test_one_extra_call_per_move_and_none_outside_the_window():
    calls = []

    def counted(state: State, clocks) -> dict[str, Prediction]:
        calls.append(torch.is_grad_enabled())
        return TRUTH(state, clocks)

    hook = GradientGuidance(lambda clean: clean[POINT][:, 0], 1.0, start=0.51)
    sampler = Sampler({POINT: PROCESS}, {POINT: Ancestral()}, Uniform(), hooks=[hook])
    sampler.run(batch_state(torch.zeros(2, 1, dtype=F64)), counted, PerSample(0), steps=4)
    assert calls == [False, False, False, True, False, True]  # moves at clocks 1, .75, .5, .25


def test_samples_carry_no_graph_and_do_not_depend_on_their_batch():
    hook = GradientGuidance(lambda clean: clean[POINT][:, 0], 1.0)
    together = points(hook, 16, 10)
    assert not together.requires_grad
    noise = PerSample(4, torch.tensor([5]))
    sampler = Sampler({POINT: PROCESS}, {POINT: Ancestral()}, Uniform(), hooks=[hook])
    start = sampler.prior(batch_state(torch.zeros(1, 1, dtype=F64)), noise)
    assert torch.allclose(sampler.run(start, TRUTH, noise, steps=10).state[POINT][0], together[5], rtol=0, atol=1e-12)


def test_a_reward_without_gradient_is_refused():
    with pytest.raises(UserError, match="carries no gradient"):
        points(GradientGuidance(lambda clean: clean[POINT].detach()[:, 0]), 2, 2)


def test_a_deterministic_solver_is_refused():
    with pytest.raises(UserError, match="stochastic solver"):
        points(GradientGuidance(lambda clean: clean[POINT][:, 0]), 2, 2, DDIM())


def test_no_point_is_pulled_further_than_the_limit():
    """The shift keeps its direction; short ones, and masked rows, are left as they are."""
    gradient = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]], dtype=F64)
    std = torch.tensor([[2.0], [1.0], [1.0]], dtype=F64)
    kernel = Gaussian(torch.zeros(3, 2, dtype=F64), std, Euclidean(), Layout(3))
    hook = GradientGuidance(lambda clean: clean[POINT].sum(1), scale=1.0, limit=1.0)
    transition = Transition(
        batch_state(torch.zeros(3, 2, dtype=F64)), Move(0, 1.0, 0.5), lambda state, clocks: {}, PerSample()
    )
    hook.latest = (transition, {POINT: gradient})
    shift = hook.propose(POINT, kernel, transition).mean
    torch.testing.assert_close(shift, torch.tensor([[1.2, 1.6], [0.3, 0.4], [0.0, 0.0]], dtype=F64))
    free = GradientGuidance(lambda clean: clean[POINT].sum(1), scale=1.0)
    free.latest = hook.latest
    torch.testing.assert_close(free.propose(POINT, kernel, transition).mean, std**2 * gradient)
