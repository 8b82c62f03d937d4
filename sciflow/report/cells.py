"""Tables, pictures and sections of a bridge fitted to cells."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from sciflow.domains.cells import plots
from sciflow.domains.cells.adata import PREFIX
from sciflow.domains.cells.evaluation import FLOOR
from sciflow.domains.cells.genes import GeneTrends
from sciflow.report.html import Section, Table, line_chart

FEW = 20  # parameters up to which they are listed and drawn


def score_table(fit: Any) -> Table:
    """Means over the held-out times of W1, W2 and MMD^2 of every method, and W1 at each."""
    scores = fit.scores
    rows = []
    for method, values in scores.w1.items():
        means = [float(part[method].mean()) for part in (scores.w1, scores.w2, scores.mmd2)]
        rows.append([_name(fit, method), *means, *map(float, values)])
    note = (
        "Exact optimal transport between the cells of the held-out time and draws of the law at that time; MMD with an "
        f"RBF kernel of median width. {FLOOR.capitalize()}: two halves of the held-out cells against each other; they "
        "are small, so the true floor is lower."
    )
    return Table(["", "mean W1", "mean W2", "mean MMD^2", *(f"W1, t = {t:g}" for t in scores.times)], rows, note)


def detail_table(fit: Any) -> Table:
    """W2 and MMD^2 at each held-out time."""
    scores = fit.scores
    rows = [[_name(fit, m), *map(float, scores.w2[m]), *map(float, scores.mmd2[m])] for m in scores.w1]
    names = [f"{name}, t = {t:g}" for name in ("W2", "MMD^2") for t in scores.times]
    return Table(["", *names], rows)


def _name(fit: Any, method: str) -> str:
    return f"bridge, {type(fit.bridge.reference).__name__}" if method == "bridge" else method


def theta_table(fit: Any) -> Table | None:
    """Parameters of the reference with standard errors, beside the truth where it is known; None without any."""
    theta, errors = fit.theta, fit.theta_stderr
    if not theta or len(theta) > FEW:
        return None
    truth = fit.cells.facts.get("theta_true")
    known = truth if truth is not None and len(truth) == len(theta) else None
    rows = []
    for i, (name, value) in enumerate(theta.items()):
        beside = [] if known is None else [known[i], f"{100 * (value / known[i] - 1):+.1f} %"]
        rows.append([name, value, errors[name], *beside])
    kept = fit.adata.uns[PREFIX].get("theta_bootstrap")
    note = "Standard errors are lower bounds: information lost between the snapshots is not in them (--bootstrap)."
    note = note if kept is None else f"Standard errors: spread of {len(kept)} fits to resampled cells."
    return Table(["", "value", "standard error", *(["truth", "off by"] if known else [])], rows, note)


def data_table(fit: Any) -> Table:
    """Cells at each time."""
    held = set(fit.held.times.tolist())
    rows = [
        [f"{time:g}", len(points), "held out" if time in held else "fitted"]
        for time, points in zip(fit.cells.times.tolist(), fit.cells.points, strict=True)
    ]
    return Table(["time", "cells", ""], rows, f"{fit.cells.source}, {fit.cells.dimension} coordinates")


def sections(fit: Any, trends: GeneTrends | None = None) -> list[Section]:
    """The whole report: scores, parameters, objective, pictures, data."""
    found = []
    if fit.scores is not None:
        found.append(Section("Held-out times", "The lower the better.", score_table(fit)))
        found.append(Section("W2 and MMD^2 at each time", "", detail_table(fit), folded=True))
    family = type(fit.bridge.reference).__name__
    text = f"Family {family}, noise sigma {fit.bridge.sigma:.4g}, {len(fit.bridge.objective) - 1} refinements."
    if len(fit.theta) > FEW:
        text += f" {len(fit.theta)} parameters, not listed."
    found.append(Section("Reference", text, theta_table(fit), _courses(fit)))
    found.append(Section("Pictures", "", figures=_pictures(fit, trends)))
    if fit.warnings:
        found.append(Section("Notes", "\n\n".join(fit.warnings)))
    return [*found, Section("Data", "", data_table(fit))]


def _courses(fit: Any) -> list[str]:
    """Objective and parameters per round."""
    rounds = range(len(fit.bridge.objective))
    charts = [line_chart({"objective": (rounds, fit.bridge.objective.tolist())}, "round", "KL(Q | P) + constant")]
    history = np.stack([one.numpy() for one in fit.bridge.history.thetas])
    if 0 < history.shape[1] <= 5 and len(history) > 1:
        series = {name: (range(len(history)), history[:, i].tolist()) for i, name in enumerate(fit.theta)}
        charts.append(line_chart(series, "round", "parameters"))
    return charts


def _pictures(fit: Any, trends: GeneTrends | None) -> list[str]:
    """What is stored with the cells, drawn."""
    drawn = []
    flat = fit.cells.dimension > 1
    if flat and "trajectories" in fit.adata.uns["sciflow"]:
        drawn.append(_picture(lambda ax: plots.trajectories(fit, ax=ax), "trajectories"))
    if flat and "sciflow_velocity" in fit.adata.obsm:
        drawn.append(_picture(lambda ax: plots.velocity(fit, ax=ax), "drift at the cells and their times"))
    if flat and "sciflow_fate" in fit.adata.obsm:
        for name in list(fit.adata.uns["sciflow"]["fates"])[:4]:
            drawn.append(_picture(lambda ax, name=name: plots.fate(fit, str(name), ax=ax), f"fate {name}"))
    if trends is not None:
        drawn.append(_picture(lambda ax: plots.gene_trends(trends, ax=ax), "genes along the trajectories"))
    return drawn


def _picture(draw: Callable[[Any], Any], caption: str, size: tuple[float, float] = (5.0, 4.0)) -> str:
    """A PNG in the page itself."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    draw(figure.add_subplot())
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=110)
    data = base64.b64encode(stream.getvalue()).decode()
    words = html.escape(caption)
    return f'<img alt="{words}" src="data:image/png;base64,{data}"><figcaption>{words}</figcaption>'
