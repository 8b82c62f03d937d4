"""Trajectories as text: XYZ, extXYZ and multi-model PDB."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.data import Trajectory

PDB_ATOMS, PDB_SPAN = 99_999, 999.0  # what fits into the columns of the format, signs included


def kind(one: Trajectory) -> np.ndarray:
    """Atomic numbers (N,), 0 for points that are no atoms."""
    return np.zeros(one.atoms) if one.numbers is None else one.numbers


def _symbols(one: Trajectory) -> list[str]:
    from ase.data import chemical_symbols

    return ["X"] * one.atoms if one.numbers is None else [chemical_symbols[z] for z in one.numbers]


def _three(one: Trajectory) -> np.ndarray:
    """Positions with three coordinates."""
    return np.pad(one.positions, ((0, 0), (0, 0), (0, 3 - one.dims)))


def xyz_text(trajectories: Sequence[Trajectory], extended: bool) -> str:
    """XYZ or extXYZ: frame after frame, sample after sample; sample, frame, time and bonds in the comment lines."""
    blocks = []
    for sample, one in enumerate(trajectories):
        symbols, positions = _symbols(one), _three(one)
        flags = [None] * one.frames if one.observed is None else one.observed.tolist()
        for frame, (time, x, flag) in enumerate(zip(one.times, positions, flags)):
            words = ["Properties=species:S:1:pos:R:3"] if extended else []
            words += [f"sample={sample}", f"frame={frame}", f"time_{one.unit}={time:.10g}"]
            words += [] if flag is None else [f"observed={'T' if flag else 'F'}"]
            if frame == 0 and one.bonds is not None and len(one.bonds):
                words.append(f'bonds="{" ".join(map(str, one.bonds.ravel()))}"')
            words += ['pbc="F F F"'] if extended else []
            rows = [f"{s:2} {a:.8f} {b:.8f} {c:.8f}" for s, (a, b, c) in zip(symbols, x.tolist())]
            blocks.append("\n".join([str(one.atoms), " ".join(words), *rows]))
    return "\n".join(blocks) + "\n"


def pdb_text(path: Path, trajectories: Sequence[Trajectory]) -> str:
    """A PDB file with one MODEL per frame, all samples one after the other; bonds as CONECT records.

    Raises:
        UserError: Different molecules, or more atoms or larger coordinates than the columns hold.
    """
    first = trajectories[0]
    if any(not np.array_equal(kind(one), kind(first)) for one in trajectories):
        raise UserError(f"{path}: got trajectories of different molecules, expected one in a PDB file; write .extxyz")
    largest = max(np.abs(one.positions).max() for one in trajectories)
    if first.atoms > PDB_ATOMS or largest >= PDB_SPAN:
        raise UserError(
            f"{path}: got {first.atoms} atoms and coordinates up to {largest:g}, more than a PDB file holds; write .npz"
        )
    heads, symbols = _pdb_heads(first), _symbols(first)
    lines, model = [], 0
    for sample, one in enumerate(trajectories):
        flags = [False] * one.frames if one.observed is None else one.observed.tolist()
        for time, x, flag in zip(one.times, _three(one).tolist(), flags):
            model += 1
            lines += [f"MODEL     {model:4d}"]
            lines += [f"REMARK 250 SAMPLE {sample} TIME_{one.unit.upper()} {time:.10g} OBSERVED {'T' if flag else 'F'}"]
            lines += [
                f"{head}{a:8.3f}{b:8.3f}{c:8.3f}  1.00  0.00          {symbol:>2}"
                for head, (a, b, c), symbol in zip(heads, x, symbols)
            ]
            lines.append("ENDMDL")
    bonds = [] if first.bonds is None else first.bonds.tolist()
    lines += [f"CONECT{i + 1:5d}{j + 1:5d}" for i, j in bonds]
    return "\n".join([*lines, ""])  # no END record: ASE would read it as one more frame, without atoms


def _pdb_heads(one: Trajectory) -> list[str]:
    """The first 30 columns of each atom: residues by name where names are known, else of at most 99 atoms each."""
    labels = []
    residue, taken = 0, set()
    previous = None
    for k, symbol in enumerate(_symbols(one)):
        if one.names is None:
            labels.append(("MOL", f"{symbol}{k % 99 + 1}", k // 99 + 1))
            continue
        group, _, name = str(one.names[k]).rpartition(":")
        if group != previous or name in taken:
            residue, taken, previous = residue + 1, set(), group
        taken.add(name)
        labels.append((group[:3] or "MOL", name[:4], residue))
    places = [name if len(name) == 4 else f" {name:<3}" for _, name, _ in labels]
    return [
        f"HETATM{k + 1:5d} {place} {group:>3} A{number % 10000:4d}    "
        for k, (place, (group, _, number)) in enumerate(zip(places, labels))
    ]
