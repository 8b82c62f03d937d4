"""Factorised CSPNet against the same network by its formulas (tests/cspnet_formula.py), same weights and inputs.

Crystals have the sizes of Perov-5, MP-20 and MPTS-52: numbers of atoms at the quantiles (k + 1/2)/n of
`num_atoms_histogram` in dataset_stats.json (means 5, 10.4, 20.4). Batches of about 80, 160 and 160 atoms, then as many
crystals as the papers train with: 1024, 256 and 128. Hidden 512, 6 layers, 128 frequencies, nine-number lattices as
published. Then the time of one MP-20 crystal in a batch at hidden 512 and hidden 128 (4 layers, 32 frequencies). One
thread, `inference_mode`, CPU seconds of the calling thread, minimum over repeats that alternate between the sides.

    OMP_NUM_THREADS=1 PYTHONPATH=.:tests python benchmarks/cspnet.py [--repeats 7]
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial

import torch
from crystal_toy import ELEMENTS, random_state, signals
from cspnet_formula import reference

from sciflow.domains.crystals.network import CSPNet
from sciflow.domains.crystals.network_layers import GramLattice

SIZES = {  # name: (atoms of the crystals, repetitions to the published batch, required ratio)
    "Perov-5": ((5,) * 16, 64, 1.6),
    "MP-20": ((3, 4, 4, 5, 6, 7, 8, 10, 10, 12, 12, 14, 16, 17, 19, 20), 16, 2.5),
    "MPTS-52": ((4, 7, 11, 16, 20, 26, 35, 44), 16, 2.3),
}
BATCHES = {
    f"{name}, {len(sizes) * times} crystals": (sizes * times, required)
    for name, (sizes, most, required) in SIZES.items()
    for times in (1, most)
}


def seconds(*calls: Callable[[], object], repeats: int) -> list[float]:
    """Smallest CPU seconds of each call."""
    best = [float("inf")] * len(calls)
    for _ in range(repeats):
        for k, call in enumerate(calls):
            start = time.thread_time()
            call()
            best[k] = min(best[k], time.thread_time() - start)
    return best


def main() -> None:
    """Print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch.manual_seed(0)
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, 1 thread, seed 0\n")
    nets = {
        512: CSPNet(ELEMENTS, 512, 6, 128, lattice=GramLattice()),
        128: CSPNet(ELEMENTS, 128, 4, 32, lattice=GramLattice()),
    }
    for net in nets.values():
        for head in (net.coords_out, net.lattice_out):
            torch.nn.init.normal_(head.weight, std=0.05)
    print("| batch | atoms | formulas ms | sciflow ms | ratio | required | largest difference |\n" + "|---" * 7 + "|")
    with torch.inference_mode():
        for name, (sizes, required) in BATCHES.items():
            state = random_state(torch.float32, sizes)
            inputs, net = (state, signals(state)), nets[512]
            plain, fast = reference(net, *inputs), net(*inputs)
            gap = max(float((plain[k] - fast[k]).abs().max()) for k in plain)
            few = repeats if sum(sizes) < 1000 else -(-repeats // 2)
            slow, quick = seconds(partial(reference, net, *inputs), partial(net, *inputs), repeats=few)
            times = f"{1e3 * slow:.1f} | {1e3 * quick:.1f} | {slow / quick:.2f}"
            print(f"| {name} | {sum(sizes)} | {times} | {required} | {gap:.0e} |")
        print("\n| hidden | ms per MP-20 crystal (batch of 16) | alone, 10 atoms | required |\n|---|---|---|---|")
        for hidden, net in nets.items():
            batch, one = random_state(torch.float32, SIZES["MP-20"][0]), random_state(torch.float32, (10,))
            many, single = seconds(
                partial(net, batch, signals(batch)), partial(net, one, signals(one)), repeats=repeats
            )
            print(f"| {hidden} | {1e3 * many / 16:.2f} | {1e3 * single:.2f} | {20 if hidden == 512 else 2} |")


if __name__ == "__main__":
    main()
