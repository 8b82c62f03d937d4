r"""Scores of generated crystals, with the floors that make them readable.

Crystal structure prediction (one or k samples per reference; `evaluate_csp`):

| name | meaning |
|---|---|
| match_rate | references that a sample matches (stol 0.5, 10 degrees, ltol 0.3), over ALL references; no gate |
| match_rate_valid | matches whose sample passes the gate of CrysBFN: distances, volume, a CrystalNN fingerprint |
| match_rate_smact | matches that pass the gate of CDVAE, DiffCSP, FlowMM: the same and smact of sample AND reference |
| rmse | mean RMS displacement of the matched, best of k; hides failures |
| crmse | the same over all references, unmatched ones with stol |
| strict_match_rate, strict_rmse | at stol 0.3, 5 degrees, ltol 0.2 |
| metre | references matched by ANY sample of the set (its composition's); for sets with many polymorphs |

Publications differ in the gate, and 2 to 10 % of the references themselves fail smact (`reference_smact` is the ceiling
of the last rate). A fingerprint costs 0.2 s, so it is computed of matching samples only, and kept. Floors: uniform
random coordinates in the true lattice, random coordinates in the lattice of another reference of as many atoms, and a
slightly shaken reference (2 % of the cell edges, 1 % strain), which is a perfect answer up to noise.

De novo (`evaluate_de_novo`): validity, coverage (COV-R, COV-P), 1-Wasserstein distances W1 of density and number of
elements, with the same figures of other real crystals (the training set) beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.crystals.fingerprints import fingerprints, matminer_version
from sciflow.domains.crystals.matching import STRICT, USUAL, Tolerances, displacements
from sciflow.domains.crystals.validity import compositionally_valid, smact_version, structurally_valid

CUTOFFS = {"perov_5": (0.2, 4.0), "carbon_24": (0.2, 4.0), "mp_20": (0.4, 10.0)}  # structure, composition (CDVAE)
W1_SAMPLES = 1000  # valid samples behind a property distance (CDVAE)


def silent(stage: str, share: float) -> None:
    """Progress that nobody watches."""


def evaluate_csp(
    samples: Sequence[Any],
    references: Sequence[Any],
    *,
    floor: int = 100,
    metre_samples: int = 0,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str, float], None] = silent,
) -> dict[str, Any]:
    """Scores of predicted structures.

    Args:
        samples: Per reference a pymatgen structure, None, or a list of those (k samples).
        references: pymatgen structures.
        floor: References behind the floors (a seeded choice); 0: no floors.
        metre_samples: Samples per reference behind `metre` (a seeded choice among those of its composition); 0: none.
        seed: Of those choices and of the floors' random numbers.
        workers: Processes; None: as many as there are cores, at most 8.
        progress: Called with (stage, share done).

    Raises:
        UserError: Not one entry of `samples` per reference, or no reference.
    """
    if len(samples) != len(references) or not references:
        raise UserError(f"got {len(samples)} predictions for {len(references)} references, expected one entry for each")
    lists = [list(one) if isinstance(one, (list, tuple)) else [one] for one in samples]
    rng = np.random.default_rng(seed)
    scores = _csp_scores(lists, references, workers, progress)
    if _has("smact"):
        scores["reference_smact"] = float(np.mean([compositionally_valid(one) for one in references]))
    if metre_samples:
        scores["metre"] = _metre(lists, references, metre_samples, rng, workers)
    report = {"references": len(references), "samples_per_reference": max(map(len, lists)), **scores}
    if floor:
        chosen = rng.permutation(len(references))[:floor]
        report["floors"] = {
            name: _csp_scores(
                [[make(references, i, rng)] for i in chosen], [references[i] for i in chosen], workers, silent
            )
            for name, make in FLOORS.items()
        }
        report["floor_references"] = len(chosen)
    return {**report, "gates": gates(), "versions": versions()}


def _csp_scores(
    lists: list[list[Any]], references: Sequence[Any], workers: int | None, progress: Callable[[str, float], None]
) -> dict[str, Any]:
    """Scores without floors."""
    flat = [(one, reference) for several, reference in zip(lists, references, strict=True) for one in several]
    owner = np.repeat(np.arange(len(lists)), [len(several) for several in lists])
    usual, failures = displacements(flat, USUAL, workers=workers, progress=partial(progress, "matching"))
    strict, more = displacements(flat, STRICT, workers=workers, progress=partial(progress, "strict matching"))
    structural = np.array([structurally_valid(one) for one, _ in flat])
    valid = structural & ~np.isnan(usual)
    if _has("matminer"):
        tested = np.flatnonzero(valid)
        found, _ = fingerprints([flat[i][0] for i in tested], workers, partial(progress, "gate"))
        valid[tested] = ~np.isnan(found).any(1)
    kinds: dict[str, tuple[np.ndarray, Tolerances, tuple[str, ...]]] = {
        "{}": (usual, USUAL, ("match_rate", "rmse", "crmse")),
        "{}_valid": (np.where(valid, usual, np.nan), USUAL, ("match_rate", "rmse")),
        "strict_{}": (strict, STRICT, ("match_rate", "rmse")),
    }
    if _has("smact"):
        formulas = np.array([compositionally_valid(one) and compositionally_valid(other) for one, other in flat])
        kinds["{}_smact"] = (np.where(valid & formulas, usual, np.nan), USUAL, ("match_rate", "rmse"))
    figures, spread = {}, {}
    for name, (values, tolerances, keys) in kinds.items():
        rates, errors = _rates(_best(values, owner, len(lists)), tolerances)
        figures |= {name.format(key): rates[key] for key in keys}
        spread |= {name.format(key): errors[key] for key in keys}
    return {
        **figures,
        "standard_errors": spread,
        "structurally_valid": float(structural.mean()),
        "unusable": sum(one is None for one, _ in flat),
        "comparisons_failed": failures + more,
    }


def _best(values: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    """Smallest displacement of each reference's samples, NaN if none matches."""
    best = np.full(count, np.inf)
    np.minimum.at(best, owner, np.where(np.isnan(values), np.inf, values))
    return np.where(np.isinf(best), np.nan, best)


