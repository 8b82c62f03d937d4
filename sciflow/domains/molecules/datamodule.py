"""Lightning data modules for molecules: a named set or any file with SMILES or an SDF."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from sciflow.core.state import State
from sciflow.domains.base import Samples, ScienceData
from sciflow.domains.molecules.codec import GDSSMoleculeCodec, MoleculeArrays, MoleculeCodec
from sciflow.domains.molecules.data import molecule_dataset


class _Molecules:
    """Parsed molecules, encoded batch by batch (a dense set of large molecules would not fit into memory)."""

    def __init__(self, codec: MoleculeCodec, arrays: MoleculeArrays) -> None:
        self.codec, self.arrays = codec, arrays
        self.sizes: Sequence[int] = arrays.sizes.tolist()

    def __len__(self) -> int:
        return len(self.arrays)

    def batch(self, indices: Sequence[int]) -> State:
        return self.codec.encode(self.arrays, indices)


class MoleculeData(ScienceData):
    """Molecules with one-hot atoms and bonds; vocabulary and sizes are inferred from all of the set.

    Args:
        source: `qm9`, `zinc250k`, `moses`, a path (CSV with a SMILES column, .smi, SDF, or a folder of them), or a list
            of SMILES or RDKit molecules.
        validation: Share of the molecules outside the test set held out for validation.
        test: Share held out for testing, where the set has no published split.
        batch_size: Molecules per batch.
        seed: Of splits and of the order of batches.
    """

    codec_type: ClassVar[type[MoleculeCodec]] = MoleculeCodec

    def __init__(
        self,
        source: str | Path | Sequence[Any] = "qm9",
        validation: float = 0.02,
        test: float = 0.1,
        batch_size: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.source, self.validation, self.test = source, validation, test

    def read(self) -> dict[str, Samples]:
        """Parse (cached), split, infer the codec from all of the set so that no test atom is unknown."""
        split = molecule_dataset(self.source, validation=self.validation, test=self.test, seed=self.seed)
        parts = {"train": split.train.arrays, "val": split.validation.arrays, "test": split.test.arrays}
        self.codec = self.codec_type.infer(*parts.values())
        self.spec = {"domain": "molecules", "data": split.info}
        return {name: _Molecules(self.codec, arrays) for name, arrays in parts.items()}


class GDSSMoleculeData(MoleculeData):
    """The published GDSS tensors: bond order as one real number, formal charges dropped."""

    codec_type: ClassVar[type[MoleculeCodec]] = GDSSMoleculeCodec
