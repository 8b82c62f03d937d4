"""Overfit test (crysbfn specification, section 21): one carbon crystal in 479 descriptions; match 100 %, RMSE < .02.

    OMP_NUM_THREADS=1 PYTHONPATH=. python benchmarks/overfit_carbon.py [--minutes 8]

Trains the planar model on carbon_overfit_x_train.npz for some CPU minutes of one thread, samples 100 crystals with 200
moves, and compares each with the crystal.
"""

from __future__ import annotations

import argparse
import math
import time

import torch

from sciflow.core.config import to_config
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh
from sciflow.core.schedules import BFN
from sciflow.core.time_laws import Stratified
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


def main() -> None:
    """Train, sample, match."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="CPU minutes of training")
    budget = 60 * parser.parse_args().minutes
    torch.manual_seed(0)
    torch.set_num_threads(1)
    arrays, _ = load_crystals("carbon_overfit_x_train")
    codec = CrystalCodec.infer(arrays)
    data = codec.encode(arrays)
    logs = PolarLattice().encode(data["lattice"])[:, :3]
    processes = {
        "coords": PlanarBFN(),
        "lattice": PolarLattice(BFN(math.sqrt(1e-3)), float(logs.mean()), max(0.05, float(logs.std()))),
    }
    sampling = SamplingPlan({name: Reperturb() for name in processes}, Uniform(end=0.0), 200)
    network = CSPNet(1, hidden=96, layers=3, frequencies=16)
    training = Denoising(
        processes, network, {"coords": ShiftMarginal(), "lattice": SNRWeighted()}, sampling, Stratified()
    )
    optimizer = torch.optim.AdamW(training.parameters(), 2e-3, betas=(0.9, 0.99))
    generator, start, step = torch.Generator().manual_seed(0), time.thread_time(), 0
    averaged = {name: value.clone() for name, value in network.state_dict().items()}
    while (spent := time.thread_time() - start) < budget:
        for group in optimizer.param_groups:
            group["lr"] = (
                2e-3 * min(1, (step + 1) / 100) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * spent / budget)))
            )
        batch = data.select(torch.randint(data.batch, (64,), generator=generator))
        loss = torch.stack([value.mean() for value in training.losses(batch, Fresh(step)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(training.parameters(), 1.0)
        optimizer.step()
        step += 1
        with torch.no_grad():
            for name, value in network.state_dict().items():
                averaged[name].lerp_(value, 0.005)
        if step % 200 == 0:
            print(f"step {step}, {spent:.0f} s, loss {float(loss.detach()):.4f}", flush=True)
    network.load_state_dict(averaged)
    report(training, codec, arrays, step)


def report(training: Denoising, codec: CrystalCodec, arrays, step: int) -> None:
    """Match 100 samples with the crystal."""
    from pymatgen.analysis.structure_matcher import StructureMatcher

    model = training.model
    template = codec.template_of([arrays.numbers[arrays.rows(0)]] * 100)
    sampler = model.sampling.sampler(model.processes)
    with torch.no_grad():
        state = sampler.prior(template, Fresh(1))
        end = sampler.run(state, model.denoiser.eval(), Fresh(2), steps=200, final="mean").state
    end = end.put(**{name: process.decode(end[name], None) for name, process in model.processes.items()})
    truth = codec.to_objects(codec.encode(arrays.select([0])))[0]
    matcher = StructureMatcher(stol=0.5, angle_tol=10, ltol=0.3)
    found = [None if made is None else matcher.get_rms_dist(made, truth) for made in codec.to_objects(end)]
    distances = [value[0] for value in found if value is not None]
    mean = sum(distances) / max(1, len(distances))
    print(f"{step} steps of {to_config(model.denoiser.network)['init_args']['hidden']} wide")
    print(f"match {len(distances)} of 100, RMSE {mean:.4f}, largest {max(distances, default=math.nan):.4f}")


if __name__ == "__main__":
    main()
