"""A molecular trajectory model beside naive forecasts and its own anchor, on test windows of its molecule.

Conditional models: for each `--masks`, ADE and FDE [A] of single samples (the published protocol: mean over the first
5 samples of a window), of the best of these 5, and of the mean of all samples, with 95 % bootstrap intervals over
windows; then divergences of torsions, angles and bonds [nats] in the generated frames. Unconditional models: the scores
of `sciflow.domains.trajectories.scores`, and divergences and motion (1-Wasserstein distances of speeds and
accelerations, A per frame) beside real first frames that stand still or go on at constant velocity. Floors: as many
training windows in place of samples; the stretches of one simulation differ, too. CPU seconds of one thread.

    OMP_NUM_THREADS=1 python benchmarks/trajectory_molecule.py MODEL [--data ethanol] [--num 100] [--samples 20]
"""

from __future__ import annotations

import argparse
import platform
import time
from typing import Any

import numpy as np
import torch

import sciflow
from sciflow.core.state import State
from sciflow.domains.trajectories.baselines import naive_forecasts
from sciflow.domains.trajectories.datamodule import TrajectoryData, TrajectoryWindows
from sciflow.domains.trajectories.evaluation import evaluate_unconditional
from sciflow.domains.trajectories.metrics import ade, fde, figure
from sciflow.domains.trajectories.molecule_scores import molecule_scores
from sciflow.domains.trajectories.windows import frame_indices
from sciflow.model import Model
from sciflow.sampling import SamplingPlan

Facts = tuple[np.ndarray, np.ndarray]  # bonds (n, 2) and atomic numbers (N,)
PUBLISHED = 5  # samples per window
DIVERGENCES = ("torsion_jsd", "angle_jsd", "bond_jsd", "valid_frames")
FREE = (*DIVERGENCES, "speed_w1", "acceleration_w1", "rmsf_error")


def windows_of(model: Model, windows: TrajectoryWindows, count: int, seen: np.ndarray) -> State:
    """`count` windows, evenly spread, with this mask."""
    chosen = np.linspace(0, len(windows) - 1, count).astype(int)
    runs, starts = (place[chosen] for place in windows.places)
    mask = torch.from_numpy(seen).expand(count, -1)
    return windows.runs.windows(model.codec, runs, starts, windows.frames, windows.stride, mask)  # type: ignore[arg-type]


def positions(model: Model, state: State) -> np.ndarray:
    """(B, T, N, 3)."""
    codec: Any = model.codec
    return np.stack([one.positions for one in codec.to_objects(state)])


def samples_of(model: Model, state: State, copies: int, plan: SamplingPlan, seed: int, batch: int) -> np.ndarray:
    """(B, copies, T, N, 3)."""
    every = torch.arange(state.batch).repeat_interleave(copies)
    drawn = [
        positions(model, model.generate(part, seed, plan=plan, template=state.select(every[part])))
        for part in torch.arange(len(every)).split(batch)
    ]
    return np.concatenate(drawn).reshape(state.batch, copies, *drawn[0].shape[1:])


def line(name: str, errors: tuple[np.ndarray, np.ndarray]) -> None:
    """One row: mean and interval of ADE (B,), mean of FDE."""
    one = figure(errors[0])
    print(
        f"| {name} | {one['value']:.4f} | {one['low']:.4f} - {one['high']:.4f} | {errors[1].mean():.4f} |", flush=True
    )


