"""Floors of the crystal metrics on the benchmark archives: what guessing and what perfect answers score.

Run: python benchmarks/crystal_floors.py [SET ...] [--number 100]

For each set: random coordinates in the true lattice, random coordinates in a borrowed lattice, and shaken references
(CSP); the validation split scored as if it had been generated (de novo). Beside it the figures of the specification
(`shared/specs/crysbfn.md`, section 16), which were measured independently with other random numbers.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from sciflow.data import resolve
from sciflow.domains.crystals.data import load_npz
from sciflow.domains.crystals.metrics import evaluate_csp, evaluate_de_novo

# set: (match rate and RMSE of random coordinates, of a borrowed lattice, W1 density and elements of val against test)
KNOWN = {
    "perov_5": ((0.337, 0.430), (0.357, 0.443), (0.088, 0.025)),
    "carbon_24": ((0.420, 0.436), (0.060, None), (0.011, 0.0)),
    "mp_20_biternary": ((0.184, 0.390), (0.084, None), (0.044, 0.008)),
    "mpts_52": ((0.0, None), (0.012, None), (0.174, 0.108)),
}


def measure(name: str, number: int) -> None:
    start = time.perf_counter()
    test, _ = load_npz(resolve(f"{name}_test"))
    chosen = test.select(np.random.default_rng(0).permutation(len(test))[:number]).structures()
    floors = evaluate_csp(chosen, chosen, floor=number)["floors"]
    for kind, expected in zip(("random_coordinates", "borrowed_lattice"), KNOWN[name][:2], strict=True):
        found = floors[kind]
        print(
            f"{name:16} {kind:19} match {found['match_rate']:.3f} +- {found['standard_errors']['match_rate']:.3f} "
            f"({expected[0]:.3f})  RMSE {found['rmse']} ({expected[1]})  cRMSE {found['crmse']:.3f}  "
            f"strict {found['strict_match_rate']:.3f}"
        )
    shaken = floors["shaken_reference"]
    print(f"{name:16} shaken reference    match {shaken['match_rate']:.3f}  RMSE {shaken['rmse']}")
    val, _ = load_npz(resolve(f"{name}_val"))
    report = evaluate_de_novo(val.structures(), test.structures(), coverage=0)
    print(
        f"{name:16} val against test    W1 density {report['w1_density']:.3f} (all: {KNOWN[name][2][0]}), "
        f"elements {report['w1_elements']:.3f} (all: {KNOWN[name][2][1]}), compositional validity "
        f"{report['compositional_validity']}; {time.perf_counter() - start:.0f} s"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sets", nargs="*", default=list(KNOWN), metavar="SET")
    parser.add_argument("--number", type=int, default=100)
    arguments = parser.parse_args()
    for one in arguments.sets:
        measure(one, arguments.number)
