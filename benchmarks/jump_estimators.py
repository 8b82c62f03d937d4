"""Estimators of jump rates on the flashing ratchet: RMSE over the 30 off-diagonals against the number of paths.

Each draw takes so many of the 10 000 stored paths without replacement (100 points on [0, 2.5], no noise); `mle` sees
fresh Gillespie paths with every jump, a bound for what a grid can give. Printed: mean and standard deviation over
draws, and CPU seconds of one fit with its standard errors and warnings (one thread). `--noise 0.1 --stride 2` replaces
labels with that probability by a uniform state and keeps every second point (section 11 of the specification).
`--set published` (or wide) takes another system of that prior of the network for each draw, on [0, 10]. The last number
of a cell is the share of the true rates (absent edges included) inside the 90 % intervals.

Published figures: the tutorial of FIM-MJP (Berghaus et al., arXiv 2406.06419, released network, 33 draws) and the
specification's own EM runs (section 11, marked *).

    OMP_NUM_THREADS=1 python benchmarks/jump_estimators.py [--set dfr_V1|published|wide] [--counts 1 30 ...]
        [--methods em fim+em ...] [--draws 20] [--noise 0] [--stride 1] [--seed 0]
"""

from __future__ import annotations

import argparse
import functools
import time

import numpy as np
import torch

import sciflow
import sciflow.jumps as jumps
from sciflow.domains.jumps.prior import LogNormalPrior, PublishedPrior, RatePrior, Regular
from sciflow.domains.jumps.rate_prior import NONE
from sciflow.domains.jumps.sets import true_rates

COUNTS = (1, 30, 100, 300, 1000, 5000)
RELEASED = ("0.648(38)", "0.330(64)", "0.212(35)", "0.162(21)", "0.230(11)", "0.723(1)")
SPEC_EM = ("> 50", "0.271", "0.166", "0.083", "0.047", "0.021")
SPEC_EM_PRIOR = ("0.624", "0.264", "0.142", "0.090", "-", "-")
PUBLISHED = {  # V = 1, no noise, 100 points
    name: dict(zip(COUNTS, row, strict=True))
    for name, row in {
        "released": RELEASED,
        "em, no prior *": SPEC_EM,
        "em *": SPEC_EM_PRIOR,
    }.items()
}
PRIORS: dict[str, RatePrior] = {"published": PublishedPrior(), "wide": LogNormalPrior()}
METHODS = {
    "mle": {"method": "mle"},
    "em, no prior": {"method": "em", "prior": NONE},
    "em": {"method": "em"},
    "hmm_em": {"method": "hmm_em"},
    "fim": {"method": "fim"},
    "fim+em": {"method": "fim+em"},
}


def rmse(found: np.ndarray, truth: np.ndarray) -> float:
    """Over off-diagonals, as published."""
    off = ~np.eye(len(truth), dtype=bool)
    return float(np.sqrt(np.square((found - truth)[off]).mean()))


def covered(found: jumps.Estimate, truth: np.ndarray) -> float:
    """Share of the true rates inside the 90 % intervals."""
    low, high = found.intervals(0.9)
    off = ~np.eye(len(truth), dtype=bool)
    return float(((low <= truth) & (truth <= high))[off].mean())


def ratchet(name: str, count: int, seed: int) -> tuple[jumps.Paths, np.ndarray]:
    """`count` stored paths, and the true rates."""
    full, truth = jumps.jump_set(name), true_rates(name)
    assert truth is not None
    return full.take(np.random.default_rng(seed).choice(len(full), count, replace=False)), truth


def drawn(prior: RatePrior, count: int, seed: int) -> tuple[jumps.Paths, np.ndarray]:
    """`count` paths of 100 points of a system of the prior, and its rates."""
    generator = torch.Generator().manual_seed(seed)
    system = prior.sample(1, generator)
    seen = Regular((1,)).paths(system, count, generator)
    S = int(system.n_states)
    return jumps.Paths.of(seen.times[0, 0], seen.states[0], states_count=S), system.rates[0, :S, :S].numpy()


def spoiled(paths: jumps.Paths, noise: float, stride: int, seed: int) -> jumps.Paths:
    """Thinned paths, some labels replaced."""
    random, S = np.random.default_rng(seed), paths.states_count
    states = paths.states[:, ::stride]  # type: ignore[index]
    replaced = np.where(random.random(states.shape) < noise, random.integers(0, S, states.shape), states)
    return jumps.Paths.of(paths.times[0, ::stride], replaced, states_count=S)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="dfr_V1", help="dfr_V0 .. dfr_V3, published, wide")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--draws", type=int, default=20, help="at most; 5 above 500 paths")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    prior = PRIORS.get(options.set)
    system = functools.partial(drawn, prior) if prior else functools.partial(ratchet, options.set)
    versions = f"sciflow {sciflow.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{options.set}, noise {options.noise:g}, stride {options.stride}, seed {options.seed}; {versions}")
    jumps.estimate(system(2, 0)[0], "em")  # imports
    print(f"{'':16s}" + "".join(f"{count:>27d}" for count in options.counts))
    for name in options.methods:
        cells, rates = [], []
        for count in options.counts:
            errors, seconds, inside = [], [], []
            for seed in range(options.seed, options.seed + (options.draws if count <= 500 else min(5, options.draws))):
                paths, truth = system(count, seed)
                paths = spoiled(paths, options.noise, options.stride, seed)
                if name == "mle":
                    paths = jumps.simulate(truth, count, end=paths.times[0, -1], seed=seed)
                start = time.thread_time()
                found = jumps.estimate(paths, **METHODS[name])
                seconds.append(time.thread_time() - start)
                errors.append(rmse(found.rates, truth))
                inside.append(covered(found, truth))
                rates.append(found.noise_rate)
            cell = f"{np.mean(errors):.3f} +- {np.std(errors):.3f} {np.mean(seconds):4.2f} s {np.mean(inside):.2f}"
            cells.append(cell)
        known = [rate for rate in rates if rate is not None]
        tail = f"   noise rate {np.mean(known):.4f} +- {np.std(known):.4f}" if known else ""
        print(f"{name:16s}" + "".join(f"{cell:>27s}" for cell in cells) + tail, flush=True)
    if options.set == "dfr_V1" and not options.noise and options.stride == 1:
        for name, row in PUBLISHED.items():
            print(f"{name:16s}" + "".join(f"{row.get(count, '-'):>27s}" for count in options.counts))


if __name__ == "__main__":
    main()
