"""DNA, RNA or protein sequences with a high reward from a masked-diffusion model, held against the plain prior and a
best-of-N of equal network budget.

    sciflow design sequence --model gb1-mpnn --reward gb1 --alpha 0.5 --method svdd -n 512 --out d.fasta
    sciflow design sequence --model promoters --reward pbm:SIX6_REF_R1 --heldout pbm:SIX6_REF_R2 --report r.html
    sciflow design sequence --model mine.ckpt --reward my_rewards:activity --method smc -n 64 --out d.csv

Rewards (`sciflow list rewards`): gb1, gb1-stability, pbm:NAME, motif:ID, utr:a, fold:mfe ..., or module:function, a
Python function of a list of strings; see docs/howto/design-sequences.md. The held-out reward is only reported. FILE
(.fasta .csv .npz) lists the designs best first, each with reward, held-out reward and its log-likelihood under the
untuned model [nats per sequence]; FILE.json holds settings and figures. Finished batches are kept in FILE.parts: the
same command goes on after a failure.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sciflow.cli.design_methods import add_method_arguments, check_method
from sciflow.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow design sequence`."""
    parser.add_argument("--model", required=True, help="checkpoint, .safetensors file or shipped name")
    parser.add_argument("--reward", required=True, help="what to raise, e.g. gb1, pbm:NAME or module:function")
    parser.add_argument("--fix", default=None, help="positions that keep their letter, counted from 1: 3,7 or 1-10")
    parser.add_argument("--start", default=None, help="the sequence whose letters --fix keeps; it gives the length")
    add_shared_arguments(parser, num=64)


def add_shared_arguments(parser: argparse.ArgumentParser, num: int) -> None:
    """What sequences and proteins share."""
    parser.add_argument("--heldout", default=None, help="a reward that is only reported: a replicate, another model")
    parser.add_argument("-n", "--num", type=int, default=num, help="number of designs")
    parser.add_argument("--out", type=Path, default=Path("designs.fasta"), help="file to write: .fasta, .csv, .npz ...")
    add_method_arguments(parser)
    parser.add_argument("--steps", type=int, default=None, help="moves of the sampler; default: one token per move")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--batch-size", type=int, default=256, help="sequences at a time")
    parser.add_argument("--report", type=Path, default=None, help="HTML page with tables, charts and letters")


def run(arguments: argparse.Namespace) -> None:
    """Check everything that can be checked, design, write."""
    from sciflow.cli.design_run import check_targets, execute

    check_method(arguments)
    check_targets(arguments)
    if (arguments.fix is None) != (arguments.start is None):
        raise UserError("--fix POSITIONS and --start SEQUENCE belong together; got one of them")

    from sciflow.domains.sequences.design import alphabet_of_model, fixed_positions
    from sciflow.model import load

    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    fixed = None
    if arguments.start is not None:
        fixed = fixed_positions(alphabet_of_model(model), arguments.start, positions(arguments.fix))
    execute(model, arguments, fixed=fixed, title="Sequence design")


def positions(text: str) -> list[int]:
    """Numbers of a list such as 3,7 or 1-10,12."""
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdigit() or (dash and not last.isdigit()):
            raise UserError(f"fix: got '{part.strip()}', expected positions such as 3,7 or 1-10")
        found += range(int(first), int(last or first) + 1)
    return found
