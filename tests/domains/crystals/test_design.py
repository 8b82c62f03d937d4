"""Design of crystals with an oracle in place of a network: ranking, merging, space groups, in-painting, SVDD."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Move, PerSample
from sciflow.core.schedules import BFN
from sciflow.core.state import State
from sciflow.domains.crystals.codec import CrystalCodec
from sciflow.domains.crystals.design import Keep, Known, design_crystals, spacegroup_number, symmetry
from sciflow.domains.crystals.render import unit_cell_svg
from sciflow.domains.crystals.rewards import load_reward
from sciflow.model import Model
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.planar_bfn import PlanarBFN
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral

CUBIC = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])  # Sr Ti O O O
OTHER = torch.tensor([[0.5, 0.03, 0.0], [0.5, 0.5, 0.4], [0.35, 0.5, 0.1], [0.8, 0, 0.4], [0.1, 0.6, 0.7]])
SCALE = 2.0


class Oracle(torch.nn.Module):
    """Predicts the cubic structure where atom 0 is believed near x = 0, another near 1/2, neither without belief."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, state: State, signals: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        coords, batch = state["coords"], state.batch
        first = coords.reshape(batch, 5, 3, 2)[:, 0, 0, 0]
        places = torch.where((first > 0)[:, None, None], CUBIC, OTHER)
        angle = 2 * math.pi * places
        lattice = torch.eye(3).repeat(batch, 1, 1) * torch.where(first > 0, 3.94, 4.1)[:, None, None] / SCALE
        vectors = torch.stack([angle.cos(), angle.sin()], -1) * (first != 0)[:, None, None, None]
        vectors = vectors.reshape(-1, 3, 2)
        return {"coords": vectors + self.weight, "lattice": lattice + self.weight}


@pytest.fixture
def model() -> Model:
    processes = {"coords": PlanarBFN(0.01), "lattice": GaussianProcess(BFN(0.001), kind="data")}
    solvers = {name: Ancestral() for name in processes}
    codec = CrystalCodec(["O", "Ti", "Sr", "Ba"], SCALE, 5)
    return Model(processes, Oracle(), SamplingPlan(solvers, Uniform(end=0.0), 8), codec, {"domain": "crystals"})


def test_designs_are_merged_and_counted(model: Model):
    found = design_crystals(model, "SrTiO3", 12, relaxation=None, seed=1)
    assert found.counts == {"samples": 12, "unusable": 0, "not_relaxed": 0, "distinct": 2, "other_spacegroup": 0}
    assert sum(row["copies"] for row in found.table) == 12
    assert [row["rank"] for row in found.table] == [1, 2]
    by_group = {row["spacegroup_number"]: row for row in found.table}
    assert by_group[221]["a"] == pytest.approx(3.94, rel=3e-3)
    assert by_group[221]["spacegroup"] == "Pm-3m"
    assert "energy" not in by_group[221]
    again = design_crystals(model, "SrTiO3", 12, relaxation=None, seed=1, batch_size=5)
    assert again.table == found.table


def test_space_group_filter(model: Model):
    found = design_crystals(model, "SrTiO3", 12, relaxation=None, spacegroup="Pm-3m", seed=1)
    assert [row["spacegroup_number"] for row in found.table] == [221]
    assert found.counts["other_spacegroup"] == 1
    none = design_crystals(model, "SrTiO3", 4, relaxation=None, spacegroup=62, seed=1)
    assert none.table == [] and "62" in none.notes[-1]
    for name in ("Pm-9m", 0, 231):
        with pytest.raises(UserError, match="space group"):
            spacegroup_number(name)
    assert spacegroup_number("225") == spacegroup_number("Fm-3m") == 225


def test_known_lattice_and_sites_are_kept(model: Model):
    cell = [4.0, 4.2, 4.4, 88.0, 91.0, 93.0]
    known = Known(lattice=cell, sites=[("Sr", (0.5, 0.03, 0.0)), ("O", (0.11, 0.12, 0.13))])
    found = design_crystals(model, "SrTiO3", 3, relaxation=None, known=known, seed=0)
    one = found.structures[0]
    assert np.allclose(one.lattice.parameters, cell, atol=1e-4)
    assert str(one[0].specie) == "Sr" and np.allclose(one[0].frac_coords, (0.5, 0.03, 0.0), atol=1e-5)
    assert str(one[1].specie) == "O" and np.allclose(one[1].frac_coords, (0.11, 0.12, 0.13), atol=1e-5)
    assert np.allclose(one[2].frac_coords, OTHER[2].numpy(), atol=0.02)  # the rest follows the oracle
    with pytest.raises(UserError, match="Ba"):
        design_crystals(model, "SrTiO3", 1, relaxation=None, known=Known(sites=[("Ba", (0, 0, 0))]))
    with pytest.raises(UserError, match="shape"):
        design_crystals(model, "SrTiO3", 1, relaxation=None, known=Known(lattice=[1, 2]))


