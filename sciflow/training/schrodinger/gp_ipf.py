"""Engine A, `gp_ipf`: iterative proportional fitting on simulated paths, with drifts fitted by a Gaussian process.

The published algorithm of SBIRR (Shen, Berlinghieri, Broderick, arXiv 2408.06277) on IPML (Vargas et al., Entropy
23:1134, 2021). In each interval [t_k, t_{k+1}] the drifts of Q are fitted in turn to the reversal of the other's paths:

    simulate the reference from X_k, fit the backward drift to the reversed paths; then, several times,
    simulate backward from X_{k+1}, fit the forward drift; simulate forward from X_k, fit the backward drift.

A backward drift is a function of its own clock, which starts at t_k where the path is at X_{k+1}. Whole paths run from
every cell of every snapshot forward to t_K and backward to t_1.

What to expect: the result is near, not equal to, the bridge (the prior shrinks drifts and bends paths), marginals are
met within the error of the regression, and errors add up over intervals. Time grows as the cube, memory as the square
of cells times steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import Engine, Increments, PathLaw, Problem
from sciflow.training.schrodinger.gaussian_process import ExactGP
from sciflow.training.schrodinger.regressors import Drift, DriftData, Regressor
from sciflow.training.schrodinger.result import simulate
from sciflow.training.schrodinger.snapshots import Snapshots


@dataclass(frozen=True, eq=False)
class Interval:
    """Drifts of Q between two snapshots.

    Attributes:
        times: (N + 1,) grid.
        forward: Drift of Q at its physical time.
        backward: Drift of the reversed Q at the clock that starts at times[0].
    """

    times: Tensor
    forward: Drift
    backward: Drift


class GaussianProcessIPF(Engine):
    """The published algorithm.

    Args:
        iterations: IPF iterations per interval.
        regressor: How drifts are fitted: `ExactGP` (published, default), `NystromGP`, `AboutReference`, `MLP`.
    """

    def __init__(self, iterations: int = 10, regressor: Regressor | None = None) -> None:
        if iterations < 1:
            raise UserError(f"iterations: got {iterations}, expected 1 or more")
        self.iterations, self.regressor = iterations, regressor or ExactGP()

    def bridge(self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor]) -> IPFLaw:
        """IPF from scratch in every interval: the published rounds do not start from the last one's drifts."""
        generator = problem.generator()
        starts = [_cells(problem.snapshots, k, generator) for k in range(len(problem.snapshots))]
        intervals = [
            self.interval(*ends, times, reference, problem.sigma, generator)
            for ends, times in zip(pairwise(starts), problem.grids, strict=True)
        ]
        return IPFLaw(problem, intervals, reference, generator)

    def interval(
        self, start: Tensor, end: Tensor, times: Tensor, reference: Drift, sigma: float, generator: torch.Generator
    ) -> Interval:
        """IPF between the clouds `start` (n, d) and `end` (m, d) on the grid `times`."""

        def reversed_reference(x: Tensor, t: Tensor) -> Tensor:
            return -reference(x, times[0] + times[-1] - t)

        def fit(paths: Tensor, mean: Drift) -> Drift:
            return self.regressor.fit(DriftData.of(paths.flip(1), times, sigma, mean), generator)

        with torch.no_grad():
            backward = fit(simulate(reference, start, times, sigma, _noise(generator)), reversed_reference)
            forward = reference
            for _ in range(self.iterations):
                forward = fit(simulate(backward, end, times, sigma, _noise(generator)), reference)
                backward = fit(simulate(forward, start, times, sigma, _noise(generator)), reversed_reference)
        return Interval(times, forward, backward)


