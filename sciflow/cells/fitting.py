"""Fitting a bridge to cells: what is read, what is asked of the engines, what is kept in AnnData."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.cells.choices import check_drift, engine_of, reference_of
from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.domains.cells.adata import PREFIX, from_adata, per_cell, storable, stored, to_adata, transitions
from sciflow.domains.cells.data import Cells
from sciflow.domains.cells.evaluation import Scores, default_sigma
from sciflow.domains.cells.files import from_arrays
from sciflow.domains.cells.growth import Growth, estimate_growth
from sciflow.domains.cells.sets import PROTOCOLS, read_cells
from sciflow.networks import references
from sciflow.training.schrodinger.alternation import Anderson, Round, alternate
from sciflow.training.schrodinger.engine import Engine
from sciflow.training.schrodinger.history import FILE
from sciflow.training.schrodinger.result import SchrodingerBridge
from sciflow.training.schrodinger.snapshots import Held, Snapshots
from sciflow.training.schrodinger.theta import ThetaStep

STEPS = 50  # steps of the default time grid in the shortest gap
LARGEST = 25_000_000  # entries of a coupling that is stored with the cells
DERIVED = {"obsm": ("velocity", "fate"), "layers": ("velocity",), "obs": ("weight", "growth"), "obsp": ("coupling",)}
Progress = Callable[[str, float], None]


@dataclass(frozen=True, eq=False)
class CellFit:
    """A fitted bridge with the cells it belongs to.

    Attributes:
        adata: Holds the results too.
        cells: All cells, held-out times included.
        held: Held-out snapshots.
        bridge: The fit itself: `theta`, `sample`, `drift`, `forecast`, `coupling` ...
        growth: Growth of the cells, or None.
        settings: What was asked for, plain data.
        scores: Distances at the held-out times with baselines beside; None before `evaluate`.
    """

    adata: Any
    cells: Cells
    held: Held
    bridge: SchrodingerBridge
    growth: Growth | None
    settings: dict[str, Any]
    scores: Scores | None = None

    @property
    def theta(self) -> dict[str, float]:
        """Parameters of the reference."""
        return self.bridge.theta

    @property
    def theta_stderr(self) -> dict[str, float]:
        """Standard errors: of the bootstrap if there was one, otherwise lower bounds."""
        kept = self.adata.uns[PREFIX].get("theta_bootstrap")
        if kept is None:
            return self.bridge.theta_stderr
        return dict(zip(self.theta, np.std(kept, axis=0, ddof=1).tolist(), strict=True))

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes on the data, and on what cannot be trusted."""
        return (*self.cells.notes, *self.bridge.warnings)


def bridge(
    data: Any,
    *,
    time_key: str | None = None,
    basis: str = "X_pca",
    times: Iterable[float] | None = None,
    reference: str | references.Reference | Callable[..., Any] | None = None,
    sigma: float | None = None,
    dt: float | None = None,
    engine: str | Engine = "kernel_bridge",
    rounds: int = 10,
    holdout: Iterable[float] | str = (),
    growth: str | Sequence[np.ndarray] | None = None,
    theta_step: ThetaStep | None = None,
    acceleration: Anderson | None = None,
    tolerance: float = 1e-2,
    duplicates: str = "error",
    seed: int = 0,
    folder: str | Path | None = None,
    progress: Progress = lambda stage, done: None,
) -> CellFit:
    """Fit a multi-marginal Schrödinger bridge and its reference to cells at several times.

    The results are also written into `adata` (see `sciflow.domains.cells.adata`). A fit that was interrupted goes on
    from its last round: from `folder`, or from an AnnData object that holds a fit of the same problem.

    Args:
        data: AnnData; a list of arrays (n_k, d), one per time; `Cells`; or the name or path of a set.
        time_key: Column of obs with the times (AnnData, h5ad).
        basis: Key of obsm with the coordinates (AnnData, h5ad).
        times: (K,) times of a list of arrays; None: 0, 1, 2, ...
        reference: Family by name (`REFERENCES`), a `Reference`, or a drift `f(x (n, d), t) -> (n, d)` in torch
            operations. None: that of the published run for a published set, otherwise Brownian.
        sigma: Noise, units of the coordinates per square root of time, > 0. None: as published for a published set,
            otherwise from the distances between snapshots (`default_sigma`).
        dt: Largest step of the time grid. None: as published, otherwise a fiftieth of the shortest gap.
        engine: By name (`ENGINES`) or an `Engine`.
        rounds: Theta-steps at most.
        holdout: Times that are scored, not fitted; "published": the split of a published set.
        growth: None: every cell counts alike. "estimate": from unbalanced transport. Name of a column of obs (or, for a
            list of arrays, one array per time): growth rates per time unit. See `sciflow.domains.cells.growth`.
        theta_step: See `alternate`.
        acceleration: See `alternate`.
        tolerance: See `alternate`.
        duplicates: Cells at the very same place and time: "error", "keep" or "drop".
        seed: Of all random numbers.
        folder: Keeps the state after every round.
        progress: Told stages and shares done.

    Raises:
        UserError: A key or a time is missing, cells are not usable, or a number is out of range.
    """
    adata, cells, asked = _opened(data, time_key, basis, times, duplicates, growth)
    held_times = _held_times(cells, holdout)
    train, held = Snapshots.of(cells.points, cells.times).split(held_times)
    family, noise, step = _problem(cells, train, reference, sigma, dt)
    solver = engine_of(engine)
    settings: dict[str, Any] = {
        **asked,
        "cells": _digest(cells),
        "reference": _config(family),
        "sigma": noise,
        "dt": step,
        "engine": to_config(solver),
        "rounds": int(rounds),
        "holdout": [float(t) for t in held_times],
        "theta_step": to_config(theta_step),
        "acceleration": to_config(acceleration),
        "tolerance": float(tolerance),
        "seed": int(seed),
    }
    grown = _grown(adata, cells, train, asked["growth"], noise)
    train = train if grown is None else train.weighted(grown.weights)

    def told(done: Round) -> None:
        progress("rounds", min(done.number / max(rounds, 1), 1.0))

    with _state(adata, folder, settings) as place:
        numbers = {name: settings[name] for name in ("sigma", "dt", "rounds", "tolerance", "seed")}  # as `restore` does
        fitted = alternate(
            train, family, solver, theta_step=theta_step, acceleration=acceleration, folder=place, told=told, **numbers
        )
        state = np.frombuffer((Path(place) / FILE).read_bytes(), np.uint8)
    progress("rounds", 1.0)
    fit = CellFit(adata, cells, held, fitted, grown, settings)
    _write(fit, state)
    return fit


