"""The rate network zero-shot: error on the flashing ratchet, calibration on its prior, label noise, and cost.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/jump_network.py [--model jumps-fim] [--parts ratchet ...]

- ratchet: RMSE over the 30 off-diagonal rates of the discrete flashing ratchet V = 1 (never trained on), paths drawn
  without replacement from the 10 000 of the data set; mean and deviation over draws.
- bound: what the exact posterior mean of one path has, by importance sampling from priors of six states; and if all
  rates of the ratchet were known up to their labels (no label-equivariant estimator is below).
- noise: the same at 300 paths of every second point, labels replaced with probability 0, 0.01 and 0.1.
- calibration: systems of the published prior, share of true rates (absent edges included) inside the central intervals.
- cost: CPU seconds of one thread for 1000 systems of 300 paths of 50 points in one batch (in parts of 100), against the
  published transformer on one system.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import math
import platform
import time

import torch
from torch import Tensor

from sciflow.core.markov import generator as generator_of
from sciflow.domains.jumps.amortised import SHIPPED, load_network
from sciflow.domains.jumps.batch import PathBatch
from sciflow.domains.jumps.prior import (
    Irregular,
    LogNormalPrior,
    PublishedPrior,
    RatePrior,
    Regular,
    relabel,
    stationary,
)
from sciflow.domains.jumps.published_network import PublishedNetwork
from sciflow.domains.jumps.sets import jump_set, true_rates
from sciflow.domains.jumps.tasks import JumpTasks

SIZES = (1, 30, 100, 300, 1000, 5000)
REQUIRED = {1: 0.60, 30: 0.28, 100: 0.17, 300: 0.12}
RELEASED = {1: 0.648, 30: 0.330, 100: 0.212, 300: 0.162, 1000: 0.230, 5000: 0.723}


@functools.cache
def ratchet() -> tuple[Tensor, Tensor, Tensor]:
    """Labels (10000, 100), times (100,) and true rates (6, 6)."""
    paths, rates = jump_set("dfr_V1"), true_rates("dfr_V1")
    assert paths.states is not None and rates is not None
    return torch.from_numpy(paths.states), torch.from_numpy(paths.times[0]), torch.from_numpy(rates)


def drawn(paths: int, draws: int, every: int, noise: float, generator: torch.Generator) -> PathBatch:
    """`draws` systems of the ratchet with `paths` paths each."""
    states = ratchet()[0]
    chosen = torch.stack([torch.randperm(len(states), generator=generator)[:paths] for _ in range(draws)])
    return observed(states[chosen], every, noise, generator)


def observed(states: Tensor, every: int, noise: float, generator: torch.Generator) -> PathBatch:
    """Systems of the ratchet with the paths (B, K, L), thinned, some labels replaced."""
    times, sizes = ratchet()[1], torch.full((len(states),), 6)
    seen = relabel(states[..., ::every], torch.full((len(states),), noise), sizes, generator)
    lengths = torch.full(seen.shape[:2], seen.shape[-1])
    return PathBatch(times[::every].expand(len(states), 1, -1), seen, lengths, lengths > 0, sizes, 6)


def errors(network: torch.nn.Module, batch: PathBatch) -> tuple[Tensor, Tensor]:
    """RMSE (draws,) over off-diagonals, and estimated flip rates (draws,)."""
    off = ~torch.eye(6, dtype=torch.bool)
    with torch.inference_mode():
        law = network(batch)
    truth = ratchet()[2]
    return (law.mean() - truth)[:, off].square().mean(1).sqrt(), law.flips()


def ratchet_table(network: torch.nn.Module, draws: int) -> None:
    """RMSE by number of paths."""
    generator = torch.Generator().manual_seed(0)
    print("| paths | RMSE | sd over draws | required | released network |\n|---|---|---|---|---|")
    for paths in SIZES:
        values = torch.cat([errors(network, drawn(paths, 1, 1, 0.0, generator))[0] for _ in range(draws)])
        required = REQUIRED.get(paths, "-")
        print(f"| {paths} | {values.mean():.3f} | {values.std():.3f} | {required} | {RELEASED[paths]} |", flush=True)
    parts = [observed(part[:, None], 1, 0.0, generator) for part in ratchet()[0].split(500)]
    values = torch.cat([errors(network, part)[0] for part in parts])
    print(f"\nall single paths: {values.mean():.4f} +- {values.std() / len(values) ** 0.5:.4f}", flush=True)


def bound_table(systems: int = 20_000, draws: int = 300) -> None:
    """RMSE of exact posterior means at one path."""
    generator = torch.Generator().manual_seed(3)
    batch, truth, off = drawn(1, draws, 1, 0.0, generator), ratchet()[2], ~torch.eye(6, dtype=torch.bool)
    moves = batch.states[:, 0, :-1] * 6 + batch.states[:, 0, 1:]
    counts = torch.nn.functional.one_hot(moves, 36).sum(1).double()

    def scored(rates: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood (draws, systems) and rates (systems, 36) with the window as unit."""
        logs = torch.matrix_exp(generator_of(rates) / 99).clamp_min(1e-12).log()
        return counts @ logs.flatten(1).T + initial.clamp_min(1e-12).log()[:, batch.states[:, 0, 0]].T, rates.flatten(1)

    def error(parts: list[tuple[float, tuple[Tensor, Tensor]]]) -> str:
        logs = torch.cat([found[0] + math.log(weight) for weight, found in parts], 1)
        mean = logs.softmax(1) @ torch.cat([found[1] for _, found in parts])
        values = (mean.view(-1, 6, 6) / 2.5 - truth)[:, off].square().mean(1).sqrt()
        return f"{values.mean():.3f} +- {values.std() / draws**0.5:.3f}"

    def prior(law: RatePrior) -> tuple[Tensor, Tensor]:
        drawn_systems = law.sample(systems, generator)
        return scored(drawn_systems.rates * 10, drawn_systems.initial)

    published, wide = prior(PublishedPrior({6: 1})), prior(LogNormalPrior({6: 1}))
    moderate = prior(LogNormalPrior({6: 1}, (0.4, 1.0), (0.2, 0.7), (5.0, 10.0), 0.8))
    orders = torch.tensor(list(itertools.permutations(range(6))))
    known = (truth * off)[orders[:, :, None], orders[:, None, :]] * 2.5
    print("\n| one path: exact posterior mean under | RMSE |\n|---|---|")
    print(f"| the published prior | {error([(1.0, published)])} |")
    # of the batches with six states: published and moderate have five in nine of them, wide one in seven
    mixture = [(0.2 * 5 / 9, published), (0.05 / 7, wide), (0.75 * 5 / 9, moderate)]
    print(f"| the training mixture | {error(mixture)} |")
    print(f"| its moderate part | {error([(1.0, moderate)])} |")
    ratchets = scored(known, stationary(known, torch.full((len(known),), 6)))
    print(f"| the ratchet itself, labels unknown | {error([(1.0, ratchets)])} |")