def test_kept_parts_follow_their_own_noising_law(model: Model):
    """Mean and spread of the in-painted lattice at clock s over 4000 crystals: gamma x0 and sqrt(gamma (1 - gamma)).

    Bounds: 5 standard errors, false alarm below 1e-5 for 18 numbers.
    """
    state = model.codec.template_of([np.array([38])] * 4000)  # type: ignore[union-attr]
    known = model.codec.template_of([np.array([38])]).put(lattice=torch.diag(torch.tensor([1.0, 2.0, 3.0]))[None])  # type: ignore[union-attr]
    keep = Keep(model.processes, known, {"lattice": torch.tensor([True]), "types": torch.tensor([True])})

    class Step:
        move, noise = Move(3, 0.6, 0.4), PerSample(0, torch.arange(4000))

    lattice = keep.after(state, {}, Step())["lattice"]  # type: ignore[arg-type]
    law = model.processes["lattice"].marginal(known["lattice"], torch.tensor(0.4), known.layouts["lattice"])  # type: ignore[operator]
    assert torch.allclose(lattice.mean(0), law.mean[0], atol=5 * float(law.std.max()) / 4000**0.5)
    assert torch.allclose(lattice.std(0), law.std.expand(1, 3, 3)[0], rtol=5 / 8000**0.5)


def test_kept_parts_of_a_process_with_two_ends():
    """An interpolant on the torus: known sites stay on their geodesic, at s = 0 they are the data."""
    from sciflow.core.spaces import Torus
    from sciflow.processes.interpolant import StochasticInterpolant

    process = StochasticInterpolant(noise=1e-4, space=Torus())
    codec = CrystalCodec(["O", "Ti", "Sr"], SCALE, 5)
    known = codec.template_of([np.array([38, 8])]).put(coords=torch.tensor([[0.1, 0.2, 0.9], [0.0, 0.0, 0.0]]))
    keep = Keep({"coords": process}, known, {"coords": torch.tensor([True, False])})
    state = codec.template_of([np.array([38, 8])] * 50).put(coords=torch.full((100, 3), 0.7))

    def at(s: float) -> torch.Tensor:
        class Step:
            move, noise = Move(0, s + 0.1, s), PerSample(0, torch.arange(50))

        return keep.after(state, {}, Step())["coords"]  # type: ignore[arg-type]

    assert torch.allclose(at(0.0)[::2], known["coords"][0].expand(50, 3))
    for s in (0.0, 0.3, 0.9):
        assert torch.equal(at(s)[1::2], state["coords"][1::2])
    steps = [Torus().diff(known["coords"][0], at(s)[::2]).abs().mean() for s in (0.05, 0.3, 0.9)]
    assert steps[0] < steps[1] < steps[2]


def test_reward_with_its_baselines(model: Model):
    """Best of 4 by density takes the denser cubic structure more often than plain samples do."""
    found = design_crystals(model, "SrTiO3", 6, relaxation=None, reward=load_reward("density"), candidates=4, seed=0)
    assert found.baselines["best_of_4"]["mean"] > found.baselines["unguided"]["mean"]
    assert found.table[0]["spacegroup_number"] == 221
    assert found.table[0]["reward"] > found.table[-1]["reward"] or len(found.table) == 1


def test_guidance_through_svdd(model: Model):
    from sciflow.core.values import PosteriorMean
    from sciflow.guidance.svdd import SVDD

    found = design_crystals(
        model,
        "SrTiO3",
        6,
        relaxation=None,
        reward=load_reward("density"),
        guide=lambda r: SVDD(PosteriorMean(r), 8, 0.0),
    )
    assert found.baselines["svdd"]["mean"] >= found.baselines["unguided"]["mean"]
    assert found.baselines["svdd"]["network_rows"] > found.baselines["unguided"]["network_rows"]


def test_refusals(model: Model):
    for formula, options, text in [
        ("CaTiO3", {}, "Ca"),
        ("SrTiO3", {"z": 2}, "10 atoms"),
        ("SrTiO3", {"relaxation": "vasp"}, "chgnet"),
        ("nonsense!", {}, "formula"),
    ]:
        with pytest.raises(UserError, match=text):
            design_crystals(model, formula, 2, **options)  # type: ignore[arg-type]


@pytest.mark.slow
def test_relaxed_designs_find_the_perovskite(model: Model):
    pytest.importorskip("chgnet")
    found = design_crystals(model, "SrTiO3", 4, seed=1, relax_steps=60)
    best = found.table[0]
    assert best["spacegroup_number"] == 221
    assert best["a"] == pytest.approx(3.94, rel=0.03)
    assert best["formation_energy"] < -3.0  # Materials Project: -3.5 eV per atom
    assert any("PARTIAL" in note or "no hull" in note for note in found.notes)


def test_symmetry_of_a_distorted_cell_is_low():
    assert symmetry(Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], CUBIC.numpy())) == ("Pm-3m", 221)
    rng = np.random.default_rng(0)
    distorted = Structure(
        Lattice.from_parameters(4, 5, 6, 77, 88, 99), ["Sr", "Ti", "O", "O", "O"], rng.uniform(size=(5, 3))
    )
    assert symmetry(distorted) == ("P1", 1)


def test_drawing_is_an_svg_with_all_atoms_of_the_cell():
    structure = Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], CUBIC.numpy())
    root = ElementTree.fromstring(unit_cell_svg(structure))
    circles = [child for child in root if child.tag.endswith("circle")]
    lines = [child for child in root if child.tag.endswith("line")]
    assert len(lines) == 12
    assert len(circles) == 8 + 1 + 6 + 3  # corners, centre, faces, legend
    for circle in circles:
        x, r = float(circle.get("cx")), float(circle.get("r"))  # type: ignore[arg-type]
        assert x - r >= 0 and x + r <= 240
