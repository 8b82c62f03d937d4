"""Trajectories, drift and a refined reference from cells seen at several times (multi-marginal Schrödinger bridge).

    sciflow infer cells cells.h5ad --time-key day --basis X_pca --holdout 2,4 --out fit.h5ad --report fit.html
    sciflow infer cells cells.h5ad --time-key day --reference ou --fates cell_type --genes Pou5f1,Nanog --out fit.h5ad
    sciflow infer cells lv_published --holdout published --trajectories paths.npz --out fit.h5ad
    sciflow infer cells --config experiments/cells/lv.yaml --out fit.h5ad

DATA is an h5ad file, an npz file (X0, X1, ... (cells, d), one per time, and times) or a set (`sciflow list datasets`).
Times may be numbers, categories or labels with one number each ("day 3"). References: brownian, ou, lotka_volterra,
repressilator, vortex, lamb_oseen, spring, gradient_field (a network), or module:function, a drift f(x, t) in torch
operations. Engines: kernel_bridge (up to some thousand cells per time), bridge_matching (networks, any size), gp_ipf
(the published algorithm, small data). Held-out times are scored beside the Brownian bridge, two baselines without a
model and the sampling floor.

OUT gets the AnnData object with results under keys that begin with sciflow; OUT.json settings and figures; OUT.yaml the
settings for --config (there engine and reference may also be class_path and init_args). --trajectories gets times (T,),
paths (n, T, d), theta, theta_stderr, heldout_w1, heldout_w2 and names. Rounds are kept in OUT.parts: an interrupted run
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

DEFAULTS: dict[str, Any] = {
    "data": None,
    "time_key": None,
    "basis": "X_pca",
    "holdout": None,
    "reference": None,
    "sigma": None,
    "dt": None,
    "engine": "kernel_bridge",
    "rounds": 10,
    "accelerate": False,
    "bootstrap": 0,
    "growth": None,
    "duplicates": "error",
    "cells_per_time": None,
    "num": 200,
    "fates": None,
    "genes": None,
    "seed": 0,
    "out": None,
    "report": None,
    "trajectories": None,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow infer cells`. Those not given come from --config, then from `DEFAULTS`."""

    def add(*names: str, **options: Any) -> None:
        parser.add_argument(*names, default=argparse.SUPPRESS, **options)

    add("data", nargs="?", metavar="DATA", help="h5ad or npz file, or the name of a set")
    add("--config", type=Path, help="YAML file of options, e.g. an OUT.yaml; the command line beats it")
    add("--time-key", help="column of obs with the times (h5ad)")
    add("--basis", help="key of obsm with the coordinates (default: X_pca)")
    add("--holdout", help="times to score, not to fit, e.g. 2,4; or published, the split of a published set")
    add("--reference", help="family of the reference drift (default: as published for a published set, else brownian)")
    add("--sigma", type=float, help="noise per square root of time (default: as published, else from the distances)")
    add("--dt", type=float, help="largest time step (default: as published, else a fiftieth of the shortest gap)")
    add("--engine", help="kernel_bridge, bridge_matching or gp_ipf (default: kernel_bridge)")
    add("--rounds", type=int, help="refinements of the reference at most (default: 10)")
    add("--accelerate", action="store_true", help="Anderson acceleration of the refinements")
    add(
        "--bootstrap",
        type=int,
        metavar="N",
        help="fits to resampled cells, honest errors of the parameters (default: 0)",
    )
    add("--growth", help="estimate (unbalanced transport), or a column of obs with growth rates per time unit")
    add("--duplicates", help="cells at the very same place and time: error, keep or drop (default: error)")
    add("--cells-per-time", type=int, help="use so many cells of each time at most (default: all)")
    add("--num", "-n", type=int, help="trajectories (default: 200)")
    add("--fates", metavar="COLUMN", help="column of obs whose values at the last time are the fates (h5ad)")
    add("--genes", help="genes whose course is drawn in the report, e.g. Sox2,Nanog (basis X_pca)")
    add("--seed", type=int, help="seed of the run (default: 0)")
    add("--out", type=Path, help="h5ad file to write")
    add("--report", type=Path, help="HTML page with scores, parameters and pictures")
    add("--trajectories", type=Path, help="npz file for the trajectories")


