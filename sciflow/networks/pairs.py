"""Pairs of rows of a ragged layout, by integer arithmetic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.core.state import Layout


@dataclass(frozen=True, eq=False)
class Pairs:
    """Unordered pairs of rows (atoms) of the same sample, by integer arithmetic: no (atoms, atoms) matrix.

    Attributes:
        first: (P,) atom i of each pair.
        second: (P,) atom j > i.
        sources: (2 P + N,) atom i of the directed edges: the pairs, the pairs backwards, the self loops.
        targets: (2 P + N,) atom j of the directed edges.
        crystal: (N,) crystal of each atom.
        counts: (B,) atoms per crystal.
    """

    first: Tensor
    second: Tensor
    sources: Tensor
    targets: Tensor
    crystal: Tensor
    counts: Tensor

    @staticmethod
    def of(layout: Layout) -> Pairs:
        """All pairs of a ragged layout whose rows are ordered by crystal."""
        crystal: Tensor = layout.index  # type: ignore[assignment]
        counts = torch.zeros(layout.batch, dtype=torch.long, device=crystal.device)
        counts = counts.index_add(0, crystal, torch.ones_like(crystal))
        atoms = torch.arange(len(crystal), device=crystal.device)
        later = counts.cumsum(0)[crystal] - atoms - 1  # atoms of the same crystal behind this one
        first = atoms.repeat_interleave(later)
        start = later.cumsum(0) - later  # first pair of each atom
        second = first + 1 + torch.arange(len(first), device=crystal.device) - start[first]
        sources, targets = torch.cat([first, second, atoms]), torch.cat([second, first, atoms])
        return Pairs(first, second, sources, targets, crystal, counts)

    def mean(self, value: Tensor) -> Tensor:
        """Mean over the atoms of each crystal: (N, C) -> (B, C)."""
        total = value.new_zeros(len(self.counts), value.shape[1]).index_add(0, self.crystal, value)
        return total / self.counts[:, None]
