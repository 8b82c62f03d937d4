r"""Scores of forecast trajectories: errors, ensembles, intervals (GeoTDM, Han et al. 2024, arXiv 2410.13027).

Samples are (B, K, T, N, D): K futures of each of B cases, T frames, N atoms; the truth is (B, T, N, D). With
d_{bktn} = |x^_{bktn} - x_{btn}|:

| name | meaning |
|---|---|
| ade, fde | mean of d over frames and atoms; mean over atoms at the last frame: one number per case and sample |
| mean over K | what the n-body and MD17 tables report (K = 5) |
| min over K | minADE, minFDE: minimised apart, each on its own mean over atoms ("joint"); pedestrians, K = 20 |
| crps | ranked probability score of coordinates, fair: mean\|x_k - y\| - sum_{kl}\|x_k - x_l\| / (2K(K - 1)) |
| energy_score | the same with the distance of points instead of coordinates: it does not depend on the axes |
| coverage | share of true coordinates inside the central interval of the samples |
| spread_skill | sqrt((K + 1)/K var / MSE of the mean): 1 for a calibrated ensemble (Fortin et al. 2014) |

Errors have heavy tails (close encounters): medians and quantiles stand beside every mean. Intervals are percentile
bootstrap intervals over cases.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sciflow.core.errors import UserError

QUANTILES = {"q10": 0.1, "median": 0.5, "q90": 0.9}
CENTRAL = (0.5, 0.9)  # central intervals whose coverage is reported
BLOCK = 512  # cases of k-means at a time


def distances(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance of each atom from its true place, (B, K, T, N).

    Args:
        samples: (B, K, T, N, D).
        truth: (B, T, N, D).

    Raises:
        UserError: Shapes do not agree, a frame or sample is missing, or a number is not finite.
    """
    samples, truth = np.asarray(samples, np.float64), np.asarray(truth, np.float64)
    if samples.ndim != 5 or samples.shape[:1] + samples.shape[2:] != truth.shape or 0 in samples.shape:
        raise UserError(
            f"got samples of shape {samples.shape} and truth of shape {truth.shape}, expected (B, K, T, N, D) and "
            "(B, T, N, D) with at least one of each"
        )
    if not np.isfinite(truth).all():
        raise UserError("the true trajectories hold NaN or infinite coordinates; leave those cases out")
    return np.linalg.norm(samples - truth[:, None], axis=-1)


