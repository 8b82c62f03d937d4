"""Futures of observed frames, frames between key frames, refinement of rough trajectories.

    sciflow design trajectory --model springs-forecast --observed run.npz --mask 0:10 --frames 30 --num 20 --out out.npz
    sciflow design trajectory --model M --observed run.xyz --mask 0:5,25:30 --out between.extxyz --report between.html
    sciflow design trajectory --model M --observed run.npz --mask 0:10 --blocks 50 --num 4 --out long.npz
    sciflow design trajectory --model M --observed rough.npz --mask 0:10 --refine 0.3 --out refined.npz
    sciflow design trajectory --model M --observed run.pdb --mask 0:10 --guide bonds --width 0.02 --out out.pdb

--observed is a trajectory (npz with R (frames, atoms, 3) and z or features, dt_fs or times; xyz, extxyz, pdb;
TOPOLOGY:TRAJECTORY of MD programs): a whole one, of which --mask takes the observed frames, or exactly those in order.
Where it holds the other frames too, the errors against them are printed beside naive forecasts. --out gets R (num,
frames, atoms, 3), observed (frames,) and the times; OUT.json has settings and figures. Finished parts are kept in
OUT.parts: an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path
from typing import Any

from sciflow.core.errors import UserError

GUIDED_STEPS = 100  # moves of a guided run: guidance needs small ones
LIMIT = 1.0  # largest pull of a guide on an atom in one move, in standard deviations of that move


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `sciflow design trajectory`."""
    add = parser.add_argument
    add("--model", required=True, help="checkpoint, .safetensors file or shipped name")
    add("--observed", required=True, metavar="FILE", help="trajectory with the observed frames")
    add("--mask", default=None, help="observed frames of the result: 0:10, 0:5,25:30 or 0,7,14; default: those of FILE")
    add("--frames", type=int, default=None, help="frames of the result (of a block); default: as in the training data")
    add("--num", "-n", type=int, default=1, help="number of samples")
    add("--out", type=Path, required=True, help="file to write: .npz .xyz .extxyz .pdb")
    add("--dt-fs", type=float, default=None, help="time between frames of FILE in fs, in place of what it says")
    add("--blocks", type=int, default=1, help="long roll-out: the last frames of a block are observed in the next")
    add(
        "--refine",
        type=float,
        default=None,
        metavar="K",
        help="FILE is a rough trajectory: noise it up to clock K in (0, 1) and denoise it; frames of --mask stay",
    )
    add("--guide", default=None, help="bonds, springs, charged, gravity (energy) or module:function, an energy")
    add("--lengths", default=None, help="guide bonds: wanted distances, 0-1=1.54,2-3=1.4; others as observed")
    add("--width", type=float, default=None, help="of the guide; default: 0.02 angstrom for bonds, 1 for energies")
    add("--steps", type=int, default=None, help=f"moves of the sampler; default: the model's, {GUIDED_STEPS} if guided")
    add("--solver", default=None, help="default: the model's, Ancestral if guided")
    add("--seed", type=int, default=0, help="seed of the run; sample i depends on (seed, i) only")
    add("--batch-size", type=int, default=64, help="samples at a time")
    add("--report", type=Path, default=None, help="HTML page with paths and internal coordinates; a PNG beside it")


def run(arguments: argparse.Namespace) -> None:
    """Check everything that can be checked, generate, write."""
    import torch

    from sciflow.domains.designing import Shelf
    from sciflow.domains.trajectories.design import request_of
    from sciflow.domains.trajectories.files import read_trajectory
    from sciflow.model import load

    check(arguments)
    model: Any = load(arguments.model)
    if model.spec.get("domain") != "trajectories":
        raise UserError(f"--model: got a model of {model.spec.get('domain', 'nothing')}, expected one of trajectories")
    model.spec.setdefault("name", Path(arguments.model).stem)
    request = request_of(
        model.codec,
        read_trajectory(arguments.observed, arguments.dt_fs),
        arguments.mask,
        arguments.frames,
        blocks=arguments.blocks,
        refine=arguments.refine is not None,
        unconditional=model.spec.get("task") == "unconditional",
    )
    for note in request.notes:
        print(f"note: {note}")
    guide = guide_for(arguments, request)
    plan = plan_of(model, arguments)
    shelf = Shelf(Path(f"{arguments.out}.parts"), fingerprint(model, arguments, plan, request))
    if shelf.finished():
        print(f"resuming: {shelf.finished()} finished parts are in {shelf.folder}")
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rollout = generate(model, request, plan, guide, arguments, shelf)
    finish(rollout, guide, arguments, model, plan)
    shelf.close()


