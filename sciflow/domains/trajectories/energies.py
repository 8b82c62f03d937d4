r"""Energies of n-body trajectories: exact potentials, kinetic energy by central differences of the positions.

The generators clip the forces of charged and spring systems and record every 100 steps, so even real trajectories drift
in this measure (close encounters between frames): compare with the drift of real ones, and look at medians.
"""

from __future__ import annotations

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.nbody import SIMULATORS, SPACING


def total_energy(
    positions: np.ndarray, system: str, couplings: np.ndarray | None = None, spacing: float = SPACING
) -> np.ndarray:
    """Kinetic and potential energy at all frames but the first and the last, (..., T - 2); masses are 1.

    Args:
        positions: (..., T, N, 3), T >= 3.
        system: `charged`, `springs` or `gravity`.
        couplings: (..., N, N) of each trajectory: q_i q_j, k_ij; not needed for gravity.
        spacing: Time between frames.

    Raises:
        UserError: Unknown system, couplings missing, fewer than 3 frames.
    """
    if system not in SIMULATORS:
        raise UserError(f"system: got '{system}', expected one of {', '.join(SIMULATORS)}")
    if couplings is None and system != "gravity":
        raise UserError(f"the energy of {system} needs the couplings of all pairs (q_i q_j or k_ij)")
    if positions.shape[-3] < 3:
        raise UserError(f"energies along a trajectory need at least 3 frames, got {positions.shape[-3]}")
    bodies = positions.shape[-2]
    simulator = SIMULATORS[system]()
    if bodies != simulator.bodies:
        raise UserError(f"{system}: got {bodies} bodies, expected {simulator.bodies}")
    pairs = np.zeros((bodies, bodies)) if couplings is None else np.asarray(couplings)[..., None, :, :]
    velocity = (positions[..., 2:, :, :] - positions[..., :-2, :, :]) / (2 * spacing)
    return simulator.energy(positions[..., 1:-1, :, :], velocity, pairs)


def energy_drift(
    positions: np.ndarray, system: str, couplings: np.ndarray | None = None, spacing: float = SPACING
) -> np.ndarray:
    """|E(last) - E(first)| of each trajectory, (...); over the inner frames, see `total_energy`."""
    energy = total_energy(positions, system, couplings, spacing)
    return np.abs(energy[..., -1] - energy[..., 0])
