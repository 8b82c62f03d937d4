"""What follows from a fit: trajectories, velocities, fates, genes, scores."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sciflow.cells.fitting import LARGEST, CellFit, Progress, largest_plan, restore
from sciflow.core.config import from_config
from sciflow.core.errors import UserError
from sciflow.domains.cells.adata import PREFIX, per_cell, storable
from sciflow.domains.cells.evaluation import ENTROPIC, LINEAR, baseline, score
from sciflow.domains.cells.fates import fate_probabilities
from sciflow.domains.cells.genes import GeneTrends
from sciflow.domains.cells.genes import gene_trends as trends_of
from sciflow.domains.cells.growth import population_weights
from sciflow.networks.references import Brownian
from sciflow.training.schrodinger.result import SchrodingerBridge

MOST_DECODED = 200_000_000  # entries of a layer of velocities: 0.8 GB


@dataclass(frozen=True, eq=False)
class Trajectories:
    """Paths of a fitted bridge.

    Attributes:
        times: (T,).
        paths: (n, T, d), in the coordinates of the basis.
        weights: (n, T), columns sum to 1: how much a path counts in the population (growth); None: all alike.
    """

    times: np.ndarray
    paths: np.ndarray
    weights: np.ndarray | None = None


def trajectories(data: Any, n: int = 200, times: Iterable[float] | None = None, seed: int = 0) -> Trajectories:
    """Draw whole trajectories; kept in `uns["sciflow"]["trajectories"]`.

    Args:
        data: AnnData with a fit, or a `CellFit`.
        n: Number of paths.
        times: Increasing times within the range of the snapshots; None: a hundred steps, fitted times included.
        seed: Of the paths.

    Raises:
        UserError: No fit, or times out of range.
    """
    fit = restore(data)
    own = fit.bridge.snapshots.times
    if n < 1:
        raise UserError(f"trajectories: got n = {n}, expected 1 or more")
    wanted = np.union1d(np.linspace(own[0], own[-1], 101), own) if times is None else np.asarray(list(times), float)
    clocks = np.union1d(wanted, own) if fit.growth is not None else wanted
    paths = fit.bridge.sample(n, clocks, seed)
    weights = None
    if fit.growth is not None:
        weights = population_weights(paths, clocks, own, fit.bridge.snapshots.points, fit.growth)
        kept = np.searchsorted(clocks, wanted)
        paths, weights = paths[:, kept], weights[:, kept]
    made = Trajectories(wanted, paths, weights)
    extra = {} if weights is None else {"weights": weights}
    fit.adata.uns[PREFIX]["trajectories"] = {"times": wanted, "paths": paths, **extra}
    return made


def velocity(data: Any, of: str = "bridge") -> np.ndarray:
    """Drift at every cell and its time, in `obsm["sciflow_velocity"]` and, decoded, `layers["sciflow_velocity"]`.

    The layer is left out where it would have more than `MOST_DECODED` entries; `fit.cells.decoder.direction` decodes
    single genes.

    Args:
        data: AnnData with a fit, or a `CellFit`.
        of: "bridge": forward drift of the fitted process; at the last time, which has none, the mean displacement over
            the last interval per time unit. "reference": drift of the refined reference.

    Returns:
        (cells of adata, d), units of the coordinates per time; NaN for cells that were dropped.

    Raises:
        UserError: No fit, or the engine has no drift.
    """
    if of not in ("bridge", "reference"):
        raise UserError(f"velocity: got of='{of}', expected 'bridge' or 'reference'")
    fit = restore(data)
    values, last = {}, float(fit.cells.times[-1])
    for time, points in zip(fit.cells.times.tolist(), fit.cells.points, strict=True):
        if of == "reference":
            values[time] = fit.bridge.drift(points, time)
        elif time < last:
            values[time] = fit.bridge.bridge_drift(points, time)
        else:
            values[time] = _arrival(fit.bridge)
    table = per_cell(values, fit.cells, fit.adata.n_obs)
    fit.adata.obsm[f"{PREFIX}_velocity"] = table
    if fit.cells.decoder is not None and fit.adata.n_obs * fit.adata.n_vars <= MOST_DECODED:
        fit.adata.layers[f"{PREFIX}_velocity"] = fit.cells.decoder.direction(table).astype(np.float32)
    return table


def fate(data: Any, labels: str | Sequence[str]) -> np.ndarray:
    """Probability of each fate for every fitted cell, in `obsm["sciflow_fate"]`, names in `uns["sciflow"]["fates"]`.

    Args:
        data: AnnData with a fit, or a `CellFit`.
        labels: Column of obs, read at the last time, or the labels of the cells of the last time.

    Returns:
        (cells of adata, fates); rows sum to 1, NaN where the time was held out.

    Raises:
        UserError: No fit, no such column, or the engine has no couplings.
    """
    fit = restore(data)
    if isinstance(labels, str):
        if labels not in fit.adata.obs:
            there = ", ".join(map(str, fit.adata.obs)) or "none"
            raise UserError(f"fate: no column '{labels}' in obs; columns of obs: {there}")
        labels = fit.adata.obs[labels].to_numpy()[fit.cells.rows[-1]].astype(str)
    if largest_plan(fit.bridge.snapshots) > LARGEST:
        raise UserError("fate: too many cells for a coupling of all; fit a subset (CLI: --cells-per-time 2000)")
    plans = [fit.bridge.coupling(k) for k in range(len(fit.bridge.snapshots) - 1)]
    laws, names = fate_probabilities(plans, np.asarray(labels))
    table = per_cell(dict(zip(fit.bridge.snapshots.times.tolist(), laws, strict=True)), fit.cells, fit.adata.n_obs)
    fit.adata.obsm[f"{PREFIX}_fate"] = table
    fit.adata.uns[PREFIX]["fates"] = np.array(names, object)
    return table


def bootstrap(
    data: Any, replicates: int = 20, rounds: int = 5, seed: int = 0, progress: Progress = lambda stage, done: None
) -> CellFit:
    """Standard errors of the reference's parameters by refitting resampled cells.

    The fits lie in `uns["sciflow"]["theta_bootstrap"]` (replicates, p), their spread in `theta_stderr`. Each costs
    about `rounds` rounds of the fit.

    Args:
        data: AnnData with a fit, or a `CellFit`.
        replicates: Number of fits, at least 2.
        rounds: Of each.
        seed: Of the resampling.
        progress: Told stages and shares done.

    Raises:
        UserError: No fit, or fewer than two replicates.
    """
    fit = restore(data)
    acceleration = from_config(fit.settings["acceleration"])
    thetas = fit.bridge.bootstrap(replicates, rounds, seed, acceleration, lambda done: progress("bootstrap", done))
    fit.adata.uns[PREFIX]["theta_bootstrap"] = thetas
    fit.adata.uns[PREFIX]["theta_stderr"] = np.array(list(fit.theta_stderr.values()))
    return fit


def gene_trends(data: Any, genes: Sequence[str], n: int = 200, seed: int = 0) -> GeneTrends:
    """Mean course of genes along the trajectories, decoded from principal components.

    Raises:
        UserError: No fit, no loadings, or an unknown gene.
    """
    fit = restore(data)
    made = trajectories(fit, n, seed=seed)
    return trends_of(fit.cells.decoder, made.times, made.paths, genes, made.weights)


def evaluate(data: Any, n: int = 500, seed: int = 0, progress: Progress = lambda stage, done: None) -> CellFit:
    """Scores at the held-out times, baselines and floor beside; also in `uns["sciflow"]["scores"]`.

    Args:
        data: AnnData with a fit, or a `CellFit`.
        n: Points of every cloud.
        seed: Of all draws.
        progress: Told stages and shares done.

    Returns:
        The fit with `scores`; their methods are "bridge", "vanilla bridge" (Brownian reference, same engine; not for a
        Brownian fit), the two baselines without a model, and the floor.
    """
    fit = restore(data)
    at = fit.held.times
    if not len(at):
        return fit
    points, results = fit.bridge.snapshots.points, fit.adata.uns[PREFIX]
    kept = {name: results[name] for name in ("trajectories",) if name in results}
    made = trajectories(fit, n, np.union1d(at, at), seed)
    clouds = {"bridge": list(made.paths.transpose(1, 0, 2))}
    weights = None if made.weights is None else {"bridge": list(made.weights.T)}
    if not isinstance(fit.bridge.reference, Brownian):
        progress("baselines", 0.0)
        clouds["vanilla bridge"] = list(fit.bridge.vanilla().sample(n, at, seed).transpose(1, 0, 2))
    for method in (ENTROPIC, LINEAR):
        clouds[method] = baseline(method, fit.bridge.snapshots.times, points, at, fit.bridge.sigma, n, seed)
    progress("baselines", 1.0)
    found = score(at, fit.held.points, clouds, weights, lambda done: progress("scores", done))
    del results["trajectories"]
    results.update(kept, scores=storable(found.plain()))
    return replace(fit, scores=found)


def _arrival(fitted: SchrodingerBridge) -> np.ndarray:
    """Mean displacement over the last interval, per time unit, of each cell of the last snapshot: (n_K, d).

    From the coupling; with too many cells for one, the drift half a step before the end.
    """
    snapshots = fitted.snapshots
    if largest_plan(snapshots) > LARGEST:
        return fitted.bridge_drift(snapshots.points[-1], snapshots.times[-1] - fitted.dt / 2)
    plan = fitted.coupling(len(snapshots) - 2)
    mass = plan.sum(axis=0)[:, None]
    start = np.divide(
        plan.T @ snapshots.points[-2], mass, out=np.full_like(snapshots.points[-1], np.nan), where=mass > 0
    )
    return (snapshots.points[-1] - start) / (snapshots.times[-1] - snapshots.times[-2])
