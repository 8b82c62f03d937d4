"""Crystal structures of a composition: sampled, relaxed with CHGNet, merged and ranked, the most stable first.

    sciflow design crystal --formula SrTiO3 --num 20 --out designs
    sciflow design crystal --formula BaTiO3 --spacegroup Pm-3m --relax none --out designs --report report.html
    sciflow design crystal --formula CaTiO3 --reward density=4.0 --candidates 4 --out designs.extxyz

--out is a new folder for one CIF per structure, named by rank, formula and space group, or a file (.cif .extxyz .json
.npz). OUT.csv is the table, OUT.json has settings and counts. Rewards: -energy (CHGNet), density, volume,
density=5.2 (close to 5.2 g/cm3), or module:function, a Python function of a pymatgen structure. Guidance best_of takes
the best of --candidates samples for each of --num; svdd chooses among so many candidates after every move. The shipped
model knows perovskite-like cells of 5 atoms.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

RELAXATIONS = ("chgnet", "none")
GUIDANCE = ("best_of", "svdd")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow design crystal`."""
    parser.add_argument("--formula", required=True, help="composition, e.g. SrTiO3")
    parser.add_argument("--num", type=int, default=20, help="number of samples")
    parser.add_argument("--z", type=int, default=1, help="formula units per cell")
    parser.add_argument("--spacegroup", default=None, help="keep this space group only: number or symbol, Pm-3m")
    parser.add_argument("--relax", default="chgnet", help=" or ".join(RELAXATIONS))
    parser.add_argument("--model", default="perov5-csp", help="checkpoint, .safetensors file or shipped name")
    parser.add_argument("--reward", default=None, help="-energy, density, volume, density=5.2 or module:function")
    parser.add_argument("--guidance", default="best_of", help=f"with a reward: {' or '.join(GUIDANCE)}")
    parser.add_argument(
        "--candidates", type=int, default=8, help="samples per design (best_of), candidates per move (svdd)"
    )
    parser.add_argument("--alpha", type=float, default=0.02, help="svdd: temperature in units of the reward")
    parser.add_argument("--steps", type=int, default=None, help="moves of the sampler; default: the model's own")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run")
    parser.add_argument("--batch-size", type=int, default=256, help="crystals at a time")
    parser.add_argument("--out", type=Path, default=Path("designs"), help="new folder, or .cif .extxyz .json .npz file")
    parser.add_argument("--report", type=Path, default=None, help="HTML page with the table and unit cells")


def run(arguments: argparse.Namespace) -> None:
    """Check everything that can be checked, design, write."""
    from sciflow.core.errors import require
    from sciflow.core.files import check_writable
    from sciflow.domains.crystals.codec import composition
    from sciflow.domains.crystals.design import spacegroup_number
    from sciflow.domains.crystals.rewards import load_reward
    from sciflow.writers import check_target

    if arguments.relax not in RELAXATIONS:
        raise UserError(f"--relax: got '{arguments.relax}', expected one of {', '.join(RELAXATIONS)}")
    if arguments.guidance not in GUIDANCE:
        raise UserError(f"--guidance: got '{arguments.guidance}', expected one of {', '.join(GUIDANCE)}")
    check_target("crystals", arguments.out, arguments.num)
    if arguments.report is not None:
        check_writable(arguments.report)
    composition(arguments.formula)
    if arguments.spacegroup is not None:
        spacegroup_number(arguments.spacegroup)
    reward = None if arguments.reward is None else load_reward(arguments.reward)
    if arguments.relax == "chgnet" or arguments.reward == "-energy":
        require("chgnet", "chgnet")
    write(_designs(arguments, reward), arguments)


def _designs(arguments: argparse.Namespace, reward: Any) -> Any:
    import torch

    from sciflow.cli.bars import stage_bars
    from sciflow.core.values import PosteriorMean
    from sciflow.domains.crystals.design import design_crystals
    from sciflow.guidance.svdd import SVDD
    from sciflow.model import load

    def svdd(value: Any) -> SVDD:
        return SVDD(PosteriorMean(value), arguments.candidates, arguments.alpha)

    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    with stage_bars() as progress:
        return design_crystals(
            model,
            arguments.formula,
            arguments.num,
            z=arguments.z,
            spacegroup=arguments.spacegroup,
            relaxation=None if arguments.relax == "none" else arguments.relax,
            reward=reward,
            guide=svdd if arguments.guidance == "svdd" else None,
            candidates=arguments.candidates,
            seed=arguments.seed,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            progress=progress,
        )


def write(design: Any, arguments: argparse.Namespace) -> None:
    """Structures, table, settings, report; prints the table."""
    from sciflow.core.files import write_text
    from sciflow.domains.crystals.files import write_crystals
    from sciflow.report.crystals import baseline_table, design_sections, design_table
    from sciflow.report.files import write_json
    from sciflow.report.html import page

    if design.table:
        names = [f"{row['rank']:03d}_{row['formula']}_{row['spacegroup_number']}" for row in design.table]
        write_crystals(arguments.out, design.structures, names)
        write_text(f"{arguments.out}.csv", _csv(names, design.table))
    settings = _settings(arguments)
    found = {"counts": design.counts, "notes": design.notes, "rewards": design.baselines, "table": design.table}
    write_json(f"{arguments.out}.json", {**settings, **found})
    print(design_table(design).text())
    if design.baselines:
        print(baseline_table(design).text())
    print(f"wrote {arguments.out} ({len(design.table)} structures)" if design.table else "no structure to write")
    if arguments.report is not None:
        subtitle = f"{arguments.model}, relaxation {arguments.relax}, seed {arguments.seed}"
        write_text(arguments.report, page("Crystal design", subtitle, design_sections(design), settings))
        print(f"wrote {arguments.report}")


def _csv(names: list[str], table: list[dict[str, Any]]) -> str:
    columns = ["name", *dict.fromkeys(key for row in table for key in row)]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"name": name, **row} for name, row in zip(names, table, strict=True))
    return stream.getvalue()


def _settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What reproduces the run."""
    import torch

    import sciflow

    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    command = " ".join(["sciflow", *sys.argv[1:]])
    return {**chosen, "sciflow": sciflow.__version__, "torch": torch.__version__, "command": command}
