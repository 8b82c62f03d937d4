"""Floors of the crystal metrics on the benchmark archives: what guessing and what perfect answers score.

Run: python benchmarks/crystal_floors.py [SET ...] [--number N]

For each set: random coordinates in the true lattice, random coordinates in a borrowed lattice, and shaken references
(CSP), by default of as many structures as in the specification (`shared/specs/crysbfn.md`, section 16), whose figures
stand in brackets; z is the difference in standard errors of two samples of that size. Then the validation split scored
as if it had been generated: all of it (no random choice, so the figures must be equal) and 1,000 valid ones.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.stats import wasserstein_distance

from sciflow.data import resolve
from sciflow.domains.crystals.data import load_npz
from sciflow.domains.crystals.metrics import evaluate_csp, evaluate_de_novo

# set: (structures, match rate and RMSE of random coordinates, of a borrowed lattice, W1 density and elements)
KNOWN = {
    "perov_5": (300, (0.337, 0.430), (0.357, 0.443), (0.088, 0.025)),
    "carbon_24": (150, (0.420, 0.436), (0.060, None), (0.011, 0.0)),
    "mp_20_biternary": (250, (0.184, 0.390), (0.084, None), (0.044, 0.008)),
    "mpts_52": (80, (0.0, None), (0.012, None), (0.174, 0.108)),
}


def measure(name: str, number: int | None) -> None:
    start, (usual, *known, distances) = time.process_time(), KNOWN[name]
    number = number or usual
    test, _ = load_npz(resolve(f"{name}_test"))
    chosen = test.select(np.random.default_rng(0).permutation(len(test))[:number]).structures()
    floors = evaluate_csp(chosen, chosen, floor=number)["floors"]
    for kind, (rate, rmse) in zip(("random_coordinates", "borrowed_lattice"), known, strict=True):
        found = floors[kind]
        both = (found["match_rate"] * number + rate * usual) / (number + usual)
        spread = np.sqrt(both * (1 - both) * (1 / number + 1 / usual))
        z = (found["match_rate"] - rate) / spread if spread else 0.0
        print(
            f"{name:16} {kind:19} match {found['match_rate']:.3f} ({rate:.3f}, z {z:+.1f})  RMSE "
            f"{_short(found['rmse'])} ({_short(rmse)})  cRMSE {found['crmse']:.3f}  "
            f"strict {found['strict_match_rate']:.3f}",
            flush=True,
        )
    shaken = floors["shaken_reference"]
    print(f"{name:16} shaken reference    match {shaken['match_rate']:.3f}  RMSE {_short(shaken['rmse'])}")
    val, real = load_npz(resolve(f"{name}_val"))[0].structures(), test.structures()
    measured = (
        [[one.density for one in part] for part in (val, real)],
        [[len(one.composition) for one in part] for part in (val, real)],
    )
    density, elements = (wasserstein_distance(*pair) for pair in measured)
    report = evaluate_de_novo(val, real, coverage=0)
    print(
        f"{name:16} val against test    W1 density {density:.3f} ({distances[0]}), elements {elements:.3f} "
        f"({distances[1]}); 1,000 valid: {report['w1_density']:.3f}, {report['w1_elements']:.3f}; compositional "
        f"validity {report['compositional_validity']:.3f}; {time.process_time() - start:.0f} CPU s without the workers"
    )


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(KNOWN), metavar="SET")
    parser.add_argument("--number", type=int, default=None, help="structures; default: as in the specification")
    arguments = parser.parse_args()
    for one in arguments.sets:
        measure(one, arguments.number)
