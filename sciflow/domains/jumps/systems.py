"""Evaluation systems of FIM-MJP with known rates (sections 8a to 8d of the specification).

Sources: discrete flashing ratchet: Ajdari & Prost, C. R. Acad. Sci. 315 (1992), in the form of NeuralMJP (Seifner &
Sanchez, ICML 2023); toy folding: the five-dimensional benchmark of VAMPnets (Mardt et al., Nat. Commun. 9, 2018).
Rates are (S, S) float64, F[i, j] from i to j, rows sum to 0.
"""

from __future__ import annotations

import math

import numpy as np

from sciflow.core.errors import UserError

RATCHET_NAMES = ("on 0", "on 1", "on 2", "off 0", "off 1", "off 2")


def with_diagonal(rates: np.ndarray) -> np.ndarray:
    """The rate matrix of given off-diagonals: the diagonal becomes minus the sum of the rest of its row."""
    off = np.array(rates, np.float64)
    np.fill_diagonal(off, 0.0)
    return off - np.diag(off.sum(1))


def flashing_ratchet(V: float = 1.0, r: float = 1.0, b: float = 1.0) -> np.ndarray:
    """Discrete flashing ratchet: a particle on three positions whose potential (0, V, 2V) is switched on and off.

    States 0, 1, 2: potential on, position 0, 1, 2; states 3, 4, 5: potential off, same positions.

    Args:
        V: Step of the potential in units of temperature.
        r: Rate of switching, either way.
        b: Rate of every move with the potential off.
    """
    if r <= 0 or b <= 0:
        raise UserError(f"flashing ratchet: got r = {r}, b = {b}; expected positive rates")
    step = np.arange(3)[None, :] - np.arange(3)[:, None]  # j - i
    rates = np.zeros((6, 6))
    rates[:3, :3] = np.exp(-V * step / 2)
    rates[3:, 3:] = b
    rates[:3, 3:] = rates[3:, :3] = r * np.eye(3)
    return with_diagonal(rates)


def ratchet_parameters(rates: np.ndarray) -> tuple[float, float, float]:
    """V, r and b read out of an estimated rate matrix (6, 6) of the flashing ratchet.

    r and b are the means of the six switching and of the six potential-free rates, V the mean of -2 log F_ij / (j - i)
    over the six rates with the potential on.
    """
    rates = np.asarray(rates, np.float64)
    if rates.shape != (6, 6):
        raise UserError(f"flashing ratchet: got rates of shape {rates.shape}, expected (6, 6)")
    i, j = np.nonzero(~np.eye(3, dtype=bool))
    with np.errstate(divide="ignore"):
        steps = -2 * np.log(rates[i, j]) / (j - i)
    switching = np.concatenate([np.diag(rates[:3, 3:]), np.diag(rates[3:, :3])])
    return float(steps.mean()), float(switching.mean()), float(rates[3 + i, 3 + j].mean())


def two_state(up: float, down: float) -> np.ndarray:
    """Rates of a switch: 0 -> 1 with rate `up`, 1 -> 0 with rate `down`."""
    return with_diagonal(np.array([[0.0, up], [down, 0.0]]))


def toy_folding(
    count: int, steps: int, seed: int = 0, *, stated: bool = False, burn_in: int = 1000, step: float = 0.01
) -> np.ndarray:
    """Distance from the origin in the toy folding model: overdamped motion in five dimensions, D = kT = 1.

    The potential is -5/2 (r - 3)^2 inside r = 3. Outside, the published benchmark integrates the slope
    3/2 (r - 3) - 2, a slip; its stated potential (r - 3)^3 / 2 - (r - 3)^2 has the slope 3/2 (r - 3)^2 - 2 (r - 3).

    Args:
        count: Number of paths.
        steps: Length of each.
        seed: Of the noise.
        stated: Use the stated potential instead of the coded slope.
        burn_in: Steps thrown away. 1000 is the benchmark's; it is too short for equilibrium.
        step: Time step.

    Returns:
        (count, steps) float64, values of r after every step.
    """
    noise = np.random.default_rng(seed)
    x = 2 * (noise.random((count, 5)) - 0.5)
    radii = np.empty((count, steps))
    for k in range(burn_in + steps):
        r = np.linalg.norm(x, axis=1, keepdims=True)
        u = r - 3
        outside = 1.5 * u**2 - 2 * u if stated else 1.5 * u - 2
        slope = np.where(u < 0, -5 * u, outside)
        x = x - step * slope * x / np.maximum(r, 1e-12) + math.sqrt(2 * step) * noise.standard_normal(x.shape)
        if k >= burn_in:
            radii[:, k - burn_in] = np.linalg.norm(x, axis=1)
    return radii