def noise_table(network: torch.nn.Module, draws: int) -> None:
    """RMSE and flip rate by label noise."""
    generator = torch.Generator().manual_seed(1)
    print("\n| label noise (300 paths of 50) | RMSE | sd | flip rate | true |\n|---|---|---|---|---|")
    for noise in (0.0, 0.01, 0.1):
        values, flips = errors(network, drawn(300, draws, 2, noise, generator))
        print(f"| {noise} | {values.mean():.3f} | {values.std():.3f} | {flips.mean():.4f} | {noise * 5 / 6:.4f} |")


def calibration_table(network: torch.nn.Module, systems: int) -> None:
    """Coverage of intervals and error on the published prior."""
    print(
        "\n| prior: paths | grid | noise | RMSE | prior mean | coverage 50 % | 90 % | 90 %, edges |\n"
        + "|---" * 8
        + "|"
    )
    generator = torch.Generator().manual_seed(2)
    for paths in (1, 30, 300, 1000):
        for grid in (Regular(), Irregular()):
            for noise in (0.0, 0.01, 0.1):
                tasks = JumpTasks([PublishedPrior()], [grid], (paths, paths), (noise,), batch_size=systems)
                batch, truth = tasks.batch(generator)
                with torch.inference_mode():
                    law = network(batch)
                edges, there = truth.edges, truth.rates > 0

                def inside(level: float, law=law, truth=truth) -> Tensor:
                    low, high = law.quantile((1 - level) / 2), law.quantile((1 + level) / 2)
                    return ((low <= truth.rates) & (truth.rates <= high)).double()

                half, wide = inside(0.5)[edges].mean(), inside(0.9)
                rmse = (law.mean() - truth.rates)[edges].square().mean().sqrt()
                base = truth.rates[edges].std()
                print(
                    f"| {paths} | {type(grid).__name__} | {noise} | {rmse:.3f} | {base:.3f} | {half:.2f} | "
                    f"{wide[edges].mean():.3f} | {wide[there].mean():.3f} |",
                    flush=True,
                )


def cost(network: torch.nn.Module) -> None:
    """CPU seconds against the published architecture."""
    tasks = JumpTasks([PublishedPrior()], [Regular((2,))], (300, 300), batch_size=100)
    batches = [tasks.batch(torch.Generator().manual_seed(seed))[0] for seed in range(10)]
    one = JumpTasks([PublishedPrior()], [Regular((2,))], (300, 300), batch_size=1).batch(torch.Generator())[0]
    published = PublishedNetwork().eval()
    with torch.inference_mode():
        start = time.thread_time()
        for batch in batches:
            network(batch)
        ours = time.thread_time() - start
        times = []
        for _ in range(3):
            start = time.thread_time()
            published(one)
            times.append(time.thread_time() - start)
    theirs = min(times)
    print(f"\n1000 systems of 300 x 50: {ours:.1f} CPU s; published transformer {theirs:.2f} CPU s for one system:")
    print(f"{1000 * theirs / ours:.0f} times cheaper ({2300 / ours:.0f} times against the 2.3 s of the specification)")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=SHIPPED)
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--systems", type=int, default=64)
    parts = ("ratchet", "bound", "noise", "calibration", "cost")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = load_network(options.model)
    print(f"{options.model}, {platform.machine()}, torch {torch.__version__}, 1 thread, seeds 0-2\n")
    if "ratchet" in options.parts:
        ratchet_table(network, options.draws)
    if "bound" in options.parts:
        bound_table()
    if "noise" in options.parts:
        noise_table(network, options.draws)
    if "calibration" in options.parts:
        calibration_table(network, options.systems)
    if "cost" in options.parts:
        cost(network)


if __name__ == "__main__":
    main()
