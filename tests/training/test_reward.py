"""Reward fine-tuning on Toy A, where objective, divergence and gradients are finite sums (drakes.md section 12)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import token_toy as toy
import torch
from reward_toy import (
    TableNetwork,
    denoiser,
    exact_objective,
    exact_path_kl,
    gradient,
    masked,
    objective,
    table_of,
)
from stats import Z_LIMIT, mean_z
from token_toy import F64
from torch import Tensor, nn

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.relaxation import JointGumbel, StraightThrough
from sciflow.core.state import State
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder
from sciflow.training.reward_path import ExactPathKL, PathObjective, ReleasedPathKL, ScoreFunction


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(before)


# ---------------------------------------------------------------- the optimum (items 5 to 7)


def test_exact_objective_of_the_optimum():
    for moves, value in toy.GOLDEN_PATH_KL.items():
        if moves < 256:
            assert abs(float(exact_path_kl(toy.TILTED, moves)) - value) < 2e-6
    assert abs(float(exact_path_kl(toy.TILTED, None)) - 1.420042) < 1e-6
    assert abs(float(exact_objective(toy.TILTED, None)) - 1.372310) < 1e-6


def test_table_of_logits_reaches_the_optimum():
    """Item 6: 64 x 3 x 3 logits on the enumerated objective, from the pretrained denoiser."""
    network = TableNetwork()
    optimizer = torch.optim.LBFGS(network.parameters(), lr=1, max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = -exact_objective(table_of(network), None)
        loss.backward()
        return loss

    optimizer.step(closure)
    table = table_of(network).detach()
    law = toy.any_order_law(table)
    assert abs(float(exact_objective(table, None)) - 1.372310) < 1e-4
    assert float((law * (law / toy.P_STAR).log()).sum()) < 1e-4


def test_released_divergence_is_zero_on_hard_states_and_the_exact_one_is_not():
    """Item 7, with the straight-through relaxation: every state is one-hot."""
    for divergence, zero in ((ReleasedPathKL(), True), (ExactPathKL(), False)):
        kl = objective(8, divergence=divergence)(denoiser(1.0), denoiser(), "seq", masked(64), Fresh(0)).kl
        assert bool((kl == 0).all()) == zero and bool((kl > 1e-3).any()) != zero


# ---------------------------------------------------------------- estimates against exact sums


@pytest.mark.parametrize(
    ("solver", "moves", "options"),
    [
        (Ancestral(), 8, {}),
        (Ancestral(), 8, {"grad_last": 3, "hard_moves": 2}),
        (Ancestral(), 8, {"grad_last": 5, "hard_moves": 1, "relaxed_moves": 2}),
        (Ancestral(), 8, {"grad_last": 2, "hard_moves": 2, "score_function": ScoreFunction()}),
        (AnyOrder(), 3, {"grad_last": 1, "hard_moves": 1}),
    ],
    ids=["all relaxed", "subset of hard", "subset of both", "score function", "any order"],
)
def test_reward_and_divergence_are_unbiased(solver, moves, options):
    """z of the means over 4000 paths, two tests at a false-alarm rate of 1e-5 each."""
    tuned, frozen = denoiser(0.7), denoiser()
    out = objective(moves, solver, **options)(tuned, frozen, "seq", masked(4000), Fresh(1))
    table = table_of(tuned.network).detach()
    steps = moves if isinstance(solver, Ancestral) else None
    law = toy.ancestral_law(table, moves) if steps else toy.any_order_law(table)
    assert mean_z(out.reward, float((law * toy.REWARD).sum())) < Z_LIMIT
    parts = torch.stack(  # the subset of moves is one per batch: many small batches
        [objective(moves, solver, **options)(tuned, frozen, "seq", masked(40), Fresh(s)).kl.mean() for s in range(30)]
    )
    assert mean_z(parts.detach(), float(exact_path_kl(table, steps))) < Z_LIMIT


def estimated_gradient(tuned: Denoiser, paths: int, seed: int, problem: PathObjective) -> Tensor:
    return -gradient(problem(tuned, denoiser(), "seq", masked(paths), Fresh(seed)).loss, tuned.network)


def test_gradient_of_the_objective_by_relaxation():
    """8 ancestral moves, 4000 paths: relative error 0.05 to 0.08 over seeds, most of it Monte Carlo noise."""
    tuned = denoiser(0.7)
    exact = gradient(exact_objective(table_of(tuned.network), 8), tuned.network)
    assert (estimated_gradient(tuned, 4000, 0, objective(8)) - exact).norm() < 0.15 * exact.norm()


def test_gradient_vanishes_at_the_optimum():
    """Any order, in units of the gradient at the start: 0.03 to 0.05 over seeds for 4000 paths (Monte Carlo noise).

    Not so without the gradient through the input of the frozen network (0.26 to 0.28) or with a hot straight-through
    relaxation (0.25 to 0.26): these have another optimum.
    """
    tuned = denoiser()
    unit = gradient(exact_objective(table_of(tuned.network), None), tuned.network).norm()
    with torch.no_grad():
        tuned.network.logits.copy_(toy.TILTED.clamp_min(1e-9).log())
    assert gradient(exact_objective(table_of(tuned.network), None), tuned.network).norm() < 1e-9 * unit
    hot = Denoiser(tuned.network, {"seq": Masked(3, relaxation=StraightThrough(1.0))})
    blind = objective(3, AnyOrder(), divergence=ExactPathKL(through_frozen=False))
    assert estimated_gradient(tuned, 4000, 0, objective(3, AnyOrder())).norm() < 0.1 * unit
    assert estimated_gradient(tuned, 4000, 0, blind).norm() > 0.18 * unit
    assert estimated_gradient(hot, 4000, 0, objective(3, AnyOrder())).norm() > 0.18 * unit


@pytest.mark.slow
def test_score_function_is_unbiased_and_a_wrong_baseline_is_not():
    """REINFORCE with leave-one-out baseline, no relaxed move: z of three fixed projections of the gradient (1e-5 each).

    Planted fault: a baseline that contains the sample itself shrinks the gradient by 1/B.
    """
    tuned, batch = denoiser(0.7), 4
    exact = gradient(exact_objective(table_of(tuned.network), 4), tuned.network)
    directions = torch.randn(3, *exact.shape, generator=torch.Generator().manual_seed(1), dtype=F64)
    directions[0] = exact

    class OwnBaseline(ScoreFunction):
        def __call__(self, log_prob: Tensor, cost: Tensor) -> Tensor:
            return log_prob * (cost - cost.mean(1, keepdim=True)).detach()

    def worst(score: ScoreFunction) -> float:
        problem = objective(4, grad_last=0, hard_moves=2, score_function=score)
        runs = torch.stack([estimated_gradient(tuned, batch, seed, problem) for seed in range(400)])
        products = torch.einsum("nabc,dabc->nd", runs, directions)
        return max(mean_z(products[:, d], float((directions[d] * exact).sum())) for d in range(3))

    assert worst(ScoreFunction()) < Z_LIMIT < worst(OwnBaseline())


def test_score_function_of_the_first_moves_beside_relaxed_ones():
    """K = 2 of 4 moves relaxed: with the score function the gradient is right, without it most of it is missing."""
    tuned = denoiser(0.7)
    exact = gradient(exact_objective(table_of(tuned.network), 4), tuned.network)

    def error(score: ScoreFunction | None) -> float:
        problem = objective(4, grad_last=2, hard_moves=2, score_function=score)
        return float((estimated_gradient(tuned, 20_000, 0, problem) - exact).norm() / exact.norm())

    assert error(ScoreFunction()) < 0.12 < 0.2 < error(None)


def test_recomputed_and_reused_calls_give_the_same_gradient():
    gradients, calls = [], []

    class Counted(TableNetwork):
        def forward(self, state: State, signals: Any) -> dict[str, Tensor]:
            calls[-1] += state.batch
            return super().forward(state, signals)

    for recompute, clock_free in ((False, False), (True, True), (False, True)):
        tuned = Denoiser(Counted(0.7), {"seq": Masked(3)})
        tuned.network.clock_free = clock_free
        calls.append(0)
        gradients.append(estimated_gradient(tuned, 50, 0, objective(8, grad_last=6, recompute=recompute)))
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(gradients[2], gradients[0])
    assert calls[2] < 0.7 * calls[0]  # (7/8)^3 = 0.67 of the samples do not change in a move


# ---------------------------------------------------------------- the released arithmetic


class SmallNetwork(nn.Module):
    """Sees relaxed tokens only; not an oracle, for parity of arithmetic."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(5 * 4, 16), nn.Tanh(), nn.Linear(16, 5 * 3))

    def forward(self, state: State, signals: Any) -> dict[str, Tensor]:
        x = state["seq"]
        x = x if x.is_floating_point() else nn.functional.one_hot(x, 4).to(F64)
        return {"seq": self.layers(x).reshape(-1, 5, 3)}


