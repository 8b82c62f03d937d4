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
| crystals | `de_novo` | structural, compositional validity, coverage, W1 distances of density, number of elements |

Crystals whose names and formulas pair with the reference are taken for predictions, others for de novo samples.
Against `planar`, `grid` and `grid_like` there is a validity test, and with it V.U.N. (valid, unique and novel).
"""

from __future__ import annotations

import importlib.util
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

PROTOCOLS = {
    "molecules": ("gdss", "fast"),
    "graphs": ("gdss", "spectre"),
    "sequences": ("kmer", "motifs"),
    "crystals": ("csp", "de_novo"),
}
DRAWN_GRAPHS = 18  # kept in the result for drawings
DRAWN_SEQUENCES = 1000
DRAWN_CRYSTALS = 12
METRE_SAMPLES = 10  # of its composition that are tried for each reference
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
) -> dict[str, Any]:
    """Score samples against a reference set.

    Args:
        objects: A file of samples, or a list: RDKit molecules, SMILES, decoding records or None; networkx graphs,
            torch_geometric `Data` (also a `Dataset` or a `Batch`) or None; sequences as strings or None, with `domain`;
            pymatgen structures or None (for protocol `csp` one per reference, in its order).
        reference: A data set's name (its published test split is the reference) or a file: without `train`, a seeded
            share of it is the reference and the rest stands for the training set; with `train` all of it.
        domain: `molecules`, `graphs`, `sequences` or `crystals`; None: by the file ending or the type of the objects.
        protocol: See the module docstring; None: the first of the domain.
        train: A data set's name or file: the training set, for novelty and noise floors; None: from `reference`.
        seed: Of the random subsets behind the floors, and of splits of files.

    Returns:
        Plain dict: what `evaluate_molecules` (`_graphs`, `_sequences`) of the domain returns, with `domain`,
        `protocol`, `reference_set`, `train_set` and, for a file, `file` added.

    Raises:
        UserError: Unknown domain, protocol or set; unreadable or empty file.
    """
    domain = domain or _domain_of(objects)
    if domain not in PROTOCOLS:
        raise UserError(f"domain: got '{domain}', expected one of {', '.join(PROTOCOLS)}")
    if protocol is None and domain != "crystals":
        protocol = PROTOCOLS[domain][0]
    if protocol is not None and protocol not in PROTOCOLS[domain]:
        raise UserError(f"protocol for {domain}: got '{protocol}', expected one of {', '.join(PROTOCOLS[domain])}")
    if domain == "crystals":
        report = _crystals(objects, reference, protocol, train, seed)
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


def _crystals(
    objects: Any, reference: str | Path, protocol: str | None, train: str | Path | None, seed: int
) -> dict[str, Any]:
    from sciflow.domains.crystals.files import read_structures
    from sciflow.domains.crystals.metrics import CUTOFFS, evaluate_csp, evaluate_de_novo
    from sciflow.domains.crystals.predict import pair_by_name

    target, known, known_name = _crystal_sets(reference, train)
    references, names, notes, paired = target.structures(), None, [], None
    if isinstance(objects, (str, Path)):
        structures, names, read = read_structures(objects)
        empty = _sidecar(objects).get("empty_samples", 0)
        notes.append(f"{read}; {empty + read.n_skipped} samples without a structure count as failures.")
        objects = [*structures, *[None] * (empty + read.n_skipped)]
        try:
            paired = None if protocol == "de_novo" else pair_by_name(names, structures, target.identifiers)
        except UserError:
            if protocol == "csp":
                raise
        if protocol is None and not (paired and _same_formulas(paired, references)):
            paired = None
    elif protocol == "csp":
        paired = list(objects)
    if paired is not None:
        missing = sum(several is None or several == [None] for several in paired)
        if missing:
            notes.append(f"{missing} references without a prediction count as failures.")
        scores = evaluate_csp(paired, references, metre_samples=METRE_SAMPLES, seed=seed)
    else:
        sets = (str(reference), known_name)
        cutoffs = next(
            (two for name, two in CUTOFFS.items() if any(s.startswith(name) for s in sets)), CUTOFFS["mp_20"]
        )
        others = None if known is None else known.structures()
        scores = evaluate_de_novo(objects, references, others, cutoffs=cutoffs, seed=seed)
        if known is None:
            notes.append("No floors: give other real crystals with --train.")
    labels = [*(names or []), *map(str, range(len(names or []), len(objects)))]
    drawn = [(name, one) for name, one in zip(labels, objects, strict=True) if one is not None and one != [None]]
    pictures = drawn[:DRAWN_CRYSTALS]
    if names is not None and paired is not None:  # each beside what it should be
        truth = dict(zip(target.identifiers, references, strict=True))
        pictures = [
            pair
            for name, one in drawn[: DRAWN_CRYSTALS // 2]
            for pair in ((name, one), (f"{name}: reference", truth.get(name.partition("__")[0])))
            if pair[1] is not None
        ]
    return {
        "protocol": "de_novo" if paired is None else "csp",
        "train_set": known_name,
        **scores,
        "notes": notes,
        "table": [_crystal_row(name, one) for name, one in zip(labels, objects, strict=True)],
        "reference_table": [_crystal_row(name, one) for name, one in zip(target.identifiers, references, strict=True)],
        "first_structures": [_picture(name, one) for name, one in pictures if not isinstance(one, (list, tuple))],
    }


def _crystal_sets(reference: str | Path, train: str | Path | None) -> tuple[Any, Any, str]:
    """Reference crystals; other real ones (of `train`, or the published other set) or None; the name of those."""
    from sciflow.data import DATASETS
    from sciflow.domains.crystals.data import FULL, crystal_dataset, load_crystals

    if train is None and str(reference) in FULL:
        split = crystal_dataset(str(reference))
        return split.test, split.train, str(reference)
    other: str | Path | None = train
    partner = str(reference).removesuffix("_test") + "_val"
    if train is None and partner in DATASETS:
        other = partner
    target = load_crystals(reference)[0]
    try:
        return (target, None, "none") if other is None else (target, load_crystals(other)[0], str(other))
    except UserError:
        if train is not None:
            raise
        return target, None, "none"


def _same_formulas(paired: list[list[Any]], references: list[Any]) -> bool:
    """Whether most predictions have the composition of the structure that they are called like."""
    pairs = [(several[0], one) for several, one in zip(paired, references, strict=True) if several[0] is not None]
    equal = sum(a.composition.reduced_formula == b.composition.reduced_formula for a, b in pairs)
    return 2 * equal > len(pairs)


def _crystal_row(name: str, structure: Any) -> dict[str, Any]:
    from sciflow.domains.crystals.validity import structurally_valid

    if structure is None or isinstance(structure, (list, tuple)):
        return {"name": name, "formula": None, "atoms": None, "valid": None, "density": None, "volume": None}
    return {
        "name": name,
        "formula": structure.composition.reduced_formula,
        "atoms": len(structure),
        "valid": structurally_valid(structure),
        "density": float(structure.density),
        "volume": structure.volume / len(structure),
    }


def _picture(name: str, structure: Any) -> dict[str, Any]:
    from sciflow.domains.crystals.design import symmetry

    symbol, number = symmetry(structure)
    label = f"{name}, {structure.composition.reduced_formula}, {symbol} ({number})"
    return {"label": label, "structure": structure.as_dict()}


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
