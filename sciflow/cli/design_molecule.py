"""Generate molecules with a high reward. Beside the result stands what a plain best-of-N reaches at the same cost.

    sciflow design molecule --reward qed --guidance svdd --num 64 --out designs.sdf --report designs.html
    sciflow design molecule --reward similarity:CCO --guidance best_of --candidates 16 --out designs.csv
    sciflow design molecule --model mine.ckpt --reward my_rewards:binding --alpha 0.5 --out designs.smi

Rewards: qed, logp, sa, similarity:SMILES, or module:function, a Python function of an RDKit molecule (no gradient
needed). Guidance svdd chooses among M candidates after every move (Li et al. 2024, arXiv 2408.08252); best_of keeps the
best of M samples. FILE lists the designs best first; FILE.json beside it holds settings and figures of all methods.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

GUIDANCE = ("best_of", "svdd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow design molecule`."""
    parser.add_argument("--model", default="qm9-gdss", help="checkpoint, .safetensors file or shipped name")
    parser.add_argument("--reward", required=True, help="qed, logp, sa, similarity:SMILES or module:function")
    parser.add_argument("--guidance", default="svdd", help=" or ".join(GUIDANCE))
    parser.add_argument("--num", type=int, default=64, help="number of designs")
    parser.add_argument(
        "--candidates", type=int, default=8, help="candidates per move (svdd), samples per design (best_of)"
    )
    parser.add_argument(
        "--alpha", type=float, default=0.02, help="svdd: temperature in units of the reward; 0 is greedy"
    )
    parser.add_argument("--start", type=float, default=1.0, help="svdd: acts from this clock (1 noise, 0 data) on")
    parser.add_argument("--every", type=int, default=1, help="svdd: acts on every k-th move")
    parser.add_argument("--out", type=Path, default=Path("designs.sdf"), help="file to write: .smi, .sdf or .csv")
    parser.add_argument("--report", type=Path, default=None, help="HTML page with tables, charts and drawings")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--steps", type=int, default=None, help="moves of the sampler; default: the model's own")
    parser.add_argument("--solver", default=None, help="solver for all fields; default: the model's own")
    parser.add_argument("--batch-size", type=int, default=256, help="molecules per network call")


def run(arguments: argparse.Namespace) -> None:
    """Check everything that can be checked, design, write."""
    from sciflow.core.files import check_writable, write_text
    from sciflow.report.files import write_json
    from sciflow.writers import check_ending

    if arguments.guidance not in GUIDANCE:
        raise UserError(f"guidance: got '{arguments.guidance}', expected one of {', '.join(GUIDANCE)}")
    check_ending("molecules", arguments.out, arguments.num)
    for target in (arguments.out, arguments.report):
        if target is not None:
            check_writable(target)

    from sciflow.domains.molecules.files import write_molecules
    from sciflow.domains.molecules.rewards import load_reward
    from sciflow.model import load
    from sciflow.report.design import design_sections, design_table
    from sciflow.report.html import page

    reward = load_reward(arguments.reward)
    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    result = design(model, reward, arguments)
    write_molecules(arguments.out, result.molecules)
    settings = run_settings(model, arguments)
    write_json(f"{arguments.out}.json", {**settings, "summary": result.summary})
    print(design_table(result).text())
    print(f"wrote {arguments.out}")
    if arguments.report is not None:
        subtitle = (
            f"{settings['model']}, seed {arguments.seed}, {settings['steps']} steps, sciflow {settings['sciflow']}"
        )
        sections = design_sections(result, arguments.reward)
        write_text(arguments.report, page("Molecule design", subtitle, sections, settings))
        print(f"wrote {arguments.report}")


def design(model: Any, reward: Any, arguments: argparse.Namespace) -> Any:
    """The design run with a progress bar per stage."""
    import torch

    from sciflow.cli.bars import stage_bars
    from sciflow.core.values import PosteriorMean, Reward
    from sciflow.domains.molecules.design import design_molecules
    from sciflow.guidance.svdd import SVDD

    def guide(reward: Reward) -> SVDD:
        return SVDD(PosteriorMean(reward), arguments.candidates, arguments.alpha, arguments.start, arguments.every)

    guided = arguments.guidance == "svdd"
    plan = model.sampling.changed(arguments.steps, arguments.solver)
    if guided and plan.correct:
        print("note: this model samples with correctors, which undo part of the guidance; try --solver EulerMaruyama")
    guide(lambda clean: clean["x"])  # arguments out of range show here
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with stage_bars() as progress:
        return design_molecules(
            model,
            reward,
            arguments.num,
            guide if guided else None,
            candidates=arguments.candidates,
            seed=arguments.seed,
            steps=arguments.steps,
            solver=arguments.solver,
            batch_size=arguments.batch_size,
            train=training_smiles(model),
            progress=progress,
        )


def training_smiles(model: Any) -> list[str]:
    """Training set of a model by its own split; empty where the model does not name it or it is not on this machine."""
    from sciflow.domains.molecules.data import molecule_dataset

    data = model.spec.get("data")
    data = data if isinstance(data, dict) else {"source": data}
    if not data.get("source"):
        return []
    shares = data.get("shares", {"validation": 0})  # older models store no shares
    try:
        return molecule_dataset(data["source"], **shares, seed=data.get("seed", 0)).train.smiles
    except UserError:
        return []


def run_settings(model: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """What reproduces the run."""
    import sciflow
    from sciflow.core.config import to_config

    plan = model.sampling.changed(arguments.steps, arguments.solver)
    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {
        **chosen,
        "model": model.spec["name"],
        "model_file": str(arguments.model),
        "sciflow": sciflow.__version__,
        "seed": arguments.seed,
        "steps": plan.steps,
        "sampling": to_config(plan),
        "command": " ".join(["sciflow", *sys.argv[1:]]),
    }
