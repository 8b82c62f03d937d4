"""Evaluation of a file or list of crystals: which protocol, against what, and everything a page shows.

Samples whose names and formulas pair with the reference are taken for predictions (`csp`), others for de novo samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError
from sciflow.data import DATASETS
from sciflow.domains.crystals.data import FULL, crystal_dataset, load_crystals
from sciflow.domains.crystals.design import symmetry
from sciflow.domains.crystals.files import read_structures
from sciflow.domains.crystals.metrics import CUTOFFS, evaluate_csp, evaluate_de_novo
from sciflow.domains.crystals.predict import pair_by_name
from sciflow.domains.crystals.relax import chgnet_version
from sciflow.domains.crystals.stability import evaluate_stability
from sciflow.domains.crystals.validity import structurally_valid

DRAWN = 12
METRE_SAMPLES = 10  # of its composition that are tried for each reference


def evaluate_crystals(
    objects: Any,
    reference: str | Path,
    protocol: str | None,
    train: str | Path | None,
    seed: int,
    empty: int = 0,
    relaxation: tuple[str | None, int] = (None, 100),
    progress: Callable[[str, float], None] = lambda stage, share: None,
) -> dict[str, Any]:
    """Scores of crystals; see `sciflow.evaluate`.

    Args:
        objects: A file, or a list: pymatgen structures, None or lists of those.
        reference: A data set's name or file.
        protocol: csp, de_novo or None: by names and formulas.
        train: Training set, for floors and novelty; None: the other published set.
        seed: Of the random choices.
        empty: Samples without a structure, which a file cannot hold.
        relaxation: ("chgnet" or None, samples that are relaxed).
        progress: Called with (stage, share done).

    Raises:
        UserError: Something is not found or cannot be read, names do not pair for csp, or S.U.N. was asked for
            predictions or without chgnet.
    """
    if relaxation[0] not in (None, "chgnet"):
        raise UserError(f"relax: got '{relaxation[0]}', expected chgnet")
    if relaxation[0] is not None:
        chgnet_version()  # before anything that takes long
    target, known, known_name = _sets(reference, train)
    references, names, notes, paired = target.structures(), None, [], None
    if isinstance(objects, (str, Path)):
        structures, names, read = read_structures(objects)
        notes.append(f"{read}; {empty + read.n_skipped} samples without a structure count as failures.")
        objects = [*structures, *[None] * (empty + read.n_skipped)]
        paired = _paired(structures, names, target.identifiers, references, protocol)
    elif protocol == "csp":
        paired = list(objects)
    labels = [*(names or []), *map(str, range(len(names or []), len(objects)))]
    table = [_row(name, one) for name, one in zip(labels, objects, strict=True)]
    if paired is not None:
        if relaxation[0] is not None:
            raise UserError("relax: S.U.N. is a score of de novo samples, got predictions; leave it out")
        missing = sum(several is None or several == [None] for several in paired)
        if missing:
            notes.append(f"{missing} references without a prediction count as failures.")
        scores = evaluate_csp(paired, references, metre_samples=METRE_SAMPLES, seed=seed, progress=progress)
    else:
        others = None if known is None else known.structures()
        if others is None:
            notes.append("No floors: give other real crystals with --train.")
        cutoffs = _cutoffs(str(reference), known_name)
        scores = evaluate_de_novo(objects, references, others, cutoffs=cutoffs, seed=seed, progress=progress)
        if relaxation[0] is not None:
            scores["sun"] = _stability(objects, references, others or [], relaxation[1], seed, progress, table)
    truth = None if names is None or paired is None else dict(zip(target.identifiers, references, strict=True))
    return {
        "protocol": "de_novo" if paired is None else "csp",
        "train_set": known_name,
        **scores,
        "notes": notes,
        "table": table,
        "reference_table": [_row(name, one) for name, one in zip(target.identifiers, references, strict=True)],
        "first_structures": _pictures(table, objects, truth),
    }


def _stability(
    objects: list[Any],
    references: list[Any],
    training: list[Any],
    count: int,
    seed: int,
    progress: Callable[[str, float], None],
    table: list[dict[str, Any]],
) -> dict[str, Any]:
    """S.U.N.; the energies above the partial hull also go into the rows of `table`."""
    found = evaluate_stability(objects, references, training, count=count, seed=seed, progress=progress)
    for place, above in zip(found["chosen"], found["above"], strict=True):
        table[place]["above_partial_hull"] = above
    return found


def _sets(reference: str | Path, train: str | Path | None) -> tuple[Any, Any, str]:
    """Reference crystals; other real ones (of `train`, or the published other set) or None; the name of those."""
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


def _cutoffs(*names: str) -> tuple[float, float]:
    """Of the data set, those of MP-20 for any other."""
    return next((two for key, two in CUTOFFS.items() if any(name.startswith(key) for name in names)), CUTOFFS["mp_20"])


def _paired(
    structures: list[Any], names: list[str], identifiers: list[str], references: list[Any], protocol: str | None
) -> list[Any] | None:
    """Predictions of each reference, or None if the samples are none."""
    if protocol == "de_novo":
        return None
    try:
        paired = pair_by_name(names, structures, identifiers)
    except UserError:
        if protocol == "csp":
            raise
        return None
    return paired if protocol == "csp" or _same_formulas(paired, references) else None


def _same_formulas(paired: list[list[Any]], references: list[Any]) -> bool:
    """Whether most predictions have the composition of the structure that they are called like."""
    pairs = [(several[0], one) for several, one in zip(paired, references, strict=True) if several[0] is not None]
    equal = sum(a.composition.reduced_formula == b.composition.reduced_formula for a, b in pairs)
    return 2 * equal > len(pairs)


def _row(name: str, structure: Any) -> dict[str, Any]:
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


def _pictures(
    table: list[dict[str, Any]], objects: Sequence[Any], truth: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """The first structures, those of known energy before others; predictions each beside what they should be."""
    drawn = [
        (row["name"], one, row.get("above_partial_hull"))
        for row, one in zip(table, objects, strict=True)
        if one is not None and not isinstance(one, (list, tuple))
    ]
    drawn.sort(key=lambda one: one[2] is None)
    if truth is not None:
        pairs = [(one, (f"{one[0]}: reference", truth.get(one[0].partition("__")[0]), None)) for one in drawn]
        drawn = [one for pair in pairs[: DRAWN // 2] for one in pair if one[1] is not None]
    return [_picture(*one) for one in drawn[:DRAWN]]


def _picture(name: str, structure: Any, above: float | None) -> dict[str, Any]:
    symbol, number = symmetry(structure)
    label = f"{name}, {structure.composition.reduced_formula}, {symbol} ({number})"
    if above is not None:
        label += f", relaxed {above:+.3f} eV/atom from the partial hull"
    return {"label": label, "structure": structure.as_dict()}
