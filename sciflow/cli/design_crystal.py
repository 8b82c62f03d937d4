"""Crystal structures of a composition: sampled, relaxed with CHGNet, merged and ranked, the most stable first.

    sciflow design crystal --formula SrTiO3 --num 20 --out designs
    sciflow design crystal --formula BaTiO3 --spacegroup Pm-3m --relax none --out designs --report report.html
    sciflow design crystal --formula CaTiO3 --fix-lattice 3.9,3.9,3.9,90,90,90 --fix-sites metals.cif --out designs
    sciflow design crystal --model perov5-denovo --reward formation-energy --guidance svdd --out designs.extxyz

--out is a new folder for one CIF per structure, named by rank, formula and space group, or a file (.cif .extxyz .json
.npz). OUT.csv is the table, OUT.json has settings and counts. What is fixed stays exactly as given, also in the
relaxation. Rewards: chgnet-energy and formation-energy (the lower the better), density, volume, density=5.2 (close to
5.2 g/cm3), or module:function, a Python function of a pymatgen structure. Guidance best_of takes the best of
--candidates samples for each of --num; svdd chooses among so many candidates after every move. Finished work is kept in
OUT.parts: an interrupted run goes on where it stopped. The shipped models know perovskite-like cells of 5 atoms.
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
    parser.add_argument(
        "--formula", default=None, help="composition, e.g. SrTiO3; de novo models choose one where none is given"
    )
    parser.add_argument("--num", type=int, default=20, help="number of samples")
    parser.add_argument("--z", type=int, default=1, help="formula units per cell")
    parser.add_argument(
        "--fix-lattice",
        default=None,
        metavar="CELL",
        help="given cell: a structure file, or a,b,c,alpha,beta,gamma in angstrom and degrees",
    )
    parser.add_argument(
        "--fix-sites",
        type=Path,
        default=None,
        metavar="FILE",
        help="structure file whose atoms stay at their fractional coordinates; the rest of the formula is generated",
    )
    parser.add_argument(
        "--spacegroup",
        default=None,
        help="number or symbol, Pm-3m. It does not steer the sampling: structures that have it within 0.1 angstrom are "
        "symmetrised and listed first",
    )
    parser.add_argument("--relax", default="chgnet", help=" or ".join(RELAXATIONS))
    parser.add_argument("--model", default="perov5-csp", help="checkpoint, .safetensors file or shipped name")
    parser.add_argument(
        "--reward",
        default=None,
        help="chgnet-energy, formation-energy, density, volume, density=5.2 or module:function",
    )
    parser.add_argument("--guidance", "--method", default="best_of", help=f"with a reward: {' or '.join(GUIDANCE)}")
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
    import torch

    from sciflow.domains.crystals.known import Known, read_lattice, read_sites
    from sciflow.domains.crystals.rewards import load_reward
    from sciflow.domains.designing import Shelf
    from sciflow.model import load

    check(arguments)
    reward = None if arguments.reward is None else load_reward(arguments.reward)
    known = Known(
        None if arguments.fix_lattice is None else read_lattice(arguments.fix_lattice),
        () if arguments.fix_sites is None else read_sites(arguments.fix_sites),
    )
    model = load(arguments.model)
    model.spec.setdefault("name", Path(arguments.model).stem)
    shelf = Shelf(Path(f"{arguments.out}.parts"), _fingerprint(model, arguments, known))
    check_out(shelf, arguments.out, arguments.num)
    if shelf.finished():
        print(f"resuming: {shelf.finished()} finished parts are in {shelf.folder}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    write(_designs(model, arguments, reward, known, shelf), arguments, shelf)
    shelf.close()


def check(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    from sciflow.core.errors import require
    from sciflow.core.files import check_writable
    from sciflow.domains.crystals.codec import composition
    from sciflow.domains.crystals.design import spacegroup_number
    from sciflow.domains.crystals.rewards import ENERGIES
    from sciflow.writers import check_ending

    if arguments.relax not in RELAXATIONS:
        raise UserError(f"--relax: got '{arguments.relax}', expected one of {', '.join(RELAXATIONS)}")
    if arguments.guidance not in GUIDANCE:
        raise UserError(f"--guidance: got '{arguments.guidance}', expected one of {', '.join(GUIDANCE)}")
    if arguments.guidance == "svdd" and arguments.reward is None:
        raise UserError("--guidance svdd follows a reward; give --reward, e.g. --reward density")
    check_ending("crystals", arguments.out, arguments.num)
    if arguments.report is not None:
        check_writable(arguments.report)
    if arguments.formula is not None:
        composition(arguments.formula)
    elif arguments.z != 1:
        raise UserError("--z counts formula units; give --formula")
    if arguments.spacegroup is not None:
        spacegroup_number(arguments.spacegroup)
    if arguments.relax == "chgnet" or arguments.reward in ENERGIES:
        require("chgnet", "chgnet")


def check_out(shelf: Any, out: Path, number: int) -> None:
    """Refuse a place that cannot be written to, or a folder in use; one that this very run has written is fine."""
    from sciflow.writers import check_target

    if shelf.get("writing", 0) is None:
        check_target("crystals", out, number)


def write_once(shelf: Any, out: Path, structures: list[Any], names: list[str]) -> None:
    """Structures to `out`. A folder is written in one step, so one that is there after a restart is complete."""
    from sciflow.domains.crystals.files import write_crystals

    begun = shelf.get("writing", 0) is not None
    shelf.put("writing", 0, {})
    if not (begun and out.is_dir() and any(out.iterdir())):
        write_crystals(out, structures, names)


def _designs(model: Any, arguments: argparse.Namespace, reward: Any, known: Any, shelf: Any) -> Any:
    from sciflow.cli.bars import stage_bars
    from sciflow.core.values import PosteriorMean
    from sciflow.domains.crystals.design import design_crystals
    from sciflow.guidance.svdd import SVDD

    def svdd(value: Any) -> SVDD:
        return SVDD(PosteriorMean(value), arguments.candidates, arguments.alpha)

    with stage_bars() as progress:
        return design_crystals(
            model,
            arguments.formula,
            arguments.num,
            z=arguments.z,
            spacegroup=arguments.spacegroup,
            relaxation=None if arguments.relax == "none" else arguments.relax,
            known=known,
            reward=reward,
            guide=svdd if arguments.guidance == "svdd" else None,
            candidates=arguments.candidates,
            seed=arguments.seed,
            steps=arguments.steps,
            batch_size=arguments.batch_size,
            progress=progress,
            shelf=shelf,
        )


def write(design: Any, arguments: argparse.Namespace, shelf: Any) -> None:
    """Structures, table, settings, report; prints the table."""
    from sciflow.core.files import write_text
    from sciflow.report.crystals import baseline_table, design_sections, design_table
    from sciflow.report.files import write_json
    from sciflow.report.html import page

    if design.table:
        names = [f"{row['rank']:03d}_{row['formula']}_{row['spacegroup_number']}" for row in design.table]
        write_once(shelf, arguments.out, design.structures, names)
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

    chosen = _plain(arguments)
    command = " ".join(["sciflow", *sys.argv[1:]])
    return {**chosen, "sciflow": sciflow.__version__, "torch": torch.__version__, "command": command}


def _fingerprint(model: Any, arguments: argparse.Namespace, known: Any) -> dict[str, Any]:
    """What finished parts depend on."""
    import sciflow
    from sciflow.streaming import weights_digest

    given = {name: value for name, value in _plain(arguments).items() if name not in ("out", "report")}
    cell = known.cell()
    fixed = {"lattice": None if cell is None else cell.tolist(), "sites": [list(site) for site in known.sites]}
    return {**given, "known": fixed, "sciflow": sciflow.__version__, "weights": weights_digest(model)}


def _plain(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
