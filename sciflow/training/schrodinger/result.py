"""The result of a fit, the same for all engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Explicit
from sciflow.core.noise import Fresh
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.networks.references import Brownian, Reference
from sciflow.processes.drift import Drift
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.training.schrodinger.engine import Engine, PathLaw, interval_grid
from sciflow.training.schrodinger.history import History
from sciflow.training.schrodinger.snapshots import Held, Snapshots
from sciflow.training.schrodinger.theta import Uncertainty, get_theta, theta_names

if TYPE_CHECKING:
    from sciflow.training.schrodinger.alternation import Anderson

PATHS = 500  # paths that scores are computed from


def simulate(drift, start: Tensor, times: Tensor, sigma: float, noise: Fresh) -> Tensor:
    """Euler-Maruyama paths of dX = drift(X, t) dt + sigma dW through the library's one sampler.

    Args:
        drift: `drift(x (n, d), t ()) -> (n, d)`; a `Reference`, or any function.
        start: (n, d) float64.
        times: (T,) increasing physical times; every one is a step.
        sigma: Noise >= 0.
        noise: Source of random numbers.

    Returns:
        (n, T, d) positions at all times, the first being `start`.
    """
    process = Drift(sigma)

    def ask(state: State, clocks) -> dict[str, Prediction]:
        x, t = state["x"], clocks["x"]
        return {"x": Prediction(drift(x, t), "drift", process, x, t, state.layouts["x"])}

    sampler = Sampler({"x": process}, {"x": EulerMaruyama()}, Explicit(times.tolist()))
    run = sampler.run(State({"x": start}, {"x": Layout(len(start))}), ask, noise, steps=len(times) - 1, record=True)
    return torch.stack([state["x"] for state in run.path], 1).clone()


@dataclass(frozen=True, eq=False)
class SchrodingerBridge:
    """A fitted bridge. Public arrays are numpy, float64.

    Attributes:
        snapshots: What was fitted.
        reference: The fitted reference.
        sigma: Noise.
        dt: Largest step of the time grid.
        engine: Solver of the Q-step.
        law: The path law of the last round.
        history: All rounds: thetas, objectives (J), effective shares, CPU seconds.
        errors: Standard errors of theta, their covariance, warnings.
        seed: Seed of the fit.
    """

    snapshots: Snapshots
    reference: Reference
    sigma: float
    dt: float
    engine: Engine
    law: PathLaw
    history: History
    errors: Uncertainty
    seed: int

    @property
    def theta(self) -> dict[str, float]:
        """Parameters of the reference by name."""
        return dict(zip(theta_names(self.reference), get_theta(self.reference).tolist(), strict=True))

    @property
    def theta_stderr(self) -> dict[str, float]:
        """Their standard errors; lower bounds, see `theta.py`. NaN for networks."""
        return dict(zip(theta_names(self.reference), self.errors.stderr.tolist(), strict=True))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences about theta and the quality of the bridge samples."""
        poor = () if self.law.effective is None else (self.law.effective < 0.1).nonzero()[:, 0].tolist()
        return self.errors.warnings + tuple(
            f"interval {k}: the effective sample size is {100 * float(self.law.effective[k]):.0f} % of the samples; "  # type: ignore[index]
            "the linear-noise bridge is poor there, prefer engine bridge_matching"
            for k in poor
        )

    @property
    def objective(self) -> np.ndarray:
        """J of every round, (R + 1,), up to a constant."""
        return np.array(self.history.objectives)

    def coupling(self, k: int) -> np.ndarray:
        """Joint law of the cells of snapshots k and k + 1: (n_k, n_{k+1})."""
        return self.law.coupling(k).numpy()

    def sample(self, n: int, times, seed: int = 0) -> np.ndarray:
        """`n` whole paths at increasing physical times inside the range of the snapshots: (n, T, d).

        At the time of a snapshot a path is at one of its cells.

        Raises:
            UserError: Times outside the range or not increasing.
        """
        clocks = torch.as_tensor(np.atleast_1d(np.asarray(times, dtype=np.float64)))
        first, last = self.snapshots.times[[0, -1]]
        if bool((clocks.diff() <= 0).any()) or not first <= float(clocks[0]) <= float(clocks[-1]) <= last:
            raise UserError(f"times: expected increasing times from {first:g} to {last:g}; `forecast` goes beyond")
        return self.law.sample(n, clocks, torch.Generator().manual_seed(seed)).numpy()

    def marginal(self, time: float, n: int = PATHS, seed: int = 0) -> np.ndarray:
        """Draws of the law at one time: (n, d)."""
        return self.sample(n, [time], seed)[:, 0]

    def drift(self, x: np.ndarray, t: float) -> np.ndarray:
        """Drift of the fitted reference at positions (n, d): (n, d)."""
        with torch.no_grad():
            return self.reference(torch.as_tensor(np.asarray(x, dtype=np.float64)), float(t)).numpy()

    def bridge_drift(self, x: np.ndarray, t: float) -> np.ndarray:
        """Forward drift of the bridge itself at positions (n, d): (n, d).

        Raises:
            UserError: The engine does not know it.
        """
        return self.law.drift(torch.as_tensor(np.asarray(x, dtype=np.float64)), float(t)).numpy()

    def forecast(self, start: np.ndarray, times, seed: int = 0) -> np.ndarray:
        """Paths of the fitted reference from positions (n, d) at times[0], also beyond the data: (n, T, d)."""
        clocks = np.asarray(times, dtype=np.float64)
        grids = [interval_grid(a, b, self.dt)[:-1] for a, b in zip(clocks[:-1], clocks[1:], strict=True)]
        fine = torch.cat([*grids, torch.as_tensor(clocks[-1:])])
        with torch.no_grad():
            x = torch.as_tensor(np.asarray(start, dtype=np.float64))
            paths = simulate(self.reference, x, fine, self.sigma, Fresh(seed))
        return paths[:, np.searchsorted(fine.numpy(), clocks)].numpy()

    def vanilla(self) -> SchrodingerBridge:
        """The bridge of the Brownian reference by the same engine: report it beside every refined one."""
        from sciflow.training.schrodinger.alternation import alternate

        settings = {"sigma": self.sigma, "dt": self.dt, "seed": self.seed}
        return alternate(self.snapshots, Brownian(), self.engine, rounds=0, **settings)

    def bootstrap(
        self,
        replicates: int = 20,
        rounds: int = 5,
        seed: int = 0,
        acceleration: Anderson | None = None,
        told: Callable[[float], None] = lambda _: None,
    ) -> np.ndarray:
        """Theta refitted to resampled snapshots, from the fitted one on: (replicates, p).

        Their spread is the honest error: `theta_stderr` takes the paths for observed, but few cells were.

        Args:
            replicates: Number of fits, at least 2.
            rounds: Of each.
            seed: Of the resampling.
            acceleration: As in the fit.
            told: Told the share done.

        Raises:
            UserError: Fewer than two replicates.
        """
        from sciflow.training.schrodinger.alternation import alternate

        if replicates < 2:
            raise UserError(f"bootstrap: got {replicates} replicates, expected 2 or more")
        thetas, settings = [], {"sigma": self.sigma, "dt": self.dt, "rounds": rounds, "acceleration": acceleration}
        for k in range(replicates):
            cells = self.snapshots.resampled(np.random.default_rng([seed, k]))
            fit = alternate(cells, self.reference, self.engine, seed=self.seed + 1 + k, **settings)
            thetas.append(get_theta(fit.reference).numpy())
            told((k + 1) / replicates)
        return np.stack(thetas)

    def heldout(self, held: Held | Snapshots, n: int = PATHS, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """W1 and W2 between held-out snapshots and the bridge at their physical times: two arrays (M,)."""
        from sciflow.metrics.transport import wasserstein

        paths = self.sample(n, held.times, seed)
        pairs = [
            [wasserstein(paths[:, i], held.points[i], power, None, held.weights[i]) for i in range(len(held))]
            for power in (1, 2)
        ]
        return np.array(pairs[0]), np.array(pairs[1])
