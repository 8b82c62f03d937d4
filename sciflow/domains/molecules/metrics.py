r"""The published protocol for molecules (GDSS, Jo, Lee & Hwang, ICML 2022) and what it hides.

* Validity without correction = valid before correction / molecules that survive decoding (the published ratio), and
  over all samples (strict). Uniqueness = distinct SMILES / survivors; novelty = share of the distinct ones not in the
  training set. SMILES are canonical without stereo.
* NSPDK MMD: squared, biased, between graphs with element symbols and integer bond orders (aromatic 1.5 becomes 1).
* FCD (Preuer et al. 2018): Frechet distance of ChemNet activations,
  :math:`|\mu - \mu_r|^2 + tr(C + C_r - 2 (C^{1/2} C_r C^{1/2})^{1/2})`; a distance, lower is better. It falls with
  the number of samples: compare only at equal N.
* Connectivity counts samples in one piece *before* the largest fragment is taken; a plain SMILES does not tell.

The *floor* of a figure is what real data score: as many random training molecules in the place of the samples (for
novelty the reference molecules, for property means the reference set).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import QED, Crippen

from sciflow.core.errors import UserError, require
from sciflow.data import resolve
from sciflow.domains.molecules.decode import DecodedMolecule
from sciflow.domains.molecules.rewards import sa_score

if TYPE_CHECKING:
    import networkx as nx

# FCD of N random QM9 training molecules against the published test set (shared/data/molecules/README.md, section 6).
QM9_FCD_FLOOR = {500: 0.777, 1000: 0.387, 2000: 0.212, 5000: 0.113, 10000: 0.077}
PROPERTIES = {"qed": QED.qed, "logp": Crippen.MolLogP, "sa": sa_score}  # type: ignore[attr-defined]
PROPERTY_SAMPLE = 1000  # molecules of the reference set behind its property means
CHEMNET_LENGTH = 350  # longest SMILES that ChemNet takes

Sample = DecodedMolecule | Chem.Mol | str | None
Statistics = tuple[np.ndarray, np.ndarray]  # mean (512,), covariance (512, 512)


def evaluate_molecules(
    generated: Sequence[Sample],
    reference: Sequence[str],
    train: Sequence[str],
    *,
    reference_statistics: Statistics | None = None,
    fcd: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of generated molecules against a test set.

    Args:
        generated: one entry per sample: decoding records, molecules, SMILES, or None. Validity without correction and
            connectivity need records, or molecules that `MoleculeCodec.to_objects` made (or a file of those).
        reference: canonical SMILES of the test set.
        train: canonical SMILES of the training set, for novelty and floors.
        reference_statistics: `qm9_test_statistics()` if the reference is that set (whose floors are tabulated); None:
            ChemNet statistics and floor are computed.
        fcd: leave the Frechet ChemNet Distance out with False (about 6 ms per molecule; needs the extra ``fcd``).
        seed: of the random training molecules behind the floors.

    Returns:
        ``{"samples", "molecules", "metrics", "table"}``: the number of samples and of surviving molecules; per metric
        ``{"value", "standard_error", "floor", "n", "better"}`` (None where not available); one row per sample with
        smiles, valid, valid_without_correction, connected, unique (first of its kind), novel, qed, logp, sa, error.

    Raises:
        UserError: nothing generated, or no reference.
    """
    if not generated or not reference or not train:
        raise UserError(
            f"evaluation: got {len(generated)} samples, {len(reference)} reference and {len(train)} training "
            "molecules, expected at least one of each"
        )
    with rdBase.BlockLogs():
        samples = [Chem.MolFromSmiles(sample) if isinstance(sample, str) else sample for sample in generated]
        table = _table([_as_record(sample) for sample in samples], set(train))
        for column, tag in (("valid_without_correction", "corrected"), ("connected", "connected")):
            if not all(_knows(sample, tag) for sample in samples):
                for row in table:
                    row[column] = None
        count = sum(row["valid"] for row in table)
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(train), min(max(count, 1), len(train)), replace=False)
        floor = [train[int(i)] for i in chosen]
        metrics = _ratios(table, reference, set(train), floor)
        metrics |= _property_means(table, reference, rng)
        smiles = [row["smiles"] for row in table if row["valid"]]
        metrics["nspdk_mmd"] = _figure(nspdk_mmd(smiles, reference), nspdk_mmd(floor, reference), count, "lower")
        if fcd:
            metrics["fcd"] = _fcd_figure(smiles, reference, floor, reference_statistics)
    return {"samples": len(table), "molecules": count, "metrics": metrics, "table": table}


