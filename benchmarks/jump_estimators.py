"""Estimators of jump rates on the flashing ratchet: RMSE over the 30 off-diagonals against the number of paths.

Each draw takes so many of the 10 000 stored paths without replacement (100 points on [0, 2.5], no noise); `mle` sees
fresh Gillespie paths with every jump, a bound for what a grid can give. Printed: mean and standard deviation over
draws, and CPU seconds of one fit with its standard errors and warnings (one thread). `--noise 0.1 --stride 2` replaces
labels with that probability by a uniform state and keeps every second point (section 11 of the specification).

Published figures: the tutorial of FIM-MJP (Berghaus et al., arXiv 2406.06419, released network, 33 draws) and the
specification's own EM runs (section 11).

    OMP_NUM_THREADS=1 python benchmarks/jump_estimators.py [--set dfr_V1] [--counts 1 30 ...] [--methods em fim+em ...]
        [--draws 20] [--noise 0] [--stride 1] [--seed 0]
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

import sciflow
import sciflow.jumps as jumps
from sciflow.domains.jumps.rate_prior import NONE
from sciflow.domains.jumps.sets import true_rates

COUNTS = (1, 30, 100, 300, 1000, 5000)
RELEASED = ("0.648(38)", "0.330(64)", "0.212(35)", "0.162(21)", "0.230(11)", "0.723(1)")
SPEC_EM = ("> 50", "0.271", "0.166", "0.083", "0.047", "0.021")
SPEC_EM_PRIOR = ("0.624", "0.264", "0.142", "0.090", "-", "-")
PUBLISHED = {  # V = 1, no noise, 100 points
    name: dict(zip(COUNTS, row, strict=True))
    for name, row in {
        "released network": RELEASED,
        "spec: em, no prior": SPEC_EM,
        "spec: em": SPEC_EM_PRIOR,
    }.items()
}
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


def sample(full: jumps.Paths, count: int, noise: float, stride: int, seed: int) -> jumps.Paths:
    """`count` paths, thinned, with labels replaced."""
    random = np.random.default_rng(seed)
    paths = full.take(random.choice(len(full), count, replace=False))
    states, S = paths.states[:, ::stride], paths.states_count  # type: ignore[index]
    replaced = np.where(random.random(states.shape) < noise, random.integers(0, S, states.shape), states)
    return jumps.Paths.of(paths.times[0, ::stride], replaced, states_count=S)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", default="dfr_V1", help="dfr_V0 .. dfr_V3")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--draws", type=int, default=20, help="at most; 5 above 500 paths")
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    full, truth = jumps.jump_set(options.set), true_rates(options.set)
    assert truth is not None
    versions = f"sciflow {sciflow.__version__}, torch {torch.__version__}, numpy {np.__version__}"
    print(f"{options.set}, noise {options.noise:g}, stride {options.stride}, seed {options.seed}; {versions}")
    jumps.estimate(full.take([0, 1]), "em")  # imports
    print(f"{'':20s}" + "".join(f"{count:>22d}" for count in options.counts))
    for name in options.methods:
        cells, rates = [], []
        for count in options.counts:
            errors, seconds = [], []
            for draw in range(options.draws if count <= 500 else min(5, options.draws)):
                seed = options.seed + draw
                if name == "mle":
                    paths = jumps.simulate(truth, count, end=2.5, seed=seed)
                else:
                    paths = sample(full, count, options.noise, options.stride, seed)
                start = time.thread_time()
                found = jumps.estimate(paths, **METHODS[name])
                seconds.append(time.thread_time() - start)
                errors.append(rmse(found.rates, truth))
                rates.append(found.noise_rate)
            cells.append(f"{np.mean(errors):8.3f} +- {np.std(errors):.3f} {np.mean(seconds):5.2f} s")
        known = [rate for rate in rates if rate is not None]
        tail = f"   noise rate {np.mean(known):.4f} +- {np.std(known):.4f}" if known else ""
        print(f"{name:20s}" + "".join(f"{cell:>22s}" for cell in cells) + tail, flush=True)
    if options.set == "dfr_V1" and not options.noise and options.stride == 1:
        for name, row in PUBLISHED.items():
            print(f"{name:20s}" + "".join(f"{row.get(count, '-'):>22s}" for count in options.counts))


if __name__ == "__main__":
    main()
