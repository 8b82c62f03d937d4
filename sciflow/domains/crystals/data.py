"""Crystal sets: by name, from files or from pymatgen structures; reduced, checked, split, and cached on disk.

Every crystal is brought into its Niggli-reduced cell in canonical orientation (`arrays.canonical`), as all benchmark
models are trained on; what cannot be used is left out and counted. The result is cached by the checksum of the content.

Named sets: `perov_5_val` ... (files of SCIFLOW_DATA, see `sciflow list data`), `crystal_prototypes` (ships), and the
full benchmarks `perov_5`, `carbon_24`, `mp_20`, `mpts_52`, whose three CSV files `sciflow data get` fetches.
A set `X_val` is tested on `X_test`: the reduced protocol (train on val, evaluate on test), never the published one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.data import DATASETS, cache_root, resolve
from sciflow.domains.crystals.arrays import CrystalArrays, canonical, from_parts, from_structures, problem

CACHE_VERSION = 1  # raise it when the content of the parsed files changes
EXAMPLES_KEPT = 5
FULL = ("perov_5", "carbon_24", "mp_20", "mpts_52")
FAMILIES = 20  # with at least this many compositions, a seeded split keeps each composition on one side


@dataclass(frozen=True)
class CrystalSplit:
    """Training, validation and test crystals of one set, and `info` (plain JSON: source, counts, split)."""

    train: CrystalArrays
    validation: CrystalArrays
    test: CrystalArrays
    info: dict[str, Any]


def crystal_dataset(
    source: str | Path | Sequence[Any],
    *,
    validation: float = 0.05,
    test: float = 0.1,
    seed: int = 0,
    niggli: bool = True,
) -> CrystalSplit:
    """A crystal set, split into training, validation and test.

    Args:
        source: A named set, a file or folder (see `files`), or a list of pymatgen structures.
        validation: Share held out for validation, where the set has no such split.
        test: Share held out for testing, likewise.
        seed: Of the seeded splits.
        niggli: Reduce the cells.

    Raises:
        UserError: Set or file not found, no usable crystal in it, or shares that leave nothing to train on.
    """
    if not (0 <= validation < 1 and 0 <= test < 1):
        raise UserError(f"shares: got validation={validation}, test={test}, expected numbers in [0, 1)")
    if isinstance(source, (str, Path)) and str(source) in FULL:
        return _full(str(source), niggli)
    crystals, counts = load_crystals(source, niggli)
    rng = np.random.default_rng(seed)
    partner = _partner(source)
    if partner is not None:
        test_set, tested = load_crystals(partner, niggli)
        in_test, rule = np.zeros(len(crystals), bool), f"test set {partner} (reduced protocol: trained on val)"
        counts = {**counts, "skipped_in_test": tested["skipped"]}
    else:
        in_test, rule = _draw(crystals, test, rng), f"seeded, {test:.4g} of the compositions"
        test_set = crystals.select(np.flatnonzero(in_test))
    rest = crystals.select(np.flatnonzero(~in_test))
    in_validation = _draw(rest, validation, rng)
    if in_validation.all():
        raise UserError(f"{source}: got {len(crystals)} crystals, too few to train on; expected at least 3")
    train_set, validation_set = (rest.select(np.flatnonzero(part)) for part in (~in_validation, in_validation))
    name = source if isinstance(source, (str, Path)) else f"{len(source)} Python objects"
    shares = {"validation": validation, "test": test}
    info = {"source": str(name), "split": rule, "shares": shares, "seed": seed, "niggli": niggli, **counts}
    return CrystalSplit(train_set, validation_set, test_set, {**info, **_lengths(train_set, validation_set, test_set)})


def load_crystals(source: str | Path | Sequence[Any], niggli: bool = True) -> tuple[CrystalArrays, dict[str, Any]]:
    """All usable crystals of a set, file, folder or list, and the counts of what was read and skipped.

    Raises:
        UserError: Not found, not readable, or nothing usable in it.
    """
    if not isinstance(source, (str, Path)):
        return _reduced(from_structures(source), {"skipped": 0, "examples": []}, niggli, f"{len(source)} objects")
    path = resolve(source)
    cache = cache_root() / "crystals" / f"{_digest(path, niggli)}-{CACHE_VERSION}.npz"
    if cache.exists():
        return load_npz(cache)
    from sciflow.domains.crystals.files import read_crystals

    read, report = read_crystals(path)
    crystals, counts = _reduced(read, {"skipped": report.n_skipped, "examples": report.examples}, niggli, str(path))
    with contextlib.suppress(OSError, UserError):  # a read-only cache costs time, nothing else
        save_npz(cache, crystals, counts)
    return crystals, counts


def save_npz(path: str | Path, crystals: CrystalArrays, counts: dict[str, Any] | None = None) -> None:
    """Write the npz format of the benchmark archives (keys in `load_npz`), atomically."""
    from sciflow.domains.crystals.arrays import parameters

    properties: dict[str, Any] = {f"prop_{name}": values for name, values in crystals.properties.items()}
    with replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(
            stream,
            material_id=np.array(crystals.identifiers, dtype=str),
            ptr=crystals.ptr.astype(np.int32),
            atomic_numbers=crystals.numbers,
            frac_coords=crystals.coords,
            lattice=crystals.lattices,
            lengths_angles=parameters(crystals.lattices),
            counts=np.array(json.dumps(counts or {})),
            **properties,
        )


def load_npz(path: str | Path) -> tuple[CrystalArrays, dict[str, Any]]:
    """Read material_id [M], ptr [M + 1], atomic_numbers [A], frac_coords [A, 3], lattice [M, 3, 3] and prop_* [M].

    Raises:
        UserError: Not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            ptr, numbers, coords = (stored[key] for key in ("ptr", "atomic_numbers", "frac_coords"))
            lattices, names = stored["lattice"].astype(float), [str(name) for name in stored["material_id"]]
            properties = {key.removeprefix("prop_"): stored[key] for key in stored if key.startswith("prop_")}
            counts = json.loads(str(stored["counts"])) if "counts" in stored else {}
    except (KeyError, ValueError, OSError, EOFError) as error:
        raise UserError(f"{path}: cannot be read as an npz file of crystals ({error})") from None
    m, atoms = len(ptr) - 1, len(numbers)
    if ptr[0] != 0 or ptr[-1] != atoms or coords.shape != (atoms, 3) or lattices.shape != (m, 3, 3) or len(names) != m:
        raise UserError(f"{path}: got arrays of different lengths, expected {m} crystals with {atoms} atoms in all")
    split = np.split(np.arange(atoms), ptr[1:-1])
    parts = [numbers[rows] for rows in split], [coords[rows].astype(float) for rows in split]
    return from_parts(names, *parts, list(lattices), properties), counts


