"""Published metrics of a file of samples, each with the floor that real data reach and, where known, published figures.

    sciflow evaluate molecules.smi --domain molecules --reference qm9 --out metrics.json --report report.html
    sciflow evaluate graphs.npz --reference community_small
    sciflow evaluate mine.csv --reference test.csv --train train.csv --protocol fast
    sciflow evaluate promoters.fasta --reference fly_promoters
    sciflow evaluate predictions --domain crystals --reference perov_5_test --report report.html
    sciflow evaluate samples.extxyz --domain crystals --reference perov_5_test --relax chgnet --sun-samples 50
    sciflow evaluate futures.npz --domain trajectories --reference observed.npz --report report.html

Samples without an object and broken entries count as invalid; what was skipped is printed.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow evaluate`."""
    parser.add_argument(
        "file", type=Path, help="samples: .smi .csv .sdf (molecules), .npz .g6 (graphs), .fasta, a folder of .cif"
    )
    parser.add_argument("--reference", required=True, help="data set (its test split) or file to compare with")
    parser.add_argument(
        "--domain", default=None, help="molecules, graphs, sequences, crystals or trajectories; default: by the ending"
    )
    parser.add_argument(
        "--train", default=None, help="training set or file, for novelty and floors; default: from the reference"
    )
    parser.add_argument(
        "--protocol",
        default=None,
        help="molecules: gdss, fast (no FCD); graphs: gdss, spectre; sequences: kmer, motifs; default: the first; "
        "crystals: csp, de_novo; default: csp if names and formulas pair with the reference; trajectories: forecast, "
        "unconditional, marginal; default: forecast if frames were observed",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random subsets behind the floors")
    parser.add_argument(
        "--relax",
        choices=["chgnet"],
        default=None,
        help="de novo crystals: relax some for S.U.N. (stable, unique, novel) by a partial hull; needs SCIFLOW_DATA",
    )
    parser.add_argument(
        "--sun-samples", type=int, default=100, help="with --relax: samples and real crystals, 1-60 s each; kept"
    )
    parser.add_argument("--out", type=Path, default=None, help="JSON file for all figures")
    parser.add_argument("--report", type=Path, default=None, help="HTML page with tables and charts")


def run(arguments: argparse.Namespace) -> None:
    """Evaluate, print the table, write the files."""
    from sciflow.cli.bars import stage_bars
    from sciflow.core.files import check_writable, write_text
    from sciflow.evaluation import evaluate
    from sciflow.report.evaluation import evaluation_sections, evaluation_table
    from sciflow.report.files import write_json
    from sciflow.report.html import page

    for target in (arguments.out, arguments.report):
        if target is not None:
            check_writable(target)
    names = ("reference", "domain", "protocol", "train", "seed", "relax", "sun_samples")
    options = {name: getattr(arguments, name) for name in names}
    with stage_bars() as progress:
        report = evaluate(arguments.file, **options, progress=progress)
    print(evaluation_table(report).text())
    if arguments.out is not None:
        write_json(arguments.out, report)
        print(f"wrote {arguments.out}")
    if arguments.report is not None:
        settings = {"file": str(arguments.file), **options}
        subtitle = f"{report['domain']} against {arguments.reference}"
        write_text(
            arguments.report,
            page(f"Evaluation of {arguments.file.name}", subtitle, evaluation_sections(report), settings),
        )
        print(f"wrote {arguments.report}")
