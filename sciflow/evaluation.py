"""Evaluation by domain: `sciflow.evaluate(objects, reference="qm9")` gives the numbers of the published protocol.

| domain | protocol | what it computes |
|---|---|---|
| molecules | `gdss` | validity, uniqueness, novelty, connectivity, QED/logP/SA, NSPDK MMD; FCD if `fcd_torch` |
| molecules | `fast` | the same without FCD |
| graphs | `gdss` | degree, clustering, orbit, spectral MMD (Gaussian-EMD kernels); connectivity, copies |
| graphs | `spectre` | the same with total-variation kernels (SPECTRE, DiGress) |
| sequences | `kmer` | k-mer correlation and divergence, diversity, uniqueness, novelty (edit distance), GC content |
| sequences | `motifs` | the same and the correlation of hits of JASPAR 2024 vertebrate motifs, DNA and RNA |
| crystals | `csp` | match rates, RMSE, METRe of predictions that are called like the structures of the reference |
| crystals | `de_novo` | validity, coverage, W1 distances of density and number of elements; with `relax`: S.U.N. |
| trajectories | `forecast` | ADE, FDE, best of K, CRPS, calibration, baselines, torsions; formats: see `archives` |
| trajectories | `unconditional` | marginals, EqMotion classification and prediction; `marginal`: without those two |

Crystals whose names and formulas pair with the reference are taken for predictions, others for de novo samples.
Against `planar`, `grid` and `grid_like` there is a validity test, and with it V.U.N. (valid, unique and novel).
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

PROTOCOLS = {
    "molecules": ("gdss", "fast"),
    "graphs": ("gdss", "spectre"),
    "sequences": ("kmer", "motifs"),
    "crystals": ("csp", "de_novo"),
    "trajectories": ("forecast", "unconditional", "marginal"),
}
DRAWN_GRAPHS = 18  # kept in the result for drawings
DRAWN_SEQUENCES = 1000
ENDINGS = {
    "molecules": (".smi", ".smiles", ".csv", ".tsv", ".sdf"),
    "graphs": (".npz", ".g6", ".graphml", ".json", ".edgelist"),
    "sequences": (".fasta", ".fa", ".fna", ".faa", ".fas", ".ffn", ".fastq", ".fq", ".gb", ".gbk", ".embl"),
    "crystals": (".cif", ".extxyz", ".vasp", ".poscar"),
}


def evaluate(
    objects: str | Path | Sequence[Any],
    reference: str | Path,
    domain: str | None = None,
    protocol: str | None = None,
    train: str | Path | None = None,
    seed: int = 0,
    relax: str | None = None,
    sun_samples: int = 100,
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> dict[str, Any]:
    """Score samples against a reference set.

    Args:
        objects: A file of samples, or a list: RDKit molecules, SMILES, decoding records or None; networkx graphs,
            torch_geometric `Data` (also a `Dataset` or a `Batch`) or None; sequences as strings or None, with `domain`;
            pymatgen structures or None (for protocol `csp` one per reference, in its order).
        reference: A data set's name (its published test split is the reference) or a file: without `train`, a seeded
            share of it is the reference and the rest stands for the training set; with `train` all of it.
        domain: One of the table of the module; None: by the file ending or the type of the objects.
        protocol: See the module docstring; None: the first of the domain.
        train: A data set's name or file: the training set, for novelty and noise floors; None: from `reference`.
        seed: Of the random subsets behind the floors, and of splits of files.
        relax: `chgnet`: de novo crystals are also relaxed, for S.U.N. (extra `chgnet`); None: no S.U.N.
        sun_samples: Samples, and real crystals beside them, that are relaxed, a seeded choice.
        progress: Called with (stage, share done) by what takes long.

    Returns:
        Plain dict: what `evaluate_molecules` (`_graphs`, `_sequences`) of the domain returns, with `domain`,
        `protocol`, `reference_set`, `train_set` and, for a file, `file` added.

    Raises:
        UserError: Unknown domain, protocol or set; unreadable or empty file.
    """
    domain = domain or _domain_of(objects)
    if domain not in PROTOCOLS:
        raise UserError(f"domain: got '{domain}', expected one of {', '.join(PROTOCOLS)}")
    if protocol is None and domain not in ("crystals", "trajectories"):
        protocol = PROTOCOLS[domain][0]
    if protocol is not None and protocol not in PROTOCOLS[domain]:
        raise UserError(f"protocol for {domain}: got '{protocol}', expected one of {', '.join(PROTOCOLS[domain])}")
    if relax is not None and domain != "crystals":
        raise UserError(f"relax: got '{relax}' for {domain}, but only crystals are relaxed; leave it out")
    if domain == "crystals":
        from sciflow.domains.crystals.evaluation import evaluate_crystals

        empty = _sidecar(objects).get("empty_samples", 0) if isinstance(objects, (str, Path)) else 0
        relaxation = (relax, sun_samples)
        report = evaluate_crystals(objects, reference, protocol, train, seed, empty, relaxation, progress)
    elif domain == "trajectories":
        from sciflow.domains.trajectories.archives import evaluate_file

        if not isinstance(objects, (str, Path)):
            raise UserError("trajectories are evaluated from a file; arrays: sciflow.domains.trajectories.evaluation")
        report = evaluate_file(objects, reference, protocol, train, seed)
    elif domain == "sequences":
        report = _sequences(objects, reference, str(protocol), train, seed)
    elif domain == "graphs":
        report = _graphs(objects, reference, str(protocol), train, seed)
    else:
        report = _molecules(objects, reference, str(protocol), train, seed)
    head = {
        "domain": domain,
        "protocol": report.get("protocol", protocol),
        "reference_set": str(reference),
        "train_set": str(train or reference),
    }
    if isinstance(objects, (str, Path)):
        head["file"] = str(objects)
    return {**head, **report}


def _domain_of(objects: str | Path | Sequence[Any]) -> str:
    if isinstance(objects, (str, Path)):
        suffixes = Path(objects).suffixes
        ending = suffixes[-2] if suffixes[-1:] == [".gz"] and len(suffixes) > 1 else Path(objects).suffix
        found = [domain for domain, endings in ENDINGS.items() if ending.lower() in endings]
        if Path(objects).is_dir():
            return "crystals"
        if not found:
            raise UserError(
                f"{objects}: the ending '{ending}' does not tell the domain; give one of {', '.join(PROTOCOLS)}"
            )
        return found[0]
    libraries = {kind.__module__.split(".")[0] for item in (objects, *objects) for kind in type(item).__mro__}
    if "pymatgen" in libraries:
        return "crystals"
    return "graphs" if libraries & {"networkx", "torch_geometric"} else "molecules"


def _graphs(objects: Any, reference: str | Path, protocol: str, train: str | Path | None, seed: int) -> dict[str, Any]:
    from sciflow.domains.graphs.data import graph_dataset, load_graphs
    from sciflow.domains.graphs.files import read_graphs
    from sciflow.domains.graphs.metrics import VALIDITY, evaluate_graphs
    from sciflow.domains.graphs.pyg import from_objects

    if train is None:
        known, _, target, _ = graph_dataset(reference, seed=seed)
    else:
        known, target = load_graphs(train).graphs, load_graphs(reference).graphs
    skipped = {}
    if isinstance(objects, (str, Path)):
        graphs, skipped, _ = read_graphs(objects)
        samples = [*graphs, *[None] * _sidecar(objects).get("empty_samples", 0)]
    else:
        samples = from_objects(objects)
    kernel, valid = "emd" if protocol == "gdss" else "tv", VALIDITY.get(str(reference).lower())
    report = evaluate_graphs(samples, target, known or None, kernel=kernel, valid=valid, seed=seed)
    first = [{"nodes": len(graph), "edges": _local_edges(graph)} for graph in samples if graph][:DRAWN_GRAPHS]
    return {**report, "skipped": {**skipped, **report["skipped"]}, "first_graphs": first}


def _local_edges(graph: Any) -> list[list[int]]:
    """Edges of a graph as pairs of node numbers 0 .. n-1."""
    number = {node: i for i, node in enumerate(graph)}
    return [[number[u], number[v]] for u, v in graph.edges()]


def _molecules(
    objects: Any, reference: str | Path, protocol: str, train: str | Path | None, seed: int
) -> dict[str, Any]:
    from sciflow.data import resolve
    from sciflow.domains.molecules.data import molecule_dataset, parse_file
    from sciflow.domains.molecules.metrics import evaluate_molecules

    notes = []
    if isinstance(objects, (str, Path)):
        objects, note = _read_samples(objects)
        notes.append(note)
    if train is None:
        split = molecule_dataset(reference, validation=0, seed=seed)
        known, target = split.train.smiles, split.test.smiles
    else:
        known, target = parse_file(resolve(train)).smiles, parse_file(resolve(reference)).smiles
    with_fcd = protocol == "gdss" and importlib.util.find_spec("fcd_torch") is not None
    if protocol == "gdss" and not with_fcd:
        notes.append("no FCD: fcd_torch is not installed (pip install 'sciflow[fcd]')")
    statistics = _qm9_statistics() if with_fcd and train is None and str(reference) == "qm9" else None
    report = evaluate_molecules(objects, target, known, reference_statistics=statistics, fcd=with_fcd, seed=seed)
    return {
        **report,
        "reference": len(target),
        "train": len(known),
        "notes": notes,
        "reference_properties": _properties(target, seed),
    }


def _sequences(
    objects: Any, reference: str | Path, protocol: str, train: str | Path | None, seed: int
) -> dict[str, Any]:
    from sciflow.domains.sequences.data import sequence_dataset
    from sciflow.domains.sequences.files import read_sequences
    from sciflow.domains.sequences.metrics import evaluate_sequences
    from sciflow.domains.sequences.motifs import jaspar_motifs

    alphabet = _alphabet(reference)
    data = sequence_dataset(reference, alphabet=alphabet, seed=seed)
    letters, notes = data.alphabet, []
    if isinstance(objects, (str, Path)):
        table, read = read_sequences(objects, letters)
        empty = read.n_skipped + _sidecar(objects).get("empty_samples", 0)
        notes.append(f"{read}; {empty} samples without a sequence count as invalid")
        objects = [*table.sequences, *[None] * empty]
    if train is None:
        known, target = data.part("train").strings(), data.part("test").strings()
    else:
        known, target = sequence_dataset(train, alphabet=alphabet, seed=seed).strings(), data.strings()
    if protocol == "motifs" and len(letters) != 4:
        raise UserError("protocol motifs is for nucleotides, got protein sequences; use --protocol kmer")
    motifs = jaspar_motifs() if protocol == "motifs" else ()
    report = evaluate_sequences(objects, target, letters.name, train=known, motifs=motifs, seed=seed)
    real = random.Random(seed).sample(target, min(len(target), DRAWN_SEQUENCES))
    facts = {"alphabet": letters.name, "reference": len(target), "train": len(known), "notes": notes}
    return {**report, **facts, "reference_sequences": real}


def _alphabet(reference: str | Path) -> str:
    """Nucleotides where most entries of a file are made of them, else amino acids; named sets know theirs."""
    from sciflow.data import resolve
    from sciflow.domains.sequences.alphabets import DNA
    from sciflow.domains.sequences.data import LOADERS
    from sciflow.domains.sequences.files import read_sequences

    if str(reference) in LOADERS:
        return "dna"
    try:
        _, read = read_sequences(resolve(reference), DNA)
    except UserError as error:
        if "got no dna sequence" in str(error):
            return "protein"
        raise
    return "dna" if read.n_read >= read.n_skipped else "protein"


def _read_samples(path: str | Path) -> tuple[list[Any], str]:
    """Molecules of a file, then None for each sample that is no molecule (it counts as invalid), and a note on both."""
    from rdkit import rdBase

    from sciflow.domains.molecules.files import ReadReport, iterate_molecules

    read = ReadReport()
    with rdBase.BlockLogs():
        molecules = list(iterate_molecules(path, read))
    listed = str(path).endswith(".csv")  # a CSV keeps a line without SMILES for an empty sample, others do not
    empty = 0 if listed else _sidecar(path).get("empty_samples", 0)
    if not molecules and not empty and not (listed and read.n_skipped):
        raise UserError(f"{path}: got no molecule ({read}), expected at least one valid SMILES or SDF entry")
    empty += read.n_skipped
    return [*molecules, *[None] * empty], f"{read}; {empty} samples without a molecule count as invalid"


def _properties(smiles: list[str], seed: int, count: int = 500) -> dict[str, list[float]]:
    """QED, logP and SA score of a random part of the reference, for histograms."""
    from rdkit import Chem

    from sciflow.domains.molecules.metrics import PROPERTIES

    chosen = random.Random(seed).sample(smiles, min(count, len(smiles)))
    molecules = [Chem.MolFromSmiles(one) for one in chosen]
    return {name: [float(function(molecule)) for molecule in molecules] for name, function in PROPERTIES.items()}


def _qm9_statistics() -> Any:
    """Stored ChemNet statistics of the QM9 test set; None (they are then computed) where the file is missing."""
    from sciflow.domains.molecules.metrics import qm9_test_statistics

    try:
        return qm9_test_statistics()
    except UserError:
        return None


def _sidecar(path: str | Path) -> dict[str, Any]:
    """Settings that `sciflow sample` wrote beside a file, or nothing."""
    try:
        content = json.loads(Path(f"{path}.json").read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