def ade(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance over frames and atoms, (B, K)."""
    return distances(samples, truth).mean((2, 3))


def fde(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Mean distance over atoms at the last frame, (B, K)."""
    return distances(samples, truth)[:, :, -1].mean(2)


def horizon_errors(samples: np.ndarray, truth: np.ndarray) -> dict[str, list[float]]:
    """Error at each frame: mean over everything, and quantiles over cases of the mean over samples and atoms.

    Returns:
        `mean`, `q10`, `median`, `q90`: T numbers each.
    """
    per_case = distances(samples, truth).mean((1, 3))
    quantiles = {name: np.quantile(per_case, q, axis=0).tolist() for name, q in QUANTILES.items()}
    return {"mean": per_case.mean(0).tolist(), **quantiles}


def figure(values: np.ndarray, *, draws: int = 1000, seed: int = 0) -> dict[str, float]:
    """Mean over cases with its 95 % bootstrap interval, and quantiles.

    Args:
        values: (B,), one number per case.
        draws: Bootstrap draws.
        seed: Of the draws.

    Returns:
        `value`, `low`, `high` (NaN for one case), `q10`, `median`, `q90`.
    """
    low, high = bootstrap(values, draws=draws, seed=seed) if len(values) > 1 else (float("nan"), float("nan"))
    quantiles = {name: float(np.quantile(values, q)) for name, q in QUANTILES.items()}
    return {"value": float(np.mean(values)), "low": low, "high": high, **quantiles}


def bootstrap(values: np.ndarray, *, draws: int = 1000, level: float = 0.95, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean over cases.

    Args:
        values: (B,), one number per case: cases are what is drawn again, with replacement.
        draws: Bootstrap draws.
        level: Probability that the interval is to hold the expectation. With few cases and a heavy tail it holds less.
        seed: Of the draws.
    """
    values = np.asarray(values, np.float64)
    weights = np.random.default_rng(seed).multinomial(len(values), np.full(len(values), 1 / len(values)), draws)
    low, high = np.quantile(weights @ values / len(values), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def forecast_scores(samples: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> dict[str, dict[str, float]]:
    """`aveADE`, `aveFDE` (mean over samples) and, with several samples, `minADE`, `minFDE` (best of K); see `figure`.

    Args:
        samples: (B, K, T, N, D), the generated frames only.
        truth: (B, T, N, D).
        seed: Of the bootstrap.
    """
    errors = {"ADE": ade(samples, truth), "FDE": fde(samples, truth)}
    scores = {f"ave{name}": figure(values.mean(1), seed=seed) for name, values in errors.items()}
    if samples.shape[1] > 1:
        scores |= {f"min{name}": figure(values.min(1), seed=seed) for name, values in errors.items()}
    return scores


# -- ensembles -------------------------------------------------------------------------------------------------------
def crps(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair CRPS per case, mean over frames, atoms and axes, (B,); with K = 1 the mean absolute error.

    Its expectation over samples is that of the law behind them (no bias from finite K), so it may be compared between
    different K; it is smallest for the true law (Gneiting & Raftery 2007; Ferro 2014).
    """
    distances(samples, truth)  # checks
    count = samples.shape[1]
    skill = np.abs(samples - truth[:, None]).mean(1)
    if count > 1:  # sum over pairs of |x_k - x_l| by sorting: the r-th smallest counts 2r - K - 1 times
        weights = 2 * np.arange(1, count + 1) - count - 1
        pairs = np.einsum("k,bktnd->btnd", weights, np.sort(samples, axis=1))
        skill = skill - pairs / (count * (count - 1))
    return skill.mean((1, 2, 3))


def energy_score(samples: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Fair energy score of the position of each atom at each frame, mean over both, (B,); rotation invariant."""
    skill = distances(samples, truth).mean((1, 2, 3))
    count = samples.shape[1]
    if count == 1:
        return skill
    apart = sum(
        np.linalg.norm(samples[:, k + 1 :] - samples[:, k : k + 1], axis=-1).sum(1).mean((1, 2)) for k in range(count)
    )
    return skill - apart / (count * (count - 1))


def calibration(samples: np.ndarray, truth: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """How well the spread of the samples tells their error.

    Args:
        samples: (B, K, T, N, D), K >= 2.
        truth: (B, T, N, D).
        seed: Ties between truth and samples are broken at random.

    Returns:
        `rank_histogram` (K + 1 shares; flat when calibrated, U-shaped when the spread is too small), `coverage`
        {level: [share inside, share expected of a calibrated ensemble]} of intervals between samples, the nearest that
        K allows, `spread_skill`, `spread` (standard
        deviation of a coordinate) and `skill` (RMS error of the ensemble mean).
    """
    count = samples.shape[1]
    if count < 2:
        raise UserError("calibration needs at least 2 samples per case, got 1")
    distances(samples, truth)  # checks
    below, ties = (samples < truth[:, None]).sum(1), (samples == truth[:, None]).sum(1)
    ranks = below + np.random.default_rng(seed).integers(0, ties + 1)
    shares = np.bincount(ranks.ravel(), minlength=count + 1) / ranks.size
    coverage = {}
    for level in CENTRAL:
        outer = max(round((1 - level) / 2 * (count + 1)), 1)  # ranks cut off at each side
        inside = shares[outer : count + 1 - outer]
        if len(inside):
            coverage[f"{level:g}"] = [float(inside.sum()), len(inside) / (count + 1)]
    variance = samples.var(1, ddof=1).mean()
    error = ((samples.mean(1) - truth) ** 2).mean()
    ratio = float(np.sqrt((count + 1) / count * variance / error)) if error > 0 else float("nan")
    return {
        "rank_histogram": shares.tolist(),
        "coverage": coverage,
        "spread_skill": ratio,
        "spread": float(np.sqrt(variance)),
        "skill": float(np.sqrt(error)),
    }


# -- many samples to few (pedestrians) -------------------------------------------------------------------------------
def representatives(samples: np.ndarray, clusters: int = 20, *, seed: int = 0, rounds: int = 100) -> np.ndarray:
    """The samples nearest to the centres of k-means on the final positions, (B, clusters, T, N, D).

    The published pedestrian figures draw K = 60 and keep 20 this way (EqMotion's "diverse" protocol). It is NOT best
    of 20: state which of both a figure is. Two centres may keep the same sample.

    Args:
        samples: (B, K, T, N, D) with K >= clusters.
        clusters: Centres.
        seed: Of the start.
        rounds: Lloyd iterations at most.

    Raises:
        UserError: Fewer samples than clusters.
    """
    cases, count = samples.shape[:2]
    if count < clusters:
        raise UserError(f"got {count} samples per case, expected at least as many as clusters ({clusters})")
    rng = np.random.default_rng(seed)
    kept = []
    for block in np.split(samples, range(BLOCK, cases, BLOCK)):
        points = np.asarray(block[:, :, -1], np.float64).reshape(len(block), count, -1)
        centres = _moved(points, _started(points, clusters, rng), rounds)
        kept.append(block[np.arange(len(block))[:, None], _squares(points, centres).argmin(1)])
    return np.concatenate(kept)


def _started(points: np.ndarray, clusters: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ (Arthur & Vassilvitskii 2007): of several drawn points, the one that explains most, in turn."""
    rows, trials = np.arange(len(points))[:, None], 2 + int(np.log(clusters))
    chosen = rng.integers(0, points.shape[1], (len(points), 1))
    nearest = _squares(points, points[rows, chosen])[:, :, 0]
    for _ in range(clusters - 1):
        sums = (nearest + 1e-300).cumsum(1)  # where all points are taken: any
        level = rng.uniform(size=(len(points), trials, 1)) * sums[:, None, -1:]
        drawn = (level >= sums[:, None]).sum(2).clip(max=points.shape[1] - 1)
        left = np.minimum(nearest[:, :, None], _squares(points, points[rows, drawn]))  # (B, K, trials)
        best = left.sum(1).argmin(1)[:, None]
        chosen = np.concatenate([chosen, np.take_along_axis(drawn, best, 1)], 1)
        nearest = np.take_along_axis(left, best[:, None], 2)[:, :, 0]
    return points[rows, chosen]


def _moved(points: np.ndarray, centres: np.ndarray, rounds: int) -> np.ndarray:
    """Lloyd's iterations; an empty cluster keeps its centre."""
    owner = np.full(points.shape[:2], -1)
    for _ in range(rounds):
        closest = _squares(points, centres).argmin(2)
        if (closest == owner).all():
            break
        owner = closest
        member = (owner[:, :, None] == np.arange(centres.shape[1])).astype(float)
        sizes = member.sum(1)[:, :, None]
        centres = np.where(sizes > 0, np.einsum("bkc,bkp->bcp", member, points) / np.maximum(sizes, 1), centres)
    return centres


def _squares(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """Squared distances (B, K, clusters)."""
    return ((points[:, :, None] - centres[:, None]) ** 2).sum(-1)
