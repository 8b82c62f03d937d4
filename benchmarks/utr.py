"""R1: design of 5' untranslated regions of 50 nucleotides towards ribosome load, every guidance at stated budgets.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/utr.py [--num 128] [--seeds 3] [--rows svdd drakes] [--learned N]

Prior: independent uniform nucleotides (as the random library of the assay), revealed one per move in random order.
Reward: predictor a of Sample et al. 2019; predictor b, trained separately on the same assay, is HELD OUT: what rises in
a and falls in b is exploitation of a. Both predict one assay in one cell line; neither is ribosome load in a living
tissue.

Columns: median of b for each seed, quantiles 50/80/90 % of a, median of b, mean pairwise Hamming distance (share of
positions), share of unique sequences, sequences scored by a per design, CPU seconds per batch of designs. Means over
seeds. DRAKES is tuned anew for each seed; its tuning is part of its cost. `spec` is the figure of the reference
implementation (svdd.md, sections 5 and 9: a-median, b-median), tolerance 0.05.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.grids import Uniform
from sciflow.core.hooks import Hook
from sciflow.core.noise import PerSample
from sciflow.core.state import Layout, State
from sciflow.core.values import LearnedValue, PosteriorSamples
from sciflow.domains.sequences.network import SequenceCNN
from sciflow.domains.sequences.utr import UTRReward, utr_reward
from sciflow.domains.sequences.value_network import ValueCNN
from sciflow.guidance.enumeration import Enumeration
from sciflow.guidance.gradient import GradientGuidance
from sciflow.guidance.smc import SMC
from sciflow.guidance.svdd import SVDD
from sciflow.model import Model
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.any_order import AnyOrder
from sciflow.training.reward import fine_tune
from sciflow.training.reward_path import ExactPathKL
from sciflow.training.value import Linex, fit_value

LENGTH, PARTICLES = 50, 10


class UniformPrior(nn.Module, Configurable):
    """The denoiser of independent uniform nucleotides: no network at all."""

    clock_free = True

    def forward(self, state: State, signals: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Equal logits."""
        return {"seq": torch.zeros(*state["seq"].shape[:2], 4)}


class Counted:
    """Reward a of tokens or probabilities; counts the sequences that it scores."""

    def __init__(self, reward: UTRReward) -> None:
        self.reward, self.scored = reward, 0

    def __call__(self, state: State) -> Tensor:
        """Scaled ribosome load (B,)."""
        self.scored += state.batch
        return score(self.reward, state["seq"])


def score(reward: UTRReward, x: Tensor) -> Tensor:
    """Scores of tokens (B, 50) or probabilities (B, 50, 4), 8192 at a time."""
    x = x if x.is_floating_point() else torch.nn.functional.one_hot(x, 4).float()
    return torch.cat([reward.score(part) for part in x.split(8192)])


def model(network: nn.Module | None = None) -> Model:
    """A network, or the prior, with one token per move."""
    plan = SamplingPlan({"seq": AnyOrder()}, Uniform(end=0.0), LENGTH, final="sample")
    return Model({"seq": Masked(4)}, UniformPrior() if network is None else network, plan)


def template(batch: int) -> State:
    """Shape of a batch."""
    return State({"seq": torch.zeros(batch, LENGTH, dtype=torch.long)}, {"seq": Layout(batch)})


def sample(num: int, seed: int, hooks: list[Hook], made: Model | None = None) -> Tensor:
    """Tokens (num, 50) of a model, or of the prior."""
    made = model() if made is None else made
    sampler, noise = made.sampling.sampler(made.processes, hooks), PerSample(seed)
    start = sampler.prior(template(num), noise)
    return sampler.run(start, made.denoiser, noise, steps=LENGTH, final="sample").state["seq"]


Method = Callable[[int, int, Counted], Tensor]


