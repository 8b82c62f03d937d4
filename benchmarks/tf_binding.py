"""R3, TF binding: one protein-binding-microarray replicate rewarded, the other held out; exact on 8-mers, then 200 bp.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/tf_binding.py [--factor SIX6_REF_R1] [--num 20000] [--seeds 3]
    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/tf_binding.py --model promoters [--num 64] [--moves 50]

8-mers: all 65,536 are enumerated. p_pre is a second-order Markov chain of the fly promoters, r the E-score of replicate
1, the optimum p* = p_pre exp(r/alpha)/Z. Denoiser and soft value come from sums over the table, so what a method misses
of p* is its own. Laws are exact where the table says so (no standard error), else means over chains.
200 bp: r = log-mean-exp of the E-score over windows, the prior a trained model; best-of-N of equal budget beside it.
"""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.state import Layout, State
from sciflow.core.values import PosteriorSamples, Value
from sciflow.domains.sequences.data import sequence_dataset
from sciflow.domains.sequences.reward_tables import replicate
from sciflow.domains.sequences.rewards import load_reward
from sciflow.guidance.enumeration import Enumeration
from sciflow.guidance.gradient import GradientGuidance
from sciflow.guidance.smc import SMC
from sciflow.guidance.svdd import SVDD
from sciflow.processes.masked import Masked
from sciflow.solvers.any_order import AnyOrder

WIDTH, LONG, LETTERS, FIELD = 8, 200, 4, "seq"
ALPHAS = (0.2, 0.1, 0.05, 0.02)
WORDS = torch.cartesian_prod(*[torch.arange(LETTERS)] * WIDTH)


def markov_law(tokens: np.ndarray) -> Tensor:
    """(65536,) law of 8-mers under a second-order chain with one pseudo-count per triple."""
    triples = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.int64), 3, axis=1).reshape(-1, 3)
    counts = np.bincount(triples @ np.array([16, 4, 1]), minlength=64).reshape(4, 4, 4) + 1.0
    law = torch.from_numpy(counts.sum(2) / counts.sum())  # the first two letters
    conditional = torch.from_numpy(counts / counts.sum(2, keepdims=True))
    for _ in range(WIDTH - 2):
        law = law[..., None] * conditional
    return law.flatten()


def masses(weights: Tensor) -> Tensor:
    """(5^8,) sums over the masked letters (digit 4) of every partial 8-mer."""
    table = weights.reshape([LETTERS] * WIDTH)
    for axis in range(WIDTH):
        table = torch.cat([table, table.sum(axis, keepdim=True)], axis)
    return table.flatten()


def code(x: Tensor) -> Tensor:
    """Number of each partial 8-mer."""
    return (x * (LETTERS + 1) ** torch.arange(WIDTH - 1, -1, -1)).sum(-1)


