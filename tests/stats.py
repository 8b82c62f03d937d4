"""Statistics of the tests: exact laws of discretised chains, z and chi-square tests with a stated false-alarm rate.

Every test here raises a false alarm with probability at most FALSE_ALARM = 1e-5 under a correct sampler.

Exact law of an affine chain: each move of each linear-Gaussian problem is affine in the state and in every normal that
is drawn. So ONE run of the sampler on a batch with a row per source of randomness gives the law by superposition: row 0
starts at 0 without noise, row 1 at 1, row 2 + k at 0 with only the k-th draw set to 1. No sampling error, no bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from oracles import F64, FIELD, JOINT, RATES, GaussianOracle, JumpOracle, PairOracle, f64
from torch import Tensor

from sciflow.core.grids import Uniform
from sciflow.core.noise import Draws, Fresh, Move, Noise
from sciflow.core.process import Process
from sciflow.core.sampler import Sampler
from sciflow.core.solver import Solver, drive_one
from sciflow.core.state import Layout, State
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked

FALSE_ALARM = 1e-5
FLOW_START, FLOW_END = 0.95, 0.05
Z_LIMIT = 4.42  # two-sided normal quantile of 1e-5 is 4.417


class Impulses(Noise, Draws):
    """The k-th draw is 1 in row 2 + k and 0 elsewhere."""

    def __init__(self) -> None:
        self.count = 0

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        """Itself."""
        return self

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        """The next impulse."""
        z = torch.zeros_like(like)
        z[2 + self.count] = 1
        self.count += 1
        return z

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        """Affine chains draw no uniforms."""
        raise AssertionError("an affine chain draws normals only")


def batch_state(x: Tensor, anchor: float = 0.0) -> State:
    """One dense field; all rows anchored at one point if it is not the origin."""
    centre = torch.full_like(x, anchor) if anchor else None
    return State({FIELD: x}, {FIELD: Layout(len(x), anchor=centre)})


def chain_law(
    process: Process,
    solver: Solver | None,
    oracle: Callable,
    moves: int,
    grid,
    *,
    correct: Solver | None = None,
    start: tuple[Tensor, Tensor] | None = None,
    anchor: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Exact (mean, variance) after the moves, for a start N(mean, variance); default: the true law at the first clock.

    An oracle that draws (attribute `draws`) must draw from an `Impulses`, which is then used for the chain too.
    """
    impulses = oracle.draws if isinstance(getattr(oracle, "draws", None), Impulses) else Impulses()
    impulses.count = 0
    rows = torch.zeros(2 + 4 * moves + 4, 1, dtype=F64)  # at most 4 draws per move
    rows[1] = 1
    end = run(process, solver, oracle, rows, moves, grid, impulses, correct=correct, anchor=anchor)[:, 0]
    mean, variance = start if start is not None else oracle.law(first_clock(grid, moves))
    slope = end[1] - end[0]
    return end[0] + slope * mean, slope**2 * variance + ((end[2:] - end[0]) ** 2).sum()


def first_clock(grid, moves: int) -> Tensor:
    """Clock at which the chain starts."""
    return torch.tensor(grid.moves(moves)[0][0], dtype=F64)


def last_clock(grid, moves: int) -> Tensor:
    """Clock at which the chain ends."""
    return torch.tensor(grid.moves(moves)[-1][1], dtype=F64)


def run(process, solver, oracle, x, moves, grid, noise, *, correct=None, anchor=0.0) -> Tensor:
    """Final field of one run."""
    solvers, correctors = ({} if s is None else {FIELD: s} for s in (solver, correct))
    sampler = Sampler({FIELD: process}, solvers, grid, correct=correctors)
    return sampler.run(batch_state(x, anchor), oracle, noise, steps=moves).state[FIELD]


def law_error(law: tuple[Tensor, Tensor], truth: tuple[Tensor, Tensor]) -> float:
    """Distance of two normal laws in units of the second: |mean difference|/std + |variance ratio - 1|."""
    return float((law[0] - truth[0]).abs() / truth[1].sqrt() + (law[1] / truth[1] - 1).abs())


def normal_z(x: Tensor, mean: Tensor | float, variance: Tensor | float) -> float:
    """Largest |z| of sample mean and sample variance of normal draws with the stated law (two tests)."""
    x, count = x.flatten(), x.numel()
    z_mean = (x.mean() - mean) / math.sqrt(float(variance) / count)
    z_variance = (x.var() / variance - 1) / math.sqrt(2 / (count - 1))
    return max(abs(float(z_mean)), abs(float(z_variance)))


def mean_z(x: Tensor, mean: float) -> float:
    """|z| of the mean of independent draws of any law, with their own standard deviation."""
    return abs(float(x.mean() - mean)) / float(x.std() / math.sqrt(x.numel()))


def chi_square(counts: Tensor, probabilities: Tensor) -> float:
    """P-value of Pearson's test. Cells expected below 10 are pooled; a count in an impossible cell gives 0."""
    counts, expected = counts.flatten().to(F64), probabilities.flatten().to(F64) * counts.sum()
    if bool((counts[expected <= 1e-9 * counts.sum()] > 0).any()):
        return 0.0
    small = expected < 10
    if bool(small.any()):
        counts = torch.cat([counts[~small], counts[small].sum()[None]])
        expected = torch.cat([expected[~small], expected[small].sum()[None]])
    keep = expected > 1e-6
    statistic = ((counts[keep] - expected[keep]) ** 2 / expected[keep]).sum()
    half_dof = torch.tensor((int(keep.sum()) - 1) / 2, dtype=F64)
    return float(torch.special.gammaincc(half_dof, statistic / 2))


