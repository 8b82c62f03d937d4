"""Models that know one crystal, the cubic perovskite: design and prediction without a trained network."""

from __future__ import annotations

import math

import torch
from pymatgen.core import Structure

from sciflow.core.config import Configurable
from sciflow.core.grids import Uniform
from sciflow.core.schedules import BFN
from sciflow.core.state import State
from sciflow.domains.crystals.codec import CrystalCodec
from sciflow.model import Model
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral

EDGE, SCALE = 3.94, 2.0
CUBIC = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])  # A B O O O
ELEMENTS = ["O", "Ti", "Sr", "Ba"]


class Perovskite(torch.nn.Module, Configurable):
    """The cubic perovskite, whatever it sees; with `species` also SrTiO3."""

    def __init__(self, species: bool = False) -> None:
        super().__init__()
        self.weight, self.species = torch.nn.Parameter(torch.zeros(1)), species

    def forward(self, state: State, signals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        angle = 2 * math.pi * CUBIC.repeat(state.batch, 1)
        coords = torch.stack([angle.cos(), angle.sin()], -1)
        found = {
            "coords": coords + self.weight,
            "lattice": EDGE / SCALE * torch.eye(3).repeat(state.batch, 1, 1) + self.weight,
        }
        if self.species:
            types = torch.tensor([2, 1, 0, 0, 0]).repeat(state.batch)
            found["types"] = torch.nn.functional.one_hot(types, len(ELEMENTS)) + self.weight
        return found


def save(path, species: bool):
    processes = {"coords": PlanarBFN(0.01), "lattice": GaussianProcess(BFN(0.001), kind="data")}
    if species:
        processes["types"] = GaussianProcess(BFN(0.01), kind="data")
    plan = SamplingPlan({name: Ancestral() for name in processes}, Uniform(end=0.0), 8)
    spec = {"domain": "crystals", "sizes": {"5": 1}}
    Model(processes, Perovskite(species), plan, CrystalCodec(ELEMENTS, SCALE, 5, species), spec).save(path)
    return path


def perovskite(formula: str) -> Structure:
    a, b = formula[:2], formula[2:4]
    return Structure([[EDGE, 0, 0], [0, EDGE, 0], [0, 0, EDGE]], [a, b, "O", "O", "O"], CUBIC.numpy())


class Killed(BaseException):
    """As little is caught of it as of kill -9."""
