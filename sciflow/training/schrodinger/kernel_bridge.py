r"""Engine B: static Sinkhorn with the transition density of the reference, and analytic bridges between the cells.

Per interval the two-marginal bridge is pi(x, y) times the bridge of the reference from x to y, where pi minimises
sum pi (log pi - log p_theta(y | x)) with the snapshots as marginals. Nothing is simulated and nothing regressed:
p_theta and the bridges are those of the linear-noise approximation (exact for linear drifts), corrected by importance
weights if asked for.

objective = sum_k KL(pi_k || a_k p_theta), i.e. J up to the infinite constant of discrete marginals, which depends on
neither theta nor sigma. So J may also be compared between values of sigma (a heuristic: the data are finite).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.couplings.sinkhorn import Plan, sinkhorn
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import Engine, Increments, PathLaw, interval_grid
from sciflow.training.schrodinger.linear_noise import bridges, transition
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

    def bridge(
        self,
        snapshots: Snapshots,
        reference: Reference,
        sigma: float,
        dt: float,
        generator: torch.Generator,
        previous: Mapping[str, Tensor],
    ) -> KernelLaw:
        """Solve all intervals, then draw the paths of the theta-step."""
        clouds = [torch.from_numpy(points) for points in snapshots.points]
        masses = [torch.from_numpy(weights) for weights in snapshots.weights]
        times = snapshots.times.tolist()
        plans, densities = [], []
        for k in range(len(times) - 1):
            grid = interval_grid(times[k], times[k + 1], dt)
            density = transition(reference, clouds[k], grid, sigma).log_prob(clouds[k + 1])
            if self.reweight:
                plan = sinkhorn(-density, masses[k], masses[k + 1])
                density = self._estimated(density, plan, reference, clouds[k : k + 2], grid, sigma, generator)
            plans.append(sinkhorn(-density, masses[k], masses[k + 1]))
            densities.append(density)
        law = KernelLaw(snapshots, copy.deepcopy(reference), sigma, dt, plans, densities)
        law.draw(self.paths, self.reweight, generator)
        return law

    def _estimated(
        self,
        density: Tensor,
        plan: Plan,
        reference: Reference,
        ends: list[Tensor],
        grid: Tensor,
        sigma: float,
        generator: torch.Generator,
    ) -> Tensor:
        """Log densities (n, m), those of likely pairs replaced by the mean weight of their bridges."""
        i, j = (plan.log > math.log(LIKELY / max(plan.log.shape))).nonzero(as_tuple=True)
        x, y = (end[which].repeat_interleave(self.draws, 0) for end, which in zip(ends, (i, j), strict=True))
        bridge = bridges(reference, x, y, grid, sigma)
        weights = bridge.log_weight(reference, sigma, *bridge.sample(generator)).unflatten(0, (-1, self.draws))
        density = density.clone()
        density[i, j] = weights.logsumexp(1) - math.log(self.draws)
        return density


class KernelLaw(PathLaw):
    """The glued bridges of Engine B.

    Args:
        snapshots: What is joined.
        reference: The reference, not to be changed any more.
        sigma: Noise.
        dt: Largest step.
        plans: Coupling of each interval.
        densities: log p(y_j | x_i) of each interval, (n_k, n_{k+1}).
    """

    def __init__(
        self,
        snapshots: Snapshots,
        reference: Reference,
        sigma: float,
        dt: float,
        plans: list[Plan],
        densities: list[Tensor],
    ) -> None:
        self.reference, self.sigma, self.dt, self.plans, self.densities = reference, sigma, dt, plans, densities
        self.times = snapshots.times.tolist()
        self.clouds = [torch.from_numpy(points) for points in snapshots.points]
        self.masses = [torch.from_numpy(weights) for weights in snapshots.weights]
        self.objective = sum(plan.value - _log_mean(a) for plan, a in zip(plans, self.masses[:-1], strict=True))
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
        for k in range(len(self.times) - 1):
            grid = interval_grid(self.times[k], self.times[k + 1], self.dt)
            bridge = bridges(self.reference, *self._ends(k, cells[k:]), grid, self.sigma)
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
                own = interval_grid(self.times[k], self.times[k + 1], self.dt)
                inside = wanted[(wanted - own[:, None]).abs().min(0).values > 1e-9]
                grid = torch.cat([own, inside]).sort().values
                bridge = bridges(self.reference, *self._ends(k, cells[k - first :]), grid, self.sigma)
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

    def _ends(self, k: int, cells: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Cells at both ends of interval k, given their indices at snapshots k, k + 1, ..."""
        return self.clouds[k][cells[0]], self.clouds[k + 1][cells[1]]

    def _chain(self, n: int, first: int, last: int, generator: torch.Generator) -> list[Tensor]:
        """Indices of cells of n draws of the Markov chain of couplings from snapshot `first` to `last`, (n,) each."""
        uniforms = _lattice(n, last - first + 1, generator)
        cells = [torch.searchsorted(self.masses[first].cumsum(0), uniforms[0]).clamp_max(len(self.masses[first]) - 1)]
        for k, uniform in zip(range(first, last), uniforms[1:], strict=True):
            law = self.coupling(k)[cells[-1]].cumsum(1)
            drawn = torch.searchsorted(law, (uniform * law[:, -1])[:, None])[:, 0]
            cells.append(drawn.clamp_max(law.shape[1] - 1))
        return cells


def sigma_profile(snapshots: Snapshots, reference: Reference, sigmas: Sequence[float], dt: float) -> list[float]:
    """J of the static problems for several noises: a heuristic for the choice of sigma, the least is the best.

    The normalisers of the densities are in J, so values are comparable; but cells are few, and a coupling that fits
    them exactly favours small sigma. Every sigma is given the same reference drift.
    """
    clouds, masses = ([torch.from_numpy(v) for v in part] for part in (snapshots.points, snapshots.weights))
    values = []
    for sigma in sigmas:
        total = 0.0
        for k, (start, end) in enumerate(zip(snapshots.times[:-1], snapshots.times[1:], strict=True)):
            density = transition(reference, clouds[k], interval_grid(start, end, dt), sigma).log_prob(clouds[k + 1])
            total += sinkhorn(-density, masses[k], masses[k + 1]).value - _log_mean(masses[k])
        values.append(total)
    return values


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
