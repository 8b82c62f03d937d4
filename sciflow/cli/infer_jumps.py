"""Rates of a jump process, with errors, from paths of states or a raw signal.

    sciflow infer jumps paths.csv --out rates.json --report report.html
    sciflow infer jumps trace.csv --method hmm_em --states 2 --out rates.json
    sciflow infer jumps labels.npz --method em --lag 50 --unit ns --report report.html
    sciflow infer jumps hp35_two_state --lag 50 --report report.html

DATA is a table (.csv .tsv .txt, also .gz: columns path,time,state or path,time,signal), .npz, .npy, .h5ad, or a named
set: dfr_V0 .. dfr_V3, ip3r2, porb, alanine_dipeptide, hp35, hp35_dihedral, hp35_two_state. A raw signal without times
needs --spacing. Methods: fim+em (default; right labels), em, hmm_em (some labels wrong; or a signal with noise, then
give --states), fim (the pretrained network alone), mle (every jump known), gibbs. For labels with memory (the report
shows time scales over lags) give --lag. A signal is labelled by --label for all methods but hmm_em. The JSON file
holds rates, stderr, initial, stationary, timescales, mfpt, noise_rate, loglik, warnings and the settings of the run.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

PRIORS = ("weak", "none")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow infer jumps`."""
    parser.add_argument("data", metavar="DATA", help="file or name of a set")
    parser.add_argument("--method", default="fim+em", help="fim+em, em, hmm_em, fim, mle or gibbs")
    parser.add_argument("--states", type=int, default=None, help="number of states; needed for a signal")
    parser.add_argument("--lag", type=float, default=None, help="look at the paths every LAG only (sliding windows)")
    parser.add_argument("--prior", default="weak", help="of the rates: weak, or none (maximum likelihood)")
    parser.add_argument("--unit", default="", help="unit of time, e.g. ps; default: what the time column says")
    parser.add_argument("--spacing", type=float, default=None, help="time between two values of a raw signal")
    parser.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="ROLE=NAME",
        help="column (array) for path, time, state or signal where it has another name; may be repeated",
    )
    parser.add_argument("--label", default=None, help="of a signal: mixture (default), kmeans, amplitude")
    parser.add_argument(
        "--cutoff", type=float, default=None, help="of the recording's low-pass filter, in 1/unit: thins to twice that"
    )
    parser.add_argument("--emission", default=None, help="hmm_em: noise, confusion or gaussian")
    parser.add_argument("--seed", type=int, default=0, help="of clustering, sampling and bootstrap")
    parser.add_argument("--out", type=Path, default=Path("rates.json"), help="JSON file for rates and all that follows")
    parser.add_argument("--report", type=Path, default=None, help="HTML page with tables and pictures")


def run(arguments: argparse.Namespace) -> None:
    """Read, estimate, print, write."""
    from sciflow.cli.bars import stage_bars
    from sciflow.core.files import check_writable, write_text
    from sciflow.jumps import estimate
    from sciflow.report.files import write_json
    from sciflow.report.html import page
    from sciflow.report.jumps import by_level, jump_sections, scale_table, state_table

    columns = check(arguments)
    for path in filter(None, (arguments.out, arguments.report)):
        check_writable(path)
    with stage_bars() as progress:
        progress("read", 0.0)
        paths = read(arguments, columns)
        progress("read", 1.0)
        progress("estimate", 0.0)
        options: dict[str, Any] = {"lag": arguments.lag, "emission": arguments.emission, "states": arguments.states}
        found = estimate(paths, arguments.method, prior=_prior(arguments.prior), seed=arguments.seed, **options)
        progress("estimate", 1.0)
        sections = []
        if arguments.report is not None:
            progress("report", 0.0)
            sections = jump_sections(found, paths, arguments.lag, arguments.seed)
            progress("report", 1.0)
    print(state_table(found, by_level(paths, found) if paths.states is None else paths).text())
    print(scale_table(found).text())
    for sentence in found.warnings:
        print(f"warning: {sentence}")
    settings = _settings(arguments)
    write_json(arguments.out, {**found.to_dict(), "settings": settings})
    print(f"wrote {arguments.out}")
    if arguments.report is not None:
        subtitle = f"{Path(arguments.data).name}, method {found.method}, seed {arguments.seed}"
        write_text(arguments.report, page("Jump process", subtitle, sections, settings))
        print(f"wrote {arguments.report}")