def total_variation(p: Tensor, q: Tensor) -> float:
    """Half the sum of absolute differences."""
    return float(0.5 * (p - q).abs().sum())


def order(steps: list[int], errors: list[float]) -> float:
    """Slope of log(error) against log(1/steps) between the two finest levels."""
    return math.log(errors[-2] / errors[-1]) / math.log(steps[-1] / steps[-2])


def converges(errors: list[float], order: float) -> bool:
    """Errors at 32 and 64 moves: small, and falling at 0.7 of the declared order at least (test_orders.py is strict).

    First-order errors below 0.005 pass at once: there the errors of mean and variance cancel.
    """
    if errors[1] < (0.005 if order < 2 else 1e-9):
        return True
    measured = math.log2(errors[0] / errors[1])
    return errors[1] < (0.15 if order < 2 else 0.01) and measured > 0.7 * max(order, 1.0)


def flow_error(process, solver, grid, moves: int) -> float:
    """Largest distance from the exact flow map."""
    oracle = GaussianOracle(process)
    (m_t, v_t), (m_s, v_s) = oracle.law(f64(FLOW_START)), oracle.law(f64(FLOW_END))
    x = torch.linspace(-2, 2, 8, dtype=F64)[:, None]
    exact = m_s + (x - m_t) * (v_s / v_t).sqrt()
    return float((run(process, solver, oracle, x, moves, grid, Fresh()) - exact).abs().max())


def flow_order(process, solver, grid, levels: tuple[int, int] = (128, 256)) -> float:
    """Measured order of a deterministic solver."""
    return order(list(levels), [flow_error(process, solver, grid, moves) for moves in levels])


# ---------------------------------------------------------------- discrete processes: laws by enumeration

PAIR = torch.cartesian_prod(torch.arange(4), torch.arange(4))  # the 16 states of two tokens, 3 is the mask


def pair_truth(t: float):
    """Law of the noised pair: 16 probabilities."""
    keep = torch.cat([(1 - t) * torch.eye(3, dtype=F64), torch.full((3, 1), t, dtype=F64)], 1)
    return (keep.T @ JOINT @ keep).flatten()


def kernel_matrix(process, solver, oracle, states, t: float, s: float):
    """Transition matrix of a move, by sending every state through the solver: independent entries, (S, S)."""

    def predict(query):
        return oracle(batch_state(query.x), {FIELD: query.t})[FIELD]

    kernel, _ = drive_one(solver.step(process, states, f64(t), f64(s), Layout(len(states)), None, None), predict)
    probs = kernel.probs
    if probs.ndim == 2:
        return probs
    return torch.einsum("sa,sb->sab", probs[:, 0], probs[:, 1]).reshape(len(states), -1)


def gillespie_matrix(t: float, s: float):
    """Two tokens with the rate p/t frozen from event to event, by hand (quadrature over the first event).

    Both masked: total rate 2/t, first event at tau; then the other token has rate 1/(t - tau) until s.
    """
    h, matrix = t - s, torch.zeros(4, 4, 4, 4, dtype=F64)
    tau = (torch.arange(20_000, dtype=F64) + 0.5) * h / 20_000
    first = torch.exp(-2 * tau / t) / t * h / 20_000  # density of a first event at ONE of the positions
    rest = torch.exp(-(h - tau) / (t - tau))
    only, both = (first * rest).sum(), (first * (1 - rest)).sum()
    rows, columns = JOINT.sum(1), JOINT.sum(0)
    matrix[3, 3, 3, 3] = math.exp(-2 * h / t)
    matrix[3, 3, :3, 3], matrix[3, 3, 3, :3] = only * rows, only * columns
    matrix[3, 3, :3, :3] = 2 * both * JOINT
    for a in range(3):
        matrix[a, 3, a, 3] = matrix[3, a, 3, a] = math.exp(-h / t)
        matrix[a, 3, a, :3] = (1 - math.exp(-h / t)) * JOINT[a] / rows[a]
        matrix[3, a, :3, a] = (1 - math.exp(-h / t)) * JOINT[:, a] / columns[a]
        for b in range(3):
            matrix[a, b, a, b] = 1
    return matrix.reshape(16, 16)


def pair_law(solver, moves: int, grid=None, process=None):
    """Exact law (16,) of the chain that starts all masked."""
    process, law = process or Masked(3, kind="data"), torch.zeros(16, dtype=F64)
    law[15] = 1
    for t, s in (grid or Uniform(1.0, 0.05)).moves(moves):
        if type(solver).__name__ == "Gillespie":
            law = law @ gillespie_matrix(t, s)
        else:
            law = law @ kernel_matrix(process, solver, PairOracle(process, JOINT), PAIR, t, s)
    return law


def jump_law(solver, moves: int, time: float = 1.5) -> Tensor:
    """Transient laws (3, 3) of the chain with RATES after equal moves, by enumeration; row: start."""
    process = Jump(3)
    move = kernel_matrix(process, solver, JumpOracle(process, RATES), torch.arange(3), 0.0, time / moves)
    return torch.linalg.matrix_power(move, moves)


def jump_gap(solver, moves: int, time: float = 1.5) -> float:
    """Largest error of those laws."""
    return float((jump_law(solver, moves, time) - torch.linalg.matrix_exp(RATES * time)).abs().max())