def _reduced(crystals: CrystalArrays, counts: dict[str, Any], niggli: bool, source: str) -> tuple[CrystalArrays, dict]:
    """Canonical descriptions of the usable crystals."""
    skipped, examples = counts["skipped"], list(counts["examples"])
    kept, coords, lattices = [], [], []
    for k in range(len(crystals)):
        rows = crystals.rows(k)
        fault = problem(crystals.numbers[rows], crystals.coords[rows], crystals.lattices[k])
        if fault is None:
            lattice, fractions = canonical(crystals.lattices[k], crystals.coords[rows], niggli)
            kept.append(k)
            coords.append(fractions)
            lattices.append(lattice)
        else:
            skipped += 1
            examples += [f"{crystals.identifiers[k]}: {fault}"] * (len(examples) < EXAMPLES_KEPT)
    if not kept:
        shown = f" (first: {'; '.join(examples)})" if examples else ""
        raise UserError(f"{source}: got no usable crystal, {skipped} skipped{shown}")
    chosen = crystals.select(kept)
    arrays = replace(chosen, coords=np.concatenate(coords), lattices=np.stack(lattices))
    return arrays, {"read": len(kept), "skipped": skipped, "examples": examples}


def _full(name: str, niggli: bool) -> CrystalSplit:
    """The published three files of a benchmark."""
    parts = {part: load_crystals(f"{name}_full_{part}", niggli) for part in ("train", "val", "test")}
    train, validation, test = (parts[part][0] for part in ("train", "val", "test"))
    totals = {key: sum(counts[key] for _, counts in parts.values()) for key in ("read", "skipped")}
    examples = [example for _, counts in parts.values() for example in counts["examples"]][:EXAMPLES_KEPT]
    info = {"source": name, "split": "published", "niggli": niggli, **totals, "examples": examples}
    return CrystalSplit(train, validation, test, {**info, **_lengths(train, validation, test)})


def _lengths(train: CrystalArrays, validation: CrystalArrays, test: CrystalArrays) -> dict[str, int]:
    return {"train": len(train), "validation": len(validation), "test": len(test)}


def _partner(source: str | Path | Sequence[Any]) -> str | None:
    """The test set of a named validation set, where it is on this machine."""
    name = str(source) if isinstance(source, (str, Path)) else ""
    partner = name.removesuffix("_val") + "_test"
    if name not in DATASETS or not name.endswith("_val") or partner not in DATASETS:
        return None
    with contextlib.suppress(UserError):
        resolve(partner)
        return partner
    return None


def _draw(crystals: CrystalArrays, share: float, rng: np.random.Generator) -> np.ndarray:
    """(M,) bool: a seeded share of the compositions, or of the crystals where there are few compositions."""
    formulas, owner = np.unique(np.array(crystals.formulas(), dtype=str), return_inverse=True)
    if len(formulas) < FAMILIES:
        owner = np.arange(len(crystals))
    groups = int(owner.max()) + 1
    count = round(share * groups)
    if share > 0 and groups >= 3:
        count = max(1, count)
    chosen = np.zeros(groups, bool)
    chosen[rng.permutation(groups)[:count]] = True
    return chosen[owner]


def _digest(path: Path, niggli: bool) -> str:
    """Checksum of a file, or of all files in a folder, and of how it is read."""
    digest = hashlib.sha256(f"{path.name}/{niggli}".encode())
    for file in sorted(path.iterdir()) if path.is_dir() else [path]:
        if file.is_file():
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:32]
