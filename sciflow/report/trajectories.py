"""Tables, drawings and sections of trajectories: evaluation of forecasts and free trajectories, design runs.

Published figures are quoted from Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024): its tables 1-4;
STFlow from arXiv 2505.18647 (own splits and augmentation, so not the same protocol). None of them is ours.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

import numpy as np

from sciflow.domains.trajectories.molecule_scores import molecule_curves
from sciflow.domains.trajectories.render import paths_svg, ramachandran_svg
from sciflow.report.html import Section, Table, line_chart

SOURCE = (
    "Published rows, not ours: Han et al. (GeoTDM, NeurIPS 2024); STFlow: arXiv 2505.18647, own splits and "
    "augmentation."
)
NBODY_METHODS = ("EGNN", "EqMotion", "SVAE", "GeoTDM", "STFlow")
SCENE_METHODS = ("Linear", "Trajectron++", "SVAE", "GeoTDM", "EqMotion", "STFlow")
MD17_METHODS = ("EGNN", "EqMotion", "GeoTDM", "STFlow")
# set -> (ADE, FDE) of each method
FORECASTS: dict[str, tuple[tuple[float, float], ...]] = {
    "charged": ((0.186, 0.426), (0.141, 0.310), (0.378, 0.732), (0.110, 0.258), (0.093, 0.172)),
    "springs": ((0.0101, 0.0231), (0.0134, 0.0358), (0.0120, 0.0209), (0.0030, 0.0079), (0.0002, 0.0004)),
    "gravity": ((0.310, 0.709), (0.302, 0.671), (0.582, 1.101), (0.256, 0.613), (0.115, 0.245)),
    "eth": ((1.07, 2.28), (0.54, 0.94), (0.47, 0.76), (0.46, 0.64), (0.40, 0.61), (0.50, 0.74)),
    "hotel": ((0.31, 0.61), (0.16, 0.28), (0.14, 0.22), (0.13, 0.21), (0.12, 0.18), (0.20, 0.29)),
    "univ": ((0.52, 1.16), (0.28, 0.55), (0.25, 0.47), (0.24, 0.45), (0.23, 0.43), (0.42, 0.68)),
    "zara1": ((0.42, 0.95), (0.21, 0.42), (0.20, 0.37), (0.21, 0.39), (0.18, 0.32), (0.20, 0.31)),
    "zara2": ((0.32, 0.72), (0.16, 0.32), (0.14, 0.28), (0.16, 0.30), (0.13, 0.23), (0.18, 0.28)),
    "aspirin": ((0.267, 0.564), (0.185, 0.246), (0.107, 0.193), (0.086, 0.158)),
    "ethanol": ((0.268, 0.401), (0.152, 0.247), (0.115, 0.209), (0.079, 0.141)),
    "malonaldehyde": ((0.393, 0.958), (0.155, 0.249), (0.107, 0.176), (0.076, 0.138)),
}
FREE: dict[str, dict[str, dict[str, float]]] = {
    "charged": {
        "SVAE": {"marginal": 0.0668, "classification": 1.38e-6, "prediction": 0.282},
        "EGVAE": {"marginal": 0.1141, "classification": 4.22e-2, "prediction": 0.0467},
        "GeoTDM": {"marginal": 0.0055, "classification": 0.556, "prediction": 0.00978},
    },
    "aspirin": {"GeoTDM": {"bond_marginal": 0.726, "classification": 0.0348, "prediction": 0.0212}},
    "ethanol": {"GeoTDM": {"bond_marginal": 0.314, "classification": 0.463, "prediction": 0.0235}},
    "malonaldehyde": {"GeoTDM": {"bond_marginal": 0.403, "classification": 0.335, "prediction": 0.0146}},
}
FREE_NAMES = {
    "marginal": "marginal (pooled)",
    "marginal_per_frame": "marginal (per frame)",
    "bond_marginal": "marginal of bond lengths",
    "outside": "outside the real range [%]",
    "classification": "classification [nats], .693 is best",
    "prediction": "prediction (MSE)",
}
MOLECULE_NAMES = {
    "bond_jsd": "bond lengths, JSD [nats]",
    "angle_jsd": "bond angles, JSD [nats]",
    "torsion_jsd": "torsions, JSD [nats]",
    "ramachandran_jsd": "phi and psi, JSD [nats]",
    "valid_frames": "valid frames [%]",
    "valid_trajectories": "valid trajectories [%]",
    "smallest_distance": "smallest distance, not bonded [A]",
    "speed_w1": "W1 of speeds [A per frame]",
    "acceleration_w1": "W1 of accelerations [A per frame^2]",
    "rmsf_error": "mean difference of RMSF [A]",
}
PERCENT = ("outside", "valid_frames", "valid_trajectories")


def trajectory_table(report: Mapping[str, Any]) -> Table:
    """The main table: forecasts with baselines, or scores with floors."""
    return forecast_table(report) if report["protocol"] == "forecast" else free_table(report)


def forecast_table(report: Mapping[str, Any]) -> Table:
    """Ours, the naive baselines, published figures: ADE and FDE with intervals, medians, 90 % quantiles."""
    scores, count, unit = report["scores"], report["samples_per_case"], report["unit"]
    rows = [_row("ours, one sample" if count == 1 else f"ours, mean of {count}", scores["aveADE"], scores["aveFDE"])]
    if count > 1:
        rows.append(_row(f"ours, best of {count}", scores["minADE"], scores["minFDE"]))
    for name, part in report.get("diverse", {}).items():
        label = "ours, best of first 20" if name == "first" else f"ours, best of 20 k-means centres of {count}"
        rows.append(_row(label, part["minADE"], part["minFDE"]))
    rows += [_row(name, one["ADE"], one["FDE"]) for name, one in report["baselines"].items()]
    quoted, why = _quoted(str(report["reference_set"]))
    rows += [[f"{name} (published)", ade, None, None, None, fde, None, None, None] for name, (ade, fde) in quoted]
    free = sum(not seen for seen in report["observed"])
    notes = [
        f"Cases: {report['cases']}, samples of each: {count}, given frames: {report['frames'] - free} of "
        f"{report['frames']}. 95 %: bootstrap over cases. Errors have heavy tails: compare medians too.",
        *_facts_in_words(report),
        why,
    ]
    inside = f" [{unit}]" if unit else ""
    spread = ("95 %", "median", "90 % quantile")
    return Table(["", f"ADE{inside}", *spread, f"FDE{inside}", *spread], rows, " ".join(filter(None, notes)))


def _row(name: str, *figures: Mapping[str, float]) -> list[Any]:
    cells = [[one["value"], _interval(one), one["median"], one["q90"]] for one in figures]
    return [name, *(cell for part in cells for cell in part)]


def _interval(one: Mapping[str, float]) -> str | None:
    return f"{one['low']:.3g} - {one['high']:.3g}" if np.isfinite(one["low"]) else None


def _quoted(name: str) -> tuple[list[tuple[str, tuple[float, float]]], str]:
    """Published (ADE, FDE) for a reference, and what must be said about them."""
    key = next((one for one in FORECASTS if name == one or (one in MD17 and one in name.lower())), None)
    if key is None:
        return [], ""
    methods = MD17_METHODS if key in MD17 else NBODY_METHODS if key in NBODY else SCENE_METHODS
    extra = " Published: mean of 5 samples." if key not in SCENES else " Published: best of 20."
    if key in MD17:
        extra += " They are for MD17 (DFT, other and more data): comparable in scale only."
    return list(zip(methods, FORECASTS[key], strict=True)), SOURCE + extra


MD17 = ("aspirin", "ethanol", "malonaldehyde")
NBODY = ("charged", "springs", "gravity")
SCENES = ("eth", "hotel", "univ", "zara1", "zara2")


def _facts_in_words(report: Mapping[str, Any]) -> list[str]:
    """Ensemble, likelihood, torsions and energy, one sentence each."""
    found = []
    if "ensemble" in report:
        one = report["ensemble"]
        found.append(f"CRPS {one['crps']['value']:.3g}; spread/skill {_number(one['spread_skill'])} (1 is calibrated).")
        for inside, ideal in list(one["coverage"].values())[-1:]:
            found.append(
                f"Between the outer samples lie {100 * inside:.0f} % of the true coordinates (calibrated: "
                f"{100 * ideal:.0f} %)."
            )
    if "NLL" in report["scores"]:
        one = report["scores"]["NLL"]
        found.append(f"NLL {one['value']:.1f} ({_interval(one) or 'one case'}) nats per trajectory, an upper bound.")
    for key, name in (("torsion_jsd", "Torsion JSD"), ("bond_jsd", "Bond JSD")):
        if key in report.get("molecule", {}):
            floor = report.get("molecule_floor", {}).get(key)
            beside = f" (real against real: {floor:.3g})" if floor is not None else ""
            found.append(f"{name} {report['molecule'][key]:.3g} nats{beside}.")
    energy = report.get("energy")
    if energy and energy["samples"] and energy["floor"]:
        found.append(
            f"Median energy drift {energy['samples']['median']:.3g} (real: {energy['floor']['median']:.3g}, "
            "both by finite differences)."
        )
    return found


def _number(value: float | None) -> str:
    return "–" if value is None or not np.isfinite(value) else f"{value:.2f}"


def free_table(report: Mapping[str, Any]) -> Table:
    """Scores of free trajectories: ours, standard deviation over trainings, floor, published."""
    scores, floor = report["scores"], report.get("floor", {})
    name = str(report["reference_set"]).lower()
    key = next((one for one in FREE if name == one or (one in MD17 and one in name)), "")
    others = FREE.get(key, {})
    rows = []
    for score, label in FREE_NAMES.items():
        if score in scores:
            factor = 100 if score in PERCENT else 1
            cells = [_times(one, factor) for one in (scores[score], scores.get(f"{score}_std"), floor.get(score))]
            rows.append([label, *cells, *(one.get(score) for one in others.values())])
    notes = [
        f"{report['cases']} trajectories against {report['reference']} real ones, {report['frames']} frames. Floor: "
        "real trajectories in the place of the samples; a score at the floor cannot be told from real data. "
        "Classification above .693 is an over-confident judge, as good as .693.",
        *_facts_in_words(report),
        SOURCE if others else "",
        "MD17 is other data: comparable in scale only." if key in MD17 else "",
    ]
    return Table(["", "ours", "std over trainings", "floor", *others], rows, " ".join(filter(None, notes)))


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value


def molecule_table(report: Mapping[str, Any]) -> Table:
    """Internal coordinates and validity: ours and real against real."""
    floor = report.get("molecule_floor", {})
    rows = [
        [label, *(_times(part.get(key), 100 if key in PERCENT else 1) for part in (report["molecule"], floor))]
        for key, label in MOLECULE_NAMES.items()
        if key in report["molecule"]
    ]
    note = (
        "JSD: mean over bonds, angles, torsions of the Jensen-Shannon divergence of histograms (0 to 0.693). Valid: "
        "bonds and contacts within the range of real frames, widened by 10 %. Floor: real trajectories, a part "
        "against another."
    )
    return Table(["", "ours", "floor"], rows, note)


def trajectory_sections(report: Mapping[str, Any]) -> list[Section]:
    """Sections of an evaluation: table, error per frame, paths, molecule."""
    against = f"Reference: {report['reference_set']}; protocol: {report['protocol']}."
    sections = [Section("Metrics", against, trajectory_table(report))]
    if "horizon" in report:
        horizon, charts = report["horizon"], []
        model = {"ours": horizon["model"]["mean"], "ours, median case": horizon["model"]["median"]}
        best = sorted(horizon["baselines"], key=lambda name: np.mean(horizon["baselines"][name]))[:3]
        curves = model | {name: horizon["baselines"][name] for name in best}
        unit = f" [{report['unit']}]" if report["unit"] else ""
        series = {name: (horizon["frames"], values) for name, values in curves.items()}
        charts.append(line_chart(series, "frame", f"mean distance{unit}", size=(460, 320)))
        if "ensemble" in report:
            ranks = report["ensemble"]["rank_histogram"]
            flat = [1 / len(ranks)] * len(ranks)
            shares = {"truth among samples": (range(len(ranks)), ranks), "calibrated": (range(len(ranks)), flat)}
            charts.append(line_chart(shares, "rank of the true coordinate", "share"))
        sections.append(Section("Error per frame", "With the three best baselines.", figures=charts))
    observed = np.array(report["observed"], bool) if "observed" in report else None
    figures = [_captioned(one, observed, f"case {i}") for i, one in enumerate(report["drawings"])]
    figures += [_captioned(one, None, f"real {i}") for i, one in enumerate(report.get("reference_drawings", []))]
    drawn = "Given frames black, samples coloured, truth grey." if observed is not None else "Samples, then real ones."
    sections.append(Section("Paths", drawn, figures=figures))
    if "molecule" in report:
        sections.append(Section("Molecule", "", molecule_table(report), _molecule_charts(report["curves"])))
    return sections


def _captioned(drawing: Mapping[str, Any], observed: np.ndarray | None, label: str) -> str:
    truth = None if drawing["truth"] is None else np.array(drawing["truth"])
    picture = paths_svg(np.array(drawing["samples"]), truth, observed, title=label)
    return f"{picture}<figcaption>{html.escape(label)}</figcaption>"


def _molecule_charts(curves: Mapping[str, Any], names: Mapping[str, str] | None = None) -> list[str]:
    """RMSF, autocorrelations, torsion histograms, Ramachandran maps."""
    named = names or {"samples": "samples", "reference": "real"}

    def both(part: Mapping[str, Any], x: Any) -> dict[str, Any]:
        return {named[name]: (x(values), values) for name, values in part.items()}

    def numbers(values: Any) -> range:
        return range(len(values))

    def degrees(values: Any) -> list[float]:
        return [360 * (i + 0.5) / len(values) - 180 for i in range(len(values))]

    charts = [line_chart(both(curves["rmsf"], numbers), "atom", "RMSF [A]")]
    for key, label in (
        ("velocity_autocorrelation", "velocity autocorrelation"),
        ("torsion_autocorrelation", "torsion autocorrelation"),
    ):
        if key in curves:
            charts.append(line_chart(both(curves[key], numbers), "frames apart", label))
    for label, part in curves.get("torsions", {}).items():
        charts.append(line_chart(both(part, degrees), f"torsion of atoms {label} [degrees]", "share"))
    for name, counts in curves.get("ramachandran", {}).items():
        charts.append(ramachandran_svg(np.array(counts), named[name]))
    return charts


def design_sections(
    samples: np.ndarray,
    observed: np.ndarray,
    *,
    numbers: np.ndarray | None = None,
    bonds: np.ndarray | None = None,
    truth: np.ndarray | None = None,
) -> list[Section]:
    """Sections of a design run: paths, spread per frame and, for a molecule, its internal coordinates.

    Args:
        samples: (K, T, atoms, D), given frames included.
        observed: (T,) bool; all false for free trajectories.
        numbers: (atoms,) atomic numbers, or None.
        bonds: (n, 2), or None: no torsions.
        truth: (T, atoms, D) where the true frames are known.
    """
    samples, observed = np.asarray(samples, np.float64), np.asarray(observed, bool)
    spread = np.sqrt(samples.var(0).sum(-1).mean(-1))
    charts = [line_chart({"standard deviation": (range(len(spread)), spread.tolist())}, "frame", "spread of samples")]
    drawn = "Given frames black, samples coloured" + (", truth grey." if truth is not None else ".")
    picture = paths_svg(samples[:8], truth, observed, size=380)
    sections = [Section("Paths", drawn, figures=[picture]), Section("Spread", "Over the samples.", figures=charts)]
    if numbers is not None and bonds is not None and len(bonds):
        free = ~observed
        given = samples[:1, observed] if truth is None else truth[None]
        if observed.sum() < 3 and truth is None:
            given = samples[:, free]
        curves = molecule_curves(samples[:, free], given, np.asarray(bonds, int), np.asarray(numbers), gapless=False)
        names = {"samples": "generated frames", "reference": "given frames" if truth is None else "truth"}
        sections.append(
            Section(
                "Molecule",
                "Few given frames make rough histograms: read them as a check, not as a score.",
                figures=_molecule_charts(curves, names),
            )
        )
    return sections
