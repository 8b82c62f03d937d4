"""Generation towards a reward. Beside the designs stands what a plain best-of-N reaches at the same network cost.

    sciflow design molecule --reward qed --guidance svdd --num 64 --out designs.sdf --report designs.html
    sciflow design sequence --model gb1-mpnn --reward gb1 --alpha 0.5 --method svdd -n 512 --out d.fasta
    sciflow design protein --backbone 1abc.pdb --chain A --fix 39,40 -n 16 --out d.fasta
    sciflow design crystal --formula SrTiO3 --num 20 --out designs
    sciflow design trajectory --model springs-forecast --observed run.npz --mask 0:10 --num 20 --out futures.npz

`sciflow design molecule --help` (sequence, protein, crystal, trajectory) lists the options.
"""

from __future__ import annotations

import argparse
import importlib

DOMAINS = {
    "molecule": "molecules with a model such as qm9-gdss",
    "sequence": "DNA, RNA or protein sequences with a masked-diffusion model",
    "protein": "protein sequences for a backbone from a PDB or mmCIF file",
    "crystal": "crystal structures of a composition, relaxed and ranked by energy",
    "trajectory": "futures of observed frames, interpolations, refinements and long roll-outs",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One set of options per domain."""
    domains = parser.add_subparsers(dest="domain", required=True, metavar="DOMAIN", help="what to design")
    for name, text in DOMAINS.items():
        module = importlib.import_module(f"sciflow.cli.design_{name}")
        options = domains.add_parser(
            name, help=text, description=module.__doc__, formatter_class=parser.formatter_class
        )
        module.add_arguments(options)


def run(arguments: argparse.Namespace) -> None:
    """Hand over to the domain."""
    importlib.import_module(f"sciflow.cli.design_{arguments.domain}").run(arguments)
