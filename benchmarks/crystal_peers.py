"""Peers at equal budget: Perov-5 structure prediction with one network, one data set and one number of updates.

Train each experiment, once per seed (7 000 updates, about 8 minutes of one core each), then compare:

    for s in 0 1; do for c in perov5_csp perov5_csp_vonmises diffcsp_like flowmm_like omatg_like; do
      sciflow fit --config experiments/crystals/$c.yaml --seed_everything $s \
        --trainer.logger CSVLogger --trainer.logger.save_dir peers/${c}_s$s
    done; done
    OMP_NUM_THREADS=1 python benchmarks/crystal_peers.py peers --num 500 --steps 10 50 200 1000

REDUCED PROTOCOL: trained on perov_5_val, one sample for each of the first `--num` entries of perov_5_test, whose
atoms' species are given. Matching without gates (specification, section 16); the null floor is 34 % / .43.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

import sciflow
from sciflow.domains.crystals.data import load_crystals
from sciflow.domains.crystals.matching import USUAL, displacements
from sciflow.domains.crystals.predict import entries_of, predict_structures


def main() -> None:
    """Print one line per run and number of moves, then the means over seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="holds EXPERIMENT_sSEED/**/last.ckpt")
    parser.add_argument("--num", type=int, default=1000)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 50, 200, 1000])
    words = parser.parse_args()
    runs = sorted(words.folder.glob("*_s[0-9]*/**/last.ckpt"))
    if not runs:
        parser.error(f"no EXPERIMENT_sSEED/**/last.ckpt in {words.folder}")
    torch.set_num_threads(1)
    print(f"{platform.machine()}, torch {torch.__version__}, 1 thread, {words.num} structures per figure\n", flush=True)
    crystals = load_crystals("perov_5_test")[0].select(range(words.num))
    truth, entries = crystals.structures(), entries_of(crystals)
    print("| experiment | seed | moves | match % | RMSE | cRMSE | sampling CPU-s |\n" + "|---" * 7 + "|")
    table: dict[tuple[str, int], list[tuple[float, float, float]]] = defaultdict(list)
    for path in runs:
        name, seed = path.relative_to(words.folder).parts[0].rsplit("_s", 1)
        model = sciflow.load(path)
        for steps in words.steps:
            start = time.process_time()
            predicted = [several[0] for several in predict_structures(model, entries, seed=int(seed), steps=steps)]
            spent = time.process_time() - start
            found, _ = displacements(list(zip(predicted, truth, strict=True)), workers=1)
            score = figures(found)
            table[name, steps].append(score)
            print(f"| {name} | {seed} | {steps} | {' | '.join(f'{x:.4g}' for x in score)} | {spent:.0f} |", flush=True)
    print("\n| experiment | moves | seeds | match % | RMSE | cRMSE |\n" + "|---" * 6 + "|")
    for (name, steps), scores in table.items():
        mean, spread = np.mean(scores, 0), np.ptp(scores, 0) / 2
        cells = " | ".join(f"{a:.4g} ± {b:.2g}" for a, b in zip(mean, spread, strict=True))
        print(f"| {name} | {steps} | {len(scores)} | {cells} |")
    print(f"\n± half the spread between seeds; binomial error of a match rate {100 * (0.25 / words.num) ** 0.5:.1f} %")


def figures(found: np.ndarray) -> tuple[float, float, float]:
    """Match rate in per cent, RMSE over matches, and over all entries with unmatched ones counted as the tolerance."""
    matched = np.isfinite(found)
    return 100 * matched.mean(), float(found[matched].mean()), float(np.where(matched, found, USUAL.stol).mean())


if __name__ == "__main__":
    main()
