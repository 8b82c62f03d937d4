"""What guidance is made of: tilted kernels, steepest ascent in a space, noise for copies, `Hook.propose`."""

from __future__ import annotations

import pytest
import torch
from oracles import F64, f64
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook, Transition
from sciflow.core.kernels import Categorical, Dirac, Gaussian, Kernel
from sciflow.core.noise import PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.spaces import Euclidean, SymmetricMatrix, Torus, ZeroCoM
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.langevin import Langevin

MASK = f64([[1, 1, 1], [1, 1, 0]])[..., None]
PADDED = Layout(2, mask=MASK)
RAGGED = Layout(2, index=torch.tensor([0, 0, 0, 1, 1]))
PAIRS = Layout(2, mask=(MASK * MASK.transpose(1, 2))[..., None])
SPACES = [
    (Euclidean(), torch.zeros(2, 3, 2, dtype=F64), PADDED),
    (ZeroCoM(), torch.zeros(2, 3, 2, dtype=F64), PADDED),
    (ZeroCoM(), torch.zeros(5, 2, dtype=F64), RAGGED),
    (SymmetricMatrix(), torch.zeros(2, 3, 3, 2, dtype=F64), PAIRS),
]
NAMES = ["euclidean", "zero-com", "zero-com-ragged", "symmetric"]


def normal(like: Tensor, seed: int) -> Tensor:
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize(("space", "like", "layout"), SPACES, ids=NAMES)
def test_tilted_gaussian_is_the_kernel_times_the_exponential(space, like, layout):
    """log tilted(x) - log kernel(x) - <derivative, x> is the same number per sample for all x of the space."""
    location = space.project(normal(like, 0), layout)
    kernel = Gaussian(location, f64(0.7), space, layout)
    derivative = normal(like, 1)
    tilted = kernel.tilt(derivative)
    rest = []
    for seed in (2, 3, 4):
        x = space.project(normal(like, seed), layout)
        linear = layout.per_sample(derivative * x)
        rest.append(tilted.log_prob(x) - kernel.log_prob(x) - linear)
    assert torch.allclose(rest[0], rest[1], rtol=0, atol=1e-10)
    assert torch.allclose(rest[0], rest[2], rtol=0, atol=1e-10)
    assert torch.allclose(space.project(tilted.location, layout), tilted.location, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("space", "like", "layout"), SPACES, ids=NAMES)
def test_gradient_is_the_direction_of_steepest_ascent(space, like, layout):
    """Along every tangent v: d f(x + h v)/dh = (gradient, v), with the inner product that `reduce` sums."""
    x = space.project(normal(like, 0), layout).requires_grad_()
    weights = normal(like, 1)
    (derivative,) = torch.autograd.grad((x.sin() * weights).sum(), x)
    gradient = space.gradient(derivative, layout)
    v = space.project(normal(like, 2), layout)
    slope = layout.per_sample(x.detach().cos() * weights * v)
    assert torch.allclose(space.reduce(gradient * v, layout), slope, rtol=0, atol=1e-12)


def test_the_statistic_sees_a_pair_counted_once():
    """Planted fault: without the transposed entry the gradient of a pair is wrong."""
    space, like, layout = SPACES[3]
    derivative, v = normal(like, 1), space.project(normal(like, 2), layout)
    half = space.project(derivative, layout)
    assert not torch.allclose(space.reduce(half * v, layout), layout.per_sample(derivative * v), atol=1e-3)


def test_tilt_on_the_torus_stays_in_the_period():
    kernel = Gaussian(f64([[0.9]]), f64(0.5), Torus(), Layout(1))
    assert kernel.tilt(f64([[1.0]])).mean.tolist() == [[pytest.approx(0.15)]]


def test_tilted_categories():
    probs = f64([[[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]]])
    gradient = f64([[[1.0, -1.0, 0.5], [-3.0, 9.0, 2.0]]])
    tilted = Categorical(probs, Layout(1)).tilt(gradient)
    expected = probs * gradient.exp()
    assert torch.allclose(tilted.probs, expected / expected.sum(-1, keepdim=True))
    assert tilted.probs[0, 1].tolist() == [1.0, 0.0, 0.0]  # what is certain stays so
    assert torch.allclose(
        tilted.log_prob(torch.tensor([[2, 0]])), (expected / expected.sum(-1, keepdim=True))[0, 0, 2].log()
    )


def test_a_point_cannot_be_tilted():
    with pytest.raises(UserError, match="Ancestral"):
        Dirac(f64([1.0])).tilt(f64([1.0]))


# ---------------------------------------------------------------- propose


class Tilt(Hook):
    def __init__(self, amount: float) -> None:
        self.amount, self.seen = amount, []

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        self.seen.append((field, transition.move.index, float(transition.before["a"].sum())))
        return kernel.tilt(torch.full_like(kernel.mean, self.amount))

    def after(self, state, kernels, transition):
        self.kernels = kernels
        return state


PROCESS = GaussianProcess(VP(), kind="data")


def zero(state: State, clocks) -> dict[str, Prediction]:
    return {
        n: Prediction(torch.zeros_like(x), "data", PROCESS, x, clocks[n], state.layouts[n])
        for n, x in state.fields.items()
    }


def pair_run(hooks: list[Hook], **more) -> State:
    x = torch.ones(3, 1, dtype=F64)
    fields = {"a": PROCESS, "b": PROCESS}
    sampler = Sampler(fields, {n: Ancestral() for n in fields}, Uniform(), hooks=hooks, **more)
    return sampler.run(
        State(dict.fromkeys(fields, x), dict.fromkeys(fields, Layout(3))), zero, PerSample(0), steps=1
    ).state


def test_hooks_propose_in_order_for_every_field_and_see_the_state_before_the_move():
    one, two = Tilt(0.5), Tilt(1.5)
    together, plain, both = pair_run([one, two]), pair_run([]), pair_run([Tilt(2.0)])
    assert one.seen == [("a", 0, 3.0), ("b", 0, 3.0)]
    assert torch.allclose(together["a"], both["a"])
    assert not torch.allclose(together["a"], plain["a"])
    assert torch.allclose(one.kernels["b"].mean, two.kernels["b"].mean)  # those drawn from, for every hook
    shift = one.kernels["a"].std ** 2 * 2.0  # type: ignore[attr-defined]
    assert torch.allclose(together["a"] - plain["a"], shift.expand(3, 1))


def test_correctors_are_not_tilted():
    hook = Tilt(1.0)
    pair_run([hook], correct={"a": Langevin()})
    assert [field for field, _, _ in hook.seen] == ["a", "b"]
