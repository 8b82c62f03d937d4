"""The experiments of this folder build, train one step and sample: ours and the peers on the same core."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from crystal_toy import ragged

from sciflow.core.config import from_config
from sciflow.core.noise import Fresh
from sciflow.core.state import Layout, State
from sciflow.training.denoising import Denoising

FOLDER = Path(__file__).resolve().parents[3] / "experiments" / "crystals"
FILES = sorted(file.stem for file in FOLDER.glob("*.yaml"))
ELEMENTS = 56


def module(name: str) -> Denoising:
    """What the command line would train, with a small network."""
    arguments = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["model"]["init_args"]
    arguments["network"]["init_args"] |= {"hidden": 16, "layers": 1, "frequencies": 3}
    parts = {key: from_config(arguments[key]) for key in ("processes", "network", "objectives", "sampling", "time_law")}
    built = Denoising(**parts)
    built.model.denoiser.network.build({"types": ELEMENTS})
    return built


def crystals(species: bool) -> State:
    """Three clean crystals of 5, 1 and 3 atoms."""
    layout, generator = ragged((5, 1, 3)), torch.Generator().manual_seed(0)
    types = torch.randint(ELEMENTS, (9,), generator=generator)
    fields = {
        "coords": torch.rand(9, 3, generator=generator),
        "lattice": 2 * torch.eye(3) + 0.1 * torch.randn(3, 3, 3, generator=generator),
        "types": torch.nn.functional.one_hot(types, ELEMENTS).float() if species else types,
    }
    return State(fields, {"coords": layout, "lattice": Layout(3), "types": layout})


def test_the_folder_is_not_empty():
    assert {"perov5_csp", "perov5_denovo", "diffcsp_like", "flowmm_like", "omatg_like"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_experiment_learns_and_samples(name):
    training = module(name)
    batch = crystals("types" in training.model.processes)
    optimizer = torch.optim.Adam(training.parameters(), 3e-3)
    losses = []
    for _ in range(30):
        loss = torch.stack([value.mean() for value in training.losses(batch, Fresh(0)).values()]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0]  # the same noise each time: it must fall
    model = training.model
    for steps in (4, 9):  # any number of moves
        sampler = model.sampling.sampler(model.processes)
        state = sampler.prior(batch, Fresh(1))
        end = sampler.run(state, model.denoiser.eval(), Fresh(2), steps=steps, final=model.sampling.final).state
        clean = {field: process.decode(end[field], None) for field, process in model.processes.items()}
        assert clean["coords"].shape == (9, 3) and clean["lattice"].shape == (3, 3, 3)
        assert all(bool(x.isfinite().all()) for x in clean.values())
        assert bool(((clean["coords"] >= 0) & (clean["coords"] < 1)).all())
    if "types" not in model.processes:
        assert torch.equal(end["types"], batch["types"])
