r"""Engine B: static Sinkhorn with the transition density of the reference, and analytic bridges between the cells.

Per interval the two-marginal bridge is pi(x, y) times the bridge of the reference from x to y, where pi minimises
sum pi (log pi - log p_theta(y | x)) with the snapshots as marginals. Nothing is simulated and nothing regressed:
p_theta and the bridges are those of the linear-noise approximation (exact for linear drifts), corrected by importance
weights if asked for.

objective = sum_k KL(pi_k || a_k p_theta), i.e. J up to the infinite constant of discrete marginals, which depends on
neither theta nor sigma. So J may also be compared between values of sigma (a heuristic: the data are finite).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.couplings.sinkhorn import sinkhorn
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import Engine, Increments, PathLaw, Problem, interval_grid
from sciflow.training.schrodinger.linear_noise import Bridges, bridges, transition
from sciflow.training.schrodinger.snapshots import Snapshots

LIKELY = 1e-3  # pairs with less than this share of an average cell's mass keep their linear-noise density


class KernelBridge(Engine):
    """Sinkhorn on linear-noise transition densities, with analytic bridges; for up to some thousand cells per time.

    Args:
        paths: Paths that the theta-step uses.
        reweight: Estimate densities and weight paths by importance sampling: exact up to Monte Carlo error for any
            drift, at many times the cost.
        draws: Bridges per pair that a density is estimated from, with `reweight`.
    """

    def __init__(self, paths: int = 500, reweight: bool = False, draws: int = 32) -> None:
        if paths < 2 or draws < 1:
            raise UserError(f"got {paths} paths and {draws} draws, expected at least 2 and 1")
        self.paths, self.reweight, self.draws = paths, reweight, draws

    def bridge(self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor]) -> KernelLaw:
        """Solve all intervals, then draw the paths of the theta-step."""
        generator, law = problem.generator(), KernelLaw(problem, reference, linear_densities(problem, reference))
        if self.reweight:
            law = KernelLaw(problem, reference, [self._estimated(law, k, generator) for k in range(len(law.plans))])
        law.draw(self.paths, self.reweight, generator)
        return law

    def _estimated(self, law: KernelLaw, k: int, generator: torch.Generator) -> Tensor:
        """Log densities (n, m) of interval k, those of likely pairs replaced by the mean weight of their bridges."""
        plan, density = law.plans[k].log, law.densities[k].clone()
        i, j = (plan > math.log(LIKELY / max(plan.shape))).nonzero(as_tuple=True)
        bridge = law.bridges(k, i.repeat_interleave(self.draws), j.repeat_interleave(self.draws), law.grids[k])
        weights = bridge.log_weight(law.reference, law.sigma, *bridge.sample(generator)).unflatten(0, (-1, self.draws))
        density[i, j] = weights.logsumexp(1) - math.log(self.draws)
        return density


class KernelLaw(PathLaw):
    """The glued bridges of Engine B.

    Args:
        problem: What is joined.
        reference: The reference, not to be changed any more.
        densities: log p(y_j | x_i) of each interval, (n_k, n_{k+1}).

    Attributes:
        plans: Coupling of each interval.
    """

    def __init__(self, problem: Problem, reference: Reference, densities: list[Tensor]) -> None:
        self.reference, self.sigma, self.dt, self.densities = reference, problem.sigma, problem.dt, densities
        self.times, self.grids = problem.snapshots.times.tolist(), problem.grids
        self.clouds, self.masses = problem.clouds, problem.masses
        self.plans = [sinkhorn(-p, *ab) for p, ab in zip(densities, pairwise(self.masses), strict=True)]
        self.objective = sum(plan.value - _log_mean(a) for plan, a in zip(self.plans, self.masses[:-1], strict=True))
        self._increments: Increments | None = None

    def coupling(self, k: int) -> Tensor:
        """(n_k, n_{k+1}), sums to 1."""
        return self.plans[k].log.exp()

    def increments(self, generator: torch.Generator) -> Increments:
        """Those drawn with the law."""
        assert self._increments is not None
        return self._increments

    def draw(self, paths: int, reweight: bool, generator: torch.Generator) -> None:
        """Draw the paths of the theta-step, in antithetic pairs (the same cells, opposite noise).

        Velocities are conditional means, so only the positions are random.
        """
        cells, parts, effective = self._chain(paths // 2, 0, len(self.times) - 1, generator), [], []
        for k, grid in enumerate(self.grids):
            bridge = self.bridges(k, cells[k], cells[k + 1], grid)
            path, noise = bridge.sample(generator)
            both = [(path, noise), (bridge.run(-noise), -noise)]
            log_weight = torch.cat([bridge.log_weight(self.reference, self.sigma, *one) for one in both])
            share = (log_weight - self.densities[k][cells[k], cells[k + 1]].repeat(2)).softmax(0)
            effective.append(1 / share.square().sum() / len(share))
            share = share if reweight else torch.full_like(share, 1 / len(share))
            weight = grid.diff()[:, None] * share
            clocks = grid[:-1, None].expand_as(weight)
            position = torch.cat([one[:-1] for one, _ in both], 1)
            velocity = torch.cat([bridge.velocity(one) for one, _ in both], 1)
            parts.append([v.flatten(0, 1) for v in (position, clocks, velocity, weight)])
        x, t, velocity, weight = (torch.cat(values) for values in zip(*parts, strict=True))
        self._increments = Increments(x, t, velocity, weight, sum(map(len, self.clouds)) / len(self.clouds))
        self.effective = torch.stack(effective)

    def sample(self, n: int, times: Tensor, generator: torch.Generator) -> Tensor:
        """Cells along the chain of couplings, joined by bridges; at the time of a snapshot, its cells themselves."""
        ends = torch.tensor(self.times, dtype=torch.float64)
        interval = (torch.searchsorted(ends, times, right=True) - 1).clamp(0, len(ends) - 2)
        first, last = int(interval[0]), int(interval[-1])
        cells, parts = self._chain(n, first, last + 1, generator), []
        for k in range(first, last + 1):
            wanted = times[interval == k]
            if len(wanted):
                inside = wanted[(wanted - self.grids[k][:, None]).abs().min(0).values > 1e-9]
                grid = torch.cat([self.grids[k], inside]).sort().values
                bridge = self.bridges(k, cells[k - first], cells[k - first + 1], grid)
                rows = (wanted - grid[:, None]).abs().argmin(0)
                parts.append(bridge.sample(generator)[0][rows])
        paths = torch.cat(parts).transpose(0, 1)
        return paths[torch.randperm(n, generator=generator)]  # neighbours on the lattice of `_chain` are alike

    def drift(self, x: Tensor, t: float) -> Tensor:
        """b + sigma^2 grad log psi, psi(x, t) = sum_j p(y_j at the next snapshot | x, t) e^{g_j}.

        Raises:
            UserError: A time outside [first, last).
        """
        if not self.times[0] <= t < self.times[-1]:
            raise UserError(f"time {t:g}: the bridge has a forward drift from {self.times[0]:g} to {self.times[-1]:g}")
        k = sum(time <= t for time in self.times) - 1
        law = transition(self.reference, x, interval_grid(t, self.times[k + 1], self.dt), self.sigma)
        share = (law.log_prob(self.clouds[k + 1]) + self.plans[k].g).softmax(1)
        miss = share @ self.clouds[k + 1] - law.mean
        pull = (law.flow.mT @ torch.linalg.solve(law.covariance, miss[..., None]))[..., 0]
        with torch.no_grad():
            return self.reference(x, t) + self.sigma**2 * pull

    def bridges(self, k: int, i: Tensor, j: Tensor, grid: Tensor) -> Bridges:
        """Bridges of the reference from cells i (n,) of snapshot k to cells j (n,) of k + 1."""
        return bridges(self.reference, self.clouds[k][i], self.clouds[k + 1][j], grid, self.sigma)

    def _chain(self, n: int, first: int, last: int, generator: torch.Generator) -> list[Tensor]:
        """Indices of cells of n draws of the Markov chain of couplings from snapshot `first` to `last`, (n,) each."""
        uniforms = _lattice(n, last - first + 1, generator)
        cells = [torch.searchsorted(self.masses[first].cumsum(0), uniforms[0]).clamp_max(len(self.masses[first]) - 1)]
        for k, uniform in zip(range(first, last), uniforms[1:], strict=True):
            law = self.coupling(k)[cells[-1]].cumsum(1)
            drawn = torch.searchsorted(law, (uniform * law[:, -1])[:, None])[:, 0]
            cells.append(drawn.clamp_max(law.shape[1] - 1))
        return cells


def linear_densities(problem: Problem, reference: Reference) -> list[Tensor]:
    """log p(y_j | x_i) of each interval by linear noise, (n_k, n_{k+1})."""
    return [
        transition(reference, start, grid, problem.sigma).log_prob(end)
        for grid, (start, end) in zip(problem.grids, pairwise(problem.clouds), strict=True)
    ]


def sigma_profile(snapshots: Snapshots, reference: Reference, sigmas: Sequence[float], dt: float) -> list[float]:
    """J of the static problems for several noises: a heuristic for the choice of sigma, the least is the best.

    The normalisers of the densities are in J, so values are comparable; but cells are few, and a coupling that fits
    them exactly favours small sigma. Every sigma is given the same reference drift.
    """
    problems = [Problem(snapshots, sigma, dt) for sigma in sigmas]
    return [KernelLaw(one, reference, linear_densities(one, reference)).objective for one in problems]


def _log_mean(weights: Tensor) -> float:
    """sum w log w."""
    return float(torch.special.xlogy(weights, weights).sum())


def _lattice(n: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniforms (columns, n): each point is uniform, together they fill the cube evenly (Roberts' additive sequence)."""
    golden = 2.0
    for _ in range(50):  # the real root of x^{columns} = x + 1
        golden = (1 + golden) ** (1 / columns)
    steps = torch.tensor([1 / n, *[golden**-j for j in range(1, columns)]], dtype=torch.float64)
    shift = torch.rand(columns, generator=generator, dtype=torch.float64)
    return (shift[:, None] + steps[:, None] * torch.arange(n)) % 1
