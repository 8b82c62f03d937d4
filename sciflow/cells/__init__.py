"""Schrödinger bridges through populations of cells seen at several times (Shen et al. 2024), in scverse habits.

    import sciflow.cells

    fit = sciflow.cells.bridge(adata, time_key="day", basis="X_pca", reference="ou", holdout=[4])
    fit.theta, fit.theta_stderr, fit.scores.w1
    sciflow.cells.trajectories(adata, n=200)
    sciflow.cells.velocity(adata)
    sciflow.cells.fate(adata, labels="cell_type")
    sciflow.cells.pl.trajectories(adata)

Results lie in `adata` under keys that begin with `sciflow` (see `sciflow.domains.cells.adata`) and survive h5ad; all
functions take the `AnnData` object or what `bridge` returned.
"""

from __future__ import annotations

from sciflow.cells.analysis import Trajectories, bootstrap, evaluate, fate, gene_trends, trajectories, velocity
from sciflow.cells.choices import ENGINES, REFERENCES
from sciflow.cells.fitting import CellFit, bridge, restore
from sciflow.domains.cells import plots as pl
from sciflow.domains.cells.sets import read_cells

__all__ = [
    "ENGINES",
    "REFERENCES",
    "CellFit",
    "Trajectories",
    "bootstrap",
    "bridge",
    "evaluate",
    "fate",
    "gene_trends",
    "pl",
    "read_cells",
    "restore",
    "trajectories",
    "velocity",
]
