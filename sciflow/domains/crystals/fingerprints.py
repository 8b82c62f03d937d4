"""Fingerprints for coverage: CrystalNN order parameters of the sites (61) and magpie statistics of the formula (132).

Structure: mean over sites of matminer's `CrystalNNFingerprint`, preset "ops". Composition: `ElementProperty`, preset
"magpie", standardised with the constants of CDVAE (data set `comp_fingerprint_scaler`). Needs the extra
`crystal-metrics`. A structure costs 0.2-0.3 s of one core, so the fingerprints of a set are kept in the cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Any

import numpy as np

from sciflow.core.errors import UserError, require
from sciflow.core.files import replacing
from sciflow.data import cache_root, resolve
from sciflow.domains.crystals.pool import Failed, each

SECONDS = 60.0  # time limit of one structure
STRUCTURE, COMPOSITION = 61, 132  # numbers in a fingerprint


def fingerprints(structures: Sequence[Any], workers: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(M, 61) structure and (M, 132) standardised composition fingerprints; NaN where one cannot be computed.

    Args:
        structures: pymatgen structures or None.
        workers: Processes.

    Raises:
        UserError: matminer or the constants are not at hand.
    """
    require("matminer", "crystal-metrics")
    mean, std = _scaler()
    path = cache_root() / "crystals" / f"fingerprints-{_digest(structures)}.npz"
    if path.exists():
        with np.load(path) as stored:
            return stored["structure"], stored["composition"]
    found = each(_fingerprint, structures, SECONDS, workers)
    site, formula = np.full((len(structures), STRUCTURE), np.nan), np.full((len(structures), COMPOSITION), np.nan)
    for i, one in enumerate(found):
        if not isinstance(one, Failed):
            site[i], formula[i] = one[0], (one[1] - mean) / std
    with contextlib.suppress(OSError, UserError), replacing(path) as temporary, open(temporary, "wb") as stream:
        np.savez_compressed(stream, structure=site, composition=formula)
    return site, formula


def matminer_version() -> str:
    """Recorded with every figure."""
    require("matminer", "crystal-metrics")
    return version("matminer")


def _fingerprint(structure: Any) -> tuple[np.ndarray, np.ndarray]:
    sites, elements = _featurizers()
    rows = [sites.featurize(structure, i) for i in range(len(structure))]
    return np.array(rows, dtype=float).mean(0), np.array(elements.featurize(structure.composition), dtype=float)


@cache
def _featurizers() -> tuple[Any, Any]:
    sites = require("matminer.featurizers.site.fingerprint", "crystal-metrics").CrystalNNFingerprint
    elements = require("matminer.featurizers.composition.composite", "crystal-metrics").ElementProperty
    return sites.from_preset("ops"), elements.from_preset("magpie")


@cache
def _scaler() -> tuple[np.ndarray, np.ndarray]:
    constants = json.loads(resolve("comp_fingerprint_scaler").read_text())
    std = np.array(constants["std"], dtype=float)
    return np.array(constants["mean"], dtype=float), np.where(std == 0, 1.0, std)


def _digest(structures: Sequence[Any]) -> str:
    """Checksum of structures to 1e-4 angstrom, and of what computes the fingerprints."""
    digest = hashlib.sha256(f"{matminer_version()}/1".encode())
    for one in structures:
        if one is None:
            digest.update(b"none")
            continue
        numbers = np.array([site.specie.Z for site in one], np.int16)
        digest.update(numbers.tobytes() + np.round(one.lattice.matrix, 4).tobytes())
        digest.update(np.round(one.frac_coords, 5).tobytes())
    return digest.hexdigest()[:32]
