"""Base of the domains' data modules: batches by index, in an order that depends on (seed, epoch) only."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from sciflow.core.codec import Codec
from sciflow.core.errors import UserError
from sciflow.core.state import State

# counts in ``spec["data"]`` of entries that were left out, or that lose something in the representation
LOSSES = ("skipped", "unsupported_bonds", "charged", "with_stereo", "several_fragments", "with_radicals")


class Samples(Protocol):
    """Encoded samples of one split."""

    @property
    def sizes(self) -> Sequence[int]:
        """Number of nodes of each sample."""
        ...

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batch(self, indices: Sequence[int]) -> State:
        """The chosen samples as one clean state."""
        ...


class StateSamples:
    """Samples held as one dense state; a batch is cut to its own largest sample.

    Args:
        state: All samples, with `sizes` in their layouts.
    """

    def __init__(self, state: State) -> None:
        self.state = state
        self.sizes = next(layout.sizes for layout in state.layouts.values() if layout.sizes is not None)

    def __len__(self) -> int:
        """Number of samples."""
        return self.state.batch

    def batch(self, indices: Sequence[int]) -> State:
        """Selected and trimmed."""
        return trim(self.state.select(torch.tensor(indices)))


def trim(state: State) -> State:
    """Cut the padding of masked dense fields to the largest sample of the batch."""
    fields, layouts = dict(state.fields), dict(state.layouts)
    for name, x in state.fields.items():
        layout = state.layouts[name]
        mask = layout.mask
        if layout.sizes is None or layout.index is not None or mask is None:
            continue
        n, padded = max(layout.sizes), x.shape[1]
        for dim in [d for d in (1, 2) if mask.ndim > d and mask.shape[d] == padded > 1]:
            x, mask = x.narrow(dim, 0, n), mask.narrow(dim, 0, n)
        fields[name], layouts[name] = x, replace(layout, mask=mask)
    return State(fields, layouts, state.cond)


class EpochOrder(Sampler[int]):
    """A shuffle that is a function of (seed, epoch), so that a resumed run sees the same batches.

    Args:
        count: Number of samples.
        seed: Seed of all epochs.
    """

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.seed, self.epoch = count, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        """Number of samples."""
        return self.count

    def __iter__(self) -> Iterator[int]:
        """Indices of this epoch."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.count, generator=generator).tolist()


def reading_losses(data: Mapping[str, Any]) -> str:
    """What was left out or simplified while reading, by the counts in ``spec["data"]``; empty if nothing was."""
    skipped = data.get("skipped", 0)
    counts = skipped if isinstance(skipped, Mapping) else {name: data.get(name, 0) for name in LOSSES}
    found = [f"{number} {name.replace('_', ' ')}" for name, number in counts.items() if number]
    read = [f"{data['read']} entries read"] if "read" in data and found else []
    first = [f"first skipped: {'; '.join(data['examples'])}"] if data.get("examples") else []
    return ", ".join([*read, *found, *first])


class AtomBatches(BatchSampler):
    """Batches of about equal numbers of atoms: a network on complete graphs costs N^2 per sample.

    The T atoms of an epoch, in its order, are cut into ceil(T / atoms) equal intervals; a sample belongs to the
    interval in which its first atom lies. So the number of batches is the same in every epoch, none is empty, and a
    batch holds less than `atoms` plus the largest sample.

    Args:
        sampler: Order of the epoch.
        sizes: Numbers of atoms of all samples.
        atoms: Atoms per batch, at least twice the largest sample.
    """

    def __init__(self, sampler: Sampler[int], sizes: Sequence[int], atoms: int) -> None:
        if atoms < 2 * max(sizes):
            raise UserError(f"batch_atoms: got {atoms}, expected at least {2 * max(sizes)}, twice the largest sample")
        super().__init__(sampler, batch_size=1, drop_last=False)
        self.sizes, self.atoms = sizes, atoms

    def __len__(self) -> int:
        """Number of batches."""
        return -(-sum(self.sizes) // self.atoms)

    def __iter__(self) -> Iterator[list[int]]:
        """Indices of each batch."""
        order = list(self.sampler)
        ends = list(accumulate(self.sizes[i] for i in order))
        batches: list[list[int]] = [[] for _ in range(len(self))]
        for i, end in zip(order, ends, strict=True):
            batches[(end - self.sizes[i]) * len(batches) // ends[-1]].append(i)
        yield from batches


class _Indices(Dataset[int]):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int) -> int:
        return i


class ScienceData(LightningDataModule):
    """Subclasses read their files in `read` and set `codec`.

    Attributes:
        codec: Objects <-> states, inferred from the data.
        spec: Plain dict that goes into checkpoints: `domain`, `sizes`, and what the domain adds.
        features: Field -> number of its channels, for networks that are sized by the data; an `adj` of real numbers
            (B, N, N) has none and is left out.

    Args:
        batch_size: Samples per batch.
        seed: Of splits and of the order of batches.
    """

    codec: Codec
    spec: dict[str, Any]
    features: dict[str, int]

    def __init__(self, batch_size: int = 256, seed: int = 0) -> None:
        super().__init__()
        if batch_size < 1:
            raise UserError(f"batch_size must be at least 1, got {batch_size}")
        self.batch_size, self.seed = batch_size, seed
        self.samples: dict[str, Samples] = {}

    @abstractmethod
    def read(self) -> dict[str, Samples]:
        """Samples of the splits "train", "val", "test" (the last two may be left out); sets `codec` and `spec`."""

    def setup(self, stage: str) -> None:
        """Read once; record the size histogram and the feature counts."""
        if self.samples:
            return
        self.samples = {name: split for name, split in self.read().items() if len(split)}
        if "train" not in self.samples:
            raise UserError("the training set is empty after reading; check the path and the counts of skipped entries")
        train = self.samples["train"]
        self.spec = {**self.spec, "sizes": {str(n): count for n, count in sorted(Counter(train.sizes).items())}}
        fields = train.batch([0]).fields
        self.features = {name: x.shape[-1] for name, x in fields.items() if name != "adj" or x.ndim == 4}
        losses = reading_losses(self.spec.get("data", {}))
        if losses:
            rank_zero_info(f"{self.spec['data'].get('source')}: {losses}")

    def train_dataloader(self) -> DataLoader:
        """Shuffled by (seed, epoch); the last partial batch is kept."""
        return self._loader("train", EpochOrder(len(self.samples["train"]), self.seed))

    def val_dataloader(self) -> DataLoader | list:
        """In order; empty without a validation split."""
        return self._loader("val") if "val" in self.samples else []

    def test_dataloader(self) -> DataLoader | list:
        """In order; empty without a test split."""
        return self._loader("test") if "test" in self.samples else []

    def transfer_batch_to_device(self, batch: State, device: torch.device, dataloader_idx: int) -> State:
        """States know how to move."""
        return batch.to(device)

    def _loader(self, split: str, order: Sampler[int] | None = None) -> DataLoader:
        samples = self.samples[split]
        return DataLoader(_Indices(len(samples)), batch_size=self.batch_size, sampler=order, collate_fn=samples.batch)