def run(arguments: argparse.Namespace) -> None:
    """Check, fit, score, write."""
    options = options_of(arguments)
    check(options)
    fit, made, trends = results(options)
    write(fit, made, trends, options)


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Defaults, the config file over them, the command line over both.

    Raises:
        UserError: The file cannot be read or names an option that does not exist.
    """
    import yaml

    given = {name: value for name, value in vars(arguments).items() if name in DEFAULTS}
    path, stored = getattr(arguments, "config", None), {}
    if path is not None:
        try:
            stored = yaml.safe_load(path.read_text()) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise UserError(f"--config {path}: cannot be read ({error})") from None
        if not isinstance(stored, dict) or (wrong := [str(name) for name in stored if name not in DEFAULTS]):
            what = f"unknown options {', '.join(wrong)}" if isinstance(stored, dict) else "no options"
            raise UserError(f"--config {path}: got {what}, expected some of {', '.join(DEFAULTS)}")
    options = {**DEFAULTS, **stored, **given}
    for name in ("out", "report", "trajectories"):
        options[name] = None if options[name] is None else Path(options[name])
    return options


def check(options: dict[str, Any]) -> None:
    """Refuse what can be refused before anything is loaded."""
    from sciflow.core.files import check_writable

    if options["data"] is None:
        raise UserError("DATA is missing: an h5ad or npz file, or the name of a set")
    if options["out"] is None:
        raise UserError("--out is missing: the h5ad file to write")
    for name, ending in (("out", ".h5ad"), ("report", ".html"), ("trajectories", ".npz")):
        if options[name] is None:
            continue
        if options[name].suffix != ending:
            raise UserError(f"--{name}: got '{options[name].name}', expected a name that ends in {ending}")
        if Path(options["data"]).resolve() == options[name].resolve():
            raise UserError(f"--{name}: got DATA itself ({options[name]}), expected another file")
        check_writable(options[name])
    for name, least in (("rounds", 0), ("bootstrap", 0), ("num", 1), ("cells_per_time", 2)):
        value = options[name]
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UserError(f"--{name.replace('_', '-')}: got {value}, expected a whole number of at least {least}")
    if options["bootstrap"] == 1:
        raise UserError("--bootstrap: got 1, expected 0 (none) or at least 2 fits")
    for name in ("sigma", "dt"):
        value = options[name]
        if value is not None and not (isinstance(value, (int, float)) and 0 < value < float("inf")):
            raise UserError(f"--{name}: got {value}, expected a finite number > 0")


def times_of(value: Any) -> Any:
    """Held-out times from "2,4", [2, 4], 2 or "published".

    Raises:
        UserError: Not numbers.
    """
    if value in (None, ""):
        return ()
    if value == "published":
        return value
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, list) else [value]
    try:
        return tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        raise UserError(f"--holdout: got '{value}', expected times such as 2,4, or published") from None


def results(options: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The fit with scores, trajectories, and the course of genes (or None)."""
    from sciflow import cells
    from sciflow.cli.bars import stage_bars
    from sciflow.training.schrodinger.alternation import Anderson

    holdout = times_of(options["holdout"])
    genes = [one for one in str(options["genes"] or "").split(",") if one]
    source = opened(options, genes)
    kept = Path(f"{options['out']}.parts")
    if kept.is_dir():
        print(f"resuming: finished rounds are in {kept}")
    with stage_bars() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # duplicates are told once, by the notes
        fit = cells.bridge(
            source,
            **{name: options[name] for name in ("time_key", "basis", "reference", "sigma", "dt", "engine", "rounds")},
            **{name: options[name] for name in ("growth", "duplicates", "seed")},
            holdout=holdout,
            acceleration=Anderson() if options["accelerate"] else None,
            folder=f"{options['out']}.parts",
            progress=progress,
        )
        if options["bootstrap"] and fit.theta:
            fit = cells.bootstrap(fit, options["bootstrap"], seed=options["seed"], progress=progress)
        fit = cells.evaluate(fit, seed=options["seed"], progress=progress)
        if options["fates"] is not None:
            cells.fate(fit, options["fates"])
        cells.velocity(fit)
        trends = cells.gene_trends(fit, genes, options["num"], options["seed"]) if genes else None
        made = cells.trajectories(fit, options["num"], seed=options["seed"])
    return fit, made, trends


