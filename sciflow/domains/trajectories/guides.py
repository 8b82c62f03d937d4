r"""Rewards of predicted clean trajectories for gradient guidance: State -> (B,), differentiable, the higher the better.

| reward | minus the sum over generated frames of |
|---|---|
| BondLengths | ((distance - length)/width)^2 / 2 over pairs |
| Conserved | ((energy - energy of the observed frames)/width)^2 / 2, n-body systems |
| Energy | (energy of the frame)/width, any function of positions: width is the temperature in units of the energy |

All are log densities, so guidance at scale 1 tilts the law of trajectories by exp(reward). Positions are those of the
sample minus its centre: energies must not depend on where it is. All samples have the same number of atoms.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.core.values import Reward
from sciflow.domains.trajectories.codec import POS
from sciflow.domains.trajectories.data import check_bonds
from sciflow.domains.trajectories.nbody import SIMULATORS, SPACING, Charged, Gravity
from sciflow.domains.trajectories.rollout import Request

DEFAULT_WIDTH = {"bonds": 0.02}  # angstrom; energies: 1


class BondLengths:
    """Distances of pairs close to given lengths.

    Args:
        pairs: (n, 2) atoms.
        lengths: (n,) wanted distances.
        width: Standard deviation that is allowed, in the unit of the positions.
    """

    def __init__(self, pairs: np.ndarray, lengths: np.ndarray, width: float = 0.02) -> None:
        if len(pairs) == 0 or len(pairs) != len(lengths) or not (np.asarray(lengths) > 0).all() or not width > 0:
            raise UserError(
                f"bond lengths: got {len(pairs)} pairs, {len(lengths)} lengths, width {width}; expected positive "
                "lengths, one for each pair, and a positive width"
            )
        self.pairs, self.width = torch.as_tensor(np.array(pairs)), width
        self.lengths = torch.as_tensor(np.asarray(lengths, float))

    def __call__(self, state: State) -> Tensor:
        """(B,)."""
        x = frames_of(state)
        return -0.5 * (self.deviations(x) / self.width).square().sum((1, 2))

    def deviations(self, x: Tensor) -> Tensor:
        """Distances minus lengths (B, T, n) of positions (B, T, N, D)."""
        first, second = self.pairs.to(x.device).unbind(1)
        return (x[:, :, first] - x[:, :, second]).norm(dim=-1) - self.lengths.to(x)

    def figures(self, positions: np.ndarray) -> dict[str, float]:
        """Root mean square and largest deviation in frames (B, T, N, D)."""
        found = self.deviations(torch.as_tensor(positions))
        return {"bond rms deviation": float(found.square().mean().sqrt()), "largest": float(found.abs().max())}


class Conserved:
    """Total energy of an n-body system close to that of its observed frames; velocities by central differences.

    Args:
        system: `charged`, `springs` or `gravity`.
        couplings: (N, N) q_i q_j or k_ij; of no meaning for gravity.
        energy: Wanted energy.
        width: Standard deviation that is allowed.
        spacing: Physical time between frames.
    """

    def __init__(
        self, system: str, couplings: np.ndarray, energy: float, width: float = 1.0, spacing: float = SPACING
    ) -> None:
        if system not in SIMULATORS or not width > 0:
            raise UserError(
                f"energy: got system '{system}', width {width}; expected one of {', '.join(SIMULATORS)} and a positive "
                "width"
            )
        self.system, self.energy, self.width, self.spacing = system, energy, width, spacing
        self.couplings = torch.as_tensor(np.asarray(couplings, float))

    def __call__(self, state: State) -> Tensor:
        """(B,)."""
        energies = self.energies(frames_of(state))
        return -0.5 * ((energies - self.energy) / self.width).square().sum(1)

    def energies(self, x: Tensor) -> Tensor:
        """Energies (B, T - 2) of all frames but the first and last of positions (B, T, N, D)."""
        velocities = (x[:, 2:] - x[:, :-2]) / (2 * self.spacing)
        first, second = torch.triu_indices(x.shape[2], x.shape[2], 1, device=x.device)
        inner = x[:, 1:-1]
        squared = (inner[:, :, first] - inner[:, :, second]).square().sum(-1)
        couplings = self.couplings.to(x)[first, second]
        if self.system == Charged.name:
            potential = couplings / squared.sqrt()
        elif self.system == Gravity.name:
            potential = -1 / (squared + Gravity.softening**2).sqrt()
        else:
            potential = 0.05 * couplings * squared  # k = 0.1
        return 0.5 * velocities.square().sum((-1, -2)) + potential.sum(-1)

    def figures(self, positions: np.ndarray) -> dict[str, float]:
        """Wanted energy and mean absolute deviation from it in frames (B, T, N, D)."""
        found = self.energies(torch.as_tensor(positions)) - self.energy
        return {"energy of observed frames": self.energy, "mean deviation": float(found.abs().mean())}


class Energy:
    """Low values of any energy of single frames.

    Args:
        function: Positions (frames, N, D) -> energies (frames,), differentiable.
        width: Temperature in units of the energy.
        name: For messages.
    """

    def __init__(self, function: Callable[[Tensor], Tensor], width: float = 1.0, name: str = "energy") -> None:
        if not width > 0:
            raise UserError(f"{name}: got width {width}, expected a positive number")
        self.function, self.width, self.name = function, width, name

    def __call__(self, state: State) -> Tensor:
        """(B,).

        Raises:
            UserError: The function gives no energy per frame.
        """
        return -self.energies(frames_of(state)).sum(1) / self.width

    def energies(self, x: Tensor) -> Tensor:
        """Energies (B, T) of positions (B, T, N, D)."""
        frames = x.flatten(0, 1)
        energies = self.function(frames)
        if not isinstance(energies, Tensor) or energies.shape != frames.shape[:1]:
            got = tuple(energies.shape) if isinstance(energies, Tensor) else type(energies).__name__
            raise UserError(f"{self.name}: got {got}, expected a tensor ({len(frames)},), one energy per frame")
        return energies.reshape(x.shape[:2])

    def figures(self, positions: np.ndarray) -> dict[str, float]:
        """Mean energy of frames (B, T, N, D)."""
        return {"mean energy": float(self.energies(torch.as_tensor(positions)).mean())}


def frames_of(state: State) -> Tensor:
    """Positions (B, T, N, D) of samples with the same number of atoms."""
    x = state[POS]
    return x.reshape(state.batch, -1, *x.shape[1:]).transpose(1, 2)


def guide_of(
    name: str, request: Request, width: float | None = None, lengths: Mapping[tuple[int, int], float] | None = None
) -> Reward:
    """A reward by name for a request.

    Args:
        name: `bonds`, a system of `Conserved`, or `module:function` for `Energy`.
        request: Gives bonds, couplings and what is observed.
        width: See the rewards; None: 0.02 angstrom for bonds, 1 for energies.
        lengths: (i, j) -> distance, beside or in place of those of the observed bonds.

    Raises:
        UserError: Unknown name, or something that it needs is missing.
    """
    width = DEFAULT_WIDTH.get(name, 1.0) if width is None else width
    if lengths and name != "bonds":
        raise UserError(f"lengths: are for the guide 'bonds', got '{name}'")
    if name == "bonds":
        return _bonds(request, width, dict(lengths or {}))
    if name in SIMULATORS:
        return _conserved(name, request, width)
    module, _, function = name.partition(":")
    if not function:
        raise UserError(f"guide: got '{name}', expected bonds, {', '.join(SIMULATORS)} or module:function")
    try:
        return Energy(getattr(importlib.import_module(module), function), width, name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"guide: cannot load '{name}' ({error}); is the module on PYTHONPATH?") from None


def _bonds(request: Request, width: float, lengths: dict[tuple[int, int], float]) -> BondLengths:
    """Mean lengths of bonds in the observed frames, and the given ones."""
    one, seen = request.given, request.positions[request.observed]
    bonds = np.zeros((0, 2), int) if one.bonds is None or not len(seen) else np.asarray(one.bonds)
    chosen = {tuple(sorted(pair)): 0.0 for pair in bonds.tolist()}
    if len(bonds):
        means = np.linalg.norm(seen[:, bonds[:, 0]] - seen[:, bonds[:, 1]], axis=-1).mean(0)
        chosen = dict(zip(chosen, means.tolist(), strict=True))
    chosen |= {(min(pair), max(pair)): length for pair, length in lengths.items()}
    if not chosen:
        raise UserError("guide bonds: got a trajectory without bonds, expected --lengths such as 0-1=1.54")
    pairs = check_bonds(np.array(list(chosen)), one.atoms, "lengths")
    return BondLengths(pairs, np.array(list(chosen.values())), width)


def _conserved(system: str, request: Request, width: float) -> Conserved:
    """The energy in the longest stretch of observed frames."""
    one, seen = request.given, np.flatnonzero(request.observed)
    if one.numbers is not None or one.atoms != SIMULATORS[system].bodies:
        raise UserError(f"guide {system}: got {one.atoms} points, expected a system of {SIMULATORS[system].bodies}")
    runs = np.split(seen, np.flatnonzero(np.diff(seen) > 1) + 1)
    longest = max(runs, key=len)
    if len(longest) < 3:
        raise UserError(f"guide {system}: got {len(longest)} observed frames in a row, expected at least 3")
    guide = Conserved(system, one.pairs[..., 0], 0.0, width)
    x = torch.from_numpy(request.positions[longest])[None]
    guide.energy = float(guide.energies(x).median())
    return guide
