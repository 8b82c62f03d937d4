r"""Exact simulators of the three n-body systems of GeoTDM (Han et al., NeurIPS 2024; NRI, Kipf et al., ICML 2018).

Mass 1, time step 0.001, one frame per 100 steps (0.1 time units), no box.

| system | bodies | start | force on body i |
|---|---|---|---|
| charged | 5 | q_i = +-1, x ~ N(0, 1), speed 0.5 | sum_j q_i q_j (x_i - x_j) / r_ij^3 |
| springs | 5 | k_ij in {0, 1}, x ~ N(0, 0.5^2), speed 0.5 | -0.1 sum_j k_ij (x_i - x_j) |
| gravity | 10 | x, v ~ N(0, 1), v minus its mean | sum_j (x_j - x_i) / (r_ij^2 + 0.1^2)^(3/2) |

Charged and springs: forces are clipped at 100 per component; full kick, then drift (the recorded velocity is the one
before the next kick); the first frame is the one after 100 steps. Gravity: kick-drift-kick; the first frame is the
start. Trajectory i of a seed is a function of (seed, i) only. All arithmetic is float64 over blocks of trajectories,
each pair of bodies once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from sciflow.core.errors import UserError
from sciflow.core.noise import PRIOR, PerSample
from sciflow.core.state import Layout

DT, EVERY = 0.001, 100
SPACING = DT * EVERY  # time between frames
CLIP = 100.0  # per component of a force
BLOCK = 256  # trajectories at a time, so that the pairs stay in the cache


@dataclass(frozen=True, eq=False)
class Systems:
    """States of B systems of N bodies.

    Attributes:
        positions: (B, N, 3).
        velocities: (B, N, 3).
        nodes: (B, N) charge, 0 (springs), mass (gravity).
        couplings: (B, N, N) q_i q_j, k_ij, 0 (gravity); symmetric.
    """

    positions: np.ndarray
    velocities: np.ndarray
    nodes: np.ndarray
    couplings: np.ndarray


class Simulator(ABC):
    """One kind of system. Arrays in `force` and `step` are (3, N, B): the trajectories lie innermost."""

    name: ClassVar[str]
    bodies: ClassVar[int]
    first_frame: ClassVar[int]  # frames between the start and the first recorded one

    def __init__(self) -> None:
        shifts = range(1, self.bodies)  # pairs (i, i + shift), shift by shift: all of a shift are slices of x
        self.first = np.concatenate([np.arange(self.bodies - shift) for shift in shifts])
        self.second = self.first + np.repeat(shifts, [self.bodies - shift for shift in shifts])

    @abstractmethod
    def start(self, seed: int, indices: np.ndarray) -> Systems:
        """Starts of the trajectories with these numbers."""

    @abstractmethod
    def weights(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """w with force of the pair on its first body = w (x_i - x_j), from r^2 and the coupling, both (P, B)."""

    @abstractmethod
    def potential(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """Energy of each pair, same shapes."""

    def force(self, x: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """Forces (3, N, B) at positions (3, N, B); couplings of the pairs (P, B)."""
        n, forces = self.bodies, np.zeros_like(x)
        difference = np.concatenate([x[:, : n - shift] - x[:, shift:] for shift in range(1, n)], 1)
        squared = difference[0] ** 2 + difference[1] ** 2 + difference[2] ** 2
        difference *= self.weights(squared, couplings)
        begin = 0
        for shift in range(1, n):  # entry by entry, so that a trajectory's rounding does not depend on the others
            pull = difference[:, begin : begin + n - shift]
            forces[:, : n - shift] += pull
            forces[:, shift:] -= pull
            begin += n - shift
        return forces

    def step(self, x: np.ndarray, v: np.ndarray, couplings: np.ndarray, count: int) -> None:
        """`count` steps in place: full kick, drift."""
        for _ in range(count):
            v += DT * np.clip(self.force(x, couplings), -CLIP, CLIP)
            x += DT * v

    def run(self, systems: Systems, frames: int) -> tuple[np.ndarray, np.ndarray]:
        """Positions and velocities (B, frames, N, 3) every 0.1 time units; frame 0 is the given state."""
        parts = [
            self._block(systems.positions[at], systems.velocities[at], systems.couplings[at], frames)
            for at in (slice(b, b + BLOCK) for b in range(0, len(systems.positions), BLOCK))
        ]
        return np.concatenate([x for x, _ in parts]), np.concatenate([v for _, v in parts])

    def energy(self, positions: np.ndarray, velocities: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """Total energy (...) of states (..., N, 3) with couplings (..., N, N) or broadcastable."""
        difference = positions[..., self.first, :] - positions[..., self.second, :]
        pairs = self.potential((difference**2).sum(-1), couplings[..., self.first, self.second])
        return 0.5 * (velocities**2).sum((-1, -2)) + pairs.sum(-1)

    def _block(self, x: np.ndarray, v: np.ndarray, couplings: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
        x, v = (np.array(part, float).transpose(2, 1, 0).copy() for part in (x, v))
        pairs = np.ascontiguousarray(couplings[:, self.first, self.second].T, float)
        positions, velocities = np.empty((frames, *x.shape)), np.empty((frames, *x.shape))
        for frame in range(frames):
            if frame:
                self.step(x, v, pairs, EVERY)
            positions[frame], velocities[frame] = x, v
        return positions.transpose(3, 0, 2, 1), velocities.transpose(3, 0, 2, 1)


class Charged(Simulator):
    """Charges of both signs."""

    name, bodies, first_frame = "charged", 5, 1

    def start(self, seed: int, indices: np.ndarray) -> Systems:
        """Charges +-1, standard normal positions, speed 0.5."""
        count = self.bodies
        charges = np.where(_uniform(seed, indices, "charges", count) < 0.5, -1.0, 1.0)
        positions = _normal(seed, indices, "positions", count)
        couplings = charges[:, :, None] * charges[:, None, :]
        return Systems(positions, _directions(seed, indices, count), charges, couplings)

    def weights(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """q_i q_j / r^3."""
        return couplings / (squared * np.sqrt(squared))

    def potential(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """q_i q_j / r."""
        return couplings / np.sqrt(squared)


class Springs(Simulator):
    """Bodies of which half of the pairs are joined by springs."""

    name, bodies, first_frame = "springs", 5, 1

    def start(self, seed: int, indices: np.ndarray) -> Systems:
        """k_ij in {0, 1}, positions of standard deviation 0.5, speed 0.5."""
        count = self.bodies
        couplings = np.zeros((len(indices), count, count))
        chosen = _uniform(seed, indices, "springs", len(self.first)) < 0.5
        couplings[:, self.first, self.second] = couplings[:, self.second, self.first] = chosen
        positions = 0.5 * _normal(seed, indices, "positions", count)
        return Systems(positions, _directions(seed, indices, count), np.zeros((len(indices), count)), couplings)

    def weights(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """-0.1 k_ij."""
        return -0.1 * couplings

    def potential(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """0.05 k_ij r^2."""
        return 0.05 * couplings * squared


class Gravity(Simulator):
    """Unit masses under softened gravity, G = 1."""

    name, bodies, first_frame = "gravity", 10, 0
    softening = 0.1

    def start(self, seed: int, indices: np.ndarray) -> Systems:
        """Standard normal positions and velocities, no total momentum."""
        positions, velocities = (_normal(seed, indices, label, self.bodies) for label in ("positions", "velocities"))
        velocities -= velocities.mean(1, keepdims=True)
        shape = (len(indices), self.bodies)
        return Systems(positions, velocities, np.ones(shape), np.zeros((*shape, self.bodies)))

    def weights(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """-(r^2 + 0.1^2)^(-3/2)."""
        softened = squared + self.softening**2
        return -1 / (softened * np.sqrt(softened))

    def potential(self, squared: np.ndarray, couplings: np.ndarray) -> np.ndarray:
        """-(r^2 + 0.1^2)^(-1/2)."""
        return -1 / np.sqrt(squared + self.softening**2)

    def step(self, x: np.ndarray, v: np.ndarray, couplings: np.ndarray, count: int) -> None:
        """`count` steps in place: half kick, drift, half kick."""
        pull = self.force(x, couplings)
        for _ in range(count):
            v += 0.5 * DT * pull
            x += DT * v
            pull = self.force(x, couplings)
            v += 0.5 * DT * pull


SIMULATORS: dict[str, type[Simulator]] = {one.name: one for one in (Charged, Springs, Gravity)}


@dataclass(frozen=True, eq=False)
class Simulated:
    """Recorded trajectories: positions, velocities (B, frames, N, 3), nodes (B, N), couplings (B, N, N), float64."""

    positions: np.ndarray
    velocities: np.ndarray
    nodes: np.ndarray
    couplings: np.ndarray


def simulate(name: str, count: int, *, frames: int = 30, seed: int = 0, first: int = 0) -> Simulated:
    """Trajectories number `first` to `first + count - 1` of a seed.

    Args:
        name: "charged", "springs" or "gravity".
        count: How many.
        frames: Recorded frames, 0.1 time units apart.
        seed: Trajectory i depends on (seed, i) only.
        first: Number of the first one.

    Raises:
        UserError: Another system, or numbers below 1.
    """
    if name not in SIMULATORS:
        raise UserError(f"n-body system: got '{name}', expected one of {', '.join(SIMULATORS)}")
    if count < 1 or frames < 1:
        raise UserError(f"n-body: got {count} trajectories of {frames} frames, expected at least 1 of each")
    simulator = SIMULATORS[name]()
    systems = simulator.start(seed, np.arange(first, first + count))
    skip = simulator.first_frame
    positions, velocities = (part[:, skip:] for part in simulator.run(systems, frames + skip))
    return Simulated(positions, velocities, systems.nodes, systems.couplings)


def _draws(seed: int, indices: np.ndarray, label: str):
    return PerSample(seed, torch.from_numpy(indices)).at(f"nbody/{label}", PRIOR), Layout(len(indices))


def _uniform(seed: int, indices: np.ndarray, label: str, count: int) -> np.ndarray:
    draws, layout = _draws(seed, indices, label)
    return draws.uniform(torch.empty(len(indices), count, dtype=torch.float64), layout).numpy()


def _normal(seed: int, indices: np.ndarray, label: str, count: int) -> np.ndarray:
    draws, layout = _draws(seed, indices, label)
    return draws.normal(torch.empty(len(indices), count, 3, dtype=torch.float64), layout).numpy()


def _directions(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """Velocities of speed 0.5 in random directions."""
    v = _normal(seed, indices, "velocities", count)
    return 0.5 * v / np.linalg.norm(v, axis=-1, keepdims=True)
