"""Pairs of cells of neighbouring snapshots, and bridges between them: what bridge matching is trained on.

The static problem needs a plan of all cells by all cells. On large snapshots it is solved between blocks drawn from
both (minibatch Sinkhorn: Tong et al., arXiv 2307.03672, with the cost -log p_theta(y | x) of the reference): linear in
the number of cells; the plan of blocks is more spread than the plan of all cells.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.couplings.sinkhorn import sinkhorn
from sciflow.networks.references import Brownian, Reference
from sciflow.training.schrodinger.linear_noise import bridges, transition

Cost = Callable[[Tensor, Tensor], Tensor]  # starts (n, d), ends (m, d) -> cost in nats (n, m)
LEAST = 4096  # pairs of an interval at least: several draws of each cell of a small snapshot


class Pairing(Configurable, ABC):
    """A first coupling of two snapshots."""

    @abstractmethod
    def draw(self, start: Cloud, end: Cloud, cost: Cost, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Starts and ends of pairs, (P, d) each, with P at least the larger number of cells."""


@dataclass(frozen=True, eq=False)
class Cloud:
    """Cells (n, d) with weights (n,) that sum to 1."""

    points: Tensor
    weights: Tensor

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """`n` cells in random order: each of them n times its weight, rounded up or down."""
        order = torch.randperm(len(self.weights), generator=generator)  # else neighbours in the file exclude each other
        return self.points[order[systematic(self.weights[order], n, generator)]]


def systematic(weights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """`n` draws from weights in random order, each index n times its weight, rounded up or down."""
    first = torch.rand((), generator=generator, dtype=torch.float64)
    places = (torch.arange(n, dtype=torch.float64) + first) / n
    rows = torch.searchsorted(weights.cumsum(0), places * float(weights.sum())).clamp_max(len(weights) - 1)
    return rows[torch.randperm(n, generator=generator)]


class Product(Pairing):
    """Independent ends; what iterated Markovian projections may start from."""

    def draw(self, start: Cloud, end: Cloud, cost: Cost, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cells by weight."""
        count = max(len(start.points), len(end.points), LEAST)
        return start.draw(count, generator), end.draw(count, generator)


class MinibatchSinkhorn(Pairing):
    """The static Schroedinger problem in blocks.

    Args:
        cells: Cells of each snapshot in a block. Time grows with its square per cell; snapshots up to it are solved
            whole.
    """

    def __init__(self, cells: int = 256) -> None:
        if cells < 2:
            raise UserError(f"cells: got {cells}, expected 2 or more in a block")
        self.cells = cells

    def draw(self, start: Cloud, end: Cloud, cost: Cost, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Every cell is in a block; of each block equally many pairs are drawn from its plan."""
        count = max(len(start.points), len(end.points))
        blocks = math.ceil(count / self.cells)
        draws, pairs = math.ceil(max(count, LEAST) / blocks), []
        if blocks == 1:
            return _pairs(start, end, cost, draws, generator)
        drawn = [cloud.draw(blocks * self.cells, generator).split(self.cells) for cloud in (start, end)]
        for x, y in zip(*drawn, strict=True):
            pairs.append(_pairs(_uniform(x), _uniform(y), cost, draws, generator))
        starts, ends = zip(*pairs, strict=True)
        return torch.cat(starts), torch.cat(ends)


def _uniform(points: Tensor) -> Cloud:
    return Cloud(points, points.new_full((len(points),), 1 / len(points)))


def _pairs(start: Cloud, end: Cloud, cost: Cost, draws: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws from the plan of two whole clouds."""
    plan = sinkhorn(cost(start.points, end.points), start.weights, end.weights).log.exp()
    chosen = systematic(plan.flatten(), draws, generator)  # row by row: starts keep their shares
    rows, columns = chosen // plan.shape[1], chosen % plan.shape[1]
    return start.points[rows], end.points[columns]


def transition_cost(reference: Reference, grid: Tensor, sigma: float) -> Cost:
    """-log p_theta(y | x) over a grid, up to a constant: linear-noise, exact and in one step for Brownian motion."""
    if isinstance(reference, Brownian):
        return lambda x, y: torch.cdist(x, y).square() / (2 * sigma**2 * float(grid[-1] - grid[0]))
    return lambda x, y: -transition(reference, x, grid, sigma).log_prob(y)


@dataclass(frozen=True, eq=False)
class Batch:
    """Points of bridges and the drifts that pass through them.

    Attributes:
        x: (n, d).
        share: (n,) share u of the interval that has passed.
        forward: (n, d) conditional forward drift, expected increment given the point and the end, per time.
        backward: (n, d) conditional drift of the reversed bridge, per time.
    """

    x: Tensor
    share: Tensor
    forward: Tensor
    backward: Tensor


class BrownianBridges:
    """x_u = (1 - u) x + u y + sigma sqrt(T u (1 - u)) z at any u; drifts (y - x_u)/((1 - u) T), (x - x_u)/(u T)."""

    def __init__(self, starts: Tensor, ends: Tensor, duration: float, sigma: float) -> None:
        self.starts, self.ends, self.duration, self.sigma = starts, ends, duration, sigma

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Random pairs at uniform random times."""
        rows = torch.randint(len(self.starts), (n,), generator=generator)
        x, y = self.starts[rows], self.ends[rows]
        u = torch.rand(n, 1, generator=generator, dtype=x.dtype).clamp(1e-4, 1 - 1e-4)
        noise = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        point = torch.lerp(x, y, u) + self.sigma * (self.duration * u * (1 - u)).sqrt() * noise
        return Batch(point, u[:, 0], (y - point) / ((1 - u) * self.duration), (x - point) / (u * self.duration))


class ReferenceBridges:
    """Linear-noise bridges of a reference, drawn once on the grid.

    Forward drifts are conditional means, backward drifts reversed increments. A drift that does not exist (forward at
    the end, backward at the start) is 0; its weight in the regression is 0.
    """

    def __init__(
        self,
        reference: Reference,
        starts: Tensor,
        ends: Tensor,
        grid: Tensor,
        sigma: float,
        generator: torch.Generator,
    ) -> None:
        rows = torch.randperm(len(starts), generator=generator)[:LEAST]  # bounds the memory: pairs x steps x d
        law = bridges(reference, starts[rows], ends[rows], grid, sigma)
        self.paths, _ = law.sample(generator)  # (N + 1, n, d)
        none = torch.zeros_like(self.paths[:1])
        self.forward = torch.cat([law.velocity(self.paths), none])
        self.backward = torch.cat([none, -self.paths.diff(dim=0) / grid.diff()[:, None, None]])

    def draw(self, n: int, generator: torch.Generator) -> Batch:
        """Random pairs at random times of the grid."""
        steps, pairs = len(self.paths), self.paths.shape[1]
        j = torch.randint(steps, (n,), generator=generator)
        i = torch.randint(pairs, (n,), generator=generator)
        return Batch(self.paths[j, i], j.to(self.paths) / (steps - 1), self.forward[j, i], self.backward[j, i])
