"""Molecule sets: parsed once, kept in the user cache, split as published or by seed.

Training SMILES are canonical and non-isomeric (as GDSS: stereo and isotopes are dropped); whatever the graph
representation cannot hold is counted in `ParsedMolecules.counts`. QM9 has the published test split of the
Grammar-VAE / MoFlow / GDSS lineage; MOSES its own test file; everything else a seeded split by distinct molecule, so
that no molecule stands on both sides.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem, rdBase

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.data import DATASETS, cache_root, resolve
from sciflow.domains.molecules.codec import MoleculeArrays, bond_problem
from sciflow.domains.molecules.files import EXAMPLES_KEPT, ReadReport, iterate_molecules, iterate_objects

CACHE_VERSION = 1  # raise it when the content of the parsed files changes
ZINC_TEST_FRACTION = 24887 / 249455  # the published size; the published rows refer to a file that is not at hand


@dataclass(frozen=True)
class ParsedMolecules:
    """A molecule file after parsing.

    Attributes:
        smiles: canonical non-isomeric SMILES.
        identifiers: ``index`` column, name or position of each molecule.
        arrays: the kekulised graphs.
        counts: of the whole file: read, skipped (with `examples`), and what is lossy: charged, with_stereo,
            several_fragments, with_radicals, unsupported_bonds (these are left out).
    """

    smiles: list[str]
    identifiers: list[str]
    arrays: MoleculeArrays
    counts: dict[str, Any]

    def __len__(self) -> int:
        return len(self.smiles)

    def select(self, index: np.ndarray) -> ParsedMolecules:
        """The chosen molecules, in the given order."""
        return replace(
            self,
            smiles=[self.smiles[i] for i in index],
            identifiers=[self.identifiers[i] for i in index],
            arrays=self.arrays.select(index),
        )


@dataclass(frozen=True)
class MoleculeSplit:
    """Training, validation and test molecules of one set, and `info` (plain JSON: source, counts, sizes, split)."""

    train: ParsedMolecules
    validation: ParsedMolecules
    test: ParsedMolecules
    info: dict[str, Any]


def parse_file(path: str | Path) -> ParsedMolecules:
    """Parses a molecule file or folder, or takes it from the cache (keyed by the SHA-256 of the content).

    Raises:
        UserError: as `files.read_molecules`.
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        return _parse_path(path)
    digest = hashlib.sha256(path.name.encode() + path.read_bytes()).hexdigest()[:32]
    cache = cache_root() / "molecules" / f"{digest}-{CACHE_VERSION}.npz"
    if cache.exists():
        return _load(cache)
    parsed = _parse_path(path)
    with contextlib.suppress(OSError, UserError):  # a read-only cache costs time, nothing else
        _save(parsed, cache)
    return parsed


def _parse_path(path: Path) -> ParsedMolecules:
    report = ReadReport()
    return _parse(iterate_molecules(path, report), report, str(path))


