"""Overfit test (crysbfn specification, section 21): one carbon crystal in 479 descriptions; match 100 %, RMSE < .02.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/overfit_carbon.py [--minutes 5] [--seed 0]

Trains the planar model on carbon_overfit_x_train.npz for some CPU minutes of one thread, samples 500 crystals with 200
moves, and compares every one of them with the crystal (StructureMatcher, stol .5, angle_tol 10, ltol .3).

The descriptions are shifts and permutations of two settings of the crystal, cells with angles (75, 90, 70) and (105,
90, 110) degrees whose coordinates differ. The exact posterior mean is a sum over the 2 x 720 arrangements, and with it
all samples of this sampler match (100 of 100); what a network has to learn is which arrangement a belief points to.
That is decided at clocks from .65 to .9, where its error against the exact mean lies, so training draws most clocks
there.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.schedules import BFN
from sciflow.core.state import State
from sciflow.core.time_laws import SineTime, Stratified
from sciflow.domains.crystals.arrays import CrystalArrays
from sciflow.domains.crystals.codec import CrystalCodec
from sciflow.domains.crystals.data import load_crystals
from sciflow.domains.crystals.network import CSPNet
from sciflow.objectives.shift_marginal import ShiftMarginal
from sciflow.objectives.snr_weighted import SNRWeighted
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.processes.polar_lattice import PolarLattice
from sciflow.sampling import SamplingPlan
from sciflow.solvers.reperturb import Reperturb
from sciflow.training.denoising import Denoising

RATE, BATCH, MOVES = 2e-3, 32, 200


def main() -> None:
    """Train, sample, match."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0, help="CPU minutes of training")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    start = time.thread_time()
    arrays, _ = load_crystals("carbon_overfit_x_train")
    codec = CrystalCodec.infer(arrays)
    data = codec.encode(arrays)
    training = module(data)
    steps = train(training, data, 60 * options.minutes, options.seed)
    trained = time.thread_time() - start
    distances = match(training, codec, arrays, options.samples, options.seed)
    print(f"seed {options.seed}: {steps} steps of {BATCH}, {trained:.0f} CPU s; ", end="")
    print(f"with {options.samples} samples of {MOVES} moves and matching {time.thread_time() - start:.0f} CPU s")
    report(distances, options.samples)


def module(data: State) -> Denoising:
    """The model, its lattice scale from the data."""
    logs = PolarLattice().encode(data["lattice"])[:, :3]
    processes = {
        "coords": PlanarBFN(),
        "lattice": PolarLattice(BFN(math.sqrt(1e-3)), float(logs.mean()), max(0.05, float(logs.std()))),
    }
    sampling = SamplingPlan({name: Reperturb() for name in processes}, Uniform(end=0.0), MOVES)
    network = CSPNet(1, hidden=96, layers=3, frequencies=16)
    objectives = {"coords": ShiftMarginal(), "lattice": SNRWeighted()}
    return Denoising(processes, network, objectives, sampling, Stratified(SineTime(0.4)))


def train(training: Denoising, data: State, budget: float, seed: int) -> int:
    """AdamW for `budget` CPU seconds, the rate falling by half a cosine; leaves averaged weights, returns the steps."""
    network = training.model.denoiser.network
    optimizer = torch.optim.AdamW(training.parameters(), RATE, betas=(0.9, 0.99), fused=True)
    generator, start, step = torch.Generator().manual_seed(seed), time.thread_time(), 0
    weights = list(network.parameters())
    averages = [weight.detach().clone() for weight in weights]
    while (spent := time.thread_time() - start) < budget:
        decay = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent / budget))
        optimizer.param_groups[0]["lr"] = RATE * min(1, (step + 1) / 100) * decay
        batch = data.select(torch.randint(data.batch, (BATCH,), generator=generator))
        losses = training.losses(batch, Fresh(1_000_000 * seed + step))
        loss = torch.stack([value.mean() for value in losses.values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for average, weight in zip(averages, weights, strict=True):
                average.lerp_(weight, max(0.003, 1 / step))
        if step % 500 == 0:
            print(f"step {step}, {spent:.0f} s, loss {float(loss.detach()):.4f}", flush=True)
    with torch.no_grad():
        for average, weight in zip(averages, weights, strict=True):
            weight.copy_(average)
    return step


def match(training: Denoising, codec: CrystalCodec, arrays: CrystalArrays, samples: int, seed: int) -> list[float]:
    """RMSE of those of `samples` crystals that match; every sample is compared, none is drawn again."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    model = training.model
    template = codec.template_of([arrays.numbers[arrays.rows(0)]] * samples)
    sampler = model.sampling.sampler(model.processes)
    state = sampler.prior(template, Fresh(10**9 + 2 * seed))
    end = sampler.run(state, model.denoiser.eval(), Fresh(10**9 + 2 * seed + 1), steps=MOVES, final="mean").state
    end = end.put(**{name: process.decode(end[name], None) for name, process in model.processes.items()})
    truth = codec.to_objects(codec.encode(arrays.select([0])))[0]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    found = [None if made is None else matcher.get_rms_dist(made, truth) for made in codec.to_objects(end)]
    return [float(value[0]) for value in found if value is not None]


def report(distances: list[float], samples: int) -> None:
    """Match rate with the exact binomial limit of the misses, and the RMSE of the matches."""
    from scipy.stats import beta

    misses = samples - len(distances)
    limit = beta.ppf(0.95, misses + 1, samples - misses) if misses < samples else 1.0
    mean = sum(distances) / len(distances) if distances else math.nan
    print(f"match {len(distances)} of {samples} (misses below {100 * limit:.2f} % with 95 % confidence), ", end="")
    print(f"RMSE {mean:.4f}, largest {max(distances, default=math.nan):.4f}")


if __name__ == "__main__":
    main()
