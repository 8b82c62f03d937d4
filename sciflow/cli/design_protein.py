"""Protein sequences for a backbone: plain inverse folding with ProteinMPNN, or steered towards a reward.

    sciflow design protein --backbone 1abc.pdb --chain A -n 16 --out designs.fasta
    sciflow design protein --backbone 1abc.pdb --fix 39,40 --temperature 0.1 --out designs.fasta
    sciflow design protein --backbone 2gi9.pdb --reward gb1-stability --heldout gb1 --alpha 0.5 --out designs.fasta

Without --reward the designs are samples of the prior, and recovery of the native sequence and log-likelihood (at
temperature 1, in nats per sequence) are reported. Residues to fix are named as in the file. The weights of ProteinMPNN
(MIT licence) are downloaded on first use.
"""

from __future__ import annotations

import argparse
from typing import Any

from sciflow.cli.design_methods import check_method
from sciflow.cli.design_sequence import add_shared_arguments
from sciflow.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow design protein`."""
    parser.add_argument("--backbone", required=True, help="PDB or mmCIF file, also .gz")
    parser.add_argument("--chain", default=None, help="chain to design; default: the first protein chain")
    parser.add_argument("--fix", default="", help="residues that keep their amino acid, as in the file: 39,40 or 1-38")
    parser.add_argument("--model", default="proteinmpnn", help="proteinmpnn, proteinmpnn:VARIANT, or a model file")
    parser.add_argument(
        "--temperature", type=float, default=None, help="of the prior's letters; default: 0.1, with a reward 1"
    )
    parser.add_argument("--reward", default=None, help="what to raise; default: nothing, plain samples")
    add_shared_arguments(parser, num=16)


def run(arguments: argparse.Namespace) -> None:
    """Read the structure, build prior and judge, design, write."""
    from sciflow.cli.design_run import check_targets, execute

    check_method(arguments)
    check_targets(arguments)
    if arguments.temperature is None:
        arguments.temperature = 0.1 if arguments.reward is None else 1.0
    if arguments.temperature <= 0:
        raise UserError(f"temperature: got {arguments.temperature:g}, expected a positive number")

    from sciflow.domains.sequences.structure import read_backbone

    backbone = read_backbone(arguments.backbone, arguments.chain)
    backbone.positions(arguments.fix)  # unknown residues show here, with the name of the chain
    for note in backbone.notes:
        print(f"note: {note}")
    model, prior = (backbone_model(arguments, backbone, temperature) for temperature in (arguments.temperature, 1.0))
    title = f"Protein design on {backbone.name}, chain {backbone.chain}"
    execute(model, arguments, prior=prior, native=backbone.sequence, fixed=model.codec.fixed, title=title)


def backbone_model(arguments: argparse.Namespace, backbone: Any, temperature: float) -> Any:
    """The model on this backbone, its logits divided by the temperature."""
    from sciflow.domains.sequences.structure import BackboneCodec
    from sciflow.interop.proteinmpnn import proteinmpnn
    from sciflow.model import load

    name, _, variant = str(arguments.model).partition(":")
    if name == "proteinmpnn":
        return proteinmpnn(backbone, arguments.fix, variant or "v_48_020", temperature)
    model = load(arguments.model)
    if not hasattr(model.denoiser.network, "encoder"):
        raise UserError(
            f"'{arguments.model}' does not read backbones; expected proteinmpnn or an inverse-folding model"
        )
    if hasattr(model.denoiser.network, "temperature"):
        model.denoiser.network.temperature = temperature  # type: ignore[assignment]
    model.codec = BackboneCodec.of(backbone, arguments.fix)
    model.spec |= {"name": name, "sizes": {str(len(backbone.sequence)): 1}}
    return model
