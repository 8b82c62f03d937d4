"""From nothing to molecules: samples from the shipped QM9 model, their metrics, and a design run, in one page.

    sciflow demo
    sciflow demo --out runs/mine --num 1000
    sciflow demo --quick

Writes OUT/molecules.smi, molecules.sdf, designs.sdf, metrics.json and report.html. Everything runs offline on the QM9
molecules that ship with sciflow; the default takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

CANDIDATES, ALPHA = 8, 0.02


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow demo`."""
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder to write to")
    parser.add_argument("--num", type=int, default=256, help="molecules to sample")
    parser.add_argument("--designs", type=int, default=16, help="molecules to design")
    parser.add_argument("--reward", default="qed", help="reward of the design run, see `sciflow design --help`")
    parser.add_argument("--model", default="qm9-gdss", help="molecule model")
    parser.add_argument("--reference", default="qm9", help="data set to compare with")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--quick", action="store_true", help="64 molecules, 4 designs, no FCD")


def run(arguments: argparse.Namespace) -> None:
    """Sample, evaluate, design, write the page."""
    from sciflow.core.files import check_writable, write_text
    from sciflow.report.files import write_json

    if arguments.quick:
        arguments.num, arguments.designs = min(arguments.num, 64), min(arguments.designs, 4)
    for name in ("molecules.smi", "molecules.sdf", "designs.sdf", "metrics.json", "report.html"):
        check_writable(arguments.out / name)

    from sciflow.domains.molecules.files import write_molecules
    from sciflow.domains.molecules.rewards import load_reward
    from sciflow.model import load
    from sciflow.report.design import design_table
    from sciflow.report.evaluation import molecule_table
    from sciflow.report.html import page

    start, reward = time.perf_counter(), load_reward(arguments.reward)
    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    print(f"1. {arguments.num} molecules from '{model.spec['name']}' ({model.sampling.steps} steps)")
    records = sample(model, arguments.num, arguments.seed)
    molecules = [record.marked() for record in records]
    write_molecules(arguments.out / "molecules.smi", molecules)
    write_molecules(arguments.out / "molecules.sdf", molecules)
    sampled = time.perf_counter() - start
    print(f"   {sampled:.0f} s")
    print(f"2. metrics against {arguments.reference} (the first time its molecules are parsed, up to a minute)")
    report = evaluation(records, arguments)
    print(molecule_table(report).text())
    print(f"3. {arguments.designs} molecules designed for {arguments.reward}")
    result = design(model, reward, arguments)
    print(design_table(result).text())
    write_molecules(arguments.out / "designs.sdf", result.molecules)
    settings = demo_settings(model, arguments, sampled, time.perf_counter() - start)
    metrics = {name: report[name] for name in ("samples", "molecules", "metrics", "notes")}
    write_json(arguments.out / "metrics.json", {**metrics, "design": result.summary, "settings": settings})
    subtitle = (
        f"model {settings['model']}, seed {arguments.seed}, {settings['steps']} steps, sciflow {settings['sciflow']}"
    )
    sections = demo_sections(model, report, result, arguments, sampled)
    write_text(arguments.out / "report.html", page("Molecules from sciflow", subtitle, sections, settings))
    print(f"wrote {arguments.out}/: molecules.smi, molecules.sdf, designs.sdf, metrics.json")
    print(f"open {arguments.out / 'report.html'}   ({settings['seconds']:.0f} s in all)")


def sample(model: Any, num: int, seed: int, batch_size: int = 64) -> list[Any]:
    """Decoding records of the samples 0 .. num - 1."""
    import torch

    from sciflow.cli.bars import stage_bars
    from sciflow.core.codec import batches_by_size
    from sciflow.core.errors import UserError

    if num < 1 or not hasattr(model.codec, "decode"):
        raise UserError(
            f"demo: got --num {num} and a model for '{model.spec.get('domain')}', expected --num >= 1 and molecules"
        )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    records: list[Any] = [None] * num
    with stage_bars() as progress:
        done = 0
        progress("sampling", 0)
        for batch in batches_by_size(model.sizes(torch.arange(num), seed), batch_size):
            state = model.generate(torch.tensor(batch.samples), seed, sizes=batch.sizes)
            for i, record in zip(batch.samples, model.codec.decode(state), strict=True):
                records[i] = record
            done += len(batch.samples)
            progress("sampling", done / num)
    return records


def evaluation(records: list[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Metrics; without FCD where the statistics of the reference would first have to be computed."""
    from sciflow import data
    from sciflow.core.errors import UserError
    from sciflow.evaluation import evaluate

    protocol = "fast"
    if not arguments.quick and arguments.reference == "qm9":
        try:
            data.resolve("qm9_test_fcd")
            protocol = "gdss"
        except UserError:
            pass
    return evaluate(records, arguments.reference, "molecules", protocol, seed=arguments.seed)


def design(model: Any, reward: Any, arguments: argparse.Namespace) -> Any:
    """A small guided run with its best-of-N."""
    from sciflow.cli.bars import stage_bars
    from sciflow.cli.design_molecule import training_smiles
    from sciflow.core.values import PosteriorMean
    from sciflow.domains.molecules.design import design_molecules
    from sciflow.guidance.svdd import SVDD

    with stage_bars() as progress:
        return design_molecules(
            model,
            reward,
            arguments.designs,
            lambda reward: SVDD(PosteriorMean(reward), CANDIDATES, ALPHA),
            seed=arguments.seed,
            train=training_smiles(model),
            progress=progress,
        )


def demo_settings(model: Any, arguments: argparse.Namespace, sampled: float, total: float) -> dict[str, Any]:
    """What reproduces the page."""
    import sciflow
    from sciflow.core.config import to_config

    return {
        "command": "sciflow demo",
        **{name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()},
        "model": model.spec["name"],
        "sciflow": sciflow.__version__,
        "steps": model.sampling.steps,
        "sampling": to_config(model.sampling),
        "svdd": {"candidates": CANDIDATES, "alpha": ALPHA},
        "seconds_sampling": sampled,
        "seconds": total,
    }


def demo_sections(
    model: Any, report: dict[str, Any], result: Any, arguments: argparse.Namespace, sampled: float
) -> list[Any]:
    """Summary, metrics with drawings, design."""
    from sciflow.report.design import design_sections
    from sciflow.report.evaluation import molecule_sections
    from sciflow.report.html import Section

    summary = (
        f"{arguments.num} samples were drawn with the model '{model.spec['name']}' in {sampled:.0f} s; "
        f"{report['molecules']} decode to a molecule. They are in molecules.smi and molecules.sdf. They are compared "
        f"with held-out molecules of {arguments.reference}; the last part steers the same model, without training, "
        f"towards a high {arguments.reward}."
    )
    return [
        Section("What was done", summary),
        *molecule_sections(report),
        *design_sections(result, arguments.reward),
    ]