class IPFLaw(PathLaw):
    """Chain of intervals with fitted drifts.

    Attributes:
        objective: 1/(2 sigma^2) E_Q int |b_Q - b_theta|^2 dt over paths started at the cells of each interval.
    """

    def __init__(
        self, problem: Problem, intervals: list[Interval], reference: Reference, generator: torch.Generator
    ) -> None:
        self.snapshots, self.sigma, self.intervals = problem.snapshots, problem.sigma, intervals
        self.grid = torch.cat([intervals[0].times[:1], *(one.times[1:] for one in intervals)])
        self.ends, terms = [], []
        for one, cells, mass in zip(intervals, problem.clouds, problem.masses, strict=False):
            paths = simulate(one.forward, cells, one.times, self.sigma, _noise(generator))
            with torch.no_grad():
                for j, t in enumerate(one.times[:-1]):
                    gap = (one.forward(paths[:, j], t) - reference(paths[:, j], t)).square().sum(1)
                    terms.append(mass @ gap * (one.times[j + 1] - t))
            self.ends.append(paths[:, -1])
        self.objective = float(sum(terms)) / (2 * self.sigma**2)

    def sample(self, n: int, times: Tensor, generator: torch.Generator) -> Tensor:
        """Paths through cells drawn from all snapshots; between grid points, Brownian bridges.

        For n = the number of all cells and uniform weights each cell is taken once, as published.
        """
        sizes = self.snapshots.sizes
        order = torch.randperm(sum(sizes), generator=generator)
        chosen = order.repeat(-(-n // len(order)))[:n]
        first, parts = 0, []
        for k, size in enumerate(sizes):
            mine = chosen[(chosen >= first) & (chosen < first + size)] - first
            parts.append(self.through(k, _cells(self.snapshots, k, generator)[mine], generator))
            first += size
        return _between(torch.cat(parts), self.grid, times, self.sigma, generator)

    def through(self, k: int, cells: Tensor, generator: torch.Generator) -> Tensor:
        """Paths on the whole grid through `cells` (n, d) at snapshot k: (n, T, d)."""
        pieces, point = [], cells
        for one in reversed(self.intervals[:k]):
            back = simulate(one.backward, point, one.times, self.sigma, _noise(generator)).flip(1)
            pieces, point = [back[:, :-1], *pieces], back[:, 0]
        pieces, point = [*pieces, cells[:, None]], cells
        for one in self.intervals[k:]:
            onward = simulate(one.forward, point, one.times, self.sigma, _noise(generator))
            pieces, point = [*pieces, onward[:, 1:]], onward[:, -1]
        return torch.cat(pieces, 1)

    def coupling(self, k: int) -> Tensor:
        """One path from each cell of snapshot k; its end is assigned to the cells of k + 1 by exact transport."""
        import ot

        a, b = self.snapshots.weights[k : k + 2]
        cost = ot.dist(self.ends[k].numpy(), self.snapshots.points[k + 1])
        return torch.as_tensor(ot.emd(a, b, cost))

    def increments(self, generator: torch.Generator) -> Increments:
        """One path through every cell of every snapshot."""
        sizes = self.snapshots.sizes
        return Increments.of(self.sample(sum(sizes), self.grid, generator), self.grid, sum(sizes) / len(sizes))

    def drift(self, x: Tensor, t: float) -> Tensor:
        """The forward drift of the interval that holds t, the later one at a snapshot."""
        later = [one for one in self.intervals if t < float(one.times[-1])] or self.intervals[-1:]
        with torch.no_grad():
            return later[0].forward(x, torch.tensor(t, dtype=torch.float64))


def _cells(snapshots: Snapshots, k: int, generator: torch.Generator) -> Tensor:
    """The cells of snapshot k (n_k, d): each once if weights are uniform, else as many draws by weight."""
    points, weights = torch.as_tensor(snapshots.points[k]), torch.as_tensor(snapshots.weights[k])
    if torch.allclose(weights, weights.mean()):
        return points
    return points[torch.multinomial(weights, len(points), replacement=True, generator=generator)]


def _noise(generator: torch.Generator) -> Fresh:
    return Fresh(int(torch.randint(2**62, (), generator=generator)))


def _between(paths: Tensor, grid: Tensor, times: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Values at any times of paths (n, G, d) known on a grid: Brownian bridges between neighbouring points."""
    times = times.to(grid)
    near = 1e-9 * float(grid[-1] - grid[0])
    if float(times.min()) < float(grid[0]) - near or float(times.max()) > float(grid[-1]) + near:
        raise UserError(
            f"times: got {float(times.min()):g} to {float(times.max()):g}, expected times between the first and the "
            f"last snapshot, {float(grid[0]):g} and {float(grid[-1]):g}"
        )
    times = times.clamp(grid[0], grid[-1])
    right = torch.searchsorted(grid, times).clamp(1, len(grid) - 1)
    out, point, clock = [], paths[:, 0], grid[0]
    for t, j in zip(times, right.tolist(), strict=True):
        if clock < grid[j - 1]:
            point, clock = paths[:, j - 1], grid[j - 1]
        share = (t - clock) / (grid[j] - clock) if grid[j] > clock else torch.ones(())
        std = sigma * ((t - clock).clamp_min(0) * (1 - share).clamp_min(0)).sqrt()
        noise = torch.randn(point.shape, generator=generator, dtype=point.dtype)
        point, clock = torch.lerp(point, paths[:, j], share.to(point)) + std * noise, t
        out.append(point)
    return torch.stack(out, 1)