def _rates(best: np.ndarray, tolerances: Tolerances) -> tuple[dict[str, float | None], dict[str, float | None]]:
    matched = best[~np.isnan(best)]
    filled = np.where(np.isnan(best), tolerances.stol, best)
    rate, n = len(matched) / len(best), len(best)
    figures = {
        "match_rate": rate,
        "rmse": float(matched.mean()) if len(matched) else None,
        "crmse": float(filled.mean()),
    }
    errors: dict[str, float | None] = {
        "match_rate": float(np.sqrt(rate * (1 - rate) / n)),
        "rmse": float(matched.std(ddof=1) / np.sqrt(len(matched))) if len(matched) > 1 else None,
        "crmse": float(filled.std(ddof=1) / np.sqrt(n)) if n > 1 else None,
    }
    return figures, errors


def _metre(
    lists: list[list[Any]], references: Sequence[Any], most: int, rng: np.random.Generator, workers: int | None
) -> float:
    """Share of references that any sample of the same composition matches; at most `most` samples each are tried."""
    pools: dict[str, list[Any]] = {}
    for one in (one for several in lists for one in several if one is not None):
        pools.setdefault(one.composition.reduced_formula, []).append(one)
    pairs, owner = [], []
    for i, (several, reference) in enumerate(zip(lists, references, strict=True)):
        others = pools.get(reference.composition.reduced_formula, [])
        others = [others[j] for j in rng.permutation(len(others))[:most]]
        tried = [*several, *[one for one in others if not any(one is own for own in several)]][
            : max(most, len(several))
        ]
        pairs += [(one, reference) for one in tried]
        owner += [i] * len(tried)
    values, _ = displacements(pairs, USUAL, workers=workers)
    return float((~np.isnan(_best(values, np.array(owner), len(lists)))).mean())


