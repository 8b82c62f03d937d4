"""Processes from data: rates of jump processes from paths, drifts of cells from snapshots.

    sciflow infer jumps paths.csv --out rates.json --report report.html
    sciflow infer cells cells.h5ad --time-key day --out fit.h5ad --report fit.html

`sciflow infer jumps --help` (cells) lists the options.
"""

from __future__ import annotations

import argparse
import importlib

DOMAINS = {
    "jumps": "rate matrix of a jump process from paths of states or a raw signal",
    "cells": "trajectories, drift and a refined reference from cells at several times",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One set of options per domain."""
    domains = parser.add_subparsers(dest="domain", required=True, metavar="DOMAIN", help="what to infer")
    for name, text in DOMAINS.items():
        module = importlib.import_module(f"sciflow.cli.infer_{name}")
        options = domains.add_parser(
            name, help=text, description=module.__doc__, formatter_class=parser.formatter_class
        )
        module.add_arguments(options)


def run(arguments: argparse.Namespace) -> None:
    """Hand over to the domain."""
    importlib.import_module(f"sciflow.cli.infer_{arguments.domain}").run(arguments)
