r"""From a trajectory file and a mask of observed frames to a request, and from samples to a file.

The file holds a whole trajectory, of which the observed frames are taken (the others are the truth to compare with), or
exactly the observed frames in order. Frames keep their true times: a model trained at one frame spacing is told others
as multiples of it.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.domains.trajectories.codec import MOLECULES_KEPT, TrajectoryCodec, square, upper
from sciflow.domains.trajectories.data import Trajectory, hop_features
from sciflow.domains.trajectories.files import WRITERS, write_trajectories
from sciflow.domains.trajectories.rollout import Request, RollOut
from sciflow.domains.trajectories.windows import frame_indices

SPACING_TOLERANCE = 0.01
SHOWN = 20_000_000  # numbers that scores and pages read at most


def request_of(
    codec: TrajectoryCodec,
    given: Trajectory,
    mask: str | None = None,
    frames: int | None = None,
    *,
    blocks: int = 1,
    refine: bool = False,
    unconditional: bool = False,
) -> Request:
    """What to generate from a trajectory.

    Args:
        codec: Of the model.
        given: A whole trajectory, or the observed frames in order.
        mask: Observed frames of the result, such as "0:10" or "0:5,25:30"; None: all frames of `given`, which the
            model then continues; with `refine` none.
        frames: T of a block; None: that of the training data, with `refine` that of `given`.
        blocks: Blocks of a roll-out.
        refine: The other frames of `given` are a rough trajectory to start from.
        unconditional: The model takes no observed frames.

    Raises:
        UserError: Masks, frames or atoms that do not fit together or to the model.
    """
    codec.check(given, "trajectory")
    if given.frames < 2:
        raise UserError("trajectory: got a single frame, expected at least 2")
    given, notes = _as_trained(codec, given)
    total = frames or (given.frames if refine else codec.frames)
    if total < 2 or blocks < 1:
        raise UserError(f"got frames={total}, blocks={blocks}; expected at least 2 frames and 1 block")
    if mask is None and not refine:
        if given.frames >= total:
            raise UserError(
                f"mask: not given, and the file holds {given.frames} frames of {total}; say which of them are "
                "observed, e.g. --mask 0:10"
            )
        mask = f"0:{given.frames}"
    observed = _observed(codec, mask, total, refine, unconditional)
    chosen = np.flatnonzero(observed)
    if blocks > 1 and (refine or len(chosen) != chosen[-1] + 1):
        raise UserError("blocks: a roll-out continues its first frames; expected a mask such as 0:10, and no --refine")
    whole = given.frames != len(chosen)
    if whole and given.frames <= (total - 1 if refine else chosen[-1]):
        needed = f"all {total} frames to be refined" if refine else f"a trajectory that holds frame {chosen[-1]}"
        raise UserError(f"got {given.frames} frames, expected the {len(chosen)} observed ones, or {needed}")
    times, more = _times(codec, given, chosen, total, whole)
    if blocks > 1 and not np.allclose(np.diff(times), times[1] - times[0], rtol=SPACING_TOLERANCE):
        raise UserError("blocks: got frames at uneven times, expected even ones")
    positions = np.zeros((total, given.atoms, given.dims))
    if refine:
        positions[:] = given.positions[:total]
    else:
        positions[chosen] = given.positions[chosen] if whole else given.positions
    length = total + (blocks - 1) * (total - len(chosen))
    truth = given.positions[:length] if whole and not refine and given.frames >= length else None
    return Request(given, positions, observed, times, truth, (*notes, *more))


def _observed(codec: TrajectoryCodec, mask: str | None, total: int, refine: bool, unconditional: bool) -> np.ndarray:
    """(T,) bool."""
    observed = np.zeros(total, bool)
    observed[[] if mask is None else frame_indices(mask, total)] = True
    count = int(observed.sum())
    if count == total:
        raise UserError(f"mask: all {total} frames are observed, expected at least one to generate")
    if unconditional and (count or not refine):
        raise UserError(
            "mask: this model takes no observed frames; draw free trajectories with `sciflow sample`, or give "
            "--refine without --mask"
        )
    if count == 0 and not unconditional and (codec.conditional or not refine):
        raise UserError("mask: no frame is observed, expected at least one; this model continues observed frames")
    return observed


def _times(
    codec: TrajectoryCodec, given: Trajectory, chosen: np.ndarray, total: int, whole: bool
) -> tuple[np.ndarray, list[str]]:
    """(T,) times of all frames: those of the file, continued at its spacing."""
    notes = []
    if given.unit == "step" and given.spacing == 1.0 and not (codec.unit == "step" and codec.spacing == 1.0):
        notes.append(f"the file says no times; its frames are taken to be {codec.spacing:g} {codec.unit} apart")
        if codec.unit == "step":
            given = replace(given, times=given.times * codec.spacing)
    known = np.arange(given.frames) if whole else chosen
    step = float(np.median(np.diff(given.times) / np.diff(known)))
    frames = np.arange(total)
    even = np.allclose(np.diff(given.times), step * np.diff(known), rtol=SPACING_TOLERANCE)
    cut = not whole and np.allclose(np.diff(given.times), given.spacing, rtol=SPACING_TOLERANCE)
    if even or cut:  # frames cut out of a trajectory and numbered anew count at their places in the mask
        times = given.times[0] + (frames - known[0]) * (given.spacing if cut else step)
    else:
        times = np.interp(frames, known, given.times)
        for end, at in ((frames < known[0], 0), (frames > known[-1], -1)):
            times[end] = given.times[at] + step * (frames[end] - known[at])
    spacing = float(np.median(np.diff(times)))
    if given.unit == codec.unit and abs(spacing / codec.spacing - 1) > SPACING_TOLERANCE:
        notes.append(
            f"frames are {spacing:g} {given.unit} apart, {codec.spacing:g} in the training data; the model is told so"
        )
    return times, notes


def _as_trained(codec: TrajectoryCodec, one: Trajectory) -> tuple[Trajectory, list[str]]:
    """The trajectory with bonds and names of the training molecule with the same atoms, and remarks.

    Raises:
        UserError: Elements, numbers of points, or kinds of points and pairs that the model was not trained on.
    """
    known = codec.molecules
    if not known or len(known) >= MOLECULES_KEPT:
        return one, []
    if one.numbers is None:
        return one, _check_points(codec, one)
    elements = {z for molecule in known for z in molecule["numbers"]}
    strange = sorted(set(one.numbers.tolist()) - elements)
    if strange:
        raise UserError(
            f"trajectory: got {_symbols(strange)}, expected atoms of the training data: {_symbols(elements)}"
        )
    twins = [molecule for molecule in known if molecule["numbers"] == one.numbers.tolist()]
    bonds = None if one.bonds is None else sorted(map(sorted, one.bonds.tolist()))
    same = next((twin for twin in twins if sorted(map(sorted, twin["bonds"])) == bonds), None)
    if same is not None:
        return (one if one.names is not None or not same["names"] else replace(one, names=np.array(same["names"]))), []
    if len(twins) == 1:
        found = np.array(twins[0]["bonds"], int).reshape(-1, 2)
        changed = replace(one, bonds=found, pairs=hop_features(found, one.atoms))
        return changed, ["bonds differ from those of the training molecule with these atoms, whose bonds are taken"]
    trained = {k for molecule in known for k in _used(_pairs(codec, molecule))}
    strange = sorted(_used(one.pairs) - trained)
    if strange:
        raise UserError(
            f"trajectory: got pairs of kind {strange}, expected those of the training data: {sorted(trained)}"
        )
    return one, ["this molecule is not among those that the model was trained on"]


def _check_points(codec: TrajectoryCodec, one: Trajectory) -> list[str]:
    counts = sorted({molecule["atoms"] for molecule in codec.molecules})
    if one.atoms not in counts:
        raise UserError(f"trajectory: got {one.atoms} points, expected a number of the training data: {counts}")
    notes = []
    for what, got, trained in (
        ("points", one.features, [np.array(m["features"]) for m in codec.molecules]),
        ("pairs", upper(one.pairs), [np.array(m["pairs"]).reshape(-1, codec.pairs) for m in codec.molecules]),
    ):
        most = np.max([np.abs(part).reshape(-1, part.shape[-1]).max(0, initial=0) for part in trained], axis=0)
        largest = np.abs(got).reshape(-1, got.shape[-1]).max(0, initial=0)
        if ((largest > 0) & (most == 0)).any():
            raise UserError(
                f"trajectory: got features of {what} in a channel that is 0 in the training data; leave it 0"
            )
        if (largest > 1.001 * most).any():
            notes.append(f"features of {what} reach {largest.max():g}, at most {most.max():g} in the training data")
    return notes


def _pairs(codec: TrajectoryCodec, molecule: dict[str, Any]) -> np.ndarray:
    if codec.kind == "points":
        return square(np.array(molecule["pairs"], np.float32).reshape(-1, codec.pairs), molecule["atoms"])
    return hop_features(np.array(molecule["bonds"], int).reshape(-1, 2), molecule["atoms"])


def _used(pairs: np.ndarray) -> set[int]:
    """Channels of pairs that are not 0 everywhere."""
    return set(np.flatnonzero(pairs.any((0, 1))).tolist())


def _symbols(numbers: Iterable[int]) -> str:
    from ase.data import chemical_symbols

    return ", ".join(chemical_symbols[z] for z in sorted(numbers))


# -- results ---------------------------------------------------------------------------------------------------------
def trajectories(run: RollOut, positions: np.ndarray) -> list[Trajectory]:
    """Samples (B, frames, N, D) of a run as trajectories."""
    observed = run.observed if run.observed.any() else None
    return [replace(run.request.given, positions=x, times=run.times, observed=observed) for x in positions]


def write_samples(path: Path, run: RollOut) -> None:
    """Generate all samples of a run into a file. An npz is written sample by sample, in float64.

    Raises:
        UserError: An ending that is none of `WRITERS`.
    """
    if path.suffix.lower() == ".npz":
        _write_npz(path, run)
        return
    if path.suffix.lower() not in WRITERS:
        raise UserError(f"{path}: got file type '{path.suffix}', expected one of {' '.join(WRITERS)}")
    write_trajectories(path, [one for batch in run.batches() for one in trajectories(run, batch)])


def _write_npz(path: Path, run: RollOut) -> None:
    one = run.request.given
    arrays: dict[str, Any] = {"observed": run.observed, "times": run.times, "unit": np.array(one.unit)}
    if one.unit == "fs" and np.allclose(np.diff(run.times), run.times[1] - run.times[0]):
        arrays["dt_fs"] = np.array(run.times[1] - run.times[0])
    if one.numbers is None:
        arrays |= {"features": one.features, "pairs": one.pairs}
    else:
        arrays |= {"z": one.numbers, "bonds": one.bonds}
        arrays |= {} if one.names is None else {"atom_names": np.asarray(one.names, str)}
    shape = (run.num, run.frames, one.atoms, one.dims)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        _store(archive, "R", shape, np.dtype("<f8"), run.batches())
        for name, array in arrays.items():
            _store(archive, name, array.shape, array.dtype, [array])


def _store(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterable[np.ndarray]
) -> None:
    """One array of an npz, part after part. The date of the entry is fixed: equal runs give equal files."""
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as stream:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part, dtype).tobytes())


def shown(run: RollOut) -> np.ndarray:
    """Positions (B, frames, N, D) of the first samples, of all if they are not too large; from disk if they are there.

    For scores and pages, whose cost must not grow with a long roll-out.
    """
    atoms, dims = run.request.given.atoms, run.request.given.dims
    most = max(1, SHOWN // (run.frames * atoms * dims))
    found: list[np.ndarray] = []
    for batch in run.batches():
        found.append(batch[: most - sum(map(len, found))])
        if sum(map(len, found)) == most:
            break
    return np.concatenate(found)


def displacement(run: RollOut, samples: np.ndarray) -> float:
    """Mean distance of refined frames of samples (B, T, N, D) from the rough ones."""
    free = ~run.request.observed
    return float(np.linalg.norm(samples[:, free] - run.request.positions[free], axis=-1).mean())
