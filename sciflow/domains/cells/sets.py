"""Sets of cells by name or path, and the settings under which the published ones are fitted."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.data import DATASETS, resolve
from sciflow.data.cells import CELL_CARDS
from sciflow.domains.cells.adata import from_adata
from sciflow.domains.cells.data import Cells
from sciflow.domains.cells.files import from_arrays, read_h5ad, read_npz, read_tigon

CELL_SETS = tuple(card.name for card in CELL_CARDS)
COMPONENTS = 5  # principal components used of the full sets, as in the published runs
HIGHLY_VARIABLE = 2000  # genes kept of hesc_full


@dataclass(frozen=True)
class Protocol:
    """Settings of a published run, in the time unit of the set.

    Attributes:
        reference: Family.
        sigma: Noise per square root of the set's time unit.
        dt: Largest step of the time grid.
    """

    reference: str
    sigma: float
    dt: float


# Shen et al. (2024), section 4 of the specification. EB was run with one time unit per two ranges, hESC per 24 h.
PROTOCOLS = {
    **{f"lv_{kind}": Protocol("lotka_volterra", 0.1, 0.02) for kind in ("published", "seed0", "seed1", "seed2")},
    **{
        f"repressilator_{kind}": Protocol("repressilator", 0.1, 0.01)
        for kind in ("published", "seed0", "seed1", "seed2")
    },
    "gom_vortex_large": Protocol("vortex", 0.1, 0.02),
    "gom_vortex_small": Protocol("vortex", 0.1, 0.02),
    "eb_pca5": Protocol("gradient_field", 0.1 / math.sqrt(2), 0.1),
    "hesc_pca5": Protocol("gradient_field", 0.05 / math.sqrt(24), 0.6),
}
TIGON_TIMES = {"hematopoiesis_full": (2.0, 4.0, 6.0), "emt_full": (0.0, 1 / 3, 1.0, 3.0, 7.0)}


def read_cells(
    source: str | Path, time_key: str | None = None, basis: str = "X_pca", duplicates: str = "error"
) -> tuple[Cells, Any]:
    """Cells of a set, an h5ad or an npz file, and the AnnData object they come from (None for npz).

    Copies of cells in the published sets (EB has some, drawn so) are kept and told.

    Args:
        source: Name of a set or path.
        time_key: Column of obs with the time; needed for h5ad.
        basis: Key of obsm with the coordinates; for h5ad.
        duplicates: See `Cells.of`.

    Raises:
        UserError: Not found or not usable.
    """
    if str(source) not in DATASETS and not Path(source).expanduser().exists():
        raise UserError(f"{source}: no such file; expected an .h5ad or .npz file or a set: {', '.join(CELL_SETS)}")
    path = resolve(source)
    name = str(source) if str(source) in DATASETS else path.stem if path.stem in PROTOCOLS else ""
    if name and duplicates == "error":
        duplicates = "keep"
    if name == "eb_full":
        return _embryoid(path), None
    if name == "hesc_full":
        return _endoderm(path), None
    if name in TIGON_TIMES:
        return from_arrays(read_tigon(path), TIGON_TIMES[name], name, duplicates), None
    if path.suffix == ".npz":
        return replace(read_npz(path, duplicates), source=name or path.name), None
    if path.suffix != ".h5ad":
        raise UserError(f"{path}: got the ending '{path.suffix}', expected .h5ad or .npz")
    adata = read_h5ad(path)
    if time_key is None:
        raise UserError(f"{path.name}: --time-key is missing; columns of obs: {', '.join(adata.obs) or 'none'}")
    return from_adata(adata, time_key, basis, duplicates, source=path.name), adata


def _embryoid(path: Path) -> Cells:
    """The full EB set of TrajectoryNet: `pcs` (cells, 100), `sample_labels` 0..4; components scaled to variance 1."""
    with np.load(path, allow_pickle=False) as archive:
        if not {"pcs", "sample_labels"} <= set(archive.files):
            raise UserError(f"{path}: got the arrays {', '.join(archive.files)}, expected pcs and sample_labels")
        points, labels = archive["pcs"][:, :COMPONENTS].astype(np.float64), archive["sample_labels"].astype(float)
    points = (points - points.mean(axis=0)) / points.std(axis=0)
    names = [f"PC{i + 1}" for i in range(points.shape[1])]
    return Cells.of(points, labels, source="eb_full", names=names, duplicates="keep", facts={"heldout": [1.0, 3.0]})


def _endoderm(path: Path) -> Cells:
    """GSE75748: counts (genes x cells) with names such as H9.12h_001; to components, the published way.

    Cells with 100 genes or more, genes in 10 cells or more, 10,000 counts per cell, log(1 + x), the genes of largest
    variance, five principal components divided by 10. 96 h is left out, as published.
    """
    import pandas
    from sklearn.decomposition import PCA

    counts = pandas.read_csv(path, index_col=0).T
    hours = counts.index.str.extract(r"\.(\d+)h", expand=False)
    if hours.isna().any():
        raise UserError(f"{path}: cells are expected to be named like H9.12h_001, got {list(counts.index[:3])}")
    hours, table = hours.astype(float).to_numpy(), counts.to_numpy(np.float64)
    cells = ((table > 0).sum(axis=1) >= 100) & (hours < 96)
    table, hours = table[cells], hours[cells]
    table = table[:, (table > 0).sum(axis=0) >= 10]
    table = np.log1p(1e4 * table / table.sum(axis=1, keepdims=True))
    table = table[:, np.argsort(-table.var(axis=0), kind="stable")[:HIGHLY_VARIABLE]]
    points = PCA(COMPONENTS, svd_solver="full").fit_transform(table) / 10
    names = [f"PC{i + 1}" for i in range(points.shape[1])]
    return Cells.of(points, hours, source="hesc_full", names=names, facts={"heldout": [12.0, 36.0]})
