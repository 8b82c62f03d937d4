"""Partly known crystals: the composition, the cell, some of the sites; the rest is generated (in-painting).

Known parts follow their own noising law: at clock s they are drawn from it, so the network sees them at the noise level
that it expects; at s = 0 they are the data. What is decoded gets the given numbers themselves, without rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.kernels import Kernel
from sciflow.core.noise import PRIOR, Draws
from sciflow.core.state import Layout, State
from sciflow.domains.crystals.arrays import SYMBOLS, from_parameters, parameters, wrap
from sciflow.domains.crystals.codec import COORDS, LATTICE, TYPES, CrystalCodec

Parts = Any  # (atomic numbers (n,), coordinates (n, 3), lattice (3, 3)) of a crystal, or None


@dataclass(frozen=True)
class Known:
    """What is known of the cell beforehand.

    Attributes:
        lattice: (3, 3) rows in angstrom or (6,) lengths and angles; None: free.
        sites: ((symbol, fractional coordinates (3,)), ...): atoms of the formula at known places.
    """

    lattice: Any = None
    sites: Sequence[tuple[str, Sequence[float]]] = ()

    def cell(self) -> np.ndarray | None:
        """The lattice (3, 3) in canonical orientation.

        Raises:
            UserError: Wrong shape, or no cell of a crystal.
        """
        if self.lattice is None:
            return None
        given = np.asarray(self.lattice, dtype=float)
        if given.shape not in ((3, 3), (6,)):
            raise UserError(f"known lattice: got shape {given.shape}, expected (3, 3) rows in angstrom or 6 parameters")
        six = given if given.ndim == 1 else parameters(given)
        cell = from_parameters(six) if np.isfinite(six).all() and (six > 0).all() and (six[3:] < 180).all() else None
        if cell is None or not np.allclose(parameters(cell), six, rtol=1e-6, atol=1e-6):  # no cell has these angles
            shown = ", ".join(f"{one:g}" for one in six)
            raise UserError(
                f"known lattice: got {shown}, expected three lengths in angstrom and three angles of a cell"
            )
        return cell


def read_lattice(text: str) -> np.ndarray:
    """The six numbers of "a,b,c,alpha,beta,gamma", or the cell of a structure file (3, 3); angstrom, degrees.

    Raises:
        UserError: Neither, or not exactly one structure in the file.
    """
    if not Path(text).is_file():
        words = text.replace(",", " ").split()
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.empty(0)
        if len(values) != 6:
            raise UserError(f"lattice: got '{text}', expected a structure file or \"a,b,c,alpha,beta,gamma\"")
        return values
    return np.asarray(_one_structure(text).lattice.matrix)


def read_sites(path: str | Path) -> list[tuple[str, Sequence[float]]]:
    """Symbols and fractional coordinates of all atoms of a file with one structure.

    Raises:
        UserError: Not readable, or not exactly one structure in it.
    """
    return [(site.specie.symbol, site.frac_coords.tolist()) for site in _one_structure(path)]


def _one_structure(path: str | Path) -> Any:
    from sciflow.domains.crystals.files import read_structures

    structures, _, _ = read_structures(path)
    if len(structures) != 1:
        raise UserError(f"{path}: got {len(structures)} structures, expected one")
    return structures[0]


@dataclass(frozen=True)
class Start:
    """What the samples of a run start from. Made by `start`.

    Attributes:
        state: ONE crystal with the known values; zeros elsewhere. Without a composition it has one atom.
        masks: Field -> (rows,) bool, which rows are known; fields with nothing known are left out.
        coords: (k, 3) float64 known coordinates, of the first k atoms.
        cell: (3, 3) float64 known lattice, or None.
        atoms: Atoms per cell; None: free.
    """

    state: State
    masks: Mapping[str, Tensor]
    coords: np.ndarray = field(default_factory=lambda: np.empty((0, 3)))
    cell: np.ndarray | None = None
    atoms: int | None = None

    def template(self, codec: CrystalCodec, sizes: Sequence[int]) -> State:
        """As many crystals as there are sizes: the species if they are given, everything else zero."""
        if self.atoms is None:
            return codec.template(sizes)
        zeros = {name: torch.zeros_like(self.state[name]) for name in (COORDS, LATTICE)}
        return self.state.put(**zeros).repeat(len(sizes))

    def imposed(self, clean: State) -> State:
        """A clean state with the known values in their places."""
        kept = {}
        for name, rows in self.masks.items():
            x, known = clean[name], self.state[name].to(clean[name].device)
            known = known.argmax(-1) if known.ndim > x.ndim else known  # most probable species as numbers
            kept[name] = torch.where(_mask(rows, clean.batch, x), known.repeat(clean.batch, *[1] * (x.ndim - 1)), x)
        return clean.put(**{name: x.to(clean[name]) for name, x in kept.items()})

    def exact(self, parts: Parts) -> Parts:
        """A decoded crystal with the known numbers in double precision."""
        if parts is None:
            return None
        numbers, coords, lattice = parts
        coords = np.concatenate([self.coords, np.asarray(coords)[len(self.coords) :]])
        return numbers, coords, lattice if self.cell is None else self.cell


def start(codec: CrystalCodec, symbols: Sequence[str] | None, known: Known) -> Start:
    """What is known, as a state; known sites come first.

    Args:
        codec: Of the model.
        symbols: Of all atoms of the cell; None: the model chooses them.
        known: Cell and sites.

    Raises:
        UserError: Known sites that are not in the cell, or that leave nothing to generate.
    """
    cell, sites = known.cell(), list(known.sites)
    if symbols is None:
        if sites:
            raise UserError("known sites need a formula, which says what else is in the cell; give --formula")
        state, atoms = codec.template([1]), None
    else:
        state, atoms = codec.template_of([_numbers(symbols, sites)]), len(symbols)
    if atoms is not None and len(sites) == atoms and cell is not None:
        raise UserError("known parts: got all sites and the cell, expected something to generate")
    rows = torch.arange(atoms or 0) < len(sites)
    masks = {LATTICE: torch.tensor([cell is not None]), COORDS: rows, TYPES: torch.ones(atoms or 0) > 0}
    places = wrap(np.array([place for _, place in sites], dtype=float).reshape(-1, 3))
    if not np.isfinite(places).all():
        raise UserError("known sites: got a coordinate that is not a number")
    coords = torch.cat([torch.from_numpy(places).to(state[COORDS]), state[COORDS][len(sites) :]])
    # an unknown lattice is masked out, but encoders must be able to read it
    scaled = np.eye(3) if cell is None else cell / codec.lattice_scale
    state = state.put(coords=coords, lattice=torch.from_numpy(scaled).to(state[LATTICE])[None])
    return Start(state, {name: mask for name, mask in masks.items() if mask.any()}, places, cell, atoms)


def _numbers(symbols: Sequence[str], sites: Sequence[tuple[str, Any]]) -> np.ndarray:
    """Atomic numbers of the cell, those of the known sites first."""
    left = list(symbols)
    for symbol, _ in sites:
        if symbol not in left:
            got, expected = [name for name, _ in sites].count(symbol), list(symbols).count(symbol)
            raise UserError(
                f"known sites: got {got} {symbol}, expected at most {expected} in a cell of {' '.join(symbols)}"
            )
        left.remove(symbol)
    return np.array([SYMBOLS.index(symbol) for symbol in [*(name for name, _ in sites), *left]])


def _mask(rows: Tensor, batch: int, like: Tensor) -> Tensor:
    """Rows of one crystal as a mask of a field of the batch."""
    return rows.to(like.device).repeat(batch).reshape(-1, *[1] * (like.ndim - 1))


@dataclass(frozen=True, eq=False)
class Clamped(Kernel):
    """One law for the known rows, another for the rest.

    Attributes:
        free: Of the rest.
        known: Of the known rows.
        mask: Which rows are known, broadcastable to the field.
    """

    free: Kernel
    known: Kernel
    mask: Tensor

    def sample(self, draws: Draws) -> Tensor:
        """A draw of each, chosen by row."""
        free = self.free.sample(draws)
        return torch.where(self.mask, self.known.sample(draws).to(free), free)

    @property
    def mean(self) -> Tensor:
        """Mean of each, chosen by row."""
        return torch.where(self.mask, self.known.mean.to(self.free.mean), self.free.mean)


class Keep(Hook):
    """In-painting: the known parts of every crystal of the batch; all crystals have the same parts.

    Candidates of guidance have the known parts in place as well, so they are judged with them.

    Args:
        processes: Field -> process, as of the model.
        known: State of ONE crystal with the known values.
        masks: Field -> (rows,) bool, which rows of that crystal are known.
    """

    def __init__(self, processes: Mapping[str, Any], known: State, masks: Mapping[str, Tensor]) -> None:
        self.known, self.masks = known, {name: mask for name, mask in masks.items() if name in processes}
        self.processes = {name: processes[name] for name in self.masks}

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        """Known rows are drawn from their noising law at the end of the move."""
        if field not in self.processes or transition.move.s <= 0:
            return kernel
        process, state = self.processes[field], transition.before
        x, layout = state[field], state.layouts[field]
        clean = self._clean(field, state)
        clock = torch.tensor(transition.move.s, dtype=torch.float64)
        law = process.marginal(clean, clock, layout, self._end(field, clean, layout, transition))
        return Clamped(kernel, law, _mask(self.masks[field], state.batch, x))

    def after(self, state: State, kernels: Any, transition: Transition) -> State:
        """At clock 0 the known rows are the data themselves."""
        if transition.move.s > 0:
            return state
        kept = {
            name: torch.where(_mask(rows, state.batch, state[name]), self._clean(name, state), state[name])
            for name, rows in self.masks.items()
        }
        return state.put(**{name: x.to(state[name]) for name, x in kept.items()})

    def _clean(self, name: str, state: State) -> Tensor:
        """The known values as the process holds clean data, for the whole batch."""
        clean = self.processes[name].encode(self.known[name].to(state[name].device))
        return clean.repeat(state.batch, *[1] * (clean.ndim - 1))

    def _end(self, name: str, clean: Tensor, layout: Layout, transition: Transition) -> Tensor | None:
        """The prior end of a process that needs one, the same at every move."""
        process = self.processes[name]
        if not process.joins_ends:
            return None
        draws = transition.noise.at(f"{name}/keep", PRIOR)
        return process.space.project(process.space.noise(clean, layout, draws), layout)
