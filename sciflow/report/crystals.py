"""Tables, drawings and sections of crystal structures: a design run, predictions, de novo samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sciflow.report.html import Section, Table, histogram, shown

DRAWN = 12
DESIGN_COLUMNS: dict[str, str] = {
    "rank": "rank",
    "spacegroup": "space group",
    "spacegroup_number": "no.",
    "energy": "energy",
    "formation_energy": "formation",
    "above_partial_hull": "above partial hull",
    "reward": "reward",
    "copies": "samples",
    "edges": "a b c [A]",
    "angles": "angles",
    "density": "g/cm3",
    "converged": "converged",
}
COUNTS = {
    "unusable": "without a usable structure",
    "not_relaxed": "without an energy",
}


def design_table(design: Any) -> Table:
    """One row per distinct structure, best first."""
    table = [
        {**row, "edges": _joined(row, ("a", "b", "c"), 3), "angles": _joined(row, ("alpha", "beta", "gamma"), 1)}
        for row in design.table
    ]
    keys = [key for key in DESIGN_COLUMNS if any(row.get(key) is not None for row in table)] or ["rank"]
    rows = [[_rounded(row.get(key)) for key in keys] for row in table]
    counts = design.counts
    left = [f"{counts[key]} {text}" for key, text in COUNTS.items() if counts.get(key)]
    note = f"{design.formula}: {counts['samples']} samples, {counts['distinct']} distinct structures"
    note += f"; left out: {', '.join(left)}." if left else "."
    return Table(
        [DESIGN_COLUMNS[key] for key in keys],
        rows,
        " ".join([note, *(f"{one[0].upper()}{one[1:]}." for one in design.notes)]),
    )


def _joined(row: Mapping[str, Any], keys: Sequence[str], digits: int) -> str:
    return " ".join(f"{row[key]:.{digits}f}" for key in keys)


def baseline_table(design: Any) -> Table:
    """Rewards of the methods at equal budget; no rows without a reward."""
    keys = {"mean": "mean reward", "best": "best reward", "network_rows": "network evaluations"}
    rows = [[text, *(one[key] for one in design.baselines.values())] for key, text in keys.items()]
    note = "Rewards of the samples as they come from the model, before relaxation."
    return Table(["", *(name.replace("_", " ") for name in design.baselines)], rows if design.baselines else [], note)


def design_sections(design: Any) -> list[Section]:
    """Table, drawings, and the comparison with plain sampling where there was a reward."""
    labels = [_label(row) for row in design.table]
    sections = [
        Section(f"Structures of {design.formula}", "Distinct structures, best first.", design_table(design)),
        Section("Unit cells", "", figures=drawings(design.structures, labels)),
    ]
    if design.baselines:
        sections.append(Section("Rewards", "", baseline_table(design)))
    return sections


def _label(row: Mapping[str, Any]) -> str:
    parts = [f"{row['rank']}. {row['formula']}", f"{row['spacegroup']} ({row['spacegroup_number']})"]
    if row.get("above_partial_hull") is not None:
        parts.append(f"{row['above_partial_hull']:+.3f} eV/atom from the partial hull")
    elif row.get("energy") is not None:
        parts.append(f"{row['energy']:.3f} eV/atom")
    return ", ".join(parts)


def drawings(structures: Sequence[Any], labels: Sequence[str]) -> list[str]:
    """Unit cells with a line of text below each, the first `DRAWN`; the heaviest atom is moved to the corner."""
    import html

    from sciflow.domains.crystals.render import unit_cell_svg

    return [
        f"{unit_cell_svg(_centred(one))}<figcaption>{html.escape(label)}</figcaption>"
        for one, label in list(zip(structures, labels, strict=True))[:DRAWN]
    ]


def _centred(structure: Any) -> Any:
    """The same crystal with its heaviest atom at the origin, so that drawings can be compared."""
    heaviest = max(range(len(structure)), key=lambda i: structure[i].specie.Z)
    moved = structure.copy()
    moved.translate_sites(range(len(moved)), -structure[heaviest].frac_coords, to_unit_cell=True)
    return moved


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


# -- evaluation ------------------------------------------------------------------------------------------------------
CSP_METRICS: dict[str, tuple[str, float]] = {
    "match_rate": ("match rate, no gate [%]", 100),
    "match_rate_valid": ("match rate, CrysBFN gate [%]", 100),
    "match_rate_smact": ("match rate, CDVAE gate (smact) [%]", 100),
    "rmse": ("RMSE of the matched", 1),
    "rmse_valid": ("RMSE, CrysBFN gate", 1),
    "rmse_smact": ("RMSE, CDVAE gate", 1),
    "crmse": ("cRMSE, all references", 1),
    "strict_match_rate": ("strict match rate [%]", 100),
    "strict_rmse": ("strict RMSE", 1),
    "metre": ("METRe [%]", 100),
    "structurally_valid": ("structurally valid [%]", 100),
}
DE_NOVO_METRICS: dict[str, tuple[str, float]] = {
    "structural_validity": ("structurally valid [%]", 100),
    "compositional_validity": ("compositionally valid [%]", 100),
    "validity": ("valid [%]", 100),
    "cov_recall": ("COV-R [%]", 100),
    "cov_precision": ("COV-P [%]", 100),
    "w1_density": ("W1 of density [g/cm3]", 1),
    "w1_elements": ("W1 of number of elements", 1),
}
SUN_METRICS = {
    "stable": "stable, at most 0 eV/atom above the PARTIAL hull [%]",
    "metastable": "metastable, at most 0.1 eV/atom above it [%]",
    "unique": "unique [%]",
    "novel": "novel [%]",
    "sun": "S.U.N. [%]",
    "metastable_sun": "S.U.N., metastable [%]",
}
PUBLISHED_COVERAGE = (
    "Published coverage: 10,000 samples against the whole test set, cut-offs (structure, composition) 0.2 and 4 for "
    "Perov-5 and Carbon-24, 0.4 and 10 for MP-20"
)
FLOOR_NAMES = {
    "random_coordinates": "random coordinates, true lattice",
    "borrowed_lattice": "random coordinates, another lattice",
    "shaken_reference": "shaken reference (2 %)",
    "real_crystals": "real crystals",
}


def crystal_table(report: Mapping[str, Any]) -> Table:
    """Metric, ours, standard error (CSP), floors."""
    csp, floors = report["protocol"] == "csp", report.get("floors", {})
    errors = report.get("standard_errors", {})
    rows = []
    for key, (name, factor) in (CSP_METRICS if csp else DE_NOVO_METRICS).items():
        if key not in report:
            continue
        figures = [report[key], *([errors.get(key)] if csp else []), *(floor.get(key) for floor in floors.values())]
        rows.append([name, *(None if figure is None else factor * figure for figure in figures)])
    if "sun" in report:
        rows += _sun_rows(report["sun"], len(floors))
    columns = ["", "ours", *(["std. error"] if csp else []), *(FLOOR_NAMES[name] for name in floors)]
    return Table(columns, rows, " ".join([*(_csp_notes(report) if csp else _de_novo_notes(report)), *report["notes"]]))


def _sun_rows(sun: Mapping[str, Any], floors: int) -> list[list[Any]]:
    """Shares of the samples and of real crystals; the same columns as the table of de novo samples."""
    real = sun.get("floors", {}).get("real_crystals", {})
    beside = [[None if name not in real else 100 * real[name]][:floors] for name in SUN_METRICS]
    return [[text, 100 * sun[name], *more] for (name, text), more in zip(SUN_METRICS.items(), beside, strict=True)]


def _csp_notes(report: Mapping[str, Any]) -> list[str]:
    floors, ceiling = report.get("floor_references"), report.get("reference_smact")
    return [
        f"{report['references']} references, up to {report['samples_per_reference']} samples each (best of them), "
        f"{report['unusable']} unusable; {report['comparisons_failed']} comparisons failed.",
        "Match: stol 0.5, 10 degrees, ltol 0.3; strict: 0.3, 5 degrees, 0.2. RMSE leaves failures out; cRMSE counts "
        f"them with stol. CrysBFN gate: {report['gates']['valid']}. CDVAE gate: {report['gates']['smact']}"
        + (f"; {100 * ceiling:.1f} % of the references pass smact." if ceiling is not None else "."),
        *([f"Floors and noise floor: {floors} references drawn at random."] if floors else []),
    ]


def _de_novo_notes(report: Mapping[str, Any]) -> list[str]:
    structural, composition = report["cutoffs"]
    notes = [f"{report['samples']} samples ({report['unusable']} unusable) against {report['references']} references."]
    if "cov_samples" in report:
        notes.append(
            f"Coverage: {report['cov_samples']} samples and {report['cov_references']} references, cut-offs "
            f"{structural:g} and {composition:g}; it grows with their numbers, compare it with the floor only. "
            f"{PUBLISHED_COVERAGE}."
        )
    if "sun" in report:
        sun = report["sun"]
        notes.append(
            f"S.U.N. of {len(sun['chosen'])} samples (standard error of the share "
            f"{100 * sun['standard_errors']['sun']:.1f} %, of metastable S.U.N. "
            f"{100 * sun['standard_errors']['metastable_sun']:.1f} %), {sun['unknown']} without an energy above the "
            f"hull, {sun['not_converged']} not converged: {sun['protocol']}. Upper bounds, as competing phases are "
            "missing; real crystals: as many of the reference set."
        )
    return notes


def crystal_sections(report: Mapping[str, Any]) -> list[Section]:
    """Table, unit cells, histograms of density and volume, the table of all samples."""
    from pymatgen.core import Structure

    first = [Structure.from_dict(one["structure"]) for one in report["first_structures"]]
    labels = [one["label"] for one in report["first_structures"]]
    against = f"Reference: {report['reference_set']}; protocol: {report['protocol']}."
    beside = ", each beside its reference" if any(": reference" in label for label in labels) else ""
    drawn = f"The first samples{beside}. The heaviest atom is drawn at the corner; where a crystal begins is free."
    charts = [
        histogram({name: [row[key] for row in rows if row[key] is not None] for name, rows in sets.items()}, label)
        for sets in ({"samples": report["table"], "reference": report["reference_table"]},)
        for key, label in (("density", "density [g/cm3]"), ("volume", "volume [cubic angstrom per atom]"))
    ]
    rows = report["table"]
    keys = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[row["name"], *(shown(_rounded(row.get(key))) for key in keys if key != "name")] for row in rows]
    every = Table([name.replace("_", " ") for name in keys], cells)
    return [
        Section("Metrics", against, crystal_table(report)),
        Section("Unit cells", drawn, figures=drawings(first, labels)),
        Section("Density and volume", "", figures=charts),
        Section("All samples", table=every, folded=True),
    ]
