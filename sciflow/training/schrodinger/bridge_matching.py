r"""Engine C, `bridge_matching`: drifts of the bridge by regression on pinned bridges, for many cells or dimensions.

Given a coupling pi of neighbouring snapshots, the mixture of the reference's bridges over pi has the same marginals as
the diffusion with the drift of its Markovian projection

.. math::  b(x, t) = E[ b_\theta(X_t) + \sigma^2 \nabla \log p_\theta(X_T | X_t) \mid X_t = x ],

a regression without simulation (Tong et al., arXiv 2307.03672; Brownian: target (X_T - X_t)/(T - t)). With the
Schroedinger coupling this diffusion IS the bridge. One network learns the forward drift b and the drift b' of the
reversed diffusion; flow (b - b')/2 and score (b + b')/sigma^2 follow (Nelson; [SF]2M learns these two instead).

Where the coupling is not that of the bridge (blocks, linearised densities, `Product`), Markovian projections are
iterated (IMF: Shi et al., arXiv 2303.16852): pairs are renewed by simulating the fitted diffusion, in turn backward and
forward, and the drifts are fitted again.

Each interval runs in unit time; one scalar standardises all coordinates, so that the noise stays isotropic.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn

from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.metrics.transport import exact_plan
from sciflow.networks.references import Brownian, Reference
from sciflow.training.schedules import WarmupCosine
from sciflow.training.schrodinger.engine import Engine, Increments, PathLaw, Problem
from sciflow.training.schrodinger.pairing import (
    Batch,
    BrownianBridges,
    Cloud,
    MinibatchSinkhorn,
    Pairing,
    ReferenceBridges,
    transition_cost,
)
from sciflow.training.schrodinger.regressors import perceptron
from sciflow.training.schrodinger.result import simulate
from sciflow.training.schrodinger.snapshots import Snapshots

WAVES = 4  # cosines of the share of an interval that the network is told
BLOCK = 512  # paths whose ends are assigned to cells together
PATHS = 2000  # paths behind J and the theta-step at most


class DriftNetwork(nn.Module):
    """Forward and backward drift in all intervals, (x, share u, interval k) -> (n, 2, d), in the units of the data.

    Args:
        snapshots: Data; their mean, one common scale and the durations of the intervals enter as constants.
        width: Units of each of the three hidden layers.
        generator: Source of the first weights.
    """

    def __init__(self, snapshots: Snapshots, width: int, generator: torch.Generator) -> None:
        super().__init__()
        cells = torch.cat([torch.as_tensor(one) for one in snapshots.points])
        self.centre, self.scale = cells.mean(0), float(cells.std(0).square().mean().sqrt())
        self.durations = torch.as_tensor(snapshots.times).diff()
        intervals, dim = len(self.durations), snapshots.dimension
        self.layers = perceptron(dim + 1 + WAVES + intervals, 2 * dim, width, 3, generator)

    def unit(self, k: Tensor) -> Tensor:
        """Unit of drifts in intervals (n,): scale per duration, (n, 1, 1)."""
        return (self.scale / self.durations[k])[:, None, None]

    def relative(self, x: Tensor, u: Tensor, k: Tensor) -> Tensor:
        """The drifts in these units, float32."""
        angle = torch.pi * u[:, None] * torch.arange(1, WAVES + 1)
        where = nn.functional.one_hot(k, len(self.durations))
        inputs = torch.cat([(x - self.centre) / self.scale, u[:, None], angle.cos(), where], -1)
        return self.layers(inputs.float()).unflatten(-1, (2, -1))

    def forward(self, x: Tensor, u: Tensor, k: Tensor) -> Tensor:
        """Drifts per unit of physical time, float64.

        Args:
            x: (n, d) float64.
            u: (n,) share of the interval that has passed.
            k: (n,) int64 interval.
        """
        return self.relative(x, u, k).to(x) * self.unit(k)


class BridgeMatching(Engine):
    """Simulation-free regression of the bridge's drifts.

    Args:
        steps: Adam steps of each projection.
        batch: Points per step, drawn from all intervals.
        width: Units of each of the three hidden layers.
        rate: Peak learning rate; warm-up and cosine decay.
        pairing: First coupling: `MinibatchSinkhorn` or `Product`.
        projections: Markovian projections; 1: the first coupling is kept. More where it is not that of the bridge.
    """

    def __init__(
        self,
        steps: int = 2000,
        batch: int = 512,
        width: int = 128,
        rate: float = 2e-3,
        pairing: Pairing | None = None,
        projections: int = 1,
    ) -> None:
        if min(steps, batch, width, projections) < 1:
            raise UserError("bridge_matching: steps, batch, width and projections must be 1 or more")
        self.steps, self.batch, self.width, self.rate = steps, batch, width, rate
        self.pairing, self.projections = pairing or MinibatchSinkhorn(), projections

    def bridge(self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor]) -> MatchingLaw:
        """Pairs, then the regression; from the second round on it starts at the last round's weights."""
        generator = problem.generator()
        law = self._law(problem, reference, previous, generator)
        pairs = [
            self.pairing.draw(*ends, transition_cost(reference, grid, law.sigma), generator)
            for ends, grid in zip(pairwise(law.clouds), law.grids, strict=True)
        ]
        self._fit(law, pairs, generator)
        for projection in range(1, self.projections):
            pairs = [law.renewed(k, len(x), projection % 2 == 1, generator) for k, (x, _) in enumerate(pairs)]
            self._fit(law, pairs, generator)
        law.score_reference(generator)
        return law

    def restore(
        self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor], warm: Mapping[str, Tensor]
    ) -> MatchingLaw:
        """The network again; nothing is fitted."""
        generator = problem.generator()
        law = self._law(problem, reference, warm, generator)
        law.score_reference(generator)
        return law

    def _law(
        self, problem: Problem, reference: Reference, weights: Mapping[str, Tensor], generator: torch.Generator
    ) -> MatchingLaw:
        network = DriftNetwork(problem.snapshots, self.width, generator)
        if weights:
            network.load_state_dict(dict(weights))
        return MatchingLaw(problem, network, reference)

    def _fit(self, law: MatchingLaw, pairs: list[tuple[Tensor, Tensor]], generator: torch.Generator) -> None:
        """Adam on the drifts of bridges; the weights 1 - u and u keep the variance of the targets bounded."""
        sources = [law.bridges(k, *pair, generator) for k, pair in enumerate(pairs)]
        network, share = law.network, -(-self.batch // len(sources))
        intervals = torch.arange(len(sources)).repeat_interleave(share)
        optimizer = torch.optim.Adam(network.parameters(), self.rate)
        schedule = WarmupCosine(optimizer, self.steps, min(200, self.steps // 10))
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.steps):
                x, u, forward, backward = joined([source.draw(share, generator) for source in sources])
                target = (torch.stack([forward, backward], 1) / network.unit(intervals)).float()
                weight = torch.stack([1 - u, u], 1).float()
                miss = (network.relative(x, u, intervals) - target).square().mean(-1)
                optimizer.zero_grad()
                (weight * miss).mean().backward()
                optimizer.step()
                schedule.step()


def joined(batches: list[Batch]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x, share, forward and backward of several batches in one."""
    parts = [(one.x, one.share, one.forward, one.backward) for one in batches]
    x, u, forward, backward = (torch.cat(column) for column in zip(*parts, strict=True))
    return x, u, forward, backward


class MatchingLaw(PathLaw):
    """Diffusion with fitted drifts in each interval.

    Attributes:
        objective: 1/(2 sigma^2) E_Q int |b - b_theta|^2 dt over paths started at the cells of each interval.
    """

    def __init__(self, problem: Problem, network: DriftNetwork, reference: Reference) -> None:
        self.network, self.reference, self.sigma = network, reference, problem.sigma
        self.times, self.grids = torch.as_tensor(problem.snapshots.times), problem.grids
        self.clouds = [Cloud(*one) for one in zip(problem.clouds, problem.masses, strict=True)]

    def bridges(
        self, k: int, starts: Tensor, ends: Tensor, generator: torch.Generator
    ) -> BrownianBridges | ReferenceBridges:
        """Bridges of the reference between pairs of snapshots k and k + 1."""
        if isinstance(self.reference, Brownian):
            return BrownianBridges(starts, ends, float(self.times[k + 1] - self.times[k]), self.sigma)
        return ReferenceBridges(self.reference, starts, ends, self.grids[k], self.sigma, generator)

    def drifts(self, x: Tensor, t: Tensor | float, k: int) -> tuple[Tensor, Tensor]:
        """Forward drift and drift of the reversed diffusion at physical time t of interval k, (n, d) each."""
        u = (torch.as_tensor(t, dtype=x.dtype) - self.times[k]) / (self.times[k + 1] - self.times[k])
        with torch.no_grad():
            pair = self.network(x, u.expand(len(x)), torch.full((len(x),), k))
        return pair[:, 0], pair[:, 1]

    def drift(self, x: Tensor, t: float) -> Tensor:
        """Forward drift."""
        return self.drifts(x, t, self._interval(t))[0]

    def velocity(self, x: Tensor, t: float) -> Tensor:
        """Drift of the probability flow, (b - b')/2: the mean velocity of cells at x."""
        forward, backward = self.drifts(x, t, self._interval(t))
        return (forward - backward) / 2

    def score(self, x: Tensor, t: float) -> Tensor:
        """Gradient of the log density at time t, (b + b')/sigma^2."""
        forward, backward = self.drifts(x, t, self._interval(t))
        return (forward + backward) / self.sigma**2

    def _interval(self, t: float) -> int:
        return int(torch.searchsorted(self.times, float(t), right=True).clamp(1, len(self.times) - 1)) - 1

    def _run(self, k: int, start: Tensor, times: Tensor, generator: torch.Generator) -> Tensor:
        """Forward paths (n, T, d) in interval k."""
        noise = Fresh(int(torch.randint(2**62, (), generator=generator)))
        return simulate(lambda x, t: self.drifts(x, t, k)[0], start, times, self.sigma, noise)

    def renewed(self, k: int, n: int, reverse: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`n` pairs of interval k by simulation from the cells of one end (`reverse`: the later one)."""
        first, last = self.times[k], self.times[k + 1]
        if not reverse:
            start = self.clouds[k].draw(n, generator)
            return start, self._run(k, start, self.grids[k], generator)[:, -1]
        start, noise = self.clouds[k + 1].draw(n, generator), Fresh(int(torch.randint(2**62, (), generator=generator)))
        back = simulate(lambda x, t: self.drifts(x, first + last - t, k)[1], start, self.grids[k], self.sigma, noise)
        return back[:, -1], start

    def sample(self, n: int, times: Tensor, generator: torch.Generator) -> Tensor:
        """Paths interval by interval.

        Ends are assigned to cells of the next snapshot by exact transport (in blocks) and paths are moved there,
        linearly in time: errors of the drift do not add up over the intervals.
        """
        start, found = self.clouds[0].draw(n, generator), []
        for k, grid in enumerate(self.grids):
            wanted = times[(times >= grid[0]) & ((times < grid[-1]) | (k == len(self.grids) - 1))]
            if len(wanted) == 0 and bool((times < grid[0]).all()):
                break
            clocks = torch.cat([grid, wanted]).unique()
            paths = self._run(k, start, clocks, generator)
            start = self.clouds[k + 1].draw(n, generator)
            blocks = zip(paths[:, -1].split(BLOCK), start.split(BLOCK), strict=True)
            start = torch.cat([_assigned(ends, cells) for ends, cells in blocks])
            shares = ((clocks - clocks[0]) / (clocks[-1] - clocks[0]))[:, None]
            moved = paths + shares * (start - paths[:, -1])[:, None]
            found.append(moved[:, torch.searchsorted(clocks, wanted)])
        return torch.cat(found, 1)

    def coupling(self, k: int) -> Tensor:
        """One path from each cell of snapshot k; its end is assigned to the cells of k + 1 by exact transport."""
        start, end = self.clouds[k], self.clouds[k + 1]
        if len(start.points) * len(end.points) > 10**8:
            raise UserError(
                f"the coupling of snapshots {k} and {k + 1} has {len(start.points)} x {len(end.points)} entries; "
                "use sample(n, times) instead"
            )
        paths = self._run(k, start.points, self.grids[k], torch.Generator().manual_seed(k))
        cost = torch.cdist(paths[:, -1], end.points).square()
        return torch.as_tensor(exact_plan(cost.numpy(), start.weights.numpy(), end.weights.numpy()))

    def increments(self, generator: torch.Generator) -> Increments:
        """Points of paths with the fitted drift as velocity."""
        sizes = [len(cloud.points) for cloud in self.clouds]
        n, parts = min(sum(sizes), PATHS), []
        for k, grid in enumerate(self.grids):
            paths = self._run(k, self.clouds[k].draw(n, generator), grid, generator)
            velocity = torch.stack([self.drifts(paths[:, j], t, k)[0] for j, t in enumerate(grid[:-1])], 1)
            weight, clocks = (grid.diff() / n).repeat(n), grid[:-1].repeat(n)
            parts.append((paths[:, :-1].flatten(0, 1), clocks, velocity.flatten(0, 1), weight))
        x, clocks, velocity, weight = (torch.cat(column) for column in zip(*parts, strict=True))
        return Increments(x, clocks, velocity, weight, sum(sizes) / len(sizes))

    def score_reference(self, generator: torch.Generator) -> None:
        """Set `objective`."""
        data = self.increments(generator)
        with torch.no_grad():
            miss = (data.velocity - self.reference(data.x, data.t)).square().sum(1)
        self.objective = float(data.weight @ miss) / (2 * self.sigma**2)

    def warm(self) -> dict[str, Tensor]:
        """Weights of the network."""
        return {name: value.detach().clone() for name, value in self.network.state_dict().items()}


def _assigned(points: Tensor, cells: Tensor) -> Tensor:
    """The cells (n, d) in the order of the points (n, d) that an optimal plan sends to them."""
    plan = exact_plan(torch.cdist(points, cells).square().numpy())
    return cells[torch.as_tensor(plan.argmax(1))]