def restore(data: Any) -> CellFit:
    """The fit of an AnnData object, also one read from h5ad; a `CellFit` is returned as it is.

    Nothing is fitted again but the last round's bridge.

    Raises:
        UserError: No fit is there, or its reference was a Python function.
    """
    if isinstance(data, CellFit):
        return data
    settings = json.loads(stored(data)["params"]["json"])
    settings.pop("cells")
    if not settings["reference"]:
        raise UserError("the reference was a Python function, which no file keeps; call sciflow.cells.bridge again")
    parts = {name: from_config(settings[name]) for name in ("reference", "engine", "theta_step", "acceleration")}
    return bridge(data, **{**settings, **parts})


def _opened(
    data: Any, time_key: str | None, basis: str, times: Any, duplicates: str, growth: Any
) -> tuple[Any, Cells, dict[str, Any]]:
    """AnnData, cells, and what has to be known to read the cells from it again."""
    if isinstance(data, (str, Path)):
        read, found = read_cells(data, time_key, basis, duplicates)
        data = read if found is None else found
    elif isinstance(data, (list, tuple)):
        data = from_arrays(data, times, "arrays", duplicates)
    elif not isinstance(data, Cells) and not hasattr(data, "obsm"):
        raise UserError(f"data: got {type(data).__name__}, expected AnnData, a list of arrays, or a name or path")
    if isinstance(data, Cells):
        adata, time_key, basis, duplicates = to_adata(data), "time", "X_cells", "keep"
        if growth is not None and not isinstance(growth, str):
            adata.obs["growth_rate"], growth = np.concatenate([np.asarray(one) for one in growth]), "growth_rate"
        known = {"source": data.source, "facts": data.facts, "notes": data.notes}
        cells = replace(from_adata(adata, time_key, basis, duplicates), **known)
    else:
        adata = data
        if time_key is None:
            raise UserError(f"adata: time_key is missing; columns of obs: {', '.join(map(str, adata.obs)) or 'none'}")
        cells = from_adata(adata, time_key, basis, duplicates)
    return adata, cells, {"time_key": time_key, "basis": basis, "duplicates": duplicates, "growth": growth}


def _held_times(cells: Cells, holdout: Iterable[float] | str) -> list[float]:
    """Held-out times as asked for."""
    if isinstance(holdout, str) and holdout == "published":
        if not (known := cells.facts.get("heldout", [])):
            raise UserError(f"{cells.source}: no published split is known; give the held-out times")
        return known
    try:
        return [float(time) for time in ([holdout] if isinstance(holdout, (int, float)) else holdout)]
    except (TypeError, ValueError):
        raise UserError(f"holdout: got {holdout!r}, expected times such as [2, 4], or 'published'") from None


