r"""What the alternation asks of an engine: per round one path law Q, the bridge of the present reference.

An engine solves the Q-step, `argmin_Q KL(Q || P_theta)` over laws whose marginals are the snapshots. Because the
reference is Markov, Q is a chain of bridges between neighbouring snapshots (spec, section 1). Three engines exist:
`KernelBridge` (B), `GaussianProcessIPF` (A) and `BridgeMatching` (C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.snapshots import Snapshots

BRIDGE, PATHS, FIT = range(3)  # streams of random numbers: Q-step, samples of Q, theta-step


@dataclass(frozen=True, eq=False)
class Problem:
    """What is bridged, and how finely: the same in every round.

    Attributes:
        snapshots: Populations at K times.
        sigma: Noise of data and reference, > 0, in units of x per square root of time.
        dt: Largest step of the time grid, > 0.
        seed: Seed of all random numbers.

    Raises:
        UserError: sigma or dt out of range.
    """

    snapshots: Snapshots
    sigma: float
    dt: float
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("sigma", self.sigma), ("dt", self.dt)):
            if not 0 < value < float("inf"):
                raise UserError(f"{name}: got {value}, expected a finite number > 0")

    @property
    def clouds(self) -> list[Tensor]:
        """Cells of each snapshot, (n_k, d)."""
        return [torch.from_numpy(points) for points in self.snapshots.points]

    @property
    def masses(self) -> list[Tensor]:
        """Their weights, (n_k,)."""
        return [torch.from_numpy(weights) for weights in self.snapshots.weights]

    @property
    def grids(self) -> list[Tensor]:
        """Time grid of each interval, (N_k + 1,)."""
        return [interval_grid(*ends, self.dt) for ends in pairwise(self.snapshots.times.tolist())]

    def generator(self, stream: int = BRIDGE) -> torch.Generator:
        """Source of random numbers, in the same state in every round.

        Common random numbers make the alternation a fixed map, so that it converges and can be accelerated.
        """
        return torch.Generator().manual_seed(3 * self.seed + stream)


@dataclass(frozen=True, eq=False)
class Increments:
    """Where paths of Q were and how fast they moved: all that the theta-step needs.

    Attributes:
        x: (m, d) positions.
        t: (m,) physical times.
        velocity: (m, d) increments divided by their durations, or their conditional means given `x`.
        weight: (m,) duration times probability: `sum(weight f(x, t))` estimates `E_Q int f(X_t, t) dt`.
        cells: Cells per snapshot on average: the number of independent paths behind the information matrix.
    """

    x: Tensor
    t: Tensor
    velocity: Tensor
    weight: Tensor
    cells: float

    @staticmethod
    def of(paths: Tensor, times: Tensor, cells: float) -> Increments:
        """Increments of equally likely paths (n, T, d) at times (T,)."""
        step = times.diff()
        velocity = paths.diff(dim=1) / step[:, None]
        clocks, weight = times[:-1].repeat(len(paths)), (step / len(paths)).repeat(len(paths))
        return Increments(paths[:, :-1].flatten(0, 1), clocks, velocity.flatten(0, 1), weight, cells)


class PathLaw(ABC):
    """A law of paths whose marginals at the snapshot times are the snapshots. All tensors float64 on the CPU.

    Attributes:
        objective: KL(Q || P_theta) up to a constant that depends on neither (see the engine); lower is better.
        effective: (K - 1,) effective share of the samples per interval, in (0, 1]; None: the engine has no weights.
    """

    objective: float
    effective: Tensor | None = None

    @abstractmethod
    def sample(self, n: int, times: Tensor, generator: torch.Generator) -> Tensor:
        """`n` paths at increasing physical times (T,) inside the range of the snapshots: (n, T, d)."""

    @abstractmethod
    def coupling(self, k: int) -> Tensor:
        """Joint law of the cells of snapshots k and k + 1: (n_k, n_{k+1}), sums to 1.

        Raises:
            UserError: The engine has no coupling of the cells.
        """

    @abstractmethod
    def increments(self, generator: torch.Generator) -> Increments:
        """Samples for the theta-step."""

    def drift(self, x: Tensor, t: float) -> Tensor:
        """Forward drift of Q at positions (n, d) and one time: (n, d).

        Raises:
            UserError: The engine does not know it.
        """
        raise UserError(f"{type(self).__name__} has no forward drift; use engine kernel_bridge or bridge_matching")

    def warm(self) -> dict[str, Tensor]:
        """What the next round starts from (dual potentials, network weights); saved with the round."""
        return {}


class Engine(Configurable, ABC):
    """Solver of the Q-step."""

    @abstractmethod
    def bridge(self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor]) -> PathLaw:
        """The bridge of a reference.

        Args:
            problem: The same in every round.
            reference: Drift of the reference; the law keeps it, so it must not be changed any more.
            previous: `warm()` of the last round's law; empty in the first.
        """

    def restore(
        self, problem: Problem, reference: Reference, previous: Mapping[str, Tensor], warm: Mapping[str, Tensor]
    ) -> PathLaw:
        """The law that `bridge` gave for the same arguments, whose `warm()` is known: solved again by default."""
        return self.bridge(problem, reference, previous)


def interval_grid(start: float, end: float, dt: float) -> Tensor:
    """ceil((end - start)/dt) equal steps: (N + 1,) times, float64."""
    steps = max(1, -int(-((end - start) / dt - 1e-9) // 1))  # 1e-9: a gap of exactly N steps has N, not N + 1
    return torch.linspace(start, end, steps + 1, dtype=torch.float64)
