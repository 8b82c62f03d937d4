"""Partly known crystals and guided ones: laws of the known parts, exactness, what rewards get to see."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.kernels import Dirac
from sciflow.core.noise import Move, PerSample
from sciflow.core.schedules import BFN
from sciflow.core.spaces import Torus
from sciflow.core.state import State
from sciflow.core.values import PosteriorMean
from sciflow.domains.crystals.codec import CrystalCodec
from sciflow.domains.crystals.design import design_crystals
from sciflow.domains.crystals.known import Keep, Known, read_lattice, read_sites
from sciflow.domains.crystals.rewards import load_reward
from sciflow.guidance.svdd import SVDD
from sciflow.model import Model, load
from sciflow.processes.categorical_bfn import CategoricalBFN
from sciflow.processes.interpolant import StochasticInterpolant
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.processes.polar_lattice import PolarLattice
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral

CUBIC = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])  # Sr Ti O O O
ELEMENTS = ["O", "Ti", "Sr", "Ba"]
SCALE, EDGE = 2.0, 3.94


class Cubic(torch.nn.Module):
    """Cubic SrTiO3, whatever it sees, in the representations of the shipped models."""

    def __init__(self, species: bool) -> None:
        super().__init__()
        self.weight, self.species = torch.nn.Parameter(torch.zeros(1)), species
        self.log = PolarLattice(BFN(0.01)).encode(torch.eye(3)[None] * EDGE / SCALE)

    def forward(self, state: State, signals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        angle = 2 * math.pi * CUBIC.repeat(state.batch, 1)
        found = {
            "coords": torch.stack([angle.cos(), angle.sin()], -1) + self.weight,
            "lattice": self.log.repeat(state.batch, 1) + self.weight,
        }
        if self.species:
            kinds = torch.tensor([2, 1, 0, 0, 0]).repeat(state.batch)
            found["types"] = torch.nn.functional.one_hot(kinds, len(ELEMENTS)).float() + self.weight
        return found


def cubic_model(species: bool = False, final: Any = "mean") -> Model:
    processes: dict[str, Any] = {"coords": PlanarBFN(0.05), "lattice": PolarLattice(BFN(0.05))}
    if species:
        processes["types"] = CategoricalBFN(len(ELEMENTS), accuracy=40.0)
    plan = SamplingPlan({name: Ancestral() for name in processes}, Uniform(end=0.0), 6, final=final)
    codec = CrystalCodec(ELEMENTS, SCALE, 5, species)
    return Model(processes, Cubic(species), plan, codec, {"domain": "crystals", "sizes": {"5": 1}})


def step(t: float, s: float, batch: int) -> Any:
    class Step:
        move, noise = Move(3, t, s), PerSample(0, torch.arange(batch))

    return Step


# -- laws ------------------------------------------------------------------------------------------------------------
def test_kept_parts_follow_their_own_noising_law():
    """Mean and spread of a kept lattice at clock s over 4000 crystals: gamma x0 and sqrt(gamma (1 - gamma)).

    Bounds: 5 standard errors, false alarm below 1e-5 for 12 numbers.
    """
    model = cubic_model()
    codec: Any = model.codec
    state = codec.template_of([np.array([38])] * 4000)
    known = codec.template_of([np.array([38])]).put(lattice=torch.diag(torch.tensor([1.0, 2.0, 3.0]))[None])
    keep = Keep(model.processes, known, {"lattice": torch.tensor([True]), "types": torch.tensor([True])})
    transition = step(0.6, 0.4, 4000)
    transition.before = state.put(lattice=torch.full((4000, 6), 7.0))
    kernel = keep.propose("lattice", Dirac(torch.full((4000, 6), 7.0)), transition)
    k = kernel.sample(transition.noise.at("lattice", transition.move))
    process: Any = model.processes["lattice"]
    law = process.marginal(process.encode(known["lattice"]), torch.tensor(0.4), known.layouts["lattice"])
    assert torch.allclose(k.mean(0), law.mean[0], atol=5 * float(law.std.max()) / 4000**0.5)
    assert torch.allclose(k.std(0), law.std.expand(1, 6)[0], rtol=5 / 8000**0.5)


def test_kept_parts_of_a_process_with_two_ends():
    """An interpolant on the torus: known sites stay on their geodesic, at s = 0 they are the data."""
    process = StochasticInterpolant(noise=1e-4, space=Torus())
    codec = CrystalCodec(["O", "Ti", "Sr"], SCALE, 5)
    known = codec.template_of([np.array([38, 8])]).put(coords=torch.tensor([[0.1, 0.2, 0.9], [0.0, 0.0, 0.0]]))
    keep = Keep({"coords": process}, known, {"coords": torch.tensor([True, False])})
    state = codec.template_of([np.array([38, 8])] * 50).put(coords=torch.full((100, 3), 0.7))

    def at(s: float) -> torch.Tensor:
        transition = step(s + 0.1, s, 50)
        transition.before = state
        kernel = keep.propose("coords", Dirac(state["coords"]), transition)
        drawn = state.put(coords=kernel.sample(transition.noise.at("coords", transition.move)))
        return keep.after(drawn, {}, transition)["coords"]

    assert torch.allclose(at(0.0)[::2], known["coords"][0].expand(50, 3))
    for s in (0.0, 0.3, 0.9):
        assert torch.equal(at(s)[1::2], state["coords"][1::2])
    steps = [Torus().diff(known["coords"][0], at(s)[::2]).abs().mean() for s in (0.05, 0.3, 0.9)]
    assert steps[0] < steps[1] < steps[2]


# -- exactness -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("species", [False, True])
def test_known_lattice_and_sites_are_exact(species: bool):
    cell = [4.0, 4.2, 4.4, 88.0, 91.0, 93.0]
    known = Known(lattice=cell, sites=[("Sr", (0.5, 0.03, 0.0)), ("O", (-0.11, 0.12, 1.13))])
    one = design_crystals(cubic_model(species), "SrTiO3", 3, relaxation=None, known=known).structures[0]
    assert np.allclose(one.lattice.parameters, cell, rtol=0, atol=1e-9)
    assert [site.specie.symbol for site in one][:2] == ["Sr", "O"]
    assert np.allclose(one.frac_coords[:2], [(0.5, 0.03, 0.0), (0.89, 0.12, 0.13)], rtol=0, atol=1e-12)
    assert one.composition.reduced_formula == "SrTiO3"
    off = one[2].frac_coords - CUBIC[2].numpy()
    assert np.allclose(off - np.round(off), 0, atol=0.02)  # the rest follows the oracle
    left = design_crystals(cubic_model(species), "SrTiO3", 1, relaxation=None, known=Known(sites=known.sites))
    assert np.allclose(left.structures[0].lattice.abc, EDGE, rtol=0.08)  # the cell is free


def test_free_composition_with_a_known_cell():
    known = Known(lattice=[5.0, 5.1, 5.2, 90, 90, 90])
    found = design_crystals(cubic_model(True), None, 2, relaxation=None, known=known)
    assert found.structures[0].composition.reduced_formula == "SrTiO3"
    assert np.allclose(found.structures[0].lattice.abc, (5.0, 5.1, 5.2), rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("known", "text"),
    [
        (Known(sites=[("Ba", (0, 0, 0))]), "got 1 Ba, expected at most 0"),
        (Known(sites=[("Ti", (0, 0, 0)), ("Ti", (0.5, 0, 0))]), "got 2 Ti, expected at most 1"),
        (Known(lattice=[1, 2]), "shape"),
        (Known(lattice=[4, 4, -4, 90, 90, 90]), "lengths in angstrom"),
        (Known(lattice=[4, 4, 4, 30, 30, 170]), "angles of a cell"),
        (Known(sites=[("Sr", (0, 0, math.nan))]), "not a number"),
        (
            Known([4, 4, 4, 90, 90, 90], list(zip(["Sr", "Ti", "O", "O", "O"], CUBIC.tolist()))),
            "something to generate",
        ),
    ],
)
def test_known_parts_that_do_not_fit(known: Known, text: str):
    with pytest.raises(UserError, match=text):
        design_crystals(cubic_model(), "SrTiO3", 1, relaxation=None, known=known)


def test_sites_need_a_formula_and_so_do_models_of_given_species():
    with pytest.raises(UserError, match="need a formula"):
        design_crystals(cubic_model(True), None, 1, relaxation=None, known=Known(sites=[("Sr", (0, 0, 0))]))
    with pytest.raises(UserError, match="give one such as SrTiO3"):
        design_crystals(cubic_model(), None, 1, relaxation=None)


def test_cells_and_sites_from_files(tmp_path: Path):
    structure = Structure(
        Lattice.from_parameters(4, 5, 6, 80, 90, 100), ["Sr", "O"], [(0.1, 0.2, 0.3), (0.4, 0.5, 0.6)]
    )
    structure.to(str(tmp_path / "a.cif"))
    assert np.allclose(Lattice(read_lattice(str(tmp_path / "a.cif"))).parameters, structure.lattice.parameters)
    sites = read_sites(tmp_path / "a.cif")
    assert [name for name, _ in sites] == ["Sr", "O"] and np.allclose(sites[1][1], (0.4, 0.5, 0.6))
    assert read_lattice("4, 5,6 80 90,100").tolist() == [4, 5, 6, 80, 90, 100]
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a hello\n")
    (tmp_path / "two.cif").write_text((tmp_path / "a.cif").read_text() * 2)
    for text, message in [("4,5,6", "a,b,c"), ("cell.cif", "a,b,c"), (str(tmp_path / "broken.cif"), "no crystal")]:
        with pytest.raises(UserError, match=message):
            read_lattice(text)
    with pytest.raises(UserError, match="got 2 structures, expected one"):
        read_sites(tmp_path / "two.cif")


# -- rewards see crystals --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("species", "formula"), [(False, "SrTiO3"), (True, "SrTiO3"), (True, None)])
@pytest.mark.parametrize("final", ["mean", "sample"])
def test_rewards_see_crystals_at_every_call(species: bool, formula: str | None, final: str):
    """Guidance asks at every move, with final="sample" at clock 0 too, where states hold vectors and logarithms.

    The network always predicts a cubic cell of 3.94 angstrom (at clock 0 the state scatters by 5 % about it), so every
    structure that a reward sees must have that cell.
    """
    seen: list[Any] = []

    def reward(structures: Any) -> np.ndarray:
        seen.extend(structures)
        return np.array([one.density for one in structures])

    model = cubic_model(species, final)
    guide = lambda value: SVDD(PosteriorMean(value), 3, 0.0)  # noqa: E731
    design_crystals(model, formula, 2, relaxation=None, reward=reward, guide=guide)
    moves = 6 if final == "sample" else 5
    assert len(seen) >= 2 * 3 * moves
    for one in seen:
        assert one.composition.reduced_formula == "SrTiO3"
        assert np.allclose(one.lattice.abc, EDGE, rtol=0.35) and np.allclose(one.lattice.angles, 90, atol=20)
    exact = [one for one in seen if np.allclose(one.lattice.abc, EDGE, rtol=1e-4)]
    assert len(exact) >= 2 * 3 * 5  # all but the finished ones


def test_rewards_see_the_known_parts():
    """Also while the network predicts other ones: cell and a site as given, at every call."""
    cell, seen = (5.0, 5.1, 5.2), []

    def reward(structures: Any) -> np.ndarray:
        seen.extend(structures)
        return np.zeros(len(structures))

    known = Known([*cell, 90, 90, 90], [("Ti", (0.25, 0.3, 0.4))])
    guide = lambda value: SVDD(PosteriorMean(value), 2, 0.0)  # noqa: E731
    design_crystals(cubic_model(True), "BaTiO3", 1, relaxation=None, known=known, reward=reward, guide=guide)
    assert len(seen) > 10
    for one in seen:
        assert np.allclose(one.lattice.abc, cell, rtol=0, atol=1e-9) and np.allclose(
            one[0].frac_coords, (0.25, 0.3, 0.4)
        )
        assert one.composition.reduced_formula == "BaTiO3"  # the network says SrTiO3


@pytest.mark.slow  # 5 CPU seconds each
@pytest.mark.parametrize(
    ("name", "formula"), [("perov5-csp", "SrTiO3"), ("perov5-denovo", "SrTiO3"), ("perov5-denovo", None)]
)
def test_svdd_raises_the_density_with_the_shipped_models(name: str, formula: str | None):
    """Mean density of 24 guided and 24 plain samples: a two-sample test at 4.9 standard errors.

    A guide without effect passes with probability below 1e-5 (t law with 38 degrees of freedom, one-sided).
    """
    calls: list[np.ndarray] = []
    density = load_reward("density")

    def reward(structures: Any) -> np.ndarray:
        calls.append(density(structures))
        return calls[-1]

    guide = lambda value: SVDD(PosteriorMean(value), 4, 0.0)  # noqa: E731
    design_crystals(load(name), formula, 24, relaxation=None, steps=20, seed=5, reward=reward, guide=guide)
    finished = [one for one in calls if len(one) == 24]  # candidates come 96 at a time
    guided, plain = (one[np.isfinite(one)] for one in finished[:2])  # without overlapping atoms
    assert len(guided) >= 20 and len(plain) >= 20
    error = np.sqrt(guided.var(ddof=1) / len(guided) + plain.var(ddof=1) / len(plain))
    assert (guided.mean() - plain.mean()) / error > 4.9
