"""Results of `sciflow.evaluate` as tables and report sections: ours, the floor of real data, published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sciflow.report import published
from sciflow.report.crystals import crystal_sections, crystal_table
from sciflow.report.html import Section, Table, histogram
from sciflow.report.trajectories import trajectory_sections, trajectory_table

# key -> (name in tables, factor, unit)
MOLECULE_METRICS: dict[str, tuple[str, float]] = {
    "validity_without_correction": ("valid without correction [%]", 100),
    "validity_without_correction_strict": ("same, of all samples [%]", 100),
    "validity": ("valid after correction [%]", 100),
    "connectivity": ("connected before correction [%]", 100),
    "uniqueness": ("unique [%]", 100),
    "novelty": ("not in the training set [%]", 100),
    "nspdk_mmd": ("NSPDK MMD (lower is better)", 1),
    "fcd": ("FCD (lower is better)", 1),
    "mean_qed": ("mean QED", 1),
    "mean_logp": ("mean logP", 1),
    "mean_sa": ("mean SA score", 1),
}
DRAWN = 36
FLOOR_NOTE = (
    "Floor: what real data score in the place of the samples (as many random training molecules; for novelty and "
    "property means the reference set). A figure at the floor cannot be told from real data by this metric."
)


def evaluation_sections(report: Mapping[str, Any]) -> list[Section]:
    """Sections for a page, whatever the domain."""
    sections = {
        "graphs": graph_sections,
        "sequences": sequence_sections,
        "molecules": molecule_sections,
        "crystals": crystal_sections,
        "trajectories": trajectory_sections,
    }
    return sections[report["domain"]](report)


def evaluation_table(report: Mapping[str, Any]) -> Table:
    """The main table, whatever the domain."""
    tables = {
        "graphs": graph_table,
        "sequences": sequence_table,
        "molecules": molecule_table,
        "crystals": crystal_table,
        "trajectories": trajectory_table,
    }
    return tables[report["domain"]](report)


def molecule_table(report: Mapping[str, Any]) -> Table:
    """Metric, ours, standard error, floor, published columns."""
    others = published.MOLECULES.get(report["reference_set"], {})
    rows = []
    for key, (name, factor) in MOLECULE_METRICS.items():
        figure = report["metrics"].get(key)
        if figure is None:
            continue
        ours = [_scaled(figure[part], factor) for part in ("value", "standard_error", "floor")]
        rows.append([name, *ours, *(_scaled(column.get(key), factor) for column in others.values())])
    notes = [f"{report['samples']} samples, {report['molecules']} molecules. {FLOOR_NOTE}"]
    if others:
        notes.append(published.MOLECULE_SOURCE)
        notes.append(
            "FCD falls with the number of samples: compare it with its floor, and with others only at equal numbers."
        )
    return Table(["", "ours", "std. error", "floor", *others], rows, " ".join([*notes, *report.get("notes", [])]))


def molecule_sections(report: Mapping[str, Any]) -> list[Section]:
    """Table, drawings of the first distinct samples, property histograms and the table of all samples."""
    from rdkit import Chem

    from sciflow.domains.molecules.render import draw_svg

    rows = [row for row in report["table"] if row["valid"]]
    first = [row for row in rows if row["unique"]][:DRAWN]
    drawings = [draw_svg([Chem.MolFromSmiles(row["smiles"]) for row in first])] if first else []
    charts = [
        histogram({"samples": [row[name] for row in rows], "reference": report["reference_properties"][name]}, label)
        for name, label in (("qed", "QED"), ("logp", "logP"), ("sa", "SA score (1 easy, 10 hard)"))
    ]
    columns = [name for name in report["table"][0] if name != "smiles"]
    cells = [[i, row["smiles"] or "", *(row[name] for name in columns)] for i, row in enumerate(report["table"])]
    headings = ["sample", "smiles", *(name.replace("_", " ") for name in columns)]
    return [
        Section("Metrics", _against(report), molecule_table(report)),
        Section("Samples", f"The first {len(first)} distinct ones, in the order of sampling.", figures=drawings),
        Section("Properties", "Valid samples against molecules of the reference.", figures=charts),
        Section("All samples", table=Table(headings, cells, text_columns=frozenset({1})), folded=True),
    ]


def graph_table(report: Mapping[str, Any]) -> Table:
    """Statistic, ours over groups, floor, published columns."""
    others = published.GRAPHS.get(str(report["reference_set"]).lower(), {}) if report["kernel"] == "emd" else {}
    groups, floor = report["groups"], report.get("floor", {}).get("subset", {})
    rows = []
    for key in report["mmd"]:
        spread = groups["mmd"][key]
        ours = [report["mmd"][key], spread["mean"], spread["se"], floor.get(key, {}).get("mean")]
        rows.append([f"{key} MMD", *ours, *(column.get(key) for column in others.values())])
    for key, name in SHARES.items():
        if key in report:
            reference = report["connected_reference"] if key == "connected" else None
            rows.append([f"{name} [%]", 100 * report[key], None, None, _scaled(reference, 100), *[None] * len(others)])
    note = (
        f"{report['generated']} graphs against {report['reference']}; {groups['count']} groups of {groups['size']}, "
        "the size of the published protocol. Floor: random training subsets of that size against the same reference."
    )
    skipped = [f"{number} {reason}" for reason, number in report["skipped"].items() if number]
    note += f" Left out: {', '.join(skipped)}." if skipped else ""
    columns = ["", "all graphs", "mean of groups", "std. error", "floor", *others]
    return Table(columns, rows, f"{note} {published.GRAPH_SOURCE}" if others else note)


SHARES = {
    "connected": "connected",
    "unique": "unique",
    "novel": "not a copy of a training graph",
    "valid": "valid",
    "vun": "valid, unique and novel",
}


def graph_sections(report: Mapping[str, Any]) -> list[Section]:
    """Table, drawings of the first graphs, histograms of sizes, and the table of all graphs."""
    import networkx as nx

    from sciflow.report.graphs import draw_graphs

    graphs = [nx.empty_graph(entry["nodes"]) for entry in report["first_graphs"]]
    for graph, entry in zip(graphs, report["first_graphs"], strict=True):
        graph.add_edges_from(entry["edges"])
    rows: Sequence[Mapping[str, Any]] = report["table"]
    charts = [histogram({"samples": [row[name] for row in rows]}, f"{name} per graph") for name in ("nodes", "edges")]
    columns = list(rows[0])
    every = Table(["graph", *columns], [[i, *(row[name] for name in columns)] for i, row in enumerate(rows)])
    return [
        Section("Metrics", _against(report), graph_table(report)),
        Section("Samples", f"The first {len(graphs)}.", figures=[draw_graphs(graphs)]),
        Section("Sizes", figures=charts),
        Section("All graphs", table=every, folded=True),
    ]


SEQUENCE_METRICS: dict[str, tuple[str, float]] = {
    "validity": ("is a sequence of the alphabet [%]", 100),
    "uniqueness": ("unique [%]", 100),
    "novelty": ("further than 10 % edits from training [%]", 100),
    "diversity": ("mean Hamming distance [%]", 100),
    "gc_content": ("G and C [%]", 100),
    **{f"kmer{k}_pearson": (f"{k}-mer correlation", 1) for k in (1, 2, 3, 6)},
    **{f"kmer{k}_js": (f"{k}-mer divergence [nats], lower is better", 1) for k in (1, 2, 3, 6)},
    "motif_spearman": ("motif correlation (Spearman)", 1),
}


def sequence_table(report: Mapping[str, Any]) -> Table:
    """Metric, ours, standard error, floor."""
    rows = []
    for key, (name, factor) in SEQUENCE_METRICS.items():
        figure = report["metrics"].get(key)
        if figure is not None:
            parts = [_scaled(figure[part], factor) for part in ("value", "standard_error", "floor")]
            rows.append([name, *parts])
    note = (
        f"{report['samples']} samples, {report['sequences']} sequences, {report['alphabet']}. Floor: what real "
        "sequences score, as many random ones of the reference (at most half of it) against the rest. A figure at the "
        "floor cannot be told from real data by this metric."
    )
    return Table(["", "ours", "std. error", "floor"], rows, " ".join([note, *report["notes"]]))


def sequence_sections(report: Mapping[str, Any]) -> list[Section]:
    """Table, logos of samples and reference, histograms and the table of all samples."""
    from sciflow.report.sequences import logo

    rows = [row for row in report["table"] if row["valid"]]
    sets = {"samples": [row["sequence"] for row in rows], "reference": report["reference_sequences"]}
    logos = [f"<p>{name}</p>{logo(found, report['alphabet'])}" for name, found in sets.items() if found]
    charts = []
    for label, function in (("length", len), ("G and C [%]", _gc)):
        if label == "length" or report["alphabet"] != "protein":
            charts.append(histogram({name: [function(one) for one in found] for name, found in sets.items()}, label))
    columns = [name for name in report["table"][0] if name != "sequence"]
    cells = [[i, row["sequence"] or "", *(row[name] for name in columns)] for i, row in enumerate(report["table"])]
    return [
        Section("Metrics", _against(report), sequence_table(report), charts),
        Section("Letters", "Information content per position [bit].", figures=logos),
        Section(
            "All samples",
            table=Table(["sample", "sequence", *columns], cells, text_columns=frozenset({1})),
            folded=True,
        ),
    ]


def _gc(sequence: str) -> float:
    return 100 * sum(letter in "GC" for letter in sequence) / len(sequence)


def _against(report: Mapping[str, Any]) -> str:
    return f"Reference: {report['reference_set']}; training set: {report['train_set']}; protocol: {report['protocol']}."


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
