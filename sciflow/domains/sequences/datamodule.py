"""Lightning data module for sequences: a named set, any sequence file, or a list of strings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from sciflow.core.state import State
from sciflow.domains.base import Samples, ScienceData
from sciflow.domains.sequences.codec import SequenceCodec, sequence_state
from sciflow.domains.sequences.data import SequenceDataset, sequence_dataset


class _Sequences:
    """Tokens of one split, one byte each until a batch is made."""

    def __init__(self, data: SequenceDataset) -> None:
        self.tokens = torch.from_numpy(data.tokens)
        self.sizes: Sequence[int] = data.lengths.tolist()

    def __len__(self) -> int:
        return len(self.tokens)

    def batch(self, indices: Sequence[int]) -> State:
        sizes = [self.sizes[i] for i in indices]
        return sequence_state(self.tokens[torch.tensor(indices), : max(sizes)].long(), sizes)


class SequenceData(ScienceData):
    """Sequences as tokens 0..K-1 in one field "seq".

    Args:
        path: A named set (`fly_promoters`, ...), a file (FASTA, CSV, text, npz), or a list of strings.
        length: The one length of all sequences (others are skipped and counted); None: any.
        alphabet: `dna`, `rna` or `protein`, for files and strings; named sets know theirs.
        families: Label of the file that a seeded split must not cut (chrom, cluster ...).
        validation: Share held out for validation, where the set has no split of its own.
        test: Share held out for testing, likewise.
        batch_size: Sequences per batch.
        seed: Of splits and of the order of batches.
    """

    def __init__(
        self,
        path: str | Path | Sequence[str] = "fly_promoters",
        length: int | None = None,
        alphabet: str = "dna",
        families: str | None = None,
        validation: float = 0.05,
        test: float = 0.1,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size, seed)
        self.path, self.length, self.alphabet, self.families = path, length, alphabet, families
        self.validation, self.test = validation, test

    def read(self) -> dict[str, Samples]:
        """Read and split; the codec knows the alphabet and, where all sequences share one, the length."""
        data = sequence_dataset(
            self.path,
            alphabet=self.alphabet,
            length=self.length,
            families=self.families,
            validation=self.validation,
            test=self.test,
            seed=self.seed,
        )
        lengths = set(data.lengths.tolist())
        self.codec = SequenceCodec(data.alphabet.name, lengths.pop() if len(lengths) == 1 else None)
        self.spec = {"domain": "sequences", "data": data.meta}
        return {name: _Sequences(data.part(name)) for name in ("train", "val", "test")}

    def setup(self, stage: str) -> None:
        """As always; the channels of a field of tokens are the letters of the alphabet."""
        super().setup(stage)
        self.features = {"seq": len(self.codec.alphabet)}  # type: ignore[attr-defined]
