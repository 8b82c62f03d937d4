"""Draw samples from a model into a file; the ending chooses the format (.smi .sdf .csv for molecules, .npz .json
.g6 for graphs, .graphml for a single graph, .fasta .csv .npz for sequences, .extxyz .cif .json .npz or a folder of CIF
files for crystals).

Sample i depends on (seed, i) only. Finished batches are kept in OUT.parts: an interrupted run goes on where it stopped,
and --devices shares the missing ones among processes.

    sciflow sample qm9-gdss --num 1000 --out molecules.smi --seed 0
    sciflow sample promoters --num 100 --out promoters.fasta
    sciflow sample perov5-csp --compositions formulas.csv --num 5 --out predictions

Models that predict crystal structures need compositions: a CSV file with a column formula (also id and z, formula units
per cell) or with a column file (structure files), or any file, folder or set of structures. --num is then the number of
structures for each (default 1); batches hold --batch-size of the largest cells, or more of smaller ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow sample`."""
    parser.add_argument(
        "model", help="checkpoint of `sciflow fit`, .safetensors file, or shipped name (`sciflow list models`)"
    )
    parser.add_argument("--num", type=int, default=None, help="number of samples; with --compositions: of each, or 1")
    parser.add_argument("--out", type=Path, required=True, help="file to write, for crystals also a new folder")
    parser.add_argument(
        "--compositions",
        default=None,
        help="for crystal structure prediction: CSV with a column formula or file, or structures",
    )
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

    from sciflow.model import load
    from sciflow.streaming import Job
    from sciflow.writers import check_target, write_objects

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
    if arguments.compositions is not None:
        _predict(model, arguments)
        return
    if arguments.num is None:
        raise UserError("--num is missing; give the number of samples")
    if domain == "crystals" and not getattr(model.codec, "species", False):
        raise UserError(
            f"model '{arguments.model}' predicts structures of given compositions; give --compositions FILE.csv "
            "(column formula), or use `sciflow design crystal --formula SrTiO3`"
        )
    check_target(domain, arguments.out, arguments.num)
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


def _predict(model: Any, arguments: argparse.Namespace) -> None:
    """Structures for a list of compositions, one file entry (or CIF) each, named by its id."""
    import torch

    import sciflow
    from sciflow.cli.bars import stage_bars
    from sciflow.cli.design_crystal import check_out, write_once
    from sciflow.domains.crystals.predict import PredictionJob, collected, named, read_compositions
    from sciflow.domains.designing import Shelf
    from sciflow.report.files import write_json
    from sciflow.streaming import plan_digest, weights_digest
    from sciflow.writers import check_ending

    copies = 1 if arguments.num is None else arguments.num
    if copies < 1 or arguments.batch_size < 1:
        raise UserError(f"--num and --batch-size must be at least 1, got {copies} and {arguments.batch_size}")
    if model.spec.get("domain") != "crystals" or model.codec.species:
        raise UserError(f"--compositions is for crystal structure prediction, got model '{arguments.model}'")
    if arguments.sizes is not None:
        raise UserError("--sizes does not go with --compositions, which say how many atoms there are; leave it out")
    entries = read_compositions(arguments.compositions)
    check_ending("crystals", arguments.out, len(entries) * copies)
    plan = model.sampling.changed(arguments.steps, arguments.solver)
    plan.sampler(model.processes)  # an unfit solver is refused before any work
    settings = {
        "model": model.spec["name"],
        "sciflow": sciflow.__version__,
        "compositions": str(arguments.compositions),
        "copies": copies,
        **{name: getattr(arguments, name) for name in ("seed", "steps", "solver", "batch_size")},
    }
    contents = [[one.name, one.numbers.tolist()] for one in entries]
    digest = hashlib.sha256(json.dumps([contents, weights_digest(model), plan_digest(plan)]).encode()).hexdigest()
    shelf = Shelf(Path(f"{arguments.out}.parts"), {**settings, "fingerprint": digest})
    check_out(shelf, arguments.out, len(entries) * copies)
    atoms = arguments.batch_size * max(len(one.numbers) for one in entries)
    job = PredictionJob(model, entries, copies, arguments.seed, plan, atoms, shelf)
    todo = job.missing()
    if len(todo) < len(job.batches):
        print(f"resuming: {len(job.batches) - len(todo)} of {len(job.batches)} batches are on disk")
    if arguments.devices > 1:
        from sciflow.training.predict import generate_distributed

        generate_distributed(job, todo, arguments.devices)  # type: ignore[arg-type] (path, generate and model suffice)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with stage_bars() as progress:
        predictions = collected(job, progress)
    names, structures = named(entries, predictions)
    write_once(shelf, arguments.out, structures, names)
    empty = sum(one is None for one in structures)
    write_json(f"{arguments.out}.json", {**settings, "empty_samples": empty})
    shelf.close()
    print(f"wrote {len(structures) - empty} structures of {len(entries)} compositions to {arguments.out}", end="")
    print(f" ({empty} empty)" if empty else "")


def _sizes(given: list[int] | None, num: int) -> list[int] | None:
    if given is None or len(given) == num:
        return given
    if len(given) == 1:
        return given * num
    raise UserError(f"--sizes got {len(given)} numbers for {num} samples; give one for all, or one for each")