# -- floors ----------------------------------------------------------------------------------------------------------
def _random_coordinates(references: Sequence[Any], i: int, rng: np.random.Generator) -> Any:
    """Uniform coordinates in the true lattice."""
    return _rebuilt(references[i], references[i].lattice, rng.uniform(size=(len(references[i]), 3)))


def _borrowed_lattice(references: Sequence[Any], i: int, rng: np.random.Generator) -> Any:
    """Uniform coordinates in the lattice of another reference of as many atoms (its own if there is none)."""
    others = [j for j, one in enumerate(references) if j != i and len(one) == len(references[i])] or [i]
    return _rebuilt(references[i], references[rng.choice(others)].lattice, rng.uniform(size=(len(references[i]), 3)))


def _shaken(references: Sequence[Any], i: int, rng: np.random.Generator) -> Any:
    """Coordinates moved by 2 % of the cell edges, lattice strained by 1 % (standard deviations)."""
    from pymatgen.core import Lattice

    one = references[i]
    lattice = Lattice(np.asarray(one.lattice.matrix) @ (np.eye(3) + 0.01 * rng.normal(size=(3, 3))))
    return _rebuilt(one, lattice, one.frac_coords + 0.02 * rng.normal(size=(len(one), 3)))


def _rebuilt(one: Any, lattice: Any, coords: np.ndarray) -> Any:
    from pymatgen.core import Structure

    return Structure(lattice, one.species, coords, to_unit_cell=True)


FLOORS: dict[str, Callable[[Sequence[Any], int, np.random.Generator], Any]] = {
    "random_coordinates": _random_coordinates,
    "borrowed_lattice": _borrowed_lattice,
    "shaken_reference": _shaken,
}


# -- de novo ---------------------------------------------------------------------------------------------------------
def evaluate_de_novo(
    samples: Sequence[Any],
    references: Sequence[Any],
    others: Sequence[Any] | None = None,
    *,
    cutoffs: tuple[float, float] = CUTOFFS["mp_20"],
    coverage: int = 500,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[str, float], None] = silent,
) -> dict[str, Any]:
    """Scores of structures that were generated freely.

    Args:
        samples: pymatgen structures or None.
        references: The test set.
        others: Other real crystals (training or validation set): scored as if they had been generated, which is the
            floor of every figure; None: no floors.
        cutoffs: Of structure and composition fingerprints, see `CUTOFFS`.
        coverage: Structures of each side behind the coverage (a seeded choice; 0.2-0.3 s each); 0: no coverage.
        seed: Of the choices.
        workers: Processes.
        progress: Called with (stage, share done).

    Returns:
        structural_validity, compositional_validity (None without smact), validity, cov_recall, cov_precision (None
        without matminer), w1_density (g/cm3), w1_elements, counts, `floors` and `versions`.

    Raises:
        UserError: No sample or no reference.
    """
    if not len(samples) or not len(references):
        raise UserError(f"got {len(samples)} samples and {len(references)} references, expected at least one of each")
    report = _de_novo_scores(samples, references, cutoffs, coverage, seed, workers, progress)
    if others:
        rng = np.random.default_rng(seed + 1)
        drawn = [others[i] for i in rng.permutation(len(others))[: len(samples)]]
        report["floors"] = {
            "real_crystals": _de_novo_scores(drawn, references, cutoffs, coverage, seed, workers, progress)
        }
    return {
        "samples": len(samples),
        "references": len(references),
        **report,
        "cutoffs": cutoffs,
        "versions": versions(),
    }