def released_loss(
    tuned: Any, frozen: Any, weights: Tensor, alpha: float, tau: float, moves: int, relaxed: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The formulas of drakes.md section 8, written out; V = 3, M = 3, 4 sequences of 5; loss, reward and divergence."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(4, 5, 4, dtype=F64)
    x[..., 3] = 1
    clocks, kl = torch.linspace(1, 1e-5, moves + 1, dtype=F64).tolist(), torch.zeros(4, dtype=F64)

    def log_probs(network: Any, x: Tensor) -> Tensor:
        found = network({"seq": x}, None)["seq"].log_softmax(-1)
        constant = torch.full_like(found, -1e6)
        constant.scatter_(-1, x.argmax(-1, keepdim=True).clamp_max(2), 0.0)
        return torch.where((x.argmax(-1) != 3)[..., None], constant, found)

    for k in range(moves):
        t, s = clocks[k], clocks[k + 1]
        m, lp, old = x[..., 3:], log_probs(tuned, x), log_probs(frozen, x)
        kl = kl + ((1 - m) * (-lp.exp() + old.exp() + lp.exp() * (lp - old)) * x[..., :3] / t).sum((1, 2))
        if k < moves - relaxed:
            law = torch.where(m > 0, torch.cat([lp.exp() * (t - s) / t, torch.full_like(m, s / t)], -1), x)
            u = torch.rand(4, 5, 1, generator=generator, dtype=F64)
            x = nn.functional.one_hot((law.cumsum(-1) <= u * law.sum(-1, keepdim=True)).sum(-1), 4).to(F64).detach()
        else:
            q = torch.cat([lp.exp() * (t - s), torch.full_like(m, s)], -1)
            gumbel = -(1e-10 - (torch.rand(4, 5, 4, generator=generator, dtype=F64) + 1e-10).log()).log()
            x = (1 - m) * x + m * ((q.clamp_min(1e-20).log() + gumbel) / tau).softmax(-1)
    v = x[..., :3]
    v = nn.functional.one_hot(v.argmax(-1), 3) + v - v.detach()
    reward = (v * weights).sum((1, 2))
    return -reward.mean() + alpha * kl.mean(), reward, kl


@pytest.mark.parametrize(("moves", "relaxed", "tau"), [(6, 6, 1.0), (8, 4, 0.5)])
def test_released_arithmetic_on_shared_random_numbers(moves, relaxed, tau):
    """Loss, reward, divergence and gradient to 1e-5 with `JointGumbel` and `ReleasedPathKL`."""
    weights = torch.randn(5, 3, generator=torch.Generator().manual_seed(9), dtype=F64)
    tuned, frozen = SmallNetwork(1).to(F64), SmallNetwork(2).to(F64).requires_grad_(False)
    loss, reward, kl = released_loss(tuned, frozen, weights, 0.3, tau, moves, relaxed, 11)
    expected = torch.autograd.grad(loss, list(tuned.parameters()))
    process = Masked(3, relaxation=JointGumbel(tau))
    problem = PathObjective(
        lambda x, state: (x * weights).sum((1, 2)),
        0.3,
        SamplingPlan({"seq": Ancestral()}, Uniform(1.0, 1e-5), moves, final="sample"),
        grad_last=relaxed,
        hard_moves=0,
        divergence=ReleasedPathKL(),
    )
    start = toy.masked_state(4, 3, 5)
    ours = [Denoiser(network, {"seq": process}) for network in (tuned, frozen)]
    out = problem(ours[0], ours[1], "seq", start, Fresh(11))
    torch.testing.assert_close(out.loss, loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(out.reward, reward.detach(), rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(out.kl, kl.detach(), rtol=1e-5, atol=1e-7)
    assert float(kl.detach().min()) > 0
    got = torch.autograd.grad(out.loss, list(tuned.parameters()))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
