r"""Evaluation of trajectory files. Samples and references are npz archives with these arrays:

| key | shape | meaning |
|---|---|---|
| R | (cases, samples, T, atoms, D), or (samples, T, atoms, D) for one case | with `observed`: forecasts |
| R | (trajectories, T, atoms, D) | without `observed` (or all false): generated freely |
| observed | (T,) bool | frames that were given; all T frames stand in `R`, the given ones too |
| z, bonds | (atoms,), (n, 2) | molecule: atomic numbers; bonds (missing: pairs closer than 1.6 A in the first frame) |
| dt_fs | () | time between frames; must be that of the reference if both say it |
| system | () | n-body: `charged`, `springs` or `gravity` |
| features, pairs | ([n,] atoms, 1), ([n,] atoms, atoms, 1) | n-body: charges; q_i q_j or k_ij of each trajectory |
| times | (T,) | frame times, for the naive baselines; missing: equally spaced |
| scored | (m,) | atoms that count (pedestrians: node 0); missing: all |
| nll | (cases,) | bound on the negative log-likelihood of each case [nats], from `Model.likelihood`; it is only shown |

A reference may also be the name of a set: `charged`, `springs`, `gravity` (simulated test trajectories), `eth`,
`hotel`, `univ`, `zara1`, `zara2` (test pedestrians, point 0), or of a molecular trajectory. Samples with fewer cases
than a named set are of its first ones. Frames of the reference beyond those of the samples are not used.

The reference of forecasts holds the same cases, `R` (cases, T, atoms, D), or (T, atoms, D) for one case. That of free
trajectories holds real ones of at least T frames, or one long one, which is cut into pieces. With `observed`, `R` of
four axes against a reference of several cases is one sample per case.

| protocol | computes |
|---|---|
| forecast | ADE, FDE, best of K, CRPS, calibration, error per frame, naive baselines; molecules: internal coordinates |
| unconditional | marginals, EqMotion's classification and prediction, molecules: internal coordinates; floors |
| marginal | the same without the two trainings (minutes at 2000 trajectories) |
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.data import BOND
from sciflow.domains.trajectories.evaluation import evaluate_forecasts, evaluate_unconditional, pieces
from sciflow.domains.trajectories.metrics import figure
from sciflow.domains.trajectories.nbody import SIMULATORS
from sciflow.domains.trajectories.pedestrians import SCENES

MOLECULE_ATOMS = 400  # beyond this, bonds are not guessed
SAME = 0.01  # largest distance of observed frames from those of the reference, in standard deviations of coordinates


def evaluate_file(
    path: str | Path, reference: str | Path, protocol: str | None = None, train: str | Path | None = None, seed: int = 0
) -> dict[str, Any]:
    """Scores of a file against a reference file; see the module docstring for the formats.

    Args:
        path: npz archive of samples.
        reference: npz archive (or name of a data set) of the real trajectories.
        protocol: `forecast`, `unconditional`, `marginal`; None: forecast where frames were observed.
        train: Other real trajectories, which then give the floors; None: the reference is split for them.
        seed: Of bootstrap, floors and trainings.

    Raises:
        UserError: Unreadable file, shapes that do not fit each other, NaN.
    """
    ours, theirs = read_arrays(path), read_arrays(reference)
    observed = ours.get("observed")
    given = observed is not None and bool(np.any(observed))
    protocol = protocol or ("forecast" if given else "unconditional")
    _same_spacing(ours, theirs)
    facts = _facts(theirs, ours)
    others = None if train is None else read_arrays(train)["R"]
    if protocol == "forecast":
        if not given:
            raise UserError(f"{path}: 'observed' marks no frame; forecasts need it, else use --protocol unconditional")
        samples, truth = _cases(ours["R"], theirs["R"], named=str(reference) in (*SIMULATORS, *SCENES))
        _same_observed(samples, truth, np.asarray(observed, bool))
        first = {key: facts[key][: len(truth)] for key in ("nodes", "couplings") if facts[key] is not None}
        facts |= first  # a named set has more cases
        report = evaluate_forecasts(
            samples, truth, np.asarray(observed), times=ours.get("times"), facts=facts, others=others, seed=seed
        )
        if "nll" in ours:
            report["scores"]["NLL"] = figure(np.atleast_1d(ours["nll"]), seed=seed)
        return report
    if given:
        raise UserError(f"{path}: has observed frames; use --protocol forecast")
    if ours["R"].ndim != 4:
        raise UserError(f"{path}: got 'R' of shape {ours['R'].shape}, expected (trajectories, frames, atoms, 3)")
    frames = ours["R"].shape[1]
    samples, real = ours["R"], pieces(theirs["R"], frames)
    other = None if others is None else pieces(others, frames)
    scalars = None
    if all("nodes" in one for one in (ours, theirs)) and len(theirs["nodes"]) == len(real):
        scalars = (ours["nodes"], theirs["nodes"])
    return evaluate_unconditional(
        samples,
        real,
        other,
        facts={**facts, "couplings": ours.get("couplings")},
        reference_couplings=theirs.get("couplings"),
        scalars=scalars,
        trained=protocol == "unconditional",
        seed=seed,
    )


def read_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """The arrays of a trajectory archive; `R` is float64.

    Raises:
        UserError: No such file, not an npz archive, no `R`, NaN in it.
    """
    from sciflow.data import resolve

    if str(path) in (*SIMULATORS, *SCENES):
        return _named(str(path))
    place = resolve(path)
    try:
        with np.load(place, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, TypeError):
        raise UserError(f"{place}: expected an npz archive with an array 'R' of trajectories") from None
    if "R" not in arrays or arrays["R"].ndim not in (3, 4, 5) or not arrays["R"].size:
        raise UserError(f"{place}: got arrays {', '.join(arrays) or 'none'}; expected 'R' (..., frames, atoms, 3)")
    arrays["R"] = arrays["R"].astype(np.float64)
    points = () if "z" in arrays else (("nodes", "features"), ("couplings", "pairs"))
    arrays |= {key: arrays[name][..., 0] for key, name in points if name in arrays}
    if not np.isfinite(arrays["R"]).all():
        bad = int((~np.isfinite(arrays["R"])).any((-1, -2)).sum())
        raise UserError(f"{place}: {bad} frames of 'R' hold NaN or infinite coordinates; leave those trajectories out")
    return arrays


def _named(name: str) -> dict[str, np.ndarray]:
    """Test trajectories of a simulated system or of a pedestrian scene."""
    from sciflow.data import resolve
    from sciflow.domains.trajectories.pedestrians import pedestrian_set
    from sciflow.domains.trajectories.sets import FIRST, NBODY_COUNTS, simulated_trajectories

    if name in SCENES:
        return {"R": np.stack([one.positions[:, :1] for one in pedestrian_set(resolve("eth_ucy"), name)["test"]])}
    found = simulated_trajectories(name, NBODY_COUNTS[2], first=FIRST["test"])
    return {
        "R": np.stack([one.positions for one in found]),
        "nodes": np.stack([one.features[:, 0] for one in found]),
        "couplings": np.stack([one.pairs[..., 0] for one in found]).astype(np.float64),
        "system": np.array(name),
    }


def _cases(samples: np.ndarray, truth: np.ndarray, named: bool) -> tuple[np.ndarray, np.ndarray]:
    """Samples (B, K, T, N, D) and truth (B, T, N, D) of the forms that the module docstring lists."""
    truth = truth if truth.ndim == 4 else truth[None]
    if samples.ndim == 3:
        samples = samples[None]
    if samples.ndim == 4:
        samples = samples[None] if len(truth) == 1 else samples[:, None]
    truth = truth[: len(samples) if named else None, : samples.shape[2]]
    if truth.ndim != 4 or samples.shape[:1] + samples.shape[2:] != truth.shape:
        raise UserError(
            f"got samples of shape {samples.shape} for a reference of shape {truth.shape}; expected the same number of "
            "cases, frames (observed ones included) and atoms in both"
        )
    return samples, truth


def _same_observed(samples: np.ndarray, truth: np.ndarray, observed: np.ndarray) -> None:
    """The given frames must be those of the reference: else the cases are others, or in another order."""
    if observed.shape != truth.shape[1:2]:
        raise UserError(f"observed: got shape {observed.shape}, expected one entry for each of {truth.shape[1]} frames")
    if observed.all():
        raise UserError("observed: all frames are given, expected at least one free frame")
    apart = np.abs(samples[:, :, observed] - truth[:, None, observed]).max((1, 2, 3, 4))
    wrong = int((apart > SAME * truth.std()).sum())
    if wrong:
        raise UserError(
            f"observed frames of {wrong} of {len(truth)} cases differ from those of the reference (by up to "
            f"{apart.max():.3g}); expected the same cases in the same order and the same frame of reference"
        )


def _same_spacing(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    spacings = [float(one["dt_fs"]) for one in (ours, theirs) if "dt_fs" in one]
    if len(spacings) == 2 and not np.isclose(*spacings, rtol=1e-4):
        raise UserError(f"frames are {spacings[0]:g} fs apart in the samples and {spacings[1]:g} fs in the reference")


def _facts(reference: Mapping[str, np.ndarray], samples: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """What is known of the atoms: from the reference, else from the samples."""
    known = {**samples, **reference}
    facts: dict[str, Any] = {key: known.get(key) for key in ("z", "bonds", "nodes", "couplings", "dt_fs")}
    facts |= {"system": str(known["system"]) if "system" in known else None, "scored": known.get("scored")}
    shape = reference["R"].shape
    count, atoms = 1 if len(shape) == 3 else shape[0], shape[-2]
    for key, wanted in (("nodes", (count, atoms)), ("couplings", (count, atoms, atoms))):
        if facts[key] is not None:  # one set of pairs may stand for all trajectories
            try:
                facts[key] = np.broadcast_to(facts[key], wanted)
            except ValueError:
                raise UserError(f"{key}: got shape {facts[key].shape}, expected {wanted}") from None
    if facts["z"] is not None and facts["bonds"] is None and len(facts["z"]) <= MOLECULE_ATOMS:
        first = reference["R"].reshape(-1, *reference["R"].shape[-2:])[0]
        apart = np.linalg.norm(first[:, None] - first[None], axis=-1)
        facts["bonds"] = np.argwhere(np.triu(apart < BOND, 1))
    return facts