class TableDenoiser:
    """Exact conditionals of a law: p(x_i = v | visible) = mass(visible with i <- v) / mass(visible)."""

    def __init__(self, law: Tensor) -> None:
        self.mass, self.process = masses(law), Masked(LETTERS, "data")

    def __call__(self, state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
        x = state[FIELD]
        masked = (x == LETTERS)[..., None]
        powers = (LETTERS + 1) ** torch.arange(WIDTH - 1, -1, -1)
        children = code(x)[:, None, None] + torch.where(masked, torch.arange(LETTERS) - LETTERS, 0) * powers[:, None]
        seen = torch.nn.functional.one_hot(x.clamp_max(LETTERS - 1), LETTERS).double()
        data = torch.where(masked, self.mass[children] / self.mass[code(x)][:, None, None], seen)
        return {FIELD: Prediction(data, "data", self.process, x, clocks[FIELD], state.layouts[FIELD])}


class ExactValue(Value):
    """alpha log E[exp(r/alpha) | visible letters], from two tables."""

    def __init__(self, law: Tensor, reward: Tensor, alpha: float) -> None:
        self.table = alpha * (masses(law * (reward / alpha).exp()) / masses(law)).log()

    def __call__(self, state: State, move: Any, denoise: Any, noise: Any) -> Tensor:
        return self.table[code(state[FIELD])]


def sample(denoiser: TableDenoiser, hooks: list[Hook], number: int, seed: int) -> Tensor:
    """Numbers (number,) of sampled 8-mers, one letter per move."""
    state = State({FIELD: torch.full((number, WIDTH), LETTERS)}, {FIELD: Layout(number)})
    sampler = Sampler({FIELD: denoiser.process}, {FIELD: AnyOrder()}, Uniform(1.0, 0.0), hooks=hooks)
    x = sampler.run(state, denoiser, PerSample(seed, torch.arange(number)), steps=WIDTH).state[FIELD]
    return (x * LETTERS ** torch.arange(WIDTH - 1, -1, -1)).sum(-1)


def best_of_law(law: Tensor, reward: Tensor, number: int) -> Tensor:
    """Exact law of the best of `number` samples; equal rewards share by their probability."""
    levels, level = reward.unique(return_inverse=True)
    mass = torch.zeros(len(levels), dtype=law.dtype).index_add(0, level, law)
    below = torch.cat([mass.new_zeros(1), mass.cumsum(0)])
    return law * ((below[1:] ** number - below[:-1] ** number) / mass)[level]


def divergence(law: Tensor, other: Tensor) -> float:
    """KL(law || other) in nats."""
    return float(torch.special.xlogy(law, law / other).sum())


def exact_part(factor: str, number: int, seeds: int) -> None:
    """Print one row per method and temperature."""
    tokens = sequence_dataset("fly_promoters").part("train").tokens
    law = markov_law(tokens)
    reward, heldout = (torch.from_numpy(load_reward(f"pbm:{name}")(WORDS)) for name in (factor, replicate(factor)))
    denoiser = TableDenoiser(law)
    print(f"\n8-mers: prior from {len(tokens)} promoters; {factor} rewarded, {replicate(factor)} held out")
    print(f"Pearson of the replicates {np.corrcoef(reward, heldout)[0, 1]:.3f}; {number} chains x {seeds} seeds\n")
    print("| method | alpha | E r | E held-out | KL to prior | KL to p* | distinct | ms per sample |")
    print("|---|---|---|---|---|---|---|---|")

    def exact_row(name: str, alpha: str, found: Tensor, optimum: Tensor | None = None) -> None:
        to_optimum = "-" if optimum is None else f"{divergence(found, optimum):.3f}"
        means = f"{float(found @ reward):.4f} | {float(found @ heldout):.4f}"
        print(f"| {name} | {alpha} | {means} | {divergence(found, law):.3f} | {to_optimum} | exact | - |", flush=True)

    exact_row("prior", "-", law)
    for drawn in (10, 100):
        exact_row(f"best of {drawn}", "-", best_of_law(law, reward, drawn))
    for alpha in ALPHAS:
        optimum = (law.log() + reward / alpha).softmax(0)
        exact_row("**optimum p***", f"{alpha}", optimum, optimum)
        value = ExactValue(law, reward, alpha)
        completed = PosteriorSamples(lambda state: reward[token_number(state)], 8, alpha)
        hooks: dict[str, Hook] = {
            "SVDD 8, exact value": SVDD(value, 8, alpha),
            "SVDD 64, exact value": SVDD(value, 64, alpha),
            "all children, exact value": Enumeration(value, alpha),
            "all children, 8 completions": Enumeration(completed, alpha),
            "SMC 16, exact value": SMC(value, alpha, 16),
        }
        for name, hook in hooks.items():
            sampled_row(name, alpha, [timed(denoiser, hook, number, seed) for seed in range(seeds)], reward, heldout)


def token_number(state: State) -> Tensor:
    """Numbers of finished 8-mers."""
    return (state[FIELD] * LETTERS ** torch.arange(WIDTH - 1, -1, -1)).sum(-1)


def timed(denoiser: TableDenoiser, hook: Hook, number: int, seed: int) -> tuple[Tensor, float]:
    """Sampled numbers and milliseconds per sample."""
    start = time.process_time()
    found = sample(denoiser, [hook], number, seed)
    return found, (time.process_time() - start) / number * 1e3


def sampled_row(name: str, alpha: float, runs: list[tuple[Tensor, float]], reward: Tensor, heldout: Tensor) -> None:
    """Mean and standard error over seeds; KL needs the law, which chains do not give."""
    columns = []
    for table in (reward, heldout):
        means = np.array([float(table[found].mean()) for found, _ in runs])
        error = means.std(ddof=1) / math.sqrt(len(means)) if len(means) > 1 else math.nan
        columns.append(f"{means.mean():.4f} +- {error:.4f}")
    distinct = np.mean([len(found.unique()) / len(found) for found, _ in runs])
    cost = np.mean([milliseconds for _, milliseconds in runs])
    print(f"| {name} | {alpha} | {columns[0]} | {columns[1]} | - | - | {distinct:.3f} | {cost:.3f} |", flush=True)


def long_part(model_path: str, factor: str, number: int, seeds: int, alpha: float, moves: int) -> None:
    """Print one row per method: a trained model of 200-bp promoters. 200/moves letters are revealed per move."""
    from sciflow.domains.designing import Way
    from sciflow.domains.sequences.design import any_order_plan, design_sequences
    from sciflow.model import load

    model = load(model_path)
    reward, heldout = load_reward(f"pbm:{factor}"), load_reward(f"pbm:{replicate(factor)}")
    real = sequence_dataset("fly_promoters").part("test").strings()
    print(f"\n200 bp: {factor} rewarded, {replicate(factor)} held out, alpha {alpha}, {number} designs x {seeds} seeds")
    print(f"real promoters: reward {reward(real).mean():.4f}, held out {heldout(real).mean():.4f}\n")
    names = ("reward_mean", "reward_q90", "heldout_mean", "loglik_median", "kmer3_correlation", "hamming", "unique")
    print("| method | seed | " + " | ".join(names) + " | rows per design | s |")
    print("|---|" + "---|" * (len(names) + 3))
    ways = [
        Way("SVDD 8", lambda value: SVDD(PosteriorSamples(value, 8, alpha), 8, alpha)),
        Way("gradient", lambda value: GradientGuidance(value, 1 / alpha)),
    ]
    if moves == LONG:  # children of one letter
        ways.append(Way("all children", lambda value: Enumeration(PosteriorSamples(value, 8, alpha), alpha)))
    plan = any_order_plan(model, moves)
    for way, seed in itertools.product(ways, range(seeds)):
        start = time.process_time()
        result = design_sequences(model, reward, number, way, heldout=heldout, seed=seed, plan=plan, train=real)
        for method, figures in result.summary.items():
            shown = " | ".join(f"{figures[name]:.4f}" for name in names)
            cost = f"{figures['network_rows_per_design']:.0f} | {figures['seconds']:.1f}"
            print(f"| {method} | {seed} | {shown} | {cost} |", flush=True)
        print(f"{way.name}, seed {seed}, with its baselines: {time.process_time() - start:.0f} CPU s", file=sys.stderr)


def main() -> None:
    """Exact part, or with --model the long one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", default="SIX6_REF_R1", help="experiment with a replicate")
    parser.add_argument("--num", type=int, default=None, help="chains (20000) or designs (64) per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", default=None, help="checkpoint of 200-bp promoters: the long part instead")
    parser.add_argument("--alpha", type=float, default=0.002, help="of the long part")
    parser.add_argument("--moves", type=int, default=LONG, help="of the long part")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.model is None:
        exact_part(arguments.factor, arguments.num or 20_000, arguments.seeds)
    else:
        long_part(
            arguments.model, arguments.factor, arguments.num or 64, arguments.seeds, arguments.alpha, arguments.moves
        )


if __name__ == "__main__":
    main()
