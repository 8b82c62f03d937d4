"""R2: four sites of protein GB1, an exact real problem: every method scored against the known optimum.

    OMP_NUM_THREADS=1 SCIFLOW_DATA=... PYTHONPATH=. python benchmarks/gb1.py [--num 20000] [--seed 0] [--skip-drakes]

Prior: ProteinMPNN on backbone 2GI9 as a table of all 34,481 partial states (model gb1-mpnn). Reward r = log max(F,
0.01) with the measured fitness F (Wu et al., eLife 2016). Target p* = p exp(r/alpha)/Z by enumeration of 160,000
sequences; the soft value is the backward recursion over partial states.

E r and E F are means over the designs. KL(q || p*) of sampled methods is -H(q) - E_q log p*, H by counting with the
Miller-Madow correction (S - 1)/(2 N); DRAKES is enumerated. "achieved" is (E r - alpha KL(q || p) - E_p r) as a share
of what is achievable, alpha log Z - E_p r. Best of N has no alpha and is shown for its mean and its lack of spread.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sciflow.core.hooks import Denoise, Hook
from sciflow.core.noise import Move, Noise
from sciflow.core.state import State
from sciflow.core.values import PosteriorSamples, Value
from sciflow.domains.sequences.gb1 import sequence_law, soft_values
from sciflow.domains.sequences.rewards import load_reward
from sciflow.guidance.enumeration import Enumeration
from sciflow.guidance.gradient import GradientGuidance
from sciflow.guidance.smc import SMC
from sciflow.guidance.svdd import SVDD
from sciflow.interop.gb1 import gb1_model
from sciflow.training.reward import fine_tune

ALPHA = 0.5


class ExactValue(Value):
    """The soft value by look-up."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, state: State, move: Move, denoise: Denoise, noise: Noise) -> Tensor:
        """(B,)."""
        return self.table[tuple(state["seq"].T)]


class Problem:
    """Tables of the problem, float64 over (20, 20, 20, 20)."""

    def __init__(self) -> None:
        self.model, self.reward = gb1_model(), load_reward("gb1", "protein")
        every = torch.cartesian_prod(*[torch.arange(20)] * 4)
        self.r = torch.as_tensor(self.reward(every)).reshape([20] * 4)
        self.fitness = torch.as_tensor(load_reward("gb1-fitness", "protein")(every)).reshape([20] * 4)
        with torch.no_grad():
            self.prior = sequence_law(self.model.denoiser.network)
        weights = self.prior * (self.r / ALPHA).exp()
        self.target, self.top = weights / weights.sum(), ALPHA * float(weights.sum().log())
        self.value = ExactValue(soft_values(self.model.denoiser.network, self.r, ALPHA))
        self.start = float((self.prior * self.r).sum())

    def achieved(self, mean: float, nats: float) -> float:
        """Share of the achievable objective, percent."""
        return 100 * (mean - ALPHA * nats - self.start) / (self.top - self.start)

    def sampled(self, tokens: Tensor) -> list[float]:
        """E r, E F, KL to p*, achieved, distinct sequences, from draws (N, 4)."""
        index = tuple(tokens.T)
        codes = tokens @ torch.tensor([8000, 400, 20, 1])
        counts = torch.unique(codes, return_counts=True)[1].double()
        share = counts / counts.sum()
        entropy = float(-(share * share.log()).sum()) + (len(counts) - 1) / (2 * len(tokens))
        mean = float(self.r[index].mean())
        nats, far = (-entropy - float(law[index].log().mean()) for law in (self.prior, self.target))
        return [mean, float(self.fitness[index].nan_to_num(0).mean()), far, self.achieved(mean, nats), len(counts)]

    def exact(self, law: Tensor) -> list[float]:
        """The same of a law."""
        mean = float((law * self.r).sum())
        nats, far = (float((law * (law / other).log()).nan_to_num(0).sum()) for other in (self.prior, self.target))
        return [mean, float((law * self.fitness.nan_to_num(0)).sum()), far, self.achieved(mean, nats), float("nan")]


def rows(problem: Problem, num: int, seed: int) -> list[tuple[str, Callable[[], list[float]]]]:
    """Name and run of each method."""
    model, exact, reward = problem.model, problem.value, problem.reward

    def score(state: State) -> Tensor:
        tokens = state["seq"]
        return reward.score(tokens, None) if tokens.is_floating_point() else problem.r[tuple(tokens.T)]

    def drawn(*hooks: Hook) -> Callable[[], list[float]]:
        return lambda: problem.sampled(model.sample_state(num, seed, hooks=list(hooks))["seq"])

    def best(count: int) -> list[float]:
        pool = model.sample_state(num * count, seed)["seq"].reshape(num, count, 4)
        chosen = problem.r[tuple(pool.movedim(-1, 0))].argmax(1)
        return problem.sampled(pool[torch.arange(num), chosen])

    listed: list[tuple[str, Callable[[], list[float]]]] = [
        ("prior (exact)", lambda: problem.exact(problem.prior)),
        ("optimum p* (exact)", lambda: problem.exact(problem.target)),
        ("best of 10", lambda: best(10)),
    ]
    listed += [(f"SVDD M={m}, exact value", drawn(SVDD(exact, m, ALPHA))) for m in (1, 4, 8, 16, 64)]
    listed += [
        ("SVDD M=8, greedy (alpha 0)", drawn(SVDD(exact, 8, 0.0))),
        ("all children, exact value", drawn(Enumeration(exact, ALPHA))),
        ("all children, 8 completions", drawn(Enumeration(PosteriorSamples(score, 8, ALPHA), ALPHA))),
        ("SMC P=16, exact value", drawn(SMC(exact, ALPHA, 16))),
        ("SMC P=16, 8 completions", drawn(SMC(PosteriorSamples(score, 8, ALPHA), ALPHA, 16))),
        ("TDS P=16, 8 completions", drawn(SMC(PosteriorSamples(score, 8, ALPHA), ALPHA, 16, guide=_gradient(score)))),
        ("gradient guidance", drawn(_gradient(score))),
    ]
    return listed


def _gradient(score: Callable[[State], Tensor]) -> GradientGuidance:
    return GradientGuidance(score, 1 / ALPHA)


def drakes(problem: Problem, seed: int) -> list[float]:
    """Fine-tuned table, enumerated."""
    options = {"batch_size": 128, "learning_rate": 0.1, "validation": 0}
    tuned = fine_tune(problem.model, problem.reward, alpha=ALPHA, steps=300, seed=seed, **options)
    with torch.no_grad():
        return problem.exact(sequence_law(tuned.denoiser.network))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num", type=int, default=20_000, help="designs per method; a multiple of 16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-drakes", action="store_true")
    given = parser.parse_args(arguments)
    problem = Problem()
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, seed {given.seed}, {given.num} designs")
    print(f"E_p r {problem.start:.4f}, alpha log Z {problem.top:.4f}\n")
    print("| method | E r | E F | KL to p* | achieved, % | distinct | CPU s |\n|---|---|---|---|---|---|---|")
    listed = rows(problem, given.num, given.seed)
    if not given.skip_drakes:
        listed.append(("DRAKES, 300 steps of 128 (enumerated)", lambda: drakes(problem, given.seed)))
    for name, run in listed:
        start = time.process_time()
        mean, fitness, far, achieved, distinct = run()
        seconds = time.process_time() - start
        count = "-" if distinct != distinct else f"{distinct:.0f}"
        print(
            f"| {name} | {mean:.3f} | {fitness:.3f} | {far:.3f} | {achieved:.1f} | {count} | {seconds:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