def _problem(
    cells: Cells, train: Snapshots, reference: Any, sigma: float | None, dt: float | None
) -> tuple[references.Reference, float, float]:
    """Reference, noise and step, those left out as published or by rule."""
    known = PROTOCOLS.get(cells.source)
    family = reference_of(reference or (known.reference if known else "brownian"), cells.dimension)
    noise = sigma if sigma is not None else known.sigma if known else default_sigma(train.times, train.points)
    step = dt if dt is not None else known.dt if known else float(np.diff(train.times).min()) / STEPS
    if not 0 < noise < np.inf:
        raise UserError(f"sigma: got {noise:g}, expected a finite number > 0 (noise per square root of time)")
    if isinstance(family, references.Callable):
        check_drift(family, train)
    return family, float(noise), float(step)


def largest_plan(snapshots: Snapshots) -> int:
    """Entries of the largest coupling between neighbouring snapshots."""
    return max(a * b for a, b in zip(snapshots.sizes, snapshots.sizes[1:]))


def _digest(cells: Cells) -> str:
    digest = hashlib.sha256(cells.times.tobytes())
    for points in cells.points:
        digest.update(points.tobytes())
    return digest.hexdigest()


def _config(family: references.Reference) -> Any:
    """Plain form of a reference; None for a Python function."""
    try:
        return to_config(family)
    except TypeError:
        return None


def _grown(adata: Any, cells: Cells, train: Snapshots, growth: str | None, sigma: float) -> Growth | None:
    """Growth of the fitted cells, as asked for."""
    if growth is None:
        return None
    if growth == "estimate":
        return estimate_growth(train.times, train.points, sigma)
    if growth not in adata.obs:
        there = ", ".join(map(str, adata.obs)) or "none"
        raise UserError(f"growth: got '{growth}', expected 'estimate' or a column of obs with rates; columns: {there}")
    column = adata.obs[growth].to_numpy()
    if column.dtype.kind not in "iuf":
        raise UserError(f"growth: obs['{growth}'] does not hold numbers, expected growth rates per time unit")
    fitted = np.isin(cells.times, train.times)
    rates = [column[rows].astype(float) for rows, wanted in zip(cells.rows, fitted, strict=True) if wanted]
    return estimate_growth(train.times, train.points, sigma, rates)


@contextmanager
def _state(adata: Any, folder: str | Path | None, settings: dict[str, Any]) -> Iterator[Path]:
    """Where the rounds are kept: the given folder, or a temporary one; with the rounds of the same fit in `adata`."""
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder if folder is not None else temporary)
        kept = adata.uns.get(PREFIX, {})
        if "rounds" in kept and not (place / FILE).exists() and settings["reference"] is not None:
            same = {**json.loads(kept["params"]["json"]), "rounds": settings["rounds"]} == json.loads(
                json.dumps(settings)
            )
            if same:
                place.mkdir(parents=True, exist_ok=True)
                (place / FILE).write_bytes(np.asarray(kept["rounds"], np.uint8).tobytes())
        yield place


def _write(fit: CellFit, state: np.ndarray) -> None:
    """Results to AnnData; what was derived from the same fit before (scores, trajectories ...) stays."""
    adata, cells, history = fit.adata, fit.cells, fit.bridge.history
    text = json.dumps(fit.settings)
    old = adata.uns.get(PREFIX, {})
    same = len(old) and old["params"]["json"] == text and np.array_equal(old["rounds"], state)
    adata.uns[PREFIX] = {
        **(old if same else {}),
        "params": {**storable({**fit.settings, "reference": type(fit.bridge.reference).__name__}), "json": text},
        "times": cells.times,
        "theta": np.array(list(fit.theta.values())),
        "theta_names": np.array(list(fit.theta), object),
        "theta_stderr": np.array(list((fit.theta_stderr if same else fit.bridge.theta_stderr).values())),
        "theta_history": np.stack([one.numpy() for one in history.thetas]),
        "objective": fit.bridge.objective,
        "notes": np.array(fit.warnings, object),
        "rounds": state,
    }
    if same:
        return
    for part, names in DERIVED.items():  # of an earlier fit
        for name in names:
            if (key := f"{PREFIX}_{name}") in getattr(adata, part):
                del getattr(adata, part)[key]
    rows = dict(zip(cells.times.tolist(), cells.rows, strict=True))
    adata.obs[f"{PREFIX}_time"] = per_cell({t: np.full(len(r), t) for t, r in rows.items()}, cells, adata.n_obs)
    adata.obs[f"{PREFIX}_heldout"] = np.isin(adata.obs[f"{PREFIX}_time"], fit.held.times)
    train = fit.bridge.snapshots
    if fit.growth is not None:
        times = train.times.tolist()
        for name, values in (("weight", fit.growth.weights), ("growth", fit.growth.rates)):
            adata.obs[f"{PREFIX}_{name}"] = per_cell(dict(zip(times, values)), cells, adata.n_obs)
    if largest_plan(train) <= LARGEST:
        ends = list(zip(train.times.tolist(), train.times.tolist()[1:]))
        plans = {pair: fit.bridge.coupling(k) for k, pair in enumerate(ends)}
        adata.obsp[f"{PREFIX}_coupling"] = transitions(plans, cells, adata.n_obs)
