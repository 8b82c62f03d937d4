"""Codec of crystals: what goes in comes out, templates, canonical cells against pymatgen."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.domains.crystals.arrays import canonical, from_parameters, parameters, problem, shortest_distance
from sciflow.domains.crystals.codec import CrystalCodec, composition

ELEMENTS = ["O", "Na", "Cl", "Ti", "Sr"]
PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def cubic() -> Structure:
    return Structure(Lattice.cubic(3.9), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE)


def skew() -> Structure:
    lattice = Lattice.from_parameters(3, 4, 5.5, 80, 95, 105)
    return Structure(lattice, ["Na", "Cl"], [[0.1, 0.2, 0.3], [0.6, 0.75, 0.9]])


@pytest.mark.parametrize("species", [False, True])
def test_round_trip(species: bool):
    codec = CrystalCodec(ELEMENTS, 2.0, 5, species)
    state = codec.to_state([cubic(), skew()])
    assert state["coords"].shape == (7, 3)
    assert state["lattice"].shape == (2, 3, 3)
    assert state["types"].shape == ((7, 5) if species else (7,))
    assert state.layouts["coords"].sizes == state.layouts["types"].sizes == (5, 2)
    assert state.layouts["coords"].index.tolist() == [0] * 5 + [1] * 2
    for old, new in zip([cubic(), skew()], codec.to_objects(state)):
        assert [site.specie for site in new] == [site.specie for site in old]
        assert np.allclose(new.distance_matrix, old.distance_matrix, atol=1e-5)
    again = from_config(to_config(codec))
    assert torch.equal(again.to_state([skew()])["lattice"], codec.to_state([skew()])["lattice"])


def test_mirrored_or_turned_lattices_decode_to_the_same_distances():
    codec = CrystalCodec(ELEMENTS, 2.0, 5)
    state = codec.to_state([skew()])
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    for matrix in (turn, -turn):
        new = codec.to_objects(state.put(lattice=state["lattice"] @ matrix))[0]
        assert np.allclose(new.distance_matrix, skew().distance_matrix, atol=1e-4)
        assert new.lattice.matrix[2, :2] == pytest.approx([0, 0], abs=1e-6)
        assert np.linalg.det(new.lattice.matrix) > 0


def test_unit_vectors_and_edges_of_the_unit_interval():
    codec = CrystalCodec(ELEMENTS, 2.0, 5)
    state = codec.to_state([skew()])
    angle = 2 * math.pi * state["coords"]
    planar = state.put(coords=3.0 * torch.stack([angle.cos(), angle.sin()], -1))
    assert np.allclose(codec.to_objects(planar)[0].frac_coords, skew().frac_coords, atol=1e-5)
    edge = state.put(coords=torch.full_like(state["coords"], 1.0 - 1e-9))  # float32: exactly 1
    assert (codec.to_objects(edge)[0].frac_coords < 1).all()


def test_unusable_states_decode_to_none():
    codec = CrystalCodec(ELEMENTS, 2.0, 5)
    state = codec.to_state([cubic(), skew(), cubic()])
    lattice = state["lattice"].clone()
    lattice[0] = float("nan")
    lattice[2, 2] = lattice[2, 1]  # flat
    objects = codec.to_objects(state.put(lattice=lattice))
    assert objects[0] is None
    assert objects[2] is None
    assert len(objects[1]) == 2


def test_templates():
    codec = CrystalCodec(ELEMENTS, 2.0, 10)
    template = codec.template_for(["SrTiO3", "NaCl"], z=[2, 1])
    assert template.layouts["coords"].sizes == (10, 2)
    counts = torch.bincount(template["types"][:10], minlength=5)
    assert counts.tolist() == [6, 0, 0, 2, 2]  # O Na Cl Ti Sr
    with pytest.raises(UserError, match="compositions"):
        codec.template([5])
    free = CrystalCodec(ELEMENTS, 2.0, 10, species=True).template([5, 3])
    assert free["types"].shape == (8, 5)
    for formula, z, text in [
        ("SrTiO3", 3, "15 atoms"),
        ("CaTiO3", 1, "Ca"),
        ("Sr0.5TiO3", 1, "whole"),
        ("??", 1, "formula"),
    ]:
        with pytest.raises(UserError, match=text):
            codec.template_for([formula], z)
    assert composition("Sr0.5TiO3", 2).count("Sr") == 1


def test_partial_occupancy_and_unknown_elements_are_refused():
    codec = CrystalCodec(ELEMENTS, 2.0, 5)
    mixed = Structure(Lattice.cubic(4), [{"Na": 0.5, "Cl": 0.5}], [[0, 0, 0]])
    with pytest.raises(UserError, match="partial"):
        codec.to_state([mixed])
    with pytest.raises(UserError, match="Cs"):
        codec.to_state([Structure(Lattice.cubic(4), ["Cs"], [[0, 0, 0]])])
    with pytest.raises(UserError, match="symbols"):
        CrystalCodec(["Xx"], 2.0, 5)


# -- canonical description -------------------------------------------------------------------------------------------
def test_orientation_is_that_of_pymatgen():
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.uniform(2, 9, (200, 3)), rng.uniform(65, 115, (200, 3))], 1)
    matrices = from_parameters(values)
    assert np.allclose(parameters(matrices), values, atol=1e-9)
    for row, matrix in zip(values, matrices):
        assert np.allclose(matrix, Lattice.from_parameters(*row).matrix, atol=1e-9)
    assert (np.linalg.det(matrices) > 0).all()


def test_niggli_cells_are_those_of_pymatgen():
    rng = np.random.default_rng(1)
    for _ in range(30):
        matrix = rng.normal(size=(3, 3)) * 4
        if abs(np.linalg.det(matrix)) < 10:
            continue
        coords = rng.uniform(size=(4, 3))
        old = Structure(Lattice(matrix), ["Na", "Na", "Cl", "Cl"], coords)
        lattice, fractions = canonical(matrix, coords)
        expected = Lattice(matrix).get_niggli_reduced_lattice().parameters
        assert np.allclose(parameters(lattice), expected, atol=1e-4)
        new = Structure(Lattice(lattice), ["Na", "Na", "Cl", "Cl"], fractions)
        assert np.allclose(new.distance_matrix, old.distance_matrix, atol=1e-6)
        assert ((fractions >= 0) & (fractions < 1)).all()


def test_handedness_is_kept():
    """A chiral arrangement: the signed volume of four atoms and its sign survive reduction and orientation."""
    matrix = np.array([[4.0, 0.3, 0.1], [3.9, 5.0, 0.2], [0.1, 4.8, 6.0]])
    near = np.array([[0.0, 0, 0], [0.9, 0.1, 0], [0.2, 1.1, 0.1], [0.1, 0.3, 1.4]]) + 2  # angstrom
    for cell in (matrix, matrix[[1, 0, 2]]):
        lattice, fractions = canonical(cell, near @ np.linalg.inv(cell))
        steps = fractions[1:] - fractions[0]
        steps = (steps - np.round(steps)) @ lattice
        volume = np.linalg.det(near[1:] - near[0])
        assert np.allclose(np.linalg.norm(steps, axis=1), np.linalg.norm(near[1:] - near[0], axis=1))
        assert np.linalg.det(steps) == pytest.approx(volume)


def test_problems_are_named():
    lattice, coords = np.eye(3) * 4.0, np.array([[0, 0, 0], [0.5, 0.5, 0.5]])
    numbers = np.array([11, 17])
    assert problem(numbers, coords, lattice) is None
    faults = {
        "no atoms": (numbers[:0], coords[:0], lattice),
        "NaN": (numbers, coords * np.nan, lattice),
        "apart": (numbers, np.array([[0, 0, 0.999], [0, 0, 0.001]]), lattice),
        "edges": (numbers, coords, lattice * 1000),
        "angles": (numbers, coords, np.array([[4, 0, 0], [4, 0.1, 0], [0, 0, 4.0]])),
        "volume": (numbers, coords, lattice / 5),
    }
    for text, entry in faults.items():
        assert text in (problem(*entry) or "")


def test_shortest_distance_includes_images():
    lattice = np.diag([2.0, 5.0, 5.0])
    assert shortest_distance(lattice, np.zeros((1, 3))) == pytest.approx(2.0)
    expected = Structure(Lattice(skew().lattice.matrix), ["Na", "Cl"], skew().frac_coords)
    images = expected.get_all_neighbors(4.0)
    nearest = min(site.nn_distance for sites in images for site in sites)
    assert shortest_distance(skew().lattice.matrix, skew().frac_coords) == pytest.approx(nearest)
