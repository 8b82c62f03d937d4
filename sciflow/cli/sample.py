"""Draw samples from a model into a file; the ending chooses the format (.smi .sdf .csv for molecules, .npz .json
.g6 for graphs, .graphml for a single graph, .fasta .csv .npz for sequences).

Sample i depends on (seed, i) only. Finished batches are kept in OUT.parts: an interrupted run goes on where it stopped.

    sciflow sample qm9-gdss --num 1000 --out molecules.smi --seed 0
    sciflow sample promoters --num 100 --out promoters.fasta
"""

from __future__ import annotations

import argparse
from pathlib import Path

from sciflow.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow sample`."""
    parser.add_argument(
        "model", help="checkpoint of `sciflow fit`, .safetensors file, or shipped name (`sciflow list models`)"
    )
    parser.add_argument("--num", type=int, required=True, help="number of samples")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--steps", type=int, default=None, help="moves of the sampler; default: the model's own")
    parser.add_argument("--solver", default=None, help="solver for all fields, e.g. DPMpp2M; default: the model's own")
    parser.add_argument("--batch-size", type=int, default=256, help="samples per batch")
    parser.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=None,
        help="nodes or letters per sample: one number for all, or one each",
    )
    parser.add_argument("--devices", type=int, default=1, help="processes (GPUs if there are any)")


def run(arguments: argparse.Namespace) -> None:
    """Sample, with a progress bar."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from sciflow.core.files import check_writable
    from sciflow.model import load
    from sciflow.streaming import Job
    from sciflow.writers import check_ending, write_objects

    if arguments.devices < 1:
        raise UserError(f"--devices must be at least 1, got {arguments.devices}")
    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    domain = model.spec.get("domain", "unknown")
    if model.codec is None:
        raise UserError(
            f"model '{arguments.model}' makes nothing without a structure; use `sciflow design protein --backbone "
            "FILE.pdb`"
        )
    check_ending(domain, arguments.out, arguments.num)
    check_writable(arguments.out)
    plan = model.sampling.changed(arguments.steps, arguments.solver)
    plan.sampler(model.processes)  # an unfit solver is refused before any work
    if plan.couples_samples:
        print("note: this sampler couples the samples of a batch: they depend on --batch-size, not on (seed, i) alone")
    sizes = _sizes(arguments.sizes, arguments.num)
    job = Job(model, arguments.out, arguments.num, arguments.seed, arguments.batch_size, plan, sizes)
    job.open()
    todo = job.missing()
    if len(todo) < len(job.batches):
        print(f"resuming: {len(job.batches) - len(todo)} of {len(job.batches)} batches are on disk")
    if arguments.devices > 1:
        from sciflow.training.predict import generate_distributed

        generate_distributed(job, todo, arguments.devices)
    else:
        import torch

        model.to("cuda" if torch.cuda.is_available() else "cpu")
        columns = ("sampling", BarColumn(), MofNCompleteColumn(), "batches", TimeRemainingColumn())
        with Progress(*columns) as progress:
            for number in progress.track(todo, total=len(todo)):
                job.generate(number)
    objects = job.finish(lambda out, items, settings: write_objects(domain, out, items, settings))
    empty = sum(item is None for item in objects)
    print(
        f"wrote {len(objects) - empty} of {len(objects)} samples to {arguments.out}"
        + (f" ({empty} empty)" if empty else "")
    )


def _sizes(given: list[int] | None, num: int) -> list[int] | None:
    if given is None or len(given) == num:
        return given
    if len(given) == 1:
        return given * num
    raise UserError(f"--sizes got {len(given)} numbers for {num} samples; give one for all, or one for each")
