"""Fingerprints for coverage: CrystalNN order parameters of the sites (61) and magpie statistics of the formula (132).

Structure: mean over sites of matminer's `CrystalNNFingerprint`, preset "ops". Composition: `ElementProperty`, preset
"magpie", standardised with the constants of CDVAE (`magpie_scaler.json`, which names its source). Needs the extra
`crystal-metrics`. A structure costs 0.2-0.3 s of one core, so fingerprints are kept in the cache, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import require
from sciflow.domains.crystals.kept import kept_each
from sciflow.domains.crystals.pool import Failed

SECONDS = 60.0  # time limit of one structure
STRUCTURE, COMPOSITION = 61, 132  # numbers in a fingerprint


def fingerprints(
    structures: Sequence[Any],
    workers: int | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[np.ndarray, np.ndarray]:
    """(M, 61) structure and (M, 132) standardised composition fingerprints; NaN where one cannot be computed.

    Args:
        structures: pymatgen structures or None.
        workers: Processes.
        progress: Called with the share done of those that are not in the cache.

    Raises:
        UserError: matminer is not installed.
    """
    settings = f"fingerprint 2, matminer {matminer_version()}, pymatgen {version('pymatgen')}"
    found = kept_each(_fingerprint, structures, "fingerprints", settings, SECONDS, workers, progress, _featurizers)
    mean, std = _scaler()
    site, formula = np.full((len(structures), STRUCTURE), np.nan), np.full((len(structures), COMPOSITION), np.nan)
    for i, one in enumerate(found):
        if not isinstance(one, Failed):
            site[i], formula[i] = one[0], (np.array(one[1]) - mean) / std
    return site, formula


def matminer_version() -> str:
    """Recorded with every figure."""
    require("matminer", "crystal-metrics")
    return version("matminer")


def _fingerprint(structure: Any) -> tuple[list[float], list[float]]:
    sites, elements = _featurizers()
    rows = [sites.featurize(structure, i) for i in range(len(structure))]
    return np.array(rows, dtype=float).mean(0).tolist(), [float(x) for x in elements.featurize(structure.composition)]


@cache
def _featurizers() -> tuple[Any, Any]:
    sites = require("matminer.featurizers.site.fingerprint", "crystal-metrics").CrystalNNFingerprint
    elements = require("matminer.featurizers.composition.composite", "crystal-metrics").ElementProperty
    return sites.from_preset("ops"), elements.from_preset("magpie")


@cache
def _scaler() -> tuple[np.ndarray, np.ndarray]:
    constants = json.loads((Path(__file__).parent / "magpie_scaler.json").read_text())
    std = np.array(constants["std"], dtype=float)
    return np.array(constants["mean"], dtype=float), np.where(std == 0, 1.0, std)