def _as_record(sample: DecodedMolecule | Chem.Mol | None) -> DecodedMolecule:
    return sample if isinstance(sample, DecodedMolecule) else DecodedMolecule.from_molecule(sample)


def _knows(sample: DecodedMolecule | Chem.Mol | None, tag: str) -> bool:
    """Whether it is on record how a sample decoded (one without a molecule is invalid and in no piece anyhow)."""
    return sample is None or isinstance(sample, DecodedMolecule) or bool(sample.HasProp(tag))


def _table(records: Sequence[DecodedMolecule], train: set[str]) -> list[dict[str, Any]]:
    seen: dict[str, dict[str, Any]] = {}
    table = []
    for record in records:
        row: dict[str, Any] = {"smiles": None, "valid": record.molecule is not None, "connected": record.connected}
        row |= {"valid_without_correction": record.valid_without_correction, "error": record.error}
        row |= dict.fromkeys(("unique", "novel", *PROPERTIES))
        if record.molecule is not None:
            smiles = Chem.MolToSmiles(record.molecule, isomericSmiles=False)
            first = seen.get(smiles)
            row |= {"smiles": smiles, "unique": first is None, "novel": smiles not in train}
            row |= {name: first[name] if first else function(record.molecule) for name, function in PROPERTIES.items()}
            seen.setdefault(smiles, row)
        table.append(row)
    return table


def _figure(value: float, floor: float | None, n: int, better: str, error: float | None = None) -> dict[str, Any]:
    return {"value": value, "standard_error": error, "floor": floor, "n": n, "better": better}


def _ratio(part: int, whole: int, floor: float) -> dict[str, Any]:
    """A share with its binomial standard error; nan of nothing. The published ratio may exceed 1: its error is 0."""
    share = part / whole if whole else math.nan
    error = math.sqrt(max(share * (1 - share), 0) / whole) if whole else None
    return _figure(share, floor, whole, "higher", error)


def _ratios(
    table: list[dict[str, Any]], reference: Sequence[str], train: set[str], floor: Sequence[str]
) -> dict[str, dict[str, Any]]:
    valid = [row for row in table if row["valid"]]
    distinct = [row for row in valid if row["unique"]]
    unseen = set(reference) - train
    figures = {
        "validity": _ratio(len(valid), len(table), 1.0),
        "uniqueness": _ratio(len(distinct), len(valid), len(set(floor)) / len(floor)),
        "novelty": _ratio(sum(row["novel"] for row in distinct), len(distinct), len(unseen) / len(set(reference))),
    }
    if table[0]["connected"] is not None:
        connected = sum(row["connected"] for row in table)
        figures["connectivity"] = _ratio(connected, len(table), _share_connected(floor))
    if table[0]["valid_without_correction"] is not None:
        uncorrected = sum(row["valid_without_correction"] for row in table)
        figures["validity_without_correction"] = _ratio(uncorrected, len(valid), 1.0)
        figures["validity_without_correction_strict"] = _ratio(uncorrected, len(table), 1.0)
    return figures


def _share_connected(smiles: Sequence[str]) -> float:
    return sum("." not in one for one in smiles) / len(smiles)


