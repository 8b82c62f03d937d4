r"""Evaluation of trajectories as arrays: every score with its baselines and floors. Files: see `archives`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.baselines import naive_forecasts, true_dynamics
from sciflow.domains.trajectories.energies import energy_drift
from sciflow.domains.trajectories.metrics import (
    ade,
    calibration,
    crps,
    energy_score,
    fde,
    figure,
    forecast_scores,
    horizon_errors,
    representatives,
)
from sciflow.domains.trajectories.molecule_scores import molecule_curves, molecule_scores
from sciflow.domains.trajectories.scores import split_for_floor, unconditional_scores

DRAWN_CASES, DRAWN_SAMPLES = 3, 8
DIVERSE = 20  # trajectories kept of the pedestrian protocol


def pieces(positions: np.ndarray, frames: int) -> np.ndarray:
    """Real trajectories of exactly `frames` frames: the first ones of each, or disjoint pieces of one long one."""
    if positions.ndim == 5:
        positions = positions.reshape(-1, *positions.shape[2:])
    available = positions.shape[-3]
    if available < frames:
        raise UserError(f"the reference has {available} frames, expected at least the {frames} of the samples")
    if positions.ndim == 4:
        return positions[:, :frames]
    count = available // frames
    return positions[: count * frames].reshape(count, frames, *positions.shape[1:])


# -- forecasts -------------------------------------------------------------------------------------------------------
def evaluate_forecasts(
    samples: np.ndarray,
    truth: np.ndarray,
    observed: np.ndarray,
    *,
    times: np.ndarray | None = None,
    facts: Mapping[str, Any] | None = None,
    others: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of forecasts, interpolations, in-paintings: whatever frames are free.

    Args:
        samples: (B, K, T, N, D), all frames; the observed ones are not scored.
        truth: (B, T, N, D).
        observed: (T,) bool.
        times: (T,) frame times for the baselines; None: equally spaced.
        facts: `z`, `bonds`, `system`, `nodes`, `couplings`, `dt_fs` where known.
        others: Real trajectories (n, T', N, D) or one long one, for floors.
        seed: Of bootstrap and floors.

    Returns:
        `scores`, `baselines` (name -> ADE, FDE), `horizon`, `ensemble`, `diverse` (pedestrians), `molecule`, `energy`,
        counts, and `drawings` for the page.
    """
    facts, observed = facts or {}, np.asarray(observed, bool).reshape(-1)
    if observed.shape != truth.shape[1:2]:
        raise UserError(f"observed: got {observed.size} entries, expected one for each of {truth.shape[1]} frames")
    free = ~observed
    system = facts.get("system")
    dynamics = true_dynamics(system, facts.get("nodes"), facts.get("couplings")) if system else None
    if dynamics is not None:  # frames of the simulators
        times = np.arange(len(observed)) * dynamics.spacing
    scored = np.arange(truth.shape[2]) if facts.get("scored") is None else np.asarray(facts["scored"], int)
    ours, real = samples[:, :, free][:, :, :, scored], truth[:, free][:, :, scored]
    naive = {
        name: one[:, None, free][:, :, :, scored]
        for name, one in naive_forecasts(truth, observed, times, dynamics).items()
    }
    frames = np.flatnonzero(free)
    report: dict[str, Any] = {
        "protocol": "forecast",
        "cases": len(truth),
        "samples_per_case": samples.shape[1],
        "frames": len(observed),
        "atoms": truth.shape[2],
        "observed": observed.tolist(),
        "unit": _unit(facts, truth),
        "scores": forecast_scores(ours, real, seed=seed),
        "baselines": {
            name: {
                "ADE": figure(ade(one, real)[:, 0], seed=seed),
                "FDE": figure(fde(one, real)[:, 0], seed=seed),
            }
            for name, one in naive.items()
        },
        "horizon": {
            "frames": frames.tolist(),
            "model": horizon_errors(ours, real),
            "baselines": {name: horizon_errors(one, real)["mean"] for name, one in naive.items()},
        },
        "drawings": _drawings(samples, truth),
    }
    if samples.shape[1] > 1:
        report["ensemble"] = {
            "crps": figure(crps(ours, real), seed=seed),
            "energy_score": figure(energy_score(ours, real), seed=seed),
            **calibration(ours, real, seed=seed),
        }
    if samples.shape[1] >= 3 * DIVERSE and len(scored) == 1:
        kept = {"first": ours[:, :DIVERSE], "k_means": representatives(ours, DIVERSE, seed=seed)}
        report["diverse"] = {name: forecast_scores(one, real, seed=seed) for name, one in kept.items()}
    gapless = len(frames) == frames[-1] - frames[0] + 1
    flat = ours.reshape(-1, *ours.shape[2:])
    report |= _molecule(flat, real, None if others is None else pieces(others, len(frames)), facts, seed, gapless)
    if system:
        couplings, part = facts.get("couplings"), slice(frames[0], frames[-1] + 1)
        each = None if couplings is None else couplings[:, None]
        report["energy"] = {
            "samples": _drift(samples, system, each, part),
            "floor": _drift(truth, system, couplings, part),
        }
    return report