def _parse(molecules: Iterable[Chem.Mol], report: ReadReport, source: str) -> ParsedMolecules:
    counts = dict.fromkeys(("charged", "with_stereo", "several_fragments", "with_radicals", "unsupported_bonds"), 0)
    smiles, kept, identifiers = [], [], []
    with rdBase.BlockLogs():
        for molecule in molecules:
            problem = bond_problem(molecule)
            if problem is not None:
                counts["unsupported_bonds"] += 1
                if len(report.examples) < EXAMPLES_KEPT:
                    report.examples.append(f"{Chem.MolToSmiles(molecule)}: {problem}")
                continue
            flat = Chem.MolToSmiles(molecule, isomericSmiles=False)
            counts["with_stereo"] += flat != Chem.MolToSmiles(molecule)
            if "[H]" in flat:  # an explicit hydrogen that only carried stereo
                molecule = Chem.MolFromSmiles(flat)
                flat = Chem.MolToSmiles(molecule)
            counts["several_fragments"] += "." in flat
            if "[" in flat:  # no charge and no radical without a bracket
                counts["charged"] += any(atom.GetFormalCharge() for atom in molecule.GetAtoms())
                counts["with_radicals"] += any(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
            smiles.append(flat)
            kept.append(molecule)
            identifiers.append(report.identifiers[-1])
        if not smiles:
            raise UserError(f"{source}: got no molecule ({report}), expected at least one valid SMILES or SDF entry")
        arrays = MoleculeArrays.from_molecules(kept)
    totals = {"read": report.n_read, "skipped": report.n_skipped, "examples": report.examples}
    return ParsedMolecules(smiles, identifiers, arrays, {**totals, **counts})


def _save(parsed: ParsedMolecules, cache: Path) -> None:
    text = {"smiles": "\n".join(parsed.smiles), "identifiers": "\n".join(parsed.identifiers)}
    text["counts"] = json.dumps(parsed.counts)
    packed = {name: np.frombuffer(value.encode(), np.uint8) for name, value in text.items()}
    with replacing(cache) as temporary, open(temporary, "wb") as stream:
        np.savez(stream, **packed, **asdict(parsed.arrays))


def _load(cache: Path) -> ParsedMolecules:
    with np.load(cache) as stored:
        smiles, identifiers, counts = (stored[name].tobytes().decode() for name in ("smiles", "identifiers", "counts"))
        fields = ("node_ptr", "atomic_number", "charge", "edge_ptr", "bonds")
        arrays = MoleculeArrays(**{name: stored[name] for name in fields})
    return ParsedMolecules(smiles.split("\n"), identifiers.split("\n"), arrays, json.loads(counts))


def molecule_dataset(
    source: str | Path | Sequence[str | Chem.Mol], *, validation: float = 0.02, test: float = 0.1, seed: int = 0
) -> MoleculeSplit:
    """A molecule set, split into training, validation and test.

    Args:
        source: a name (qm9, zinc250k, moses, ...), a file or folder of molecules, or a list of SMILES or molecules.
        validation: share of the molecules outside the test set; 0 gives the published training set.
        test: share of the distinct molecules; QM9 (published rows), ZINC250k (published size) and MOSES (own file)
            ignore it.
        seed: of the seeded splits.

    Raises:
        UserError: set or file not found, no molecule in it, or shares that leave nothing to train on.
    """
    if not (0 <= validation < 1 and 0 <= test < 1):
        raise UserError(f"shares: got validation={validation}, test={test}, expected numbers in [0, 1)")
    if isinstance(source, (str, Path)):
        path, name = str(resolve(source)), str(source) if str(source) in DATASETS else None
        parsed = parse_file(path)
    else:
        path, name, report = f"{len(source)} Python objects", None, ReadReport()
        parsed = _parse(iterate_objects(source, report), report, path)
    rng = np.random.default_rng(seed)
    if name == "qm9":
        in_test, rule = _qm9_test(parsed), "published 13,082 GDSS/MoFlow test rows"
    elif name == "moses":
        in_test, rule = np.zeros(len(parsed), bool), "published test file"
    else:
        share = ZINC_TEST_FRACTION if name == "zinc250k" else test
        in_test, rule = _draw(parsed.smiles, share, rng), f"seeded, {share:.4g} of the distinct molecules"
    rest = np.flatnonzero(~in_test)
    in_validation = _draw([parsed.smiles[i] for i in rest], validation, rng)
    if in_validation.all():
        raise UserError(f"{path}: got {len(parsed)} molecules, too few to train on; expected at least 3 distinct ones")
    test_set = parse_file(resolve("moses_test")) if name == "moses" else parsed.select(np.flatnonzero(in_test))
    train_set, validation_set = parsed.select(rest[~in_validation]), parsed.select(rest[in_validation])
    info = {
        "source": name or path,
        "file": path,
        "split": rule,
        "shares": {"validation": validation, "test": test},
        "seed": seed,
        **parsed.counts,
        "duplicates": len(parsed) - len(set(parsed.smiles)),
        "train": len(train_set),
        "validation": len(validation_set),
        "test": len(test_set),
    }
    return MoleculeSplit(train_set, validation_set, test_set, info)


def _qm9_test(parsed: ParsedMolecules) -> np.ndarray:
    """Published rows count the 133,885 molecules of GDB-9 from 0; identifiers are the GDB-9 numbers from 1."""
    with gzip.open(resolve("qm9_test_rows"), "rt") as stream:
        numbers = {str(int(line) + 1) for line in stream}
    return np.array([identifier in numbers for identifier in parsed.identifiers])


def _draw(smiles: list[str], share: float, rng: np.random.Generator) -> np.ndarray:
    """(M,) bool: a seeded share of the distinct molecules, at least one if there are three or more and share > 0."""
    distinct, owner = np.unique(np.array(smiles, dtype=str), return_inverse=True)
    count = round(share * len(distinct))
    if share > 0 and len(distinct) >= 3:
        count = max(1, count)
    chosen = np.zeros(len(distinct), bool)
    chosen[rng.permutation(len(distinct))[:count]] = True
    return chosen[owner]
