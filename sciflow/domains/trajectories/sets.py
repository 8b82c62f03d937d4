r"""Trajectory sets by name or path, divided into training, validation and test.

`charged`, `springs`, `gravity` are simulated on the spot and cached (3,000 / 256 / 2,000 trajectories, as GeoTDM uses;
the test set is the same for every size of the training set). `eth`, `hotel`, `univ`, `zara1`, `zara2` are the
leave-one-out scenes of ETH-UCY. All others are files (see `files`), cut in time (see `windows`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.data import DATASETS, cache_root, resolve
from sciflow.domains.trajectories.data import Trajectory, points
from sciflow.domains.trajectories.files import read_trajectories
from sciflow.domains.trajectories.nbody import SIMULATORS, SPACING, simulate
from sciflow.domains.trajectories.pedestrians import SCENES, pedestrian_set
from sciflow.domains.trajectories.windows import PARTS, SHARES, split_in_time, window_starts

CACHE_VERSION = 1  # raise it when the simulators give other numbers
NBODY_COUNTS, MOLECULE_COUNTS = (3000, 256, 2000), (5000, 256, 1000)  # GeoTDM, sections 8 and 9 of the specification
NBODY_FRAMES = 30
FIRST = {"train": 0, "val": 1_000_000, "test": 2_000_000}  # numbers of the simulated trajectories of each part
MD17_FS, MD17_STRIDE = 0.5, 10


@dataclass(frozen=True)
class TrajectorySet:
    """Runs, and per part the windows in them.

    Attributes:
        runs: Trajectories.
        windows: Part -> (run, first frame) of each window.
        info: Plain JSON: source, counts, split.
    """

    runs: list[Trajectory]
    windows: dict[str, tuple[np.ndarray, np.ndarray]]
    info: dict[str, Any]


def trajectory_set(
    source: str | Path | Sequence[str | Path],
    frames: int = 30,
    *,
    stride: int = 1,
    counts: Sequence[int] | None = None,
    shares: Sequence[float] = SHARES,
    dt_fs: float | None = None,
    seed: int = 0,
) -> TrajectorySet:
    """A set by name or path.

    Args:
        source: Name, file, folder, "TOPOLOGY:TRAJECTORY", or a list of files.
        frames: F of the windows.
        stride: Frames of the file between two frames of a window.
        counts: Most windows of train, val, test; None: as GeoTDM.
        shares: Of the three parts in time (files only).
        dt_fs: Time between the frames of a file, in place of what it says.
        seed: Of simulated sets.

    Raises:
        UserError: Not found, not readable, or too few frames.
    """
    if frames < 2 or stride < 1:
        raise UserError(f"got windows of {frames} frames, every {stride}, expected at least 2 frames, every 1 or more")
    if counts is not None and (len(counts) != 3 or min(counts) < 0 or counts[0] < 1):
        raise UserError(f"counts: got {list(counts)}, expected three numbers of windows: train, val, test")
    name = str(source) if isinstance(source, (str, Path)) else ""
    if name in SIMULATORS:
        return _simulated(name, frames, stride, counts or NBODY_COUNTS, seed)
    if name in SCENES:
        return _scene(name, frames, counts)
    return _from_files(source, frames, stride, counts or MOLECULE_COUNTS, shares, dt_fs)


def simulated_trajectories(
    name: str, count: int, frames: int = NBODY_FRAMES, seed: int = 0, first: int = 0
) -> list[Trajectory]:
    """n-body trajectories as the model sees them, from the cache where they were made before (float32 there).

    Features: charge, 0 (springs) or mass; pairs: q_i q_j, k_ij or 0. Times are in units of the simulator, 0.1 apart.
    """
    cache = cache_root() / "nbody" / f"{name}-{count}-{frames}-{seed}-{first}-{CACHE_VERSION}.npz"
    stored = _load(cache)
    if stored is None:
        made = simulate(name, count, frames=frames, seed=seed, first=first)
        stored = {
            "positions": made.positions.astype(np.float32),
            "nodes": made.nodes.astype(np.float32),
            "couplings": made.couplings.astype(np.float32),
        }
        with (
            contextlib.suppress(OSError, UserError),
            replacing(cache) as temporary,
        ):  # a read-only cache costs time only
            np.savez(temporary, **stored)  # type: ignore[arg-type]
    times = SPACING * np.arange(frames)
    return [
        points(x, times, h[:, None], e[..., None], source=f"{name} {first + k}")
        for k, (x, h, e) in enumerate(zip(stored["positions"], stored["nodes"], stored["couplings"]))
    ]


def _load(cache: Path) -> dict[str, np.ndarray] | None:
    try:
        with np.load(cache, allow_pickle=False) as stored:
            return {key: stored[key] for key in ("positions", "nodes", "couplings")}
    except (OSError, KeyError, ValueError, EOFError):
        return None


def _simulated(name: str, frames: int, stride: int, counts: Sequence[int], seed: int) -> TrajectorySet:
    parts = {
        part: simulated_trajectories(name, count, (frames - 1) * stride + 1, seed, FIRST[part])
        for part, count in zip(PARTS, counts, strict=True)
        if count
    }
    info = {"source": name, "split": "simulated separately", "counts": list(counts), "frames": frames, "seed": seed}
    return _whole(parts, info)


def _scene(name: str, frames: int, counts: Sequence[int] | None) -> TrajectorySet:
    from sciflow.domains.trajectories.pedestrians import FRAMES

    if frames != FRAMES:
        raise UserError(f"{name}: got windows of {frames} frames, expected {FRAMES} (8 observed, 12 predicted)")
    parts = pedestrian_set(resolve("eth_ucy"), name)
    if counts is not None:  # evenly spaced
        parts = {part: _thinned(parts[part], count) for part, count in zip(PARTS, counts, strict=True)}
    info = {
        "source": name,
        "split": "leave one scene out; train and val parts of the other recordings",
        "frames": frames,
    }
    return _whole(parts, {**info, "counts": [len(parts[part]) for part in PARTS]})


def _thinned(items: list[Trajectory], most: int) -> list[Trajectory]:
    return items[:: max(1, len(items) // most)][:most] if most else []


def _whole(parts: dict[str, list[Trajectory]], info: dict[str, Any]) -> TrajectorySet:
    """Each trajectory is one window."""
    runs = [one for part in parts.values() for one in part]
    starts, begin = {}, 0
    for part, items in parts.items():
        starts[part] = (np.arange(begin, begin + len(items)), np.zeros(len(items), int))
        begin += len(items)
    return TrajectorySet(runs, starts, info)


def _from_files(
    source: str | Path | Sequence[str | Path],
    frames: int,
    stride: int,
    counts: Sequence[int],
    shares: Sequence[float],
    dt_fs: float | None,
) -> TrajectorySet:
    names = [source] if isinstance(source, (str, Path)) else list(source)
    places = [resolve(one) if str(one) in DATASETS or ":" not in str(one) else one for one in names]
    if dt_fs is None and str(source).startswith("md17_"):
        dt_fs = MD17_FS
        stride = MD17_STRIDE if stride == 1 else stride
    runs, report = read_trajectories(places, dt_fs)
    reach = (frames - 1) * stride + 1
    spans, rule = split_in_time([one.frames for one in runs], reach, shares)
    windows = {
        part: window_starts(span, frames, count, stride)
        for (part, span), count in zip(spans.items(), counts, strict=False)
        if count
    }
    used = len({int(run) for span in spans.values() for run in span.runs})
    info = {
        "source": str(source) if isinstance(source, (str, Path)) else f"{len(names)} files",
        "split": rule,
        "frames": frames,
        "stride": stride,
        "read": report.n_read,
        "skipped": {"unreadable files": report.n_skipped, "runs too short": len(runs) - used},
        "examples": report.examples,
        "counts": [len(windows[part][0]) if part in windows else 0 for part in PARTS],
    }
    return TrajectorySet(runs, windows, info)
