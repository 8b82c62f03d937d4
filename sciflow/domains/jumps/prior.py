"""Random systems and their observation: the synthetic prior of FIM-MJP (specification, section 3; arXiv 2406.06419).

Paths are drawn exactly on the observation grid: x_0 ~ p0, x_{m+1} ~ P(D)[x_m] with P(D) = exp(F D), the law that a
Gillespie simulation read at the grid times has. All systems and paths of a batch advance together.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from sciflow.core.config import Configurable
from sciflow.core.markov import generator as with_diagonal
from sciflow.domains.jumps.batch import PathBatch, pairs

WINDOW, POINTS = 10.0, 100  # the fine grid: 100 points on [0, 10]


@dataclass(frozen=True, eq=False)
class Systems:
    """B chains.

    Attributes:
        rates: (B, S, S) rates per unit of time off the diagonal, 0 on it and where there is no edge.
        initial: (B, S) initial laws.
        n_states: (B,) numbers of states; the rest is padding.
    """

    rates: Tensor
    initial: Tensor
    n_states: Tensor


class RatePrior(Configurable, ABC):
    """Law of systems."""

    @abstractmethod
    def sample(self, count: int, generator: Generator) -> Systems:
        """`count` systems."""


class PublishedPrior(RatePrior):
    """The prior of section 3: S in 2..6, half of the graphs complete, Beta rates, window [0, 10].

    Rates of kept edges are Beta(alpha, beta), alpha from {1, 2} and beta from {1, 3, 5, 10} for each edge; the initial
    law is stationary with probability 1/2, else Dirichlet(50, ..., 50).

    Args:
        weights: Number of states -> weight.
    """

    def __init__(self, weights: dict[int, float] | None = None) -> None:
        self.weights = {int(size): weight for size, weight in (weights or {2: 1, 3: 1, 4: 1, 5: 1, 6: 5}).items()}

    def sample(self, count: int, generator: Generator) -> Systems:
        """As the base class."""
        n_states, size = _sizes(self.weights, count, generator), max(self.weights)
        half = torch.where(torch.rand(count, generator=generator) < 0.5, 1.0, 0.5)
        kept = graphs(half, n_states, size, generator)
        shape = (count, size, size)
        alpha = torch.randint(1, 3, shape, generator=generator).double()
        beta = torch.tensor([1.0, 3.0, 5.0, 10.0]).double()[torch.randint(0, 4, shape, generator=generator)]
        return _system(_beta(alpha, beta, generator) * kept, n_states, generator)


class LogNormalPrior(RatePrior):
    """Log-normal rates on random graphs: other graphs, sizes and spreads of rates than the published prior has.

    For each system, edges are kept with a probability uniform in `edges` (strongly connected graphs only), the
    deviation of log-rates is uniform in `spread`, and the number of jumps of a path in the window [0, 10], averaged
    over states, is log-uniform in `jumps`.

    Args:
        weights: Number of states -> weight.
        edges: Range of the probability of an edge.
        spread: Range of the deviation.
        jumps: Range of the number of jumps.
        two_way: Share of systems in which i -> j implies j -> i, as in most of physics.
    """

    def __init__(
        self,
        weights: dict[int, float] | None = None,
        edges: tuple[float, float] = (0.3, 1.0),
        spread: tuple[float, float] = (0.2, 1.5),
        jumps: tuple[float, float] = (2.0, 40.0),
        two_way: float = 0.5,
    ) -> None:
        self.weights = {int(size): weight for size, weight in (weights or dict.fromkeys(range(2, 9), 1)).items()}
        self.edges, self.spread, self.jumps, self.two_way = tuple(edges), tuple(spread), tuple(jumps), two_way

    def sample(self, count: int, generator: Generator) -> Systems:
        """As the base class."""
        n_states = _sizes(self.weights, count, generator)

        def between(ends: tuple[float, ...]) -> Tensor:
            return ends[0] + (ends[1] - ends[0]) * torch.rand(count, generator=generator, dtype=torch.float64)

        two_way = torch.rand(count, generator=generator) < self.two_way
        kept = graphs(between(self.edges), n_states, max(self.weights), generator, two_way)
        normals = torch.randn(kept.shape, generator=generator, dtype=torch.float64)
        rates = (between(self.spread)[:, None, None] * normals).exp() * kept
        jumps = between((math.log(self.jumps[0]), math.log(self.jumps[1]))).exp()
        rates *= (jumps / WINDOW * n_states / rates.sum((1, 2)))[:, None, None]
        return _system(rates, n_states, generator)


def _sizes(weights: dict[int, float], count: int, generator: Generator) -> Tensor:
    drawn = torch.multinomial(torch.tensor(list(weights.values())).double(), count, True, generator=generator)
    return torch.tensor(list(weights))[drawn]


def _system(rates: Tensor, n_states: Tensor, generator: Generator) -> Systems:
    """Rates with initial laws: stationary with probability 1/2, else Dirichlet(50)."""
    real = torch.arange(rates.shape[-1]) < n_states[:, None]
    gammas = _gamma(torch.full(real.shape, 50.0).double(), generator) * real
    dirichlet = gammas / gammas.sum(-1, keepdim=True)
    stays = torch.rand(len(rates), 1, generator=generator) < 0.5
    return Systems(rates, torch.where(stays, stationary(rates, n_states), dirichlet), n_states)


def graphs(
    probability: Tensor, n_states: Tensor, size: int, generator: Generator, two_way: Tensor | None = None
) -> Tensor:
    """Strongly connected directed graphs, (B, S, S) bool: Bernoulli edges, rejected until connected.

    Args:
        probability: (B,) of an edge.
        n_states: (B,) numbers of states.
        size: S.
        generator: Source of randomness.
        two_way: (B,) bool, systems in which an edge and its reverse are kept together.
    """
    allowed, kept = pairs(n_states, size), torch.zeros(len(n_states), size, size, dtype=torch.bool)
    todo = torch.arange(len(n_states))
    while len(todo):
        uniforms = torch.rand(len(todo), size, size, generator=generator)
        if two_way is not None:
            mirrored = uniforms.triu(1) + uniforms.triu(1).mT
            uniforms = torch.where(two_way[todo, None, None], mirrored, uniforms)
        kept[todo] = (uniforms < probability[todo, None, None]) & allowed[todo]
        reach = (kept[todo] | torch.eye(size, dtype=torch.bool)).double()
        for _ in range(max(1, math.ceil(math.log2(size)))):
            reach = (reach @ reach).clamp_max(1.0)
        todo = todo[((reach > 0) | ~allowed[todo]).logical_not().any(-1).any(-1)]
    return kept


def stationary(rates: Tensor, n_states: Tensor) -> Tensor:
    """pi F = 0, sum pi = 1 for the first n_states states; 0 for padding. The chain must have one closed class."""
    real = torch.arange(rates.shape[-1], device=rates.device) < n_states[:, None]
    system = with_diagonal(rates).mT + real[:, :, None] * real[:, None, :]  # F^T pi + 1 (1 . pi) = 1
    return torch.linalg.solve(system + torch.diag_embed((~real).to(rates)), real.to(rates))


def _beta(alpha: Tensor, beta: Tensor, generator: Generator) -> Tensor:
    first, second = (_gamma(shape, generator) for shape in (alpha, beta))
    return first / (first + second)


def _gamma(shape: Tensor, generator: Generator) -> Tensor:
    return torch._standard_gamma(shape, generator)  # type: ignore[reportPrivateImportUsage]  # takes a generator


class Observation(Configurable, ABC):
    """How paths are read."""

    @abstractmethod
    def paths(self, systems: Systems, count: int, generator: Generator) -> PathBatch:
        """`count` paths of each system, with true labels."""


class Regular(Observation):
    """Each system on every n-th point of the fine grid, n from `strides`: all paths share the grid.

    Args:
        strides: Equally probable; (1, 2, 3, 4) gives 100, 50, 34 and 25 points.
        points: Points of the fine grid over the window [0, 10].
    """

    def __init__(self, strides: tuple[int, ...] = (1, 2, 3, 4), points: int = POINTS) -> None:
        self.strides, self.points = tuple(strides), points

    def paths(self, systems: Systems, count: int, generator: Generator) -> PathBatch:
        """As the base class."""
        strides = torch.tensor(self.strides)[
            torch.randint(len(self.strides), (len(systems.rates),), generator=generator)
        ]
        lengths = (self.points - 1) // strides + 1
        spacing = strides * (WINDOW / (self.points - 1))
        steps = int(lengths.max()) - 1
        states = chains(systems, spacing.double(), steps, count, generator)
        times = (torch.arange(steps + 1) * spacing[:, None].double())[:, None]
        starts = torch.ones(len(strides), count, dtype=torch.bool)
        return PathBatch(
            times, states, lengths[:, None].expand(-1, count), starts, systems.n_states, systems.rates.shape[-1]
        )


class Irregular(Observation):
    """Each point of the fine grid is kept with probability q, drawn for each system, on its own for each path.

    Args:
        survival: Values of q, equally probable. At least two points of a path are kept.
        points: Points of the fine grid over the window [0, 10].
    """

    def __init__(self, survival: tuple[float, ...] = (0.5, 0.25), points: int = POINTS) -> None:
        self.survival, self.points = tuple(survival), points

    def paths(self, systems: Systems, count: int, generator: Generator) -> PathBatch:
        """As the base class."""
        size, spacing = len(systems.rates), WINDOW / (self.points - 1)
        fine = chains(systems, torch.full((size,), spacing).double(), self.points - 1, count, generator)
        q = torch.tensor(self.survival)[torch.randint(len(self.survival), (size, 1, 1), generator=generator)]
        uniforms = torch.rand(fine.shape, generator=generator)
        kept = (uniforms < q) | (uniforms <= uniforms.kthvalue(2, -1, keepdim=True).values)
        lengths = kept.sum(-1)
        order = kept.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)[..., : int(lengths.max())]
        return PathBatch(
            order.double() * spacing,
            fine.gather(-1, order),
            lengths,
            torch.ones(size, count, dtype=torch.bool),
            systems.n_states,
            systems.rates.shape[-1],
        )


def chains(systems: Systems, spacing: Tensor, steps: int, count: int, generator: Generator) -> Tensor:
    """States (B, count, steps + 1) of equally spaced points; spacing (B,). Exact: x' ~ exp(F spacing)[x]."""
    size = systems.rates.shape[-1]
    moves = torch.matrix_exp(with_diagonal(systems.rates) * spacing[:, None, None]).clamp_min(0)
    tables = moves.cumsum(-1).float()[..., :-1].reshape(-1, size - 1)
    first = systems.initial.cumsum(-1).float()[:, None, :-1]
    rows = (torch.arange(len(spacing)) * size).repeat_interleave(count)
    last = (systems.n_states - 1).repeat_interleave(count)  # rounding must not reach a padded state
    states = torch.empty(steps + 1, len(spacing) * count, dtype=torch.long)
    uniforms = torch.rand(len(spacing), count, 1, generator=generator)
    states[0] = torch.minimum((uniforms > first).sum(-1).flatten(), last)
    for step in range(steps):
        uniforms = torch.rand(len(rows), 1, generator=generator)
        states[step + 1] = torch.minimum((uniforms > tables[rows + states[step]]).sum(-1), last)
    return states.view(steps + 1, len(spacing), count).permute(1, 2, 0).contiguous()


def relabel(states: Tensor, probability: Tensor, n_states: Tensor, generator: Generator) -> Tensor:
    """Label noise: each label (B, K, L) is replaced with probability (B,) by a state drawn uniformly."""
    draws = torch.rand(states.shape, generator=generator)
    p = probability.to(draws)[:, None, None]
    other = (draws / p.clamp_min(1e-12) * n_states[:, None, None]).long()  # given draws < p, draws / p is uniform
    return torch.where(draws < p, torch.minimum(other, n_states[:, None, None] - 1), states)