def best_of(candidates: int) -> Method:
    """Best of N unguided sequences per design; the prior is uniform, so they are drawn at once, in chunks."""

    def run(num: int, seed: int, reward: Counted) -> Tensor:
        generator, best = torch.Generator().manual_seed(seed), []
        for designs in torch.arange(num).split(max(20_000 // candidates, 1)):
            pool = torch.randint(4, (len(designs) * candidates, LENGTH), generator=generator)
            values = reward(State({"seq": pool}, {"seq": Layout(len(pool))})).reshape(len(designs), candidates)
            best.append(pool.reshape(len(designs), candidates, LENGTH)[torch.arange(len(designs)), values.argmax(1)])
        return torch.cat(best)

    return run


def guided(make: Callable[[Counted], Hook]) -> Method:
    """One sample per design."""
    return lambda num, seed, reward: sample(num, seed, [make(reward)])


def grouped(make: Callable[[Counted], Hook]) -> Method:
    """A group of particles per design, of which a random one is taken: independent designs."""

    def run(num: int, seed: int, reward: Counted) -> Tensor:
        drawn = sample(num * PARTICLES, seed, [make(reward)]).reshape(num, PARTICLES, LENGTH)
        which = torch.randint(PARTICLES, (num,), generator=torch.Generator().manual_seed(seed))
        return drawn[torch.arange(num), which]

    return run


def drakes(alpha: float, steps: int, batch: int = 32, moves: int = 10, rate: float = 1e-2, hidden: int = 32) -> Method:
    """DRAKES: a network whose last layer is zero IS the uniform prior; tuned for `steps` steps, sampled without hooks.

    Paths of the tuning unmask 50/`moves` letters per move; designs are sampled letter by letter. Nothing stops the
    tuning but the number of steps: the held-out predictor takes no part in it. The prior's log-probabilities are
    constant, so no gradient flows through it and none is computed.
    """

    def run(num: int, seed: int, reward: Counted) -> Tensor:
        torch.manual_seed(seed)
        network = SequenceCNN(4, hidden, stacks=1)
        nn.init.zeros_(network.last.weight)
        nn.init.zeros_(network.last.bias)
        tuned = fine_tune(
            model(network),
            reward.reward,
            alpha=alpha,
            steps=steps,
            batch_size=batch,
            learning_rate=rate,
            moves=moves,
            seed=seed,
            template=template(1),
            validation=0,
            recompute=False,
            divergence=ExactPathKL(through_frozen=False),
        )
        reward.scored += steps * batch
        return sample(num, seed, [], tuned)

    return run


def methods() -> dict[str, tuple[Method, str]]:
    """Name -> how to make designs, and the figures of svdd.md."""

    def completed(reward: Counted, draws: int, alpha: float) -> PosteriorSamples:
        return PosteriorSamples(reward, draws, alpha)

    def gradient(reward: Counted) -> GradientGuidance:
        return GradientGuidance(reward, 1 / 0.05)

    return {
        "unguided": (best_of(1), "a 0.45"),
        "best of 10": (best_of(10), "a 0.936, b 0.584"),
        "SVDD M=10, alpha 0, 1 completion": (guided(lambda r: SVDD(completed(r, 1, 0.0), 10, 0.0)), "a 1.541, b 0.397"),
        "SVDD M=10, alpha 0, 8 completions": (
            guided(lambda r: SVDD(completed(r, 8, 0.0), 10, 0.0)),
            "a 1.760, b 0.415",
        ),
        "SVDD M=10, alpha 0.1": (guided(lambda r: SVDD(completed(r, 8, 0.1), 10, 0.1)), "a 1.005, b 0.584"),
        "SVDD M=10, alpha 0.05": (guided(lambda r: SVDD(completed(r, 8, 0.05), 10, 0.05)), "a 1.178, b 0.661"),
        "enumerated, alpha 0.1": (guided(lambda r: Enumeration(completed(r, 8, 0.1), 0.1)), "a 1.006, b 0.614"),
        "enumerated, alpha 0.05": (guided(lambda r: Enumeration(completed(r, 8, 0.05), 0.05)), "a 1.192, b 0.656"),
        "best of 1600 (budget of enumerated)": (best_of(1600), ""),
        "best of 4000 (budget of SVDD)": (best_of(4000), ""),
        "SMC 10 particles, alpha 0.05": (grouped(lambda r: SMC(completed(r, 8, 0.05), 0.05, PARTICLES)), ""),
        "gradient, alpha 0.05": (guided(gradient), ""),
        "TDS 10 particles, alpha 0.05": (
            grouped(lambda r: SMC(completed(r, 8, 0.05), 0.05, PARTICLES, guide=gradient(r))),
            "",
        ),
        "DRAKES, alpha 0.05, 300 steps": (drakes(0.05, 300), ""),
    }


def learned(updates: int, reward: UTRReward) -> dict[str, tuple[Method, str]]:
    """SVDD-MC: a LINEX-trained value network in place of completions (svdd.md, appendix E)."""
    torch.manual_seed(0)
    network, start = ValueCNN(), time.process_time()
    fit_value(model(), lambda s: score(reward, s["seq"]), network, Linex(0.05), template(64), updates=updates)
    print(f"value network: {updates} updates, {time.process_time() - start:.0f} CPU s\n")
    return {
        "SVDD-MC M=10, alpha 0.05": (guided(lambda r: SVDD(LearnedValue(network, r), 10, 0.05)), ""),
        "enumerated MC, alpha 0.05": (guided(lambda r: Enumeration(LearnedValue(network, r), 0.05)), ""),
    }


def hamming(x: Tensor) -> float:
    """Mean share of differing positions over pairs of sequences."""
    counts = torch.nn.functional.one_hot(x, 4).sum(0).double()  # (50, 4)
    same = (counts * (counts - 1)).sum(1) / (len(x) * (len(x) - 1))
    return float(1 - same.mean())


def measure(method: Method, num: int, seeds: int, a: UTRReward, b: UTRReward) -> Tensor:
    """Figures of one row, (seeds, 8)."""
    rows = []
    for seed in range(seeds):
        reward, start = Counted(a), time.process_time()
        x = method(num, seed, reward)
        seconds = time.process_time() - start
        quantiles = score(a, x).double().quantile(torch.tensor([0.5, 0.8, 0.9], dtype=torch.float64)).tolist()
        held_out = float(score(b, x).median())
        rows.append([*quantiles, held_out, hamming(x), len(x.unique(dim=0)) / num, reward.scored / num, seconds])
    return torch.tensor(rows, dtype=torch.float64)


def main() -> None:
    """Print one row for each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=128, help="designs per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=[""], help="only rows whose name contains one of these")
    parser.add_argument("--learned", type=int, default=0, help="updates of a learned value network; 0: none")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    a, b = utr_reward("a"), utr_reward("b")
    print(f"{platform.machine()}, 1 thread, CPU time; torch {torch.__version__}; {arguments.num} designs")
    print(f"seeds 0 .. {arguments.seeds - 1}\n")
    rows = methods() | (learned(arguments.learned, a) if arguments.learned else {})
    columns = "method | b 50 %, each seed | a 50 % | a 80 % | a 90 % | b 50 % | Hamming | unique | scored per design"
    print(f"| {columns} | CPU s | spec |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name, (method, published) in rows.items():
        if any(part.lower() in name.lower() for part in arguments.rows):
            found = measure(method, arguments.num, arguments.seeds, a, b)
            *figures, scored, seconds = found.mean(0).tolist()
            shown = " | ".join(f"{figure:.3f}" for figure in figures)
            shown = f"{' / '.join(f'{value:.3f}' for value in found[:, 3])} | {shown}"
            print(f"| {name} | {shown} | {scored:.0f} | {seconds:.1f} | {published} |", flush=True)


if __name__ == "__main__":
    main()
