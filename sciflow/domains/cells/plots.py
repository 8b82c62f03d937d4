"""Pictures of fitted cells, in the habits of scanpy: data first, `ax`, `show` and `save` at the end, axes returned.

`data` is an AnnData object with results (`sciflow.domains.cells.adata`) or what `sciflow.cells.bridge` returned.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sciflow.core.errors import UserError
from sciflow.core.files import replacing
from sciflow.domains.cells.adata import PREFIX, dense, stored
from sciflow.domains.cells.genes import GeneTrends

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NEIGHBOURS = 15  # cells that a point is placed among in another embedding
GRID = 30  # points of the stream plot along each axis


def trajectories(
    data: Any,
    basis: str | None = None,
    dims: tuple[int, int] = (0, 1),
    n: int = 50,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Paths over the cells, coloured by time; call `sciflow.cells.trajectories` first.

    Args:
        data: See the module.
        basis: Key of obsm to draw in; None: where the fit was made. Elsewhere a point is put at the weighted mean of
            the nearest cells.
        dims: Columns of the basis.
        n: Paths drawn at most.
        ax: Axes to draw in; None: new ones.
        show: Show the figure at once.
        save: File to write.

    Raises:
        UserError: No trajectories are stored, or an unknown basis.
    """
    from matplotlib.collections import LineCollection

    adata, ax, plane = _canvas(data, basis, dims, ax)
    kept = stored(adata).get("trajectories")
    if kept is None:
        raise UserError("no trajectories are stored; call sciflow.cells.trajectories(adata) first")
    paths, times = np.asarray(kept["paths"])[:n], np.asarray(kept["times"])
    flat = plane.place(paths.reshape(-1, paths.shape[-1])).reshape(*paths.shape[:2], 2)
    points = _cells(adata, plane, ax)
    segments = np.stack([flat[:, :-1], flat[:, 1:]], axis=2).reshape(-1, 2, 2)
    middle = np.tile((times[:-1] + times[1:]) / 2, len(flat))
    lines = LineCollection(list(segments), cmap="viridis", linewidths=0.8, alpha=0.7)
    lines.set_array(middle)
    lines.set_clim(*points.get_clim())
    ax.add_collection(lines)
    return _finish(ax, plane, show, save)


