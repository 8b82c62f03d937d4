"""The `sciflow` command: dispatch before anything heavy is imported.

Each command is one module `sciflow.cli.<name>` with `add_arguments(parser)` and `run(arguments)`; fit, validate and
test go to the Lightning command line whole.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

import sciflow
from sciflow.core.errors import UserError

COMMANDS = {
    "fit": "train a model from a YAML file: sciflow fit --config experiments/molecules/qm9.yaml",
    "validate": "validation loss of a checkpoint",
    "test": "test loss of a checkpoint",
    "sample": "draw samples from a checkpoint or shipped model into a file",
    "evaluate": "published metrics of a file of samples, with noise floors",
    "design": "generation towards a reward: sciflow design molecule|sequence|protein|crystal|trajectory",
    "infer": "a process from data: sciflow infer jumps|cells",
    "convert": "official checkpoints of other projects as sciflow models",
    "data": "data sets: list, get",
    "list": "what there is: models, datasets, processes, solvers, guidance, objectives",
    "demo": "sample, evaluate and design real molecules in a few minutes; writes runs/demo",
}
LIGHTNING = ("fit", "validate", "test")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0, 2 for a mistake of the user (one line on stderr), 130 if interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"sciflow {sciflow.__version__}")
        return 0
    name, rest = words[0], words[1:]
    try:
        if name not in COMMANDS:
            raise UserError(f"unknown command '{name}'; expected one of: {', '.join(COMMANDS)}")
        if name in LIGHTNING:
            return importlib.import_module("sciflow.cli.fit").run([name, *rest])
        module = importlib.import_module(f"sciflow.cli.{name}")
        parser = _Parser(f"sciflow {name}", description=module.__doc__, formatter_class=_Formatter)
        module.add_arguments(parser)
        module.run(parser.parse_args(rest))
        return 0
    except (UserError, OSError) as error:
        print(f"sciflow {name}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"sciflow {name}: interrupted; what was finished is on disk", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Mistakes in options are one line too."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; `{self.prog} --help` lists the options")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps the module docstring as it is and shows defaults."""


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            f"sciflow {sciflow.__version__}: generative models for scientific data",
            "",
            "usage: sciflow COMMAND [options]        sciflow COMMAND --help",
            "",
            *lines,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