def _de_novo_scores(
    samples: Sequence[Any],
    references: Sequence[Any],
    cutoffs: tuple[float, float],
    coverage: int,
    seed: int,
    workers: int | None,
    progress: Callable[[str, float], None],
) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    structural = np.array([structurally_valid(one) for one in samples])
    formula = np.array([compositionally_valid(one) for one in samples]) if _has("smact") else None
    valid = structural if formula is None else structural & formula
    kept = [samples[i] for i in rng.permutation(np.flatnonzero(valid))[:W1_SAMPLES]]
    figures: dict[str, Any] = {
        "structural_validity": float(structural.mean()),
        "compositional_validity": None if formula is None else float(formula.mean()),
        "validity": float(valid.mean()),
        "unusable": sum(one is None for one in samples),
        "w1_density": _w1([one.density for one in kept], [one.density for one in references]),
        "w1_elements": _w1([len(one.composition) for one in kept], [len(one.composition) for one in references]),
    }
    if coverage and _has("matminer"):
        tried = [samples[i] if structural[i] else None for i in rng.permutation(len(samples))[:coverage]]
        target = [references[i] for i in np.random.default_rng(seed).permutation(len(references))[:coverage]]
        figures |= coverage_scores(tried, target, cutoffs, workers, progress)
    return figures


def coverage_scores(
    samples: Sequence[Any],
    references: Sequence[Any],
    cutoffs: tuple[float, float],
    workers: int | None = None,
    progress: Callable[[str, float], None] = silent,
) -> dict[str, Any]:
    """COV-R and COV-P (CDVAE): nearest neighbours within both cut-offs, which may be different structures.

    Both grow with the numbers of structures (published: 10 000 samples against a whole test set; 60 real perovskites
    cover 23 % of 60 others). Compare only figures of equal numbers, and with the floor.

    Samples without a fingerprint count as not covering; the divisor of COV-P is the number of all samples.
    """
    one, other = (fingerprints(s, workers, partial(progress, "fingerprints")) for s in (samples, references))
    within_samples = np.ones(len(samples), bool)
    within_references = np.ones(len(references), bool)
    for ours, theirs, cutoff in zip(one, other, cutoffs, strict=True):
        distances = _distances(ours, theirs)
        within_samples &= distances.min(1, initial=np.inf) <= cutoff
        within_references &= distances.min(0, initial=np.inf) <= cutoff
    known = ~np.isnan(other[0]).any(1)
    return {
        "cov_recall": float(within_references[known].mean()) if known.any() else None,
        "cov_precision": float(within_samples.mean()),
        "cov_samples": len(samples),
        "cov_references": int(known.sum()),
    }


def _distances(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(M, 61), (R, 61) -> (M, R), infinite where a fingerprint is missing."""
    from scipy.spatial.distance import cdist

    distances = cdist(np.nan_to_num(ours), np.nan_to_num(theirs))
    distances[np.isnan(ours).any(1)] = np.inf
    distances[:, np.isnan(theirs).any(1)] = np.inf
    return distances


def _w1(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    from scipy.stats import wasserstein_distance

    return float(wasserstein_distance(ours, theirs)) if len(ours) else None


def _has(library: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(library) is not None


def gates() -> dict[str, str]:
    """What the gates test here: name of the rate's ending -> words."""
    missing = "not installed: pip install 'sciflow[crystal-metrics]'"
    with_prints = "a CrystalNN fingerprint" if _has("matminer") else f"no fingerprint (matminer is {missing})"
    valid = f"atoms at least 0.5 A apart, volume at least 0.1 A^3, {with_prints}"
    return {"valid": valid, "smact": "also smact of sample and reference" if _has("smact") else f"smact is {missing}"}


def versions() -> dict[str, str]:
    """Of the libraries that decide the figures."""
    found = {name: version(name) for name in ("pymatgen", "spglib")}
    found |= {"smact": smact_version()} if _has("smact") else {}
    return {**found, **({"matminer": matminer_version()} if _has("matminer") else {})}


def composition_counts(structures: Sequence[Any]) -> dict[str, int]:
    """Reduced formulas and how often they occur, the most common first."""
    return dict(Counter(one.composition.reduced_formula for one in structures if one is not None).most_common())
