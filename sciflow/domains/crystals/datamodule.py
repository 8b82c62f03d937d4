"""Lightning data module for crystals: ragged batches, bounded by their number of atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Sampler, SequentialSampler

from sciflow.core.state import State
from sciflow.domains.base import AtomBatches, Samples, ScienceData
from sciflow.domains.crystals.arrays import CrystalArrays
from sciflow.domains.crystals.codec import COORDS, LATTICE, TYPES, CrystalCodec
from sciflow.domains.crystals.data import crystal_dataset


class _Crystals:
    """Crystals of one split, encoded batch by batch."""

    def __init__(self, codec: CrystalCodec, arrays: CrystalArrays) -> None:
        self.codec, self.arrays = codec, arrays
        self.sizes: Sequence[int] = arrays.sizes.tolist()

    def __len__(self) -> int:
        return len(self.arrays)

    def batch(self, indices: Sequence[int]) -> State:
        return self.codec.encode(self.arrays.select(np.asarray(indices)))


class CrystalData(ScienceData):
    """Crystals in Niggli-reduced cells and canonical orientation; elements and sizes are inferred from all of the set.

    Args:
        path: A named set (`perov_5_val`, ...), a file or folder of structures, or a list of pymatgen structures.
        species: Whether species are generated too (de novo; "types" one-hot) or given (CSP; "types" are numbers).
        niggli: Reduce the cells.
        validation: Share held out for validation, where the set has no such split.
        test: Share held out for testing, likewise.
        batch_size: Crystals per batch.
        batch_atoms: Atoms per batch in place of `batch_size`, see `AtomBatches`.
        seed: Of splits and of the order of batches.
    """

    codec: CrystalCodec

    def __init__(
        self,
        path: str | Path | Sequence[Any] = "perov_5_val",
        species: bool = False,
        niggli: bool = True,
        validation: float = 0.05,
        test: float = 0.1,
        batch_size: int = 128,
        batch_atoms: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path, self.species, self.niggli = path, species, niggli
        self.validation, self.test, self.batch_atoms = validation, test, batch_atoms

    def read(self) -> dict[str, Samples]:
        """Read (cached), split, infer the codec; the spec says what the set is and how it was split."""
        split = crystal_dataset(
            self.path, validation=self.validation, test=self.test, seed=self.seed, niggli=self.niggli
        )
        parts = {"train": split.train, "val": split.validation, "test": split.test}
        self.codec = CrystalCodec.infer(*parts.values(), species=self.species)
        self.spec = {"domain": "crystals", "data": split.info, "task": "de novo" if self.species else "csp"}
        return {name: _Crystals(self.codec, arrays) for name, arrays in parts.items()}

    def setup(self, stage: str) -> None:
        """As always; "types" has one channel per element, however it is stored."""
        super().setup(stage)
        self.features = {COORDS: 3, LATTICE: 3, TYPES: len(self.codec.elements)}

    def _loader(self, split: str, order: Sampler[int] | None = None) -> DataLoader:
        loader = super()._loader(split, order)
        if self.batch_atoms is None:
            return loader
        samples = self.samples[split]
        batches = AtomBatches(order or SequentialSampler(loader.dataset), samples.sizes, self.batch_atoms)  # type: ignore[arg-type]
        return DataLoader(loader.dataset, batch_sampler=batches, collate_fn=samples.batch)