def opened(options: dict[str, Any], genes: list[str]) -> Any:
    """The AnnData object, or the cells of a set or npz file; what is asked of them later is checked now."""
    import numpy as np

    from sciflow.domains.cells.genes import check_decoder
    from sciflow.domains.cells.sets import read_cells

    read, adata = read_cells(options["data"], options["time_key"], options["basis"], options["duplicates"])
    if genes:
        check_decoder(read.decoder).rows(genes)
    if options["fates"] is not None and (adata is None or options["fates"] not in adata.obs):
        there = "none, DATA is not h5ad" if adata is None else ", ".join(map(str, adata.obs))
        raise UserError(f"--fates: no column '{options['fates']}' in obs; columns of obs: {there}")
    if options["cells_per_time"] is not None:
        read = read.subset(options["cells_per_time"], options["seed"])
        adata = None if adata is None else adata[np.sort(np.concatenate(read.rows))].copy()
    return read if adata is None else adata


def write(fit: Any, made: Any, trends: Any, options: dict[str, Any]) -> None:
    """h5ad, settings, trajectories, report; prints the tables."""
    import numpy as np
    import yaml

    import sciflow
    from sciflow.core.files import replacing, write_text
    from sciflow.domains.cells.files import write_h5ad
    from sciflow.report.cells import score_table, sections, theta_table
    from sciflow.report.files import plain, write_json
    from sciflow.report.html import page

    for table in (theta_table(fit), score_table(fit) if fit.scores is not None else None):
        if table is not None:
            print(table.text())
    for note in fit.warnings:
        print(f"! {note}")
    write_h5ad(options["out"], fit.adata)
    config = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    config |= {name: fit.settings[name] for name in ("sigma", "dt", "holdout")}
    if config["reference"] is None:
        config["reference"] = fit.settings["reference"]
    write_text(f"{options['out']}.yaml", yaml.safe_dump(config, sort_keys=False))
    versions = {"sciflow": sciflow.__version__, "command": " ".join(["sciflow", *sys.argv[1:]])}
    scores = None if fit.scores is None else fit.scores.plain()
    objective, spent = fit.bridge.objective, sum(fit.bridge.history.seconds)
    found = {"theta": fit.theta, "theta_stderr": fit.theta_stderr, "objective": objective, "scores": scores}
    write_json(
        f"{options['out']}.json",
        {**config, **versions, **plain(found), "cpu_seconds": spent, "notes": list(fit.warnings)},
    )
    if options["trajectories"] is not None:
        with replacing(options["trajectories"]) as temporary:
            np.savez(temporary, **arrays(fit, made))
        print(f"wrote {options['trajectories']} ({len(made.paths)} paths at {len(made.times)} times)")
    if options["report"] is not None:
        subtitle = (
            f"{Path(options['data']).name}, {fit.cells.count} cells, engine {options['engine']}, seed {options['seed']}"
        )
        settings = {**config, **versions}
        write_text(options["report"], page("Cells over time", subtitle, sections(fit, trends), settings))
        print(f"wrote {options['report']}")
    shutil.rmtree(f"{options['out']}.parts", ignore_errors=True)
    print(f"wrote {options['out']} ({len(objective) - 1} rounds, {spent:.1f} CPU-s)")


def arrays(fit: Any, made: Any) -> dict[str, Any]:
    """Content of the npz file."""
    import numpy as np

    held = {name: np.zeros(0) if fit.scores is None else getattr(fit.scores, name)["bridge"] for name in ("w1", "w2")}
    return {
        "times": made.times,
        "paths": made.paths,
        "theta": np.array(list(fit.theta.values())),
        "theta_stderr": np.array(list(fit.theta_stderr.values())),
        "theta_names": np.array(list(fit.theta), dtype=str),
        "heldout_times": fit.held.times,
        "heldout_w1": held["w1"],
        "heldout_w2": held["w2"],
        **({} if made.weights is None else {"weights": made.weights}),
    }
