"""Turn an official checkpoint of another project into a sciflow model.

    sciflow convert gdss gdss_qm9.pth qm9-official.safetensors
    sciflow sample qm9-official.safetensors --num 1000 --out molecules.smi

Nothing in the file is executed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sciflow.core.errors import UserError

FORMATS = {"gdss": "sciflow.interop.gdss"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow convert`."""
    parser.add_argument("format", help=f"project that wrote the checkpoint: {', '.join(FORMATS)}")
    parser.add_argument("file", type=Path, help="official checkpoint")
    parser.add_argument("out", type=Path, help="sciflow model to write (.safetensors)")


def run(arguments: argparse.Namespace) -> None:
    """Read, convert, write."""
    import importlib

    from sciflow.report.files import check_writable

    if arguments.format not in FORMATS:
        raise UserError(f"format: got '{arguments.format}', expected one of {', '.join(FORMATS)}")
    if arguments.out.suffix != ".safetensors":
        raise UserError(f"{arguments.out}: got the ending '{arguments.out.suffix}', expected .safetensors")
    if not arguments.file.is_file():
        raise UserError(f"{arguments.file}: no such file, expected an official {arguments.format} checkpoint")
    check_writable(arguments.out)
    model = importlib.import_module(FORMATS[arguments.format]).load_official(arguments.file)
    model.save(arguments.out)
    print(
        f"wrote {arguments.out}: {model.spec.get('name', arguments.file.stem)} ({model.spec.get('domain', 'graphs')})"
    )
