"""Small random trajectories, a codec for them, and states for networks, without any file."""

from __future__ import annotations

import numpy as np
import torch

from sciflow.core.state import State
from sciflow.domains.trajectories.codec import TrajectoryCodec, upper
from sciflow.domains.trajectories.data import Trajectory, molecule, points

CHAIN = np.array([6, 7, 8, 1, 6, 9, 1, 8])


def chain_molecule(frames: int = 60, atoms: int = 5, seed: int = 0, dt: float = 5.0) -> Trajectory:
    """A bent chain of atoms 1.4 angstrom apart that wobbles by 0.05 and drifts."""
    rng = np.random.default_rng(seed)
    place = np.arange(atoms)
    rest = np.stack([1.2 * place, 0.7 * (place % 2), 0.3 * (place // 2)], 1)
    wobble = 0.05 * np.cumsum(rng.normal(size=(frames, atoms, 3)), 0) / np.sqrt(np.arange(1, frames + 1))[:, None, None]
    drift = 0.01 * np.arange(frames)[:, None, None] * np.array([1.0, -2.0, 0.5])
    bonds = np.stack([place[:-1], place[1:]], 1)
    return molecule(rest + wobble + drift, dt, CHAIN[np.arange(atoms) % len(CHAIN)], bonds=bonds)


def random_points(frames: int = 12, atoms: int = 4, dims: int = 3, seed: int = 0, channels: int = 2) -> Trajectory:
    """Random walks of points with random features."""
    rng = np.random.default_rng(seed)
    pairs = rng.normal(size=(atoms, atoms, channels))
    walk = rng.normal(size=(1, atoms, dims)) + 0.1 * np.cumsum(rng.normal(size=(frames, atoms, dims)), 0)
    return points(walk, 1.0, rng.normal(size=(atoms, channels)), pairs + pairs.swapaxes(0, 1))


def random_state(
    sizes: tuple[int, ...] = (3, 5, 2),
    frames: int = 8,
    seen: torch.Tensor | None = None,
    dims: int = 3,
    channels: int = 2,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    shift: float = 0.0,
) -> State:
    """A state of random walks with two channels of points and pairs; `seen` (B, frames) or the first 3 frames."""
    runs = [random_points(frames, n, dims, seed + 7 * k, channels) for k, n in enumerate(sizes)]
    codec = TrajectoryCodec(frames, channels, channels, dims)
    if seen is None:
        seen = (torch.arange(frames) < 3).expand(len(sizes), frames)
    state = codec.assemble(
        torch.cat([torch.from_numpy(one.positions + shift).transpose(0, 1) for one in runs]),
        sizes,
        torch.arange(frames, dtype=torch.float64).expand(len(sizes), frames),
        seen.bool(),
        torch.from_numpy(np.concatenate([one.features for one in runs])),
        torch.from_numpy(np.concatenate([upper(one.pairs) for one in runs])),
        dtype=dtype,
    )
    return state
