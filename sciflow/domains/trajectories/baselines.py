r"""Naive forecasts that stand beside every result, for any mask of observed frames and any frame times.

| name | frame t |
|---|---|
| last frame | the observed frame before t (before the first one: the first) |
| constant velocity | the line through the last two observed frames before t |
| constant acceleration | the parabola through the last three observed frames before t |
| mean of observed frames | their mean |
| linear interpolation | the line between the observed frames around t; only where frames are observed on both sides |
| true simulator, naive velocity | exact physics from the last frame, 3-point backward velocity |

Where fewer observed frames come before t the first ones are taken. Observed frames are returned as they are. On chaotic
n-body systems the last baseline is what perfect physics can do with noise-free positions alone (GeoTDM, section 8 of
our specification): a model near it has nothing left to learn but a better velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.nbody import SIMULATORS, SPACING, Systems

# positions (B, N, D), velocities (B, N, D), frames -> (B, frames, N, D): the frames that follow, at equal spacing
Simulate = Callable[[np.ndarray, np.ndarray, int], np.ndarray]


def naive_forecasts(
    positions: np.ndarray, observed: np.ndarray, times: np.ndarray | None = None, simulate: Simulate | None = None
) -> dict[str, np.ndarray]:
    """All baselines that the mask allows: name -> (B, T, N, D).

    Args:
        positions: (B, T, N, D); frames that are not observed are not read.
        observed: (T,) bool: which frames are given; at least one.
        times: (T,) increasing frame times; None: 0, 1, 2, ...
        simulate: The true dynamics, for systems that have them; used when the observed frames are the first ones, at
            least 3, at equal spacing.

    Raises:
        UserError: No frame or every frame is observed, or times do not increase.
    """
    observed = np.asarray(observed, bool)
    times = np.arange(len(observed), dtype=np.float64) if times is None else np.asarray(times, np.float64)
    if observed.shape != positions.shape[1:2] or not observed.any() or observed.all():
        raise UserError(
            f"observed: got {observed.sum()} of {observed.size} frames for trajectories of {positions.shape[1]}, "
            "expected at least one observed and one free frame"
        )
    if times.shape != observed.shape or (np.diff(times) <= 0).any():
        raise UserError("times: expected one increasing number per frame")
    given = np.asarray(positions, np.float64)[:, observed]
    seen = np.flatnonzero(observed)
    mean = np.broadcast_to(given.mean(1, keepdims=True), positions.shape)
    forecasts = {
        "last frame": _extrapolated(given, times, seen, 1),
        "constant velocity": _extrapolated(given, times, seen, 2),
        "constant acceleration": _extrapolated(given, times, seen, 3),
        "mean of observed frames": mean,
    }
    forecasts = {name: one for name, one in forecasts.items() if one is not None}
    if not observed[: seen[-1] + 1].all() and observed[0]:
        forecasts["linear interpolation"] = _interpolated(given, times, seen)
    prefix = len(seen)
    if simulate is not None and observed[:prefix].all() and prefix >= 3:
        velocity = backward_velocity(given, float(times[prefix - 1] - times[prefix - 2]))
        future = simulate(given[:, -1], velocity, len(times) - prefix)
        forecasts["true simulator, naive velocity"] = np.concatenate([given, future], 1)
    return {name: np.where(observed[:, None, None], positions, one) for name, one in forecasts.items()}


def backward_velocity(positions: np.ndarray, spacing: float) -> np.ndarray:
    """Velocity at the last frame by the 3-point backward difference (3 x_0 - 4 x_{-1} + x_{-2}) / (2 h), (B, N, D)."""
    return (3 * positions[:, -1] - 4 * positions[:, -2] + positions[:, -3]) / (2 * spacing)


def _extrapolated(given: np.ndarray, times: np.ndarray, seen: np.ndarray, points: int) -> np.ndarray | None:
    """Lagrange's polynomial through the last `points` observed frames before each frame; None with fewer of them."""
    if len(seen) < points:
        return None
    last = (np.searchsorted(seen, np.arange(len(times)), side="right") - 1).clip(min=points - 1)
    used = last[:, None] - np.arange(points)  # (T, points), into the observed frames
    at = times[seen][used]
    weights = np.ones_like(at)
    for j in range(points):
        for m in range(points):
            if m != j:
                weights[:, j] *= (times - at[:, m]) / (at[:, j] - at[:, m])
    return np.einsum("tp,btpnd->btnd", weights, given[:, used])


def _interpolated(given: np.ndarray, times: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Lines between neighbouring observed frames; constant outside them."""
    after = np.searchsorted(seen, np.arange(len(times)), side="right").clip(1, len(seen) - 1)
    start, end = times[seen][after - 1], times[seen][after]
    share = ((times - start) / (end - start)).clip(0, 1)[:, None, None]
    return (1 - share) * given[:, after - 1] + share * given[:, after]


@dataclass(frozen=True, eq=False)
class TrueDynamics:
    """Exact n-body physics as a `Simulate`.

    Attributes:
        system: `charged`, `springs` or `gravity`.
        nodes: (B, N).
        couplings: (B, N, N).
    """

    system: str
    nodes: np.ndarray
    couplings: np.ndarray
    spacing: ClassVar[float] = SPACING

    def __call__(self, positions: np.ndarray, velocities: np.ndarray, frames: int) -> np.ndarray:
        """The next `frames` frames, (B, frames, N, 3)."""
        start = Systems(positions, velocities, self.nodes, self.couplings)
        return SIMULATORS[self.system]().run(start, frames + 1)[0][:, 1:]


def true_dynamics(system: str, nodes: np.ndarray | None, couplings: np.ndarray | None) -> TrueDynamics | None:
    """The dynamics of a set of trajectories; None where the system is unknown or its couplings are not given."""
    if system not in SIMULATORS or couplings is None:
        return None
    return TrueDynamics(system, np.zeros(couplings.shape[:2]) if nodes is None else nodes, couplings)