def _property_means(
    table: list[dict[str, Any]], reference: Sequence[str], rng: np.random.Generator
) -> dict[str, dict[str, Any]]:
    chosen = rng.choice(len(reference), min(PROPERTY_SAMPLE, len(reference)), replace=False)
    molecules = [Chem.MolFromSmiles(reference[i]) for i in chosen]
    figures = {}
    for name, function in PROPERTIES.items():
        values = np.array([row[name] for row in table if row["valid"]])
        floor = float(np.mean([function(molecule) for molecule in molecules]))
        error = float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else None
        value = float(values.mean()) if len(values) else math.nan
        figures[f"mean_{name}"] = _figure(value, floor, len(values), "as floor", error)
    return figures


def molecule_graph(molecule: Chem.Mol) -> nx.Graph:
    """networkx graph with element symbols and integer bond orders (aromatic 1.5 becomes 1) as ``label``."""
    import networkx as nx

    graph = nx.Graph()
    for atom in molecule.GetAtoms():
        graph.add_node(atom.GetIdx(), label=atom.GetSymbol())
    for bond in molecule.GetBonds():
        graph.add_edge(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), label=int(bond.GetBondTypeAsDouble()))
    return graph


def nspdk_mmd(generated: Sequence[str], reference: Sequence[str]) -> float:
    """NSPDK MMD (squared, biased) of two lists of SMILES; nan when one is empty."""
    from sciflow.domains.graphs import nspdk

    graphs = [[molecule_graph(Chem.MolFromSmiles(one)) for one in smiles] for smiles in (generated, reference)]
    return nspdk.nspdk_mmd(*graphs)


def chemnet_statistics(smiles: Sequence[str]) -> Statistics:
    """Mean and covariance of the ChemNet activations of valid SMILES (at least two, each up to 350 characters).

    Raises:
        UserError: fcd_torch is not installed, or there are too few molecules.
    """
    library = require("fcd_torch", "fcd")
    import torch

    usable = [one for one in smiles if len(one) <= CHEMNET_LENGTH]
    if len(usable) < 2:
        raise UserError(f"FCD: got {len(usable)} molecules, expected at least 2")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    activations = library.FCD(device=device, n_jobs=1).get_predictions(usable)
    return activations.mean(0), np.cov(activations.T)


def qm9_test_statistics() -> Statistics:
    """Stored ChemNet statistics of the published QM9 test set (data set ``qm9_test_fcd``)."""
    with np.load(resolve("qm9_test_fcd")) as stored:
        return stored["mu"].astype(float), stored["sigma"].astype(float)


def frechet_distance(first: Statistics, second: Statistics) -> float:
    """Squared Frechet (2-Wasserstein) distance of two Gaussians, each (mean, covariance)."""
    (mean, covariance), (other_mean, other_covariance) = first, second
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.clip(values, 0, None)) @ vectors.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ other_covariance @ root), 0, None)).sum()
    offset = np.asarray(mean) - np.asarray(other_mean)
    return float(offset @ offset + np.trace(covariance) + np.trace(other_covariance) - 2 * cross)


def _fcd_figure(
    smiles: Sequence[str], reference: Sequence[str], floor: Sequence[str], statistics: Statistics | None
) -> dict[str, Any]:
    """FCD and its floor; for the published QM9 statistics the floor is tabulated at round N (taken within 1 %)."""
    if len(smiles) < 2:
        return _figure(math.nan, None, len(smiles), "lower")
    published = statistics is not None
    if statistics is None:
        statistics = chemnet_statistics(reference)
    value = frechet_distance(chemnet_statistics(smiles), statistics)
    known = [value for n, value in QM9_FCD_FLOOR.items() if published and abs(n - len(smiles)) <= n / 100]
    floor_value = known[0] if known else None
    if floor_value is None:
        floor_value = frechet_distance(chemnet_statistics(floor), statistics) if len(floor) > 1 else None
    return _figure(value, floor_value, len(smiles), "lower")