def _drift(positions: np.ndarray, system: str, couplings: Any, frames: slice) -> dict[str, float] | None:
    """Quantiles of the energy drift; None for less than 4 frames."""
    part = positions[..., frames, :, :]
    if part.shape[-3] < 4 or (couplings is None and system != "gravity"):
        return None
    drift = energy_drift(part, system, couplings).ravel()
    return {name: float(np.quantile(drift, q)) for name, q in (("q10", 0.1), ("median", 0.5), ("q90", 0.9))}


def _unit(facts: Mapping[str, Any], truth: np.ndarray) -> str:
    return "A" if facts.get("z") is not None else "m" if truth.shape[-1] == 2 else ""


def _drawings(samples: np.ndarray, truth: np.ndarray | None) -> list[dict[str, Any]]:
    """Positions of the first cases, rounded: `samples` (K, T, N, D), `truth` (T, N, D)."""
    return [
        {
            "samples": samples[case, :DRAWN_SAMPLES].round(4).tolist(),
            "truth": None if truth is None else truth[case].round(4).tolist(),
        }
        for case in range(min(len(samples), DRAWN_CASES))
    ]


def _molecule(
    samples: np.ndarray,
    real: np.ndarray,
    others: np.ndarray | None,
    facts: Mapping[str, Any],
    seed: int,
    gapless: bool = True,
) -> dict[str, Any]:
    """`molecule` and `curves` of molecules with bonds; nothing for other systems. No velocities across gaps."""
    numbers, bonds = facts.get("z"), facts.get("bonds")
    if numbers is None or bonds is None or not len(bonds):
        return {}
    numbers, bonds = np.asarray(numbers), np.asarray(bonds, int)
    report: dict[str, Any] = {
        "molecule": molecule_scores(samples, real, bonds, numbers, gapless),
        "curves": molecule_curves(samples, real, bonds, numbers, gapless),
    }
    if others is not None or len(real) >= 4:
        if others is None:
            mine, rest = split_for_floor(len(real), len(samples), np.random.default_rng(seed))
            pair = (real[mine], real[rest])
        else:
            chosen = np.random.default_rng(seed).permutation(len(others))[: len(samples)]
            pair = (others[chosen], real)
        report["molecule_floor"] = molecule_scores(*pair, bonds, numbers, gapless)
    return report


# -- free trajectories -----------------------------------------------------------------------------------------------
def evaluate_unconditional(
    samples: np.ndarray,
    reference: np.ndarray,
    others: np.ndarray | None = None,
    *,
    facts: Mapping[str, Any] | None = None,
    reference_couplings: np.ndarray | None = None,
    scalars: tuple[np.ndarray, np.ndarray] | None = None,
    trained: bool = True,
    epochs: int = 100,
    seeds: int = 3,
    seed: int = 0,
) -> dict[str, Any]:
    """Scores of trajectories generated without a condition, and their floors.

    Both sets are centred over frames and atoms first, as the model sees them.

    Args:
        samples: (B, T, N, D).
        reference: (B', T, N, D), real.
        others: Other real trajectories for the floor; None: a random half of the reference against the rest.
        facts: As for `evaluate_forecasts`; `couplings` are those of the samples.
        reference_couplings: (B', N, N), for the energy drift of real trajectories.
        scalars: Charges (B, N), (B', N).
        trained: Train EqMotion for classification and prediction.
        epochs: Of that.
        seeds: Trainings that are averaged.
        seed: Of everything random.
    """
    facts = facts or {}
    samples, reference = _centred(samples), _centred(reference)
    bonds = facts.get("bonds") if facts.get("z") is not None else None
    options: dict[str, Any] = {"bonds": bonds, "trained": trained, "epochs": epochs, "seeds": seeds, "seed": seed}
    report: dict[str, Any] = {
        "protocol": "unconditional" if trained else "marginal",
        "cases": len(samples),
        "reference": len(reference),
        "frames": samples.shape[1],
        "atoms": samples.shape[2],
        "unit": _unit(facts, reference),
        "scores": unconditional_scores(samples, reference, scalars=scalars, **options),
        "drawings": _drawings(samples[:, None], None),
        "reference_drawings": _drawings(reference[:, None], None),
    }
    if others is not None:
        report["floor"] = unconditional_scores(_centred(others)[: len(samples)], reference, **options)
    elif len(reference) >= 4:
        mine, rest = split_for_floor(len(reference), len(samples), np.random.default_rng(seed))
        pair = None if scalars is None else (scalars[1][mine], scalars[1][rest])
        report["floor"] = unconditional_scores(reference[mine], reference[rest], scalars=pair, **options)
    report |= _molecule(samples, reference, None if others is None else _centred(others), facts, seed)
    system = facts.get("system")
    if system:
        every = slice(None)
        couplings = reference_couplings if reference_couplings is None else reference_couplings[: len(reference)]
        report["energy"] = {
            "samples": _drift(samples, system, facts.get("couplings"), every),
            "floor": _drift(reference, system, couplings, every),
        }
    return report


def _centred(positions: np.ndarray) -> np.ndarray:
    return positions - positions.mean((1, 2), keepdims=True)
