"""Figures that papers report, for the reference columns of reports. None of them is ours.

Quoted from Jo, Lee & Hwang (GDSS, ICML 2022) and follow-ups, from memory except where confirmed by the authors' issue
tracker (the GDSS row of grid, issue 5); not re-checked line by line, and protocols differ in places.
Molecules: 10 000 samples. Generic graphs: as many graphs as the test set holds, Gaussian-EMD kernels.
"""

from __future__ import annotations

MOLECULE_SOURCE = (
    "Published columns, not ours, 10 000 molecules each: GDSS and EDP-GNN quoted from Jo, Lee & Hwang 2022, DiGress "
    "and GruM from follow-ups (as tabled by GruM, 2024); from memory."
)
GRAPH_SOURCE = (
    "Published columns, not ours: GDSS, EDP-GNN, GraphRNN quoted from Jo, Lee & Hwang 2022, from memory except where "
    "confirmed by the authors' issue tracker (GDSS on grid)."
)


def _row(validity: float, nspdk: float, fcd: float, **more: float) -> dict[str, float]:
    return {"validity_without_correction": validity / 100, "nspdk_mmd": nspdk, "fcd": fcd, **more}


MOLECULES: dict[str, dict[str, dict[str, float]]] = {
    "qm9": {
        "GDSS": _row(95.72, 0.003, 2.900, uniqueness=0.9846, novelty=0.8627),
        "EDP-GNN": _row(47.52, 0.005, 2.680),
        "DiGress": _row(98.19, 0.0003, 0.095),
        "GruM": _row(99.69, 0.0002, 0.108),
    },
    "zinc250k": {
        "GDSS": _row(97.01, 0.019, 14.656, uniqueness=0.9964, novelty=1.0),
        "EDP-GNN": _row(82.97, 0.049, 16.74),
        "DiGress": _row(94.99, 0.0021, 3.482),
        "GruM": _row(98.65, 0.0015, 2.257),
    },
}

STATISTICS = ("degree", "clustering", "orbit", "average")
GRAPHS: dict[str, dict[str, dict[str, float]]] = {
    data: {method: dict(zip(STATISTICS, row, strict=True)) for method, row in table.items()}
    for data, table in {
        "community_small": {
            "GDSS": (0.045, 0.086, 0.007, 0.046),
            "EDP-GNN": (0.053, 0.144, 0.026, 0.074),
            "GraphRNN": (0.080, 0.120, 0.040, 0.080),
        },
        "ego_small": {
            "GDSS": (0.021, 0.024, 0.007, 0.017),
            "EDP-GNN": (0.052, 0.093, 0.007, 0.051),
            "GraphRNN": (0.090, 0.220, 0.003, 0.104),
        },
        "enzymes": {
            "GDSS": (0.026, 0.061, 0.009, 0.032),
            "EDP-GNN": (0.023, 0.268, 0.082, 0.124),
            "GraphRNN": (0.017, 0.062, 0.046, 0.042),
        },
        "grid": {
            "GDSS": (0.111, 0.005, 0.070, 0.062),
            "EDP-GNN": (0.455, 0.238, 0.328, 0.340),
            "GraphRNN": (0.064, 0.043, 0.021, 0.043),
        },
    }.items()
}