def velocity(
    data: Any,
    basis: str | None = None,
    dims: tuple[int, int] = (0, 1),
    density: float = 1.2,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Stream plot of the drift; call `sciflow.cells.velocity` first.

    Args:
        data: See the module.
        basis: See `trajectories`; in another basis a velocity is the move of the placed point.
        dims: Columns of the basis.
        density: Of the lines.
        ax: Axes to draw in; None: new ones.
        show: Show the figure at once.
        save: File to write.

    Raises:
        UserError: No velocity is stored, or an unknown basis.
    """
    adata, ax, plane = _canvas(data, basis, dims, ax)
    if f"{PREFIX}_velocity" not in adata.obsm:
        raise UserError("no velocity is stored; call sciflow.cells.velocity(adata) first")
    drift = np.asarray(adata.obsm[f"{PREFIX}_velocity"], np.float64)
    fine = np.flatnonzero(np.isfinite(drift).all(axis=1))
    start, moved = plane.shown[fine], plane.moves(drift[fine], fine)
    _cells(adata, plane, ax)
    axes, u, v = _on_grid(start, moved)
    speed = np.hypot(u, v)
    if np.nanmax(speed, initial=0) > 0:
        width = 1.6 * np.sqrt(np.nan_to_num(speed) / np.nanmax(speed)) + 0.2
        ax.streamplot(*axes, u, v, density=density, color="#333333", linewidth=width, arrowsize=0.8)
    return _finish(ax, plane, show, save)


def fate(
    data: Any,
    name: str | None = None,
    basis: str | None = None,
    dims: tuple[int, int] = (0, 1),
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Cells coloured by the probability of a fate; call `sciflow.cells.fate` first.

    Args:
        data: See the module.
        name: The fate; None: the first.
        basis: See `trajectories`.
        dims: Columns of the basis.
        ax: Axes to draw in; None: new ones.
        show: Show the figure at once.
        save: File to write.

    Raises:
        UserError: No fates are stored, or no such fate.
    """
    adata, ax, plane = _canvas(data, basis, dims, ax)
    if f"{PREFIX}_fate" not in adata.obsm:
        raise UserError("no fates are stored; call sciflow.cells.fate(adata, labels=...) first")
    names = [str(one) for one in stored(adata)["fates"]]
    name = names[0] if name is None else name
    if name not in names:
        raise UserError(f"fate: got '{name}', expected one of {', '.join(names)}")
    values = np.asarray(adata.obsm[f"{PREFIX}_fate"])[:, names.index(name)]
    seen = np.isfinite(values)
    ax.scatter(*plane.shown[~seen].T, s=6, c="#dddddd", linewidths=0)
    points = ax.scatter(*plane.shown[seen].T, s=8, c=values[seen], cmap="magma", vmin=0, vmax=1, linewidths=0)
    ax.figure.colorbar(points, ax=ax, label=f"probability of {name}")
    return _finish(ax, plane, show, save)


def gene_trends(
    trends: GeneTrends,
    genes: Sequence[str] | None = None,
    ax: Axes | None = None,
    show: bool | None = None,
    save: str | Path | None = None,
) -> Axes:
    """Mean expression over time with its 10-90 % range over the paths.

    Args:
        trends: From `sciflow.cells.gene_trends`.
        genes: Those to draw; None: all.
        ax: Axes to draw in; None: new ones.
        show: Show the figure at once.
        save: File to write.

    Raises:
        UserError: A gene is not in the trends.
    """
    ax = _axes(ax)
    for gene in trends.genes if genes is None else genes:
        if gene not in trends.genes:
            raise UserError(f"gene_trends: got '{gene}', expected one of {', '.join(trends.genes)}")
        i = trends.genes.index(gene)
        (line,) = ax.plot(trends.times, trends.mean[i], label=gene)
        ax.fill_between(trends.times, trends.low[i], trends.high[i], color=line.get_color(), alpha=0.2, linewidth=0)
    ax.set(xlabel="time", ylabel="expression")
    ax.legend(frameon=False)
    return _shown(ax, show, save)


class _Plane:
    """Two columns of a basis, and where points of the fitted space go in it."""

    def __init__(self, fitted: np.ndarray, drawn: np.ndarray, dims: tuple[int, int], names: Sequence[str]) -> None:
        self.fitted, self.shown, self.names = fitted, drawn[:, list(dims)], names
        self.dims, self.same = list(dims), fitted is drawn

    def place(self, points: np.ndarray) -> np.ndarray:
        """Points (n, d) of the fitted space in the plane: (n, 2)."""
        from scipy.spatial import KDTree

        if self.same:
            return points[:, self.dims]
        distance, near = KDTree(self.fitted).query(points, k=min(NEIGHBOURS, len(self.fitted)))
        weight = np.exp(-0.5 * (distance / (distance.mean(axis=1, keepdims=True) + 1e-12)) ** 2)
        return np.einsum("nk,nkc->nc", weight / weight.sum(axis=1, keepdims=True), self.shown[near])

    def moves(self, drift: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Velocities (n, d) of the cells `rows` in the plane: (n, 2)."""
        if self.same:
            return drift[:, self.dims]
        speed = np.linalg.norm(drift, axis=1).mean() or 1.0
        step = 0.1 * self.fitted.std(axis=0).mean() / speed  # a tenth of the spread of the cells
        start = self.fitted[rows]
        return (self.place(start + step * drift) - self.place(start)) / step


def _canvas(data: Any, basis: str | None, dims: tuple[int, int], ax: Axes | None) -> tuple[Any, Axes, _Plane]:
    adata = getattr(data, "adata", data)
    own = stored(adata)["params"]["basis"]
    own = own if own in adata.obsm else f"X_{own}"
    key = own if basis is None else basis if basis in adata.obsm else f"X_{basis}"
    if key not in adata.obsm:
        raise UserError(f"no basis '{basis}' in obsm; keys of obsm: {', '.join(adata.obsm)}")
    fitted = np.asarray(dense(adata.obsm[own]), np.float64)
    drawn = fitted if key == own else np.asarray(dense(adata.obsm[key]), np.float64)
    if not all(0 <= d < drawn.shape[1] for d in dims):
        raise UserError(f"dims: got {tuple(dims)}, expected columns 0 to {drawn.shape[1] - 1} of obsm['{key}']")
    return adata, _axes(ax), _Plane(fitted, drawn, dims, [f"{key.removeprefix('X_')}{d + 1}" for d in dims])


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    import matplotlib.pyplot

    return matplotlib.pyplot.subplots(figsize=(5, 4), layout="constrained")[1]


def _cells(adata: Any, plane: _Plane, ax: Axes) -> Any:
    """The cells, coloured by time."""
    times = np.asarray(adata.obs[f"{PREFIX}_time"], np.float64)
    points = ax.scatter(*plane.shown.T, s=6, c=times, cmap="viridis", alpha=0.5, linewidths=0)
    ax.figure.colorbar(points, ax=ax, label="time")
    return points


def _on_grid(points: np.ndarray, moves: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Velocities smoothed onto a regular grid, NaN where no cell is near: axes, (GRID, GRID) twice."""
    from scipy.spatial.distance import cdist

    axes = tuple(np.linspace(low, high, GRID) for low, high in zip(points.min(axis=0), points.max(axis=0), strict=True))
    mesh = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    width = np.array([axis[1] - axis[0] for axis in axes])
    if not (width > 0).all():
        raise UserError("velocity: all cells lie on a line in these two columns; choose other dims")
    scale = 1.5 * width
    distance = cdist(mesh / scale, points / scale, "sqeuclidean")
    weight = np.exp(-0.5 * distance)
    mass = weight.sum(axis=1, keepdims=True)
    smooth = np.where(mass > 0.5, weight @ moves / np.maximum(mass, 1e-300), np.nan)
    u, v = smooth.T.reshape(2, GRID, GRID)
    return (axes[0], axes[1]), u, v


def _finish(ax: Axes, plane: _Plane, show: bool | None, save: str | Path | None) -> Axes:
    ax.set(xlabel=plane.names[0], ylabel=plane.names[1])
    return _shown(ax, show, save)


def _shown(ax: Axes, show: bool | None, save: str | Path | None) -> Axes:
    if save is not None:
        with replacing(save) as temporary:
            ax.figure.savefig(temporary, dpi=150)  # type: ignore[union-attr]
    if show:
        import matplotlib.pyplot

        matplotlib.pyplot.show()
    return ax