def check(arguments: argparse.Namespace) -> dict[str, str]:
    """Refuse what can be refused before anything is read; the named columns."""
    from sciflow.domains.jumps.estimation import METHODS
    from sciflow.domains.jumps.labelling import METHODS as LABELS

    if arguments.method not in METHODS:
        raise UserError(f"--method: got '{arguments.method}', expected one of {', '.join(METHODS)}")
    if arguments.label is not None and arguments.label not in LABELS:
        raise UserError(f"--label: got '{arguments.label}', expected one of {', '.join(LABELS)}")
    if arguments.prior not in PRIORS:
        raise UserError(f"--prior: got '{arguments.prior}', expected one of {', '.join(PRIORS)}")
    if arguments.states is not None and arguments.states < 2:
        raise UserError(f"--states: got {arguments.states}, expected at least 2")
    if not 0 <= arguments.seed < 2**32:
        raise UserError(f"--seed: got {arguments.seed}, expected 0 to {2**32 - 1}")
    files = [path.resolve() for path in (Path(arguments.data), arguments.out, arguments.report) if path is not None]
    if len(set(files)) < len(files):
        raise UserError(
            f"--out, --report: got one file twice ({', '.join(map(str, files))}); expected files of their own"
        )
    columns = {}
    for word in arguments.column:
        role, mark, name = word.partition("=")
        if not mark:
            raise UserError(f"--column: got '{word}', expected ROLE=NAME, e.g. --column time=Zeit")
        if role in columns:
            raise UserError(
                f"--column: got {role} twice, as {columns[role]} and {name}; expected one name for each role"
            )
        columns[role] = name
    return columns


def read(arguments: argparse.Namespace, columns: dict[str, str]) -> Any:
    """The paths, thinned to the filter and labelled where that is asked for."""
    from sciflow.domains.jumps.files import read_paths
    from sciflow.domains.jumps.labelling import decimate, label
    from sciflow.domains.jumps.sets import SETS, jump_set

    method, states = arguments.method, arguments.states
    if arguments.data in SETS:
        paths = jump_set(arguments.data)
        if arguments.unit not in ("", paths.unit):
            own = f"are in {paths.unit}" if paths.unit else "have no unit"
            raise UserError(f"--unit: got {arguments.unit}, but times of {arguments.data} {own}; leave it out")
        for option, value in (("--spacing", arguments.spacing), ("--column", arguments.column)):
            if value not in (None, []):
                raise UserError(
                    f"{option}: got {value}, but the set {arguments.data} has its own times and names; leave it out"
                )
    elif not Path(arguments.data).exists():
        raise UserError(f"{arguments.data}: neither a file nor one of the sets {', '.join(SETS)}")
    else:
        given: dict[str, Any] = {"unit": arguments.unit, "spacing": arguments.spacing, "states": states}
        paths = read_paths(arguments.data, columns=columns, complete=method == "mle", **given)
    if arguments.cutoff is not None:
        paths = decimate(paths, arguments.cutoff)
    raw = paths.states is None
    if raw and states is None:
        raise UserError(f"{arguments.data}: a signal without states; give their number, e.g. --states 2")
    if arguments.label is not None or (raw and method != "hmm_em"):
        paths = label(paths, states or paths.states_count, arguments.label or "mixture", arguments.seed)
    return paths


def _prior(name: str) -> Any:
    from sciflow.domains.jumps.rate_prior import NONE

    return NONE if name == "none" else None


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What reproduces the run."""
    import torch

    import sciflow

    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    command = " ".join(["sciflow", *sys.argv[1:]])
    return {**chosen, "sciflow": sciflow.__version__, "torch": torch.__version__, "command": command}
