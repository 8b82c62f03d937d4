r"""CSPNet (Jiao et al. 2023, DiffCSP; with confidences as in Wu et al. 2025, CrysBFN) on ragged crystals.

Symmetries by construction: permutations of atoms (sums over neighbours), rigid shifts of the coordinates (differences
only), rotations and reflections of the lattice (its Gram matrix, or an orientation-free lattice). What the network
reads and predicts of coordinates and lattice depends on their processes and is said by two objects; clocks, not step
numbers, are its time input, so that one model samples with any number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.state import State
from sciflow.domains.crystals.network_layers import (
    CLOCK_FREQUENCIES,
    GramLattice,
    InvariantLattice,
    MessageLayer,
    PlanarCoordinates,
    TorusCoordinates,
    clock_code,
    fourier,
)
from sciflow.networks.pairs import Pairs


class CSPNet(nn.Module, Configurable):
    """Network of crystals with the fields coords, lattice and types.

    Types may be indices (atoms,) of elements, which are looked up, or logits (atoms, K) of beliefs about them.

    Args:
        elements: Number K of element types; None: taken from the data.
        hidden: Width; 512 in the papers.
        layers: Number of layers; 6 in the papers.
        frequencies: Fourier frequencies 0 .. frequencies - 1 of each axis; 128 in the papers.
        coordinates: How coordinates are read and predicted.
        lattice: How lattices are read and predicted.
        evolving: Fields that are noised and predicted.
    """

    def __init__(
        self,
        elements: int | None = None,
        hidden: int = 128,
        layers: int = 4,
        frequencies: int = 32,
        coordinates: PlanarCoordinates | TorusCoordinates | None = None,
        lattice: GramLattice | InvariantLattice | None = None,
        evolving: Sequence[str] = ("coords", "lattice"),
    ) -> None:
        super().__init__()
        self.hidden, self.frequencies, self.evolving = hidden, frequencies, list(evolving)
        self.coordinates = coordinates if coordinates is not None else PlanarCoordinates()
        self.lattice = lattice if lattice is not None else InvariantLattice()
        self.layers = nn.ModuleList(MessageLayer(hidden, self.lattice.features, frequencies) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden)
        self.clock = nn.Linear(2 * CLOCK_FREQUENCIES * len(self.evolving), hidden)
        features = self.coordinates.features
        self.confidence = nn.Linear(features, hidden, bias=False) if features else None
        self.coords_out = nn.Linear(hidden, self.coordinates.outputs)
        self.lattice_out = nn.Linear(hidden, self.lattice.outputs)
        for head in (self.coords_out, self.lattice_out):  # start at: coordinates as believed, the mean lattice
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        if elements is not None:
            self._make(elements)

    def build(self, features: Mapping[str, int]) -> None:
        """Number of element types from the data."""
        if not hasattr(self, "embedding"):
            self.init_args["elements"] = features["types"]  # a checkpoint rebuilds the network without the data
            self._make(features["types"])

    def _make(self, elements: int) -> None:
        self.embedding = nn.Linear(elements, self.hidden, bias=False)
        nn.init.normal_(self.embedding.weight)
        self.types_out = nn.Linear(self.hidden, elements) if "types" in self.evolving else None

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Predictions of the evolving fields, each as its process wants it; types: probabilities (atoms, K).

        Args:
            state: coords (atoms, 3[, 2]) and types, ragged; lattice (B, 3, 3) or (B, 6).
            signals: Clock of every evolving field, () or (B,).
        """
        coords, lattice, types = state["coords"], state["lattice"], state["types"]
        pairs = Pairs.of(state.layouts["coords"])
        codes = [clock_code(signals[name].to(lattice), state.batch) for name in self.evolving]
        angle, confidence = self.coordinates.read(coords)
        table = self.embedding.weight
        species = (2 * types.softmax(-1) - 1) @ table.T if types.is_floating_point() else table.T[types]
        h = species + self.clock(torch.cat(codes, 1))[pairs.crystal]
        if self.confidence is not None:
            h = h + self.confidence(confidence)
        cell = self.lattice.read(lattice)
        sine, cosine = fourier(angle, pairs, self.frequencies)
        for layer in self.layers:
            h = layer(h, cell, sine, cosine, pairs)
        h = self.norm(h)
        out = {
            "coords": self.coordinates.predict(self.coords_out(h), coords),
            "lattice": self.lattice.predict(self.lattice_out(pairs.mean(h)), lattice),
        }
        if self.types_out is not None:
            out["types"] = self.types_out(h).softmax(-1)
        return out
