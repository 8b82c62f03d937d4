"""Internal coordinates against stored angles and RDKit, divergences by hand, fluctuations against closed forms."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from sciflow.domains.trajectories.molecule_scores import contacts, limits, molecule_scores, valid
from sciflow.domains.trajectories.torsions import (
    angles,
    backbone_torsions,
    bond_angles,
    divergence,
    histogram_divergence,
    internal_divergences,
    lengths,
    ramachandran,
    rmsf,
    rotatable_torsions,
    superposed,
    torsion_angles,
    torsion_autocorrelation,
    velocity_autocorrelation,
)

BUTANE = np.array([[0, 1], [1, 2], [2, 3]])
RING = np.array([[0, 1], [1, 2], [2, 3], [3, 0], [0, 4]])


@pytest.fixture(scope="module")
def alanine(data_dir: Path) -> dict[str, np.ndarray]:
    with np.load(data_dir / "trajectories" / "ala2_500fs.npz") as stored:
        return {"R": stored["R"][:300].astype(float), **{key: stored[key] for key in ("z", "bonds", "phi_psi")}}


def turn(seed: int = 0) -> np.ndarray:
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix * np.linalg.det(matrix)


def test_geometry_by_hand():
    """Seen along the axis, turning from the first to the last bond clockwise is positive."""
    x = np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 1], [0, 1, 1]])
    assert lengths(x, BUTANE) == pytest.approx([1, 1, 1])
    assert angles(x, np.array([[0, 1, 2], [1, 2, 3]])) == pytest.approx([math.pi / 2] * 2)
    row = np.array([[0, 1, 2, 3]])
    assert torsion_angles(x, row)[0] == pytest.approx(math.pi / 2)
    assert torsion_angles(x * [1, -1, 1], row)[0] == pytest.approx(-math.pi / 2)  # a mirror image
    x[3] = [1, 0, 1]
    assert torsion_angles(x, row)[0] == pytest.approx(0)  # cis
    x[3] = [-1, 0, 1]
    assert abs(torsion_angles(x, row)[0]) == pytest.approx(math.pi)


def test_torsions_agree_with_rdkit():
    from rdkit import Chem
    from rdkit.Chem import rdMolTransforms

    x = np.random.default_rng(0).normal(size=(20, 4, 3))
    molecule = Chem.RWMol(Chem.MolFromSmiles("CCCC"))
    for frame in x:
        conformer = Chem.Conformer(4)
        for i, point in enumerate(frame):
            conformer.SetAtomPosition(i, point)
        expected = rdMolTransforms.GetDihedralRad(conformer, 0, 1, 2, 3)
        assert torsion_angles(frame, np.array([[0, 1, 2, 3]]))[0] == pytest.approx(expected, abs=1e-9)
    assert molecule.GetNumAtoms() == 4


def test_backbone_of_alanine_dipeptide(alanine: dict[str, np.ndarray]):
    """Atoms and angles of the data set (its coordinates are rounded to 0.0005 A)."""
    phi, psi = backbone_torsions(alanine["bonds"], alanine["z"])
    assert phi.tolist() == [[4, 6, 8, 14]]
    assert psi.tolist() == [[6, 8, 14, 16]]
    for indices, stored in zip((phi, psi), alanine["phi_psi"][:300].T, strict=True):
        gap = torsion_angles(alanine["R"], indices)[:, 0] - stored
        assert np.abs(np.angle(np.exp(1j * gap))).max() < 0.005
    counts = ramachandran(alanine["R"], phi, psi)
    assert counts.sum() == 300
    assert counts[18:].sum() < 3  # phi > 0 is practically unvisited


def test_rotatable_bonds(alanine: dict[str, np.ndarray]):
    """3 methyl groups, 2 amide bonds, phi and psi; rings and ends have none."""
    rows = rotatable_torsions(alanine["bonds"], alanine["z"])
    assert {tuple(row) for row in rows[:, 1:3].tolist()} == {
        *((1, 4), (4, 6), (6, 8), (8, 10), (8, 14), (14, 16), (16, 18)),
    }
    assert rotatable_torsions(BUTANE, [6] * 4).tolist() == [[0, 1, 2, 3]]
    assert rotatable_torsions(RING, [6] * 5).shape == (0, 4)
    branched = np.array([[0, 1], [1, 2], [2, 3], [2, 4]])
    assert rotatable_torsions(branched, [6, 6, 6, 1, 8]).tolist() == [[0, 1, 2, 4]]  # the heavier neighbour
    assert len(bond_angles(alanine["bonds"], 22)) == 36


def test_divergence_by_hand():
    assert divergence(np.array([1, 1]), np.array([5, 5])) == pytest.approx(0)
    assert divergence(np.array([3, 0]), np.array([0, 7])) == pytest.approx(math.log(2))
    mixed = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) - 0.5 * math.log(2)
    assert divergence(np.array([1, 1]), np.array([2, 0])) == pytest.approx(mixed)
    far = histogram_divergence(np.zeros((5, 1)), np.ones((5, 1)))
    assert far == pytest.approx(math.log(2))  # bins span both sets: nothing is invisible


def test_divergences_of_a_molecule(alanine: dict[str, np.ndarray]):
    x = alanine["R"].reshape(10, 30, 22, 3)
    same = internal_divergences(x, x @ turn(), alanine["bonds"], alanine["z"])
    assert set(same) == {"bond_jsd", "angle_jsd", "torsion_jsd", "ramachandran_jsd"}
    assert max(same.values()) < 0.01  # angles on the edge of a bin may change it
    mirrored = internal_divergences(x * [1, 1, -1], x, alanine["bonds"], alanine["z"])
    assert mirrored["bond_jsd"] < 0.01
    assert mirrored["ramachandran_jsd"] > 0.5  # phi > 0 instead of phi < 0
    assert internal_divergences(1.2 * x, x, alanine["bonds"], alanine["z"])["bond_jsd"] > 0.5


def test_validity(alanine: dict[str, np.ndarray]):
    x, bonds = alanine["R"].reshape(10, 30, 22, 3), alanine["bonds"]
    allowed = limits(x, bonds)
    assert valid(x, bonds, allowed).all()
    broken = x.copy()
    broken[0, 5, 0] += [5, 0, 0]  # a bond is torn
    near = broken[1, 7, 21] = broken[1, 7, 0] + [0.1, 0, 0]  # two atoms meet
    good = valid(broken, bonds, allowed)
    assert not good[0, 5]
    assert not good[1, 7]
    assert good.sum() == 298
    assert np.isfinite(near).all()
    assert contacts(broken, bonds)[1, 7] == pytest.approx(0.1)
    scores = molecule_scores(broken, x, bonds, alanine["z"])
    assert scores["valid_frames"] == pytest.approx(298 / 300)
    assert scores["valid_trajectories"] == pytest.approx(0.8)
    assert "speed_w1" not in molecule_scores(broken, x, bonds, alanine["z"], gapless=False)


def test_speeds():
    """Twice the real speed of 0.5 per frame: W1 = 0.5."""
    time = np.arange(6.0)[None, :, None, None]
    x = np.arange(4.0)[None, None, :, None] * [0, 1, 0] + 0.5 * time * [1, 0, 0]
    fast = np.arange(4.0)[None, None, :, None] * [0, 1, 0] + time * [1, 0, 0]
    scores = molecule_scores(fast, x, BUTANE, np.full(4, 6))
    assert scores["speed_w1"] == pytest.approx(0.5)
    assert scores["acceleration_w1"] == pytest.approx(0, abs=1e-12)


def test_velocity_autocorrelation():
    steady = np.arange(6.0)[None, :, None, None] * np.ones((2, 1, 3, 3))
    assert velocity_autocorrelation(steady) == pytest.approx(np.ones(5))
    shaking = (np.arange(6) % 2)[None, :, None, None] * np.ones((2, 1, 3, 3))
    assert velocity_autocorrelation(shaking) == pytest.approx([1, -1, 1, -1, 1])


def test_torsion_autocorrelation():
    """Frozen angles stay correlated, across the cut at pi too; independent ones do not: 5 sigma of 1/sqrt(2 n)."""
    rng = np.random.default_rng(0)
    frozen = np.repeat(rng.uniform(-np.pi, np.pi, (400, 1, 2)), 5, 1)
    assert torsion_autocorrelation(frozen) == pytest.approx(np.ones((5, 2)))
    free = torsion_autocorrelation(rng.uniform(-np.pi, np.pi, (2000, 5, 2)))
    assert free[0] == pytest.approx(np.ones(2))
    assert np.abs(free[1:]).max() < 5 / math.sqrt(2 * 2000)
    near_pi = np.pi + 0.1 * rng.normal(size=(2000, 3, 1))
    wrapped = np.angle(np.exp(1j * near_pi))
    np.testing.assert_allclose(torsion_autocorrelation(wrapped), torsion_autocorrelation(near_pi), atol=1e-9)


def test_rmsf_of_a_rigid_motion_is_zero():
    shape = np.random.default_rng(0).normal(size=(6, 3))
    frames = np.stack([shape @ turn(i).T + i for i in range(8)])
    np.testing.assert_allclose(rmsf(frames), 0, atol=1e-9)
    mirrored = superposed((shape * [1, 1, -1])[None], shape)
    assert np.abs(mirrored - (shape - shape.mean(0))).max() > 0.1  # rotations only


def test_rmsf_of_independent_noise():
    """Superposition takes 6 of 3 N degrees of freedom: sum of squares = s^2 (3 N - 6). 5 sigma; without it 3 N - 3."""
    rng = np.random.default_rng(1)
    shape, spread, count = 3 * rng.normal(size=(10, 3)), 0.01, 2000
    frames = shape + spread * rng.normal(size=(count, 10, 3))
    frames = np.einsum("nad,nde->nae", frames, np.stack([turn(i) for i in range(count)]))
    measured = (rmsf(frames) ** 2).sum() / spread**2
    assert measured == pytest.approx(24, abs=5 * math.sqrt(2 * 24 / count))
