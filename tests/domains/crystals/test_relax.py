"""CHGNet relaxation and the partial hull against figures of the specification and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from sciflow.core.errors import UserError
from sciflow.domains.crystals.hull import PartialHull
from sciflow.domains.crystals.rewards import load_reward

PEROVSKITE = [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]


def perovskite(a: float = 3.9) -> Structure:
    return Structure(Lattice.cubic(a), ["Sr", "Ti", "O", "O", "O"], PEROVSKITE)


# -- hull ------------------------------------------------------------------------------------------------------------
def test_hull_of_a_binary_system_in_closed_form():
    """Phases AB (-1) and A3B (-0.4): at A3B the mixture A + AB gives -0.5, so A3B lies 0.1 above its own mixture."""
    hull = PartialHull([({"Na": 1, "Cl": 1}, -1.0), ({"Na": 3, "Cl": 1}, -0.4), ({"Na": 1, "K": 1}, 0.3)])
    assert hull.energy({"Na": 1, "Cl": 1}) == pytest.approx(-1.0)
    assert hull.energy({"Na": 3, "Cl": 1}) == pytest.approx(-0.5)
    assert hull.above({"Na": 3, "Cl": 1}, -0.4) == pytest.approx(0.1)
    assert hull.above({"Na": 1, "Cl": 3}, -0.7) == pytest.approx(-0.2)
    assert hull.energy({"Na": 1, "K": 1}) == pytest.approx(0.0)  # a positive phase is never on the hull
    assert hull.energy({"Na": 2}) == 0.0
    assert hull.competitors(["Na", "Cl", "K"]) == 3
    assert hull.competitors(["Na"]) == 0


def test_hull_agrees_with_pymatgen():
    from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
    from pymatgen.core import Composition

    rng = np.random.default_rng(0)
    phases = [({"Li": i, "Fe": j, "O": k}, -float(rng.uniform(0.2, 2))) for i, j, k in rng.integers(1, 5, (12, 3))]
    phases += [({"Li": 2, "O": 1}, -2.0), ({"Fe": 2, "O": 3}, -1.7)]
    phases = [({symbol: float(n) for symbol, n in amounts.items()}, energy) for amounts, energy in phases]
    entries = [PDEntry(Composition(amounts), energy * sum(amounts.values())) for amounts, energy in phases]
    diagram = PhaseDiagram([*entries, *[PDEntry(Composition(one), 0.0) for one in ("Li", "Fe", "O")]])
    hull = PartialHull(phases)
    for entry, (amounts, energy) in zip(entries, phases):
        assert hull.above(amounts, energy) == pytest.approx(diagram.get_e_above_hull(entry), abs=1e-9)


def test_archives_hold_a_hull(data_dir):
    hull = PartialHull.from_archives()
    assert hull.energy({"Na": 1, "Cl": 1}) < -1.0  # NaCl: -2.1 eV per atom in Materials Project
    total = sum(len(phases) for phases in hull.phases.values())
    assert total > 1000


def test_stable_unique_novel_counts(monkeypatch: pytest.MonkeyPatch):
    """Five samples: on the hull and new, its twin, known from training, 0.05 above the hull, and a failure."""
    from sciflow.domains.crystals import hull as module
    from sciflow.domains.crystals.relax import Relaxed
    from sciflow.domains.crystals.stability import stable_unique_novel

    def salt(first: str, a: float, energy: float) -> Relaxed:
        cell = Structure(Lattice.cubic(a), [first, "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
        return Relaxed(cell, energy, energy, 1, True, 0.1)

    monkeypatch.setattr(module, "element_energy", lambda symbol: -1.0)
    hull = PartialHull([({metal: 1.0, "Cl": 1.0}, -2.0) for metal in ("Na", "K", "Rb")])
    relaxed = [salt("Na", 3.4, -3.0), salt("Na", 3.41, -3.0), salt("K", 3.8, -3.1), salt("Rb", 4.0, -2.95)]
    relaxed.append(Relaxed(None, float("nan"), float("nan"), 0, False, 0.0))
    found = stable_unique_novel(relaxed, [relaxed[2].structure], hull)
    assert (found["stable"], found["metastable"], found["unique"], found["novel"]) == (0.6, 0.8, 0.6, 0.6)
    assert (found["sun"], found["metastable_sun"], found["unknown"]) == (0.2, 0.4, 1)
    assert found["above"] == [pytest.approx(x) for x in (0.0, 0.0, -0.1, 0.05)] + [None]


def test_stability_is_judged_once_and_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path):
    """Three samples (one None), two real crystals; a run that is broken off in the middle keeps what it had."""
    from sciflow.domains.crystals import hull as module
    from sciflow.domains.crystals import stability
    from sciflow.domains.crystals.relax import Relaxed

    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "element_energy", lambda symbol: -1.0)
    monkeypatch.setattr(stability, "chgnet_version", lambda: "none")
    salts = [Structure(Lattice.cubic(a), [m, "Cl"], [[0, 0, 0], [0.5] * 3]) for m, a in (("Na", 3.4), ("K", 3.8))]
    calls, broken = [], True

    def relax(structures, steps, seconds):
        calls.append(structures[0].formula)
        if broken and len(calls) == 2:
            raise KeyboardInterrupt
        return [Relaxed(structures[0], -3.0, -2.9, 5, True, 0.1)]

    monkeypatch.setattr(stability, "relax", relax)
    hull = PartialHull([({"Na": 1.0, "Cl": 1.0}, -2.0), ({"K": 1.0, "Cl": 1.0}, -2.2)])
    words = ([*salts, None], salts, [salts[1]])
    with pytest.raises(KeyboardInterrupt):
        stability.evaluate_stability(*words, hull=hull)
    assert len(calls) == 2
    broken = False
    report = stability.evaluate_stability(*words, hull=hull)
    assert len(calls) == 3  # the first was kept, the real crystals are the same structures
    assert (report["stable"], report["metastable"], report["novel"], report["sun"]) == pytest.approx((1 / 3,) * 4)
    assert report["unknown"] == 1
    assert report["floors"]["real_crystals"]["stable"] == 0.5
    assert report["standard_errors"]["stable"] == pytest.approx((2 / 27) ** 0.5)
    assert all(word in report["protocol"] for word in ("PARTIAL", "StructureMatcher", "200 steps", "1 training"))
    with pytest.raises(UserError, match="at least one"):
        stability.evaluate_stability([], salts, [], hull=hull)


# -- rewards ---------------------------------------------------------------------------------------------------------
def test_rewards():
    one = perovskite()
    assert load_reward("density")([one, None])[0] == pytest.approx(one.density)
    assert np.isnan(load_reward("density")([one, None])[1])
    assert load_reward("density=5.0")([one])[0] == pytest.approx(-abs(one.density - 5.0))
    assert load_reward("volume")([one])[0] == pytest.approx(3.9**3 / 5)
    for name, text in [("beauty", "expected one of"), ("density=x", "number"), ("no_such:f", "module:function")]:
        with pytest.raises(UserError, match=text):
            load_reward(name)


# -- CHGNet ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.golden
def test_strontium_titanate_by_chgnet():
    """a = 3.945 A after relaxation from displaced atoms (specification, section 17), and batches equal single calls."""
    pytest.importorskip("chgnet")
    from sciflow.domains.crystals.relax import energies, relax

    rng = np.random.default_rng(0)
    start = perovskite(3.98)
    shaken = Structure(start.lattice, start.species, start.frac_coords + 0.1 * rng.normal(size=(5, 3)) / 3.98)
    found = relax([shaken, None], force=0.02)
    assert found[0].converged
    assert found[0].energy < found[0].start_energy
    assert found[0].structure.volume ** (1 / 3) == pytest.approx(3.945, abs=0.012)
    assert not found[1].converged
    assert np.isnan(found[1].energy)
    several = energies([start, None, found[0].structure, shaken], batch_size=4)
    assert np.isnan(several[1])
    assert several[2] == pytest.approx(found[0].energy, abs=1e-4)
    assert several[[0]] == pytest.approx(energies([start]), abs=1e-4)
    far = Structure(Lattice.cubic(15), ["Ar"], [[0, 0, 0]])  # no neighbour within the cut-off
    assert np.isfinite(energies([far, start])[1])


@pytest.mark.slow
@pytest.mark.golden
def test_formation_energies_agree_with_materials_project(data_dir):
    """MAE 0.032 eV per atom over 49 MP-20 test entries (specification, section 17); here 10 other small ones."""
    pytest.importorskip("chgnet")
    from sciflow.domains.crystals.data import load_npz
    from sciflow.domains.crystals.hull import formation_energy
    from sciflow.domains.crystals.relax import energies

    crystals, _ = load_npz(data_dir / "crystals" / "mp_20_biternary_test.npz")
    small = np.flatnonzero((crystals.sizes <= 4) & (crystals.numbers[crystals.ptr[:-1]] < 57))
    chosen = crystals.select(np.random.default_rng(0).permutation(small)[:14])
    structures = chosen.structures()
    found = np.array([formation_energy(s, e) for s, e in zip(structures, energies(structures))])
    known = np.isfinite(found)
    assert known.sum() >= 8
    error = np.abs(found - chosen.properties["formation_energy_per_atom"])[known]
    assert error.mean() < 0.08
