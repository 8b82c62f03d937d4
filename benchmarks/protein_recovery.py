"""ProteinMPNN as a masked-diffusion denoiser: native sequence recovery, likelihood, and time.

Recovery: fraction of residues of the designs that are native, temperature 0.1, 16 moves of the any-order sampler.
Likelihood: NELBO per residue [nats] of the native sequence at temperature 1 (`order_bound`, one random subset for every
number of masked residues and round). The bracketed columns are those of the data README (4 designs each).

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/protein_recovery.py [--designs 16] [--rounds 2]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from sciflow.core.noise import Fresh
from sciflow.core.order_likelihood import order_bound
from sciflow.data import data_root
from sciflow.domains.sequences.structure import Backbone
from sciflow.interop.proteinmpnn import proteinmpnn

README = {"2gi9": (0.576, 1.21), "1ubi": (0.556, 1.30), "1ejg": (0.565, 1.36), "3mx7": (0.469, 1.53)}
README |= {"3msi": (0.348, 1.69)}


def stored_backbone(path: Path, name: str) -> Backbone:
    """A chain of backbones.npz."""
    with np.load(path) as stored:
        ids = [str(number) for number in stored[f"{name}.resid"]]
        return Backbone(torch.from_numpy(stored[f"{name}.xyz"]), str(stored[f"{name}.seq"]), ids, name=name)


def recovery(backbone: Backbone, designs: int, seed: int) -> float:
    """Mean fraction of native residues."""
    designed = proteinmpnn(backbone, temperature=0.1).sample(designs, seed)
    return float(np.mean([[a == b for a, b in zip(one, backbone.sequence, strict=True)] for one in designed]))


def nelbo(backbone: Backbone, rounds: int, seed: int) -> tuple[float, float]:
    """NELBO per residue of the native sequence and its standard error, averaged over the rounds."""
    model = proteinmpnn(backbone)
    assert model.codec is not None
    native = model.codec.to_state([backbone.sequence] * rounds)
    bounds, errors = order_bound(native, "seq", model.denoiser, Fresh(seed))
    per_residue = rounds * len(backbone)
    return float(bounds.sum()) / per_residue, float(errors.square().sum().sqrt()) / per_residue


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=data_root())
    parser.add_argument("--designs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print("entry  residues  recovery (README)  NELBO/residue (README)  s per design")
    for name, (rate, bound) in README.items():
        backbone = stored_backbone(given.data / "sequences" / "backbones.npz", name)
        start = time.process_time()
        found = recovery(backbone, given.designs, given.seed)
        seconds = (time.process_time() - start) / given.designs
        value, error = nelbo(backbone, given.rounds, given.seed)
        print(
            f"{name}   {len(backbone):5d}     {found:.3f} ({rate:.3f})         {value:.2f} +- {error:.2f} ({bound:.2f})"
            f"           {seconds:.2f}"
        )


if __name__ == "__main__":
    main()
