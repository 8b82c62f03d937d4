"""Turn a checkpoint into one small .safetensors file: sciflow's own (averaged weights), or an official one of GDSS.
`gb1` makes the model gb1-mpnn from a structure file of GB1 and the ProteinMPNN weights, in place of the stored table.

    sciflow convert fit runs/lightning_logs/version_0/checkpoints/last.ckpt my-model.safetensors
    sciflow convert gdss gdss_qm9.pth qm9-official.safetensors
    sciflow convert gb1 2gi9.pdb gb1.safetensors
    sciflow sample qm9-official.safetensors --num 1000 --out molecules.smi

Nothing in the file is executed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sciflow.core.errors import UserError

FORMATS = {
    "fit": ("sciflow.model", "load"),
    "gdss": ("sciflow.interop.gdss", "load_official"),
    "gb1": ("sciflow.interop.gb1", "from_structure"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow convert`."""
    parser.add_argument("format", help=f"what the file is of: {', '.join(FORMATS)}")
    parser.add_argument("file", type=Path, help="checkpoint; for gb1 a PDB or mmCIF file")
    parser.add_argument("out", type=Path, help="sciflow model to write (.safetensors)")


def run(arguments: argparse.Namespace) -> None:
    """Read, convert, write."""
    import importlib

    from sciflow.core.files import check_writable

    if arguments.format not in FORMATS:
        raise UserError(f"format: got '{arguments.format}', expected one of {', '.join(FORMATS)}")
    if arguments.out.suffix != ".safetensors":
        raise UserError(f"{arguments.out}: got the ending '{arguments.out.suffix}', expected .safetensors")
    if not arguments.file.is_file():
        raise UserError(f"{arguments.file}: no such file, expected a file for {arguments.format}")
    check_writable(arguments.out)
    module, function = FORMATS[arguments.format]
    model = getattr(importlib.import_module(module), function)(arguments.file)
    model.spec.setdefault("name", arguments.out.stem)
    model.save(arguments.out)
    print(
        f"wrote {arguments.out}: {model.spec.get('name', arguments.file.stem)} ({model.spec.get('domain', 'graphs')})"
    )
