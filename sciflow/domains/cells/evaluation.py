"""Scores at held-out times, and what stands beside them: two baselines without a model and the sampling floor."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sciflow.core.errors import UserError
from sciflow.metrics.transport import exact_plan, mmd2_median, wasserstein

SHARE = 0.05  # default noise: regulariser of the static problem over the median squared distance (Schiebinger et al.)
ENTROPIC = "static entropic OT + Brownian bridge"
LINEAR = "exact OT, linear interpolation"
FLOOR = "sampling floor"
MOST = 2000  # points of a cloud that are scored
PLANNED = 1000  # cells of a snapshot that a baseline couples
HALVINGS = 10
SWEEPS = 500  # of Sinkhorn; where they do not suffice the exact plan is used, which then is as good


@dataclass(frozen=True, eq=False)
class Scores:
    """Distances between clouds and the held-out cells.

    Attributes:
        times: (M,) held-out times.
        w1: Method -> (M,).
        w2: Method -> (M,).
        mmd2: Method -> (M,).
    """

    times: np.ndarray
    w1: dict[str, np.ndarray]
    w2: dict[str, np.ndarray]
    mmd2: dict[str, np.ndarray]

    def plain(self) -> dict[str, dict[str, np.ndarray] | np.ndarray]:
        """As nested dicts of arrays, for `uns` and JSON."""
        return {"times": self.times, "w1": self.w1, "w2": self.w2, "mmd2": self.mmd2}


def default_sigma(times: np.ndarray, points: Sequence[np.ndarray], most: int = 1000, seed: int = 0) -> float:
    """Noise for which the static problem is regularised as in Waddington-OT.

    2 sigma^2 gap = 0.05 median |x - y|^2 between neighbouring snapshots; the median over the intervals.
    """
    from scipy.spatial.distance import cdist

    random = np.random.default_rng(seed)
    clouds = [one[random.permutation(len(one))[:most]] for one in points]
    values = [
        float(np.median(cdist(a, b, "sqeuclidean"))) / gap
        for a, b, gap in zip(clouds[:-1], clouds[1:], np.diff(times), strict=True)
    ]
    return float(np.sqrt(SHARE * np.median(values) / 2)) or 1.0


def entropic_plan(a: np.ndarray, b: np.ndarray, sigma: float, gap: float) -> np.ndarray:
    """The static Schrödinger plan of Brownian motion between two clouds, by POT: (n, m)."""
    import ot
    from scipy.spatial.distance import cdist

    cost: np.ndarray = cdist(a, b, "sqeuclidean")
    first, last = np.full(len(a), 1 / len(a)), np.full(len(b), 1 / len(b))
    options = {"method": "sinkhorn_log", "numItermax": SWEEPS, "stopThr": 1e-6, "warn": False, "log": True}
    with np.errstate(over="ignore"):  # while it has not converged
        plan, log = ot.sinkhorn(first, last, cost, 2 * sigma**2 * gap, **options)
    return plan if log["err"] and log["err"][-1] < 1e-3 else exact_plan(cost)


def baseline(
    method: str, times: np.ndarray, points: Sequence[np.ndarray], at: np.ndarray, sigma: float, n: int, seed: int = 0
) -> list[np.ndarray]:
    """Clouds (n, d) of a model-free baseline at times inside the range of the snapshots.

    Args:
        method: ENTROPIC or LINEAR.
        times: (K,) of the fitted snapshots.
        points: K arrays (n_k, d).
        at: (M,) times.
        sigma: Noise of the Brownian bridge.
        n: Points of each cloud.
        seed: Of the draws.

    Raises:
        UserError: A time outside the range, or an unknown method.
    """
    from scipy.spatial.distance import cdist

    if method not in (ENTROPIC, LINEAR):
        raise UserError(f"baseline: got '{method}', expected '{ENTROPIC}' or '{LINEAR}'")
    random, plans, clouds = np.random.default_rng(seed), {}, []
    points = [one[random.permutation(len(one))[:PLANNED]] if len(one) > PLANNED else one for one in points]
    for time in at:
        if not times[0] <= time <= times[-1]:
            raise UserError(f"baseline: got time {time:g}, expected one from {times[0]:g} to {times[-1]:g}")
        k = min(int(np.searchsorted(times, time, side="right")) - 1, len(times) - 2)
        gap, a, b = float(times[k + 1] - times[k]), points[k], points[k + 1]
        if k not in plans:
            linear = method == LINEAR
            plans[k] = exact_plan(cdist(a, b, "sqeuclidean")) if linear else entropic_plan(a, b, sigma, gap)
        levels = (np.arange(n) + random.random()) / n  # evenly through the plan: less noise than independent draws
        pairs = np.searchsorted(np.cumsum(plans[k]) / plans[k].sum(), levels).clip(0, plans[k].size - 1)
        x, y, u = a[pairs // len(b)], b[pairs % len(b)], (time - times[k]) / gap
        spread = sigma * np.sqrt(gap * u * (1 - u)) if method == ENTROPIC else 0.0
        clouds.append((1 - u) * x + u * y + spread * random.standard_normal(x.shape))
    return clouds


def floor(cells: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Distances between two halves of a sample, mean of ten halvings: what a perfect model gets from that few cells.

    Halves are smaller than the sample, so the true floor lies lower; read it as "not told from real below this".
    """
    random = np.random.default_rng(seed)
    rows = []
    for _ in range(HALVINGS):
        order = random.permutation(len(cells))[:MOST]
        a, b = cells[order[: len(order) // 2]], cells[order[len(order) // 2 :]]
        rows.append([wasserstein(a, b, 1), wasserstein(a, b, 2), mmd2_median(a, b) if len(b) > 1 else np.nan])
    return dict(zip(("w1", "w2", "mmd2"), np.mean(rows, axis=0).tolist(), strict=True))


def score(
    times: np.ndarray,
    held: Sequence[np.ndarray],
    clouds: Mapping[str, Sequence[np.ndarray]],
    weights: Mapping[str, Sequence[np.ndarray]] | None = None,
    told: Callable[[float], None] = lambda _: None,
) -> Scores:
    """W1, W2 and MMD^2 of every method at every held-out time, and the floor.

    Args:
        times: (M,).
        held: M arrays of held-out cells.
        clouds: Method -> M arrays (n, d).
        weights: Method -> M arrays (n,) where points do not count alike; MMD is then of a weighted resample.
        told: Told the share done.
    """
    random = np.random.default_rng(0)
    held = [one[random.permutation(len(one))[:MOST]] for one in held]
    found: dict[str, dict[str, list[float]]] = {name: {} for name in ("w1", "w2", "mmd2")}
    for number, (method, made) in enumerate(clouds.items()):
        for i, (cells, cloud) in enumerate(zip(held, made, strict=True)):
            masses = None if weights is None or method not in weights else weights[method][i][:MOST]
            cloud = cloud[:MOST]
            alike = cloud if masses is None else cloud[random.choice(len(cloud), len(cloud), p=masses / masses.sum())]
            values = (
                wasserstein(cloud, cells, 1, weights_a=masses),
                wasserstein(cloud, cells, 2, weights_a=masses),
                mmd2_median(alike, cells),
            )
            for name, value in zip(found, values, strict=True):
                found[name].setdefault(method, []).append(value)
            told((number + (i + 1) / len(held)) / (len(clouds) + 1))
    for cells in held:
        for name, value in floor(cells).items():
            found[name].setdefault(FLOOR, []).append(value)
    told(1.0)
    tables = {name: {method: np.array(v) for method, v in methods.items()} for name, methods in found.items()}
    return Scores(np.asarray(times, np.float64), **tables)