def forecasts(
    model: Model, sets: dict[str, Any], options: argparse.Namespace, plan: SamplingPlan, facts: Facts
) -> None:
    """The tables of a conditional model."""
    frames, (bonds, numbers) = sets["test"].frames, facts
    for mask in options.masks:
        seen = np.zeros(frames, bool)
        seen[frame_indices(mask, frames)] = True
        state, others = (windows_of(model, sets[part], options.num, seen) for part in ("test", "train"))
        truth, start = positions(model, state), time.process_time()
        with torch.no_grad():
            layout = model.denoiser.prepare(state).layouts["pos"]
        seconds = time.process_time() - start
        anchor = positions(model, state.put(pos=layout.anchor))  # type: ignore[arg-type]
        start = time.process_time()
        drawn = samples_of(model, state, options.samples, plan, options.seed, options.batch)
        per_sample = (time.process_time() - start) / (options.num * options.samples)
        free, real = ~seen, truth[:, ~seen]
        print(f"\nobserved {mask} of {frames} frames, {options.num} windows; anchor {seconds:.1f} s", end="")
        print(f", sampling {per_sample:.3f} s per sample\n")
        print("| | ADE [A] | 95 % | FDE [A] |\n|---|---|---|---|")
        naive = {**naive_forecasts(truth, seen), "the model's anchor": anchor}
        for name, one in naive.items():
            line(name, (ade(one[:, None, free], real)[:, 0], fde(one[:, None, free], real)[:, 0]))
        first = drawn[:, :PUBLISHED, free]
        errors = ade(first, real), fde(first, real)
        line("model, single samples", (errors[0].mean(1), errors[1].mean(1)))
        line(f"model, best of {PUBLISHED}", (errors[0].min(1), errors[1].min(1)))
        average = drawn[:, :, free].mean(1, keepdims=True)
        line(f"model, mean of {options.samples}", (ade(average, real)[:, 0], fde(average, real)[:, 0]))
        gapless = bool((np.diff(np.flatnonzero(free)) == 1).all())
        ours = molecule_scores(drawn[:, :, free].reshape(-1, *real.shape[1:]), real, bonds, numbers, gapless)
        floor = molecule_scores(positions(model, others)[:, free], real, bonds, numbers, gapless)
        divergences(ours, floor)


def divergences(ours: dict[str, float], floor: dict[str, float]) -> None:
    """Scores of the internal coordinates beside their floors."""
    print()
    for name in DIVERGENCES:
        if name in ours:
            print(f"{name}: {ours[name]:.4f} (training windows {floor[name]:.4f})")


def free(model: Model, sets: dict[str, Any], options: argparse.Namespace, plan: SamplingPlan, facts: Facts) -> None:
    """The scores of an unconditional model."""
    unseen = np.zeros(sets["test"].frames, bool)
    real, others = (positions(model, windows_of(model, sets[p], options.num, unseen)) for p in ("test", "train"))
    start = time.process_time()
    parts = [model.generate(part, options.seed, plan=plan) for part in torch.arange(options.num).split(options.batch)]
    seconds = (time.process_time() - start) / options.num
    drawn = np.concatenate([positions(model, part) for part in parts])
    known = {"bonds": facts[0], "z": facts[1]}
    report = evaluate_unconditional(drawn, real, others, facts=known, trained=options.trained, seed=options.seed)
    print(f"\n{options.num} trajectories of {sets['test'].frames} frames, {seconds:.3f} s each\n")
    for name, value in report["scores"].items():
        print(f"{name}: {value:.4f} (training windows {report['floor'][name]:.4f})")
    time_of = np.arange(others.shape[1])[:, None, None]
    start_of, step = others[:, :1], others[:, 1:2] - others[:, :1]
    rows = {
        "model": report["molecule"],
        "training windows": report["molecule_floor"],
        "their first frame, standing still": molecule_scores(0 * time_of + start_of, real, *facts),
        "their first frame, constant velocity": molecule_scores(start_of + time_of * step, real, *facts),
    }
    print("\n| | " + " | ".join(FREE) + " |\n|---" + "|---" * len(FREE) + "|")
    for name, row in rows.items():
        print(f"| {name} | " + " | ".join(f"{row[score]:.4f}" for score in FREE) + " |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--data", default="ethanol")
    parser.add_argument("--num", type=int, default=100, help="test windows, or free trajectories")
    parser.add_argument("--samples", type=int, default=20, help="per window")
    parser.add_argument("--steps", type=int, default=None, help="moves; the model's own number unless given")
    parser.add_argument("--masks", nargs="+", default=["0:10", "0:5,25:30"])
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--trained", action="store_true", help="unconditional: the trained scores, too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = sciflow.load(options.model)
    codec: Any = model.codec
    sets: dict[str, Any] = TrajectoryData(options.data, frames=codec.frames).read()
    run = codec.to_objects(windows_of(model, sets["test"], 1, np.arange(codec.frames) < 1))[0]
    plan = model.sampling if options.steps is None else model.sampling.changed(options.steps)
    print(f"{options.model} on {options.data}, {plan.steps} moves, seed {options.seed}", end="; ")
    print(f"sciflow {sciflow.__version__}, torch {torch.__version__}, numpy {np.__version__}, {platform.machine()}")
    (forecasts if codec.conditional else free)(model, sets, options, plan, (run.bonds, run.numbers))


if __name__ == "__main__":
    main()
