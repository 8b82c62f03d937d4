"""Lightning data module for trajectories: windows of one length, masks drawn anew in every epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.state import Layout, State
from sciflow.domains.base import AtomBatches, EpochOrder, Samples, ScienceData
from sciflow.domains.trajectories.codec import ATOMS, PAIRS, TrajectoryCodec, square, upper
from sciflow.domains.trajectories.data import Trajectory
from sciflow.domains.trajectories.sets import trajectory_set
from sciflow.domains.trajectories.windows import SHARES, Forecast, MaskLaw


class Runs:
    """All frames of all runs in flat arrays, so that a batch of windows is one gather.

    Args:
        runs: Trajectories with the same channels.
    """

    def __init__(self, runs: Sequence[Trajectory]) -> None:
        self.atoms = np.array([one.atoms for one in runs])
        frames = np.array([one.frames for one in runs])
        self.rows = np.concatenate([one.positions.reshape(-1, one.dims) for one in runs])
        self.times = np.concatenate([one.times for one in runs])
        self.features = np.concatenate([one.features for one in runs])
        self.pairs = np.concatenate([upper(one.pairs) for one in runs])
        self.first_row, self.first_time = _before(self.atoms * frames), _before(frames)
        self.first_feature, self.first_pair = _before(self.atoms), _before(self.atoms * (self.atoms - 1) // 2)

    def windows(
        self, codec: TrajectoryCodec, runs: np.ndarray, starts: np.ndarray, frames: int, stride: int, seen: Tensor
    ) -> State:
        """Windows as one state; runs and starts (B,), seen (B, frames)."""
        atoms = self.atoms[runs]
        steps = np.arange(frames) * stride
        corner = np.repeat(self.first_row[runs] + starts * atoms, atoms) + _within(atoms)
        positions = self.rows[corner[:, None] + steps * np.repeat(atoms, atoms)[:, None]]
        times = self.times[(self.first_time[runs] + starts)[:, None] + steps]
        pairs = atoms * (atoms - 1) // 2
        return codec.assemble(
            torch.from_numpy(positions),
            atoms.tolist(),
            torch.from_numpy((times - times[:, :1]) / codec.spacing),
            seen,
            torch.from_numpy(self.features[np.repeat(self.first_feature[runs], atoms) + _within(atoms)]),
            torch.from_numpy(self.pairs[np.repeat(self.first_pair[runs], pairs) + _within(pairs)]),
        )


class TrajectoryWindows:
    """Windows of one split, encoded batch by batch.

    Args:
        codec: Makes the states.
        runs: All runs.
        places: (run, first frame) of each window.
        frames: F.
        stride: Frames between two frames of a window.
        law: Which frames are observed.
        seed: Of the masks: that of window i in epoch e is a function of (seed, e, i).
    """

    def __init__(
        self,
        codec: TrajectoryCodec,
        runs: Runs,
        places: tuple[np.ndarray, np.ndarray],
        frames: int,
        stride: int,
        law: MaskLaw,
        seed: int = 0,
    ) -> None:
        self.codec, self.runs, self.places = codec, runs, places
        self.frames, self.stride, self.law, self.seed = frames, stride, law, seed
        self.sizes: Sequence[int] = runs.atoms[places[0]].tolist()

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.places[0])

    def segments(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """What the windows show of each run: frames (F, N, D) at their stride, features (N, F) and pairs (N, N, E)."""
        data, (runs, starts) = self.runs, self.places
        for run in np.unique(runs):
            atoms, first, last = int(data.atoms[run]), starts[runs == run].min(), starts[runs == run].max()
            count = last - first + (self.frames - 1) * self.stride + 1
            row = data.first_row[run] + first * atoms
            frames = data.rows[row : row + count * atoms].reshape(count, atoms, -1)[:: self.stride]
            feature, pair = data.first_feature[run], data.first_pair[run]
            pairs = data.pairs[pair : pair + atoms * (atoms - 1) // 2]
            yield frames, data.features[feature : feature + atoms], square(pairs, atoms)

    def batch(self, indices: Sequence[int], epoch: int = 0) -> State:
        """The chosen windows with the masks of an epoch."""
        chosen = np.asarray(indices)
        noise = PerSample(self.seed * 1_000_003 + epoch, torch.from_numpy(chosen)).at("mask", PRIOR)
        uniforms = noise.uniform(torch.empty(len(chosen), self.frames + 1), Layout(len(chosen)))
        seen = self.law.masks(uniforms)
        return self.runs.windows(
            self.codec, self.places[0][chosen], self.places[1][chosen], self.frames, self.stride, seen
        )


class TrajectoryData(ScienceData):
    """Windows of trajectories of one or several molecules or systems.

    Args:
        path: `charged`, `springs`, `gravity` (simulated), a scene of pedestrians, a data set, a file (npz, extXYZ,
            PDB, ...), "TOPOLOGY:TRAJECTORY", a folder, or a list of files.
        frames: F of a window.
        observed: First frames that are observed in validation and test, and in training where `masks` is None.
        masks: Law of the observed frames in training; `Unobserved` trains, and validates, an unconditional model.
        stride: Frames of the file between two frames of a window.
        windows: Most windows of train, val, test; None: 3000, 256, 2000 (simulated), 5000, 256, 1000 (files), all
            (pedestrians).
        shares: Of train, val, test in time.
        dt_fs: Time between the frames of the files in femtoseconds, in place of what they say.
        batch_size: Windows per batch.
        batch_atoms: Atoms per batch in place of `batch_size`, for molecules of different sizes.
        seed: Of simulated sets, masks and the order of batches.
    """

    codec: TrajectoryCodec

    def __init__(
        self,
        path: str | Path | list[str] = "charged",
        frames: int = 30,
        observed: int = 10,
        masks: MaskLaw | None = None,
        stride: int = 1,
        windows: list[int] | None = None,
        shares: tuple[float, float, float] = SHARES,
        dt_fs: float | None = None,
        batch_size: int = 64,
        batch_atoms: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path, self.frames, self.stride, self.windows = path, frames, stride, windows
        self.shares, self.dt_fs, self.batch_atoms = shares, dt_fs, batch_atoms
        forecast = Forecast(observed)
        self.train_law = masks if masks is not None else forecast
        self.law = forecast if self.train_law.observes else self.train_law
        for law in (self.train_law, self.law):
            law.check(frames)

    def read(self) -> dict[str, Samples]:
        """Read or simulate, cut, infer the codec."""
        found = trajectory_set(
            self.path,
            self.frames,
            stride=self.stride,
            counts=self.windows,
            shares=self.shares,
            dt_fs=self.dt_fs,
            seed=self.seed,
        )
        stride = int(found.info.get("stride", self.stride))
        used = sorted({int(run) for run, _ in found.windows.values() for run in run})
        trained = [found.runs[run] for run in sorted(set(found.windows["train"][0].tolist()))]
        self.codec = TrajectoryCodec.infer(trained, self.frames, self.train_law.always, stride)
        for run in used:
            self.codec.check(found.runs[run], f"run {run}")
        self.spec = {
            "domain": "trajectories",
            "data": found.info,
            "task": "conditional" if self.law.observes else "unconditional",
        }
        runs = Runs(found.runs)
        return {
            part: TrajectoryWindows(
                self.codec,
                runs,
                places,
                self.frames,
                stride,
                self.train_law if part == "train" else self.law,
                self.seed,
            )
            for part, places in found.windows.items()
        }

    def setup(self, stage: str) -> None:
        """As always; networks are sized by the channels, the dimensions and the number of frames."""
        super().setup(stage)
        self.features = {
            ATOMS: self.codec.features,
            PAIRS: self.codec.pairs,
            "dims": self.codec.dims,
            "frames": self.frames,
        }

    def _loader(self, split: str, order: Sampler[int] | None = None) -> DataLoader:
        loader = super()._loader(split, order)
        samples: Any = self.samples[split]

        def collate(indices: Sequence[int]) -> State:
            return samples.batch(indices, order.epoch if isinstance(order, EpochOrder) else 0)

        if self.batch_atoms is None:
            return DataLoader(loader.dataset, batch_size=self.batch_size, sampler=order, collate_fn=collate)
        batches = AtomBatches(order or SequentialSampler(loader.dataset), samples.sizes, self.batch_atoms)  # type: ignore[arg-type]
        return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=collate)


def _before(counts: np.ndarray) -> np.ndarray:
    """Sum of the counts before each."""
    return np.cumsum(counts) - counts


def _within(counts: np.ndarray) -> np.ndarray:
    """0 .. n - 1 for each count n, one after the other."""
    return np.arange(counts.sum()) - np.repeat(_before(counts), counts)