def check(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    from sciflow.core.files import check_writable
    from sciflow.domains.designing import check_numbers
    from sciflow.domains.trajectories.files import WRITERS

    check_numbers(
        **{f"--{name.replace('_', '-')}": getattr(arguments, name) for name in ("num", "blocks", "batch_size")}
    )
    if arguments.out.suffix.lower() not in WRITERS:
        raise UserError(f"--out: got '{arguments.out.name}', expected one of the endings {' '.join(WRITERS)}")
    if arguments.refine is not None and not 0 < arguments.refine < 1:
        raise UserError(f"--refine: got {arguments.refine}, expected a clock between 0 (as it is) and 1 (all anew)")
    if arguments.guide is None and (arguments.lengths is not None or arguments.width is not None):
        raise UserError("--lengths and --width are options of a guide; give --guide, e.g. --guide bonds")
    for target in (arguments.out, arguments.report):
        if target is not None:
            check_writable(target)


def guide_for(arguments: argparse.Namespace, request: Any) -> Any:
    """The reward of --guide, or None."""
    from sciflow.domains.trajectories.guides import guide_of

    if arguments.guide is None:
        return None
    return guide_of(arguments.guide, request, arguments.width, lengths_of(arguments.lengths))


def lengths_of(text: str | None) -> dict[tuple[int, int], float]:
    """{(i, j): length} from "0-1=1.54,2-3=1.4"."""
    found = {}
    try:
        for part in filter(None, (text or "").split(",")):
            pair, length = part.split("=")
            i, j = (int(atom) for atom in pair.split("-"))
            found[i, j] = float(length)
    except ValueError:
        raise UserError(
            f"--lengths: got '{text}', expected pairs of atoms and lengths such as 0-1=1.54,2-3=1.4"
        ) from None
    return found


def plan_of(model: Any, arguments: argparse.Namespace) -> Any:
    """The model's plan as changed by options; guidance needs a stochastic solver and small moves."""
    steps, solver = arguments.steps, arguments.solver
    if arguments.guide is not None:
        steps, solver = steps or GUIDED_STEPS, solver or "Ancestral"
    plan = model.sampling.changed(steps, solver)
    plan.sampler(model.processes)  # an unfit solver is refused before any work
    return plan


def generate(model: Any, request: Any, plan: Any, guide: Any, arguments: argparse.Namespace, shelf: Any) -> Any:
    """Samples to --out; returns the roll-out."""
    from sciflow.cli.bars import stage_bars
    from sciflow.domains.trajectories.design import write_samples
    from sciflow.domains.trajectories.rollout import RollOut
    from sciflow.guidance.gradient import GradientGuidance

    with stage_bars() as progress:
        rollout = RollOut(
            model,
            request,
            arguments.num,
            blocks=arguments.blocks,
            seed=arguments.seed,
            plan=plan,
            hooks=[] if guide is None else [GradientGuidance(guide, scale=1.0, limit=LIMIT)],
            start=arguments.refine,
            batch_size=arguments.batch_size,
            progress=progress,
            shelf=shelf,
        )
        write_samples(arguments.out, rollout)
    return rollout


def finish(rollout: Any, guide: Any, arguments: argparse.Namespace, model: Any, plan: Any) -> None:
    """Scores, settings, report."""
    from sciflow.domains.trajectories.design import displacement, shown
    from sciflow.report.files import write_json

    request = rollout.request
    found: dict[str, Any] = {"all_frames": rollout.frames, "observed_frames": rollout.observed, "notes": request.notes}
    samples, table = shown(rollout), None
    if request.truth is not None:
        report, table = scores(rollout, samples, arguments)
        found |= {name: report[name] for name in ("scores", "baselines", "horizon")}
        print(table.text())
        found["notes"] = [*request.notes, *remarks(report)]
        for remark in remarks(report):
            print(f"! {remark}")
    if arguments.refine is not None:
        found["displacement"] = displacement(rollout, samples)
        print(f"the refined frames lie {found['displacement']:.3g} from the rough ones on average")
    if guide is not None:
        found["guide_figures"] = guide.figures(samples[:, ~rollout.observed])
        print("generated frames: " + ", ".join(f"{name} {value:.3g}" for name, value in found["guide_figures"].items()))
    settings = run_settings(model, arguments, plan)
    write_json(f"{arguments.out}.json", {**settings, **found})
    print(f"wrote {arguments.num} trajectories of {rollout.frames} frames to {arguments.out}")
    if arguments.report is not None:
        write_report(rollout, samples, table, arguments, settings)


def scores(rollout: Any, samples: Any, arguments: argparse.Namespace) -> tuple[dict[str, Any], Any]:
    """Errors against the frames that were not shown to the model, with naive forecasts, and the table of them."""
    from sciflow.domains.trajectories.evaluation import evaluate_forecasts
    from sciflow.report.trajectories import forecast_table

    one, truth = rollout.request.given, rollout.request.truth[None]
    facts = {"z": one.numbers, "bonds": one.bonds}
    report = evaluate_forecasts(
        samples[None], truth, rollout.observed, times=rollout.times, facts=facts, seed=arguments.seed
    )
    report["reference_set"] = str(arguments.observed)
    return report, forecast_table(report)


def remarks(report: dict[str, Any]) -> list[str]:
    """What must be said about a forecast that a naive one beats."""
    ours = report["scores"]["aveADE"]["value"]
    better = [name for name, one in report["baselines"].items() if one["ADE"]["value"] < ours]
    if not better:
        return []
    return [f"better than the model here: {', '.join(better)}; was it trained on such masks, atoms and spacings?"]


def write_report(rollout: Any, samples: Any, table: Any, arguments: argparse.Namespace, settings: dict) -> None:
    """HTML page, and the paths as a PNG beside it."""
    from sciflow.core.files import replacing, write_text
    from sciflow.domains.trajectories.render import paths_png
    from sciflow.report.html import Section, page
    from sciflow.report.trajectories import design_sections

    request = rollout.request
    sections = [] if table is None else [Section("Errors", f"Against the other frames of {arguments.observed}.", table)]
    sections += design_sections(
        samples,
        rollout.observed,
        numbers=request.given.numbers,
        bonds=request.given.bonds,
        truth=request.truth,
    )
    subtitle = f"{settings['model']}, {arguments.num} samples of {rollout.frames} frames, seed {arguments.seed}"
    write_text(arguments.report, page("Trajectories", subtitle, sections, settings))
    picture = arguments.report.with_suffix(".png")
    with replacing(picture) as temporary:
        temporary.write_bytes(paths_png(samples[:8], request.truth, rollout.observed))
    print(f"wrote {arguments.report} and {picture}")


def fingerprint(model: Any, arguments: argparse.Namespace, plan: Any, request: Any) -> dict[str, Any]:
    """What finished parts depend on."""
    import sciflow
    from sciflow.streaming import plan_digest, weights_digest

    given = {name: value for name, value in vars(arguments).items() if name not in ("out", "report", "observed")}
    one, digest = request.given, hashlib.sha256()
    for array in (request.positions, request.observed, request.times, one.features, one.pairs):
        digest.update(array.tobytes())
    return {
        **given,
        "trajectory": digest.hexdigest(),
        "plan": plan_digest(plan),
        "weights": weights_digest(model),
        "sciflow": sciflow.__version__,
    }


def run_settings(model: Any, arguments: argparse.Namespace, plan: Any) -> dict[str, Any]:
    """What reproduces the run."""
    import torch

    import sciflow
    from sciflow.core.config import to_config

    chosen = {name: str(value) if isinstance(value, Path) else value for name, value in vars(arguments).items()}
    return {
        **chosen,
        "model": model.spec["name"],
        "model_file": str(arguments.model),
        "sciflow": sciflow.__version__,
        "torch": torch.__version__,
        "steps": plan.steps,
        "solver": to_config(plan.solvers),
        "command": " ".join(["sciflow", *sys.argv[1:]]),
    }
