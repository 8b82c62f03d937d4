r"""Pedestrians of the ETH and UCY recordings, eight observed and twelve predicted frames, 0.4 s apart.

Leave-one-scene-out: a scene is tested on all of its recordings; training and validation windows are the customary time
splits of the other recordings. A pedestrian is valid in a window if present in all 20 frames. As EqMotion (CVPR 2023)
and GeoTDM prepare them: one sample per valid pedestrian, point 0; other valid pedestrians within 5 m at the last
observed frame follow by distance, at most M points in all, M = 2 (univ), 3 (zara1), 1 (eth, hotel, zara2).

Pellegrini et al., ICCV 2009; Lerner et al., Eurographics 2007.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.data import Trajectory

OBSERVED, FRAMES, SECONDS = 8, 20, 0.4
NEAR = 5.0  # metres
SCENES = {
    "eth": ("biwi_eth",),
    "hotel": ("biwi_hotel",),
    "univ": ("students001", "students003"),
    "zara1": ("crowds_zara01",),
    "zara2": ("crowds_zara02",),
}
POINTS = {"eth": 1, "hotel": 1, "univ": 2, "zara1": 3, "zara2": 1}
RECORDINGS = (
    *("biwi_eth", "biwi_hotel", "students001", "students003", "uni_examples"),
    *("crowds_zara01", "crowds_zara02", "crowds_zara03"),
)


class Recording(NamedTuple):
    """Rows of one recording: frame number, pedestrian, place in metres, and the first frame of the validation part."""

    frame: np.ndarray
    person: np.ndarray
    xy: np.ndarray
    val_start: int


def recordings(path: str | Path) -> dict[str, Recording]:
    """All recordings of `eth_ucy.npz`.

    Raises:
        UserError: Not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {
                name: Recording(
                    stored[f"{name}_frame"],
                    stored[f"{name}_id"],
                    stored[f"{name}_xy"],
                    int(stored[f"{name}_val_start"]),
                )
                for name in RECORDINGS
            }
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as the recordings of ETH and UCY ({str(error)[:80]})") from None


def windows(recording: Recording, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Valid windows of one part ("train", "val", "all"): places (n, 20, 2) and first frames (n,).

    A row of the recording starts a window if the same pedestrian has the 19 following frames too.
    """
    keep = {
        "train": recording.frame < recording.val_start,
        "val": recording.frame >= recording.val_start,
        "all": np.ones(len(recording.frame), bool),
    }[part]
    frame, person, xy = recording.frame[keep], recording.person[keep], recording.xy[keep]
    order = np.lexsort((frame, person))
    frame, person, xy = frame[order], person[order], xy[order]
    starts = np.arange(len(frame) - FRAMES + 1)
    ends = starts + FRAMES - 1
    starts = starts[(person[starts] == person[ends]) & (frame[ends] - frame[starts] == FRAMES - 1)]
    return xy[starts[:, None] + np.arange(FRAMES)], frame[starts]


def samples(recording: Recording, part: str, most: int) -> list[Trajectory]:
    """One trajectory per valid window, with up to `most` points; the point to be scored is number 0."""
    places, starts = windows(recording, part)
    times = np.arange(FRAMES) * SECONDS
    features = np.stack([np.arange(most) == 0, np.ones(most)], 1).astype(np.float32)  # is it the one to be scored; 1
    pairs = np.zeros((most, most, 1), np.float32)
    return [
        Trajectory(places[rows].transpose(1, 0, 2).astype(np.float64), times, "s", features[:n], pairs[:n, :n])
        for rows in _companies(places[:, OBSERVED - 1], starts, most)
        if (n := len(rows))
    ]


def _companies(now: np.ndarray, starts: np.ndarray, most: int) -> list[np.ndarray]:
    """For each window, itself and the nearest others with the same first frame, at most `most` in all."""
    found = [np.array([k]) for k in range(len(now))]
    if most == 1:
        return found
    order = np.argsort(starts, kind="stable")
    for group in np.split(order, np.flatnonzero(np.diff(starts[order])) + 1):
        distances = np.linalg.norm(now[group][:, None] - now[group], axis=-1)
        np.fill_diagonal(distances, -1)  # itself first
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :most]
        near = np.take_along_axis(distances, nearest, 1) <= NEAR
        for k, chosen, kept in zip(group, nearest, near):
            found[k] = group[chosen[kept]]
    return found


def pedestrian_set(path: str | Path, scene: str) -> dict[str, list[Trajectory]]:
    """Training, validation and test trajectories of a leave-one-out scene.

    Raises:
        UserError: Another scene, or a file that cannot be read.
    """
    if scene not in SCENES:
        raise UserError(f"scene: got '{scene}', expected one of {', '.join(SCENES)}")
    stored, most = recordings(path), POINTS[scene]
    others = [name for name in RECORDINGS if name not in SCENES[scene]]
    parts = {
        "train": [one for name in others for one in samples(stored[name], "train", most)],
        "val": [one for name in others for one in samples(stored[name], "val", most)],
        "test": [one for name in SCENES[scene] for one in samples(stored[name], "all", most)],
    }
    return parts
