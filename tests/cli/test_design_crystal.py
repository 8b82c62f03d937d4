"""`sciflow design crystal` with an oracle in place of a trained network, and once with the shipped model."""

from __future__ import annotations

import csv
import json

import pytest

pytest.importorskip("pymatgen")
from perovskite_toy import EDGE, Killed, save
from pymatgen.core import Lattice, Structure

from sciflow.domains.crystals.files import read_structures
from sciflow.model import Model


@pytest.fixture(scope="module")
def csp_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("csp") / "perovskite.safetensors", False)


@pytest.fixture(scope="module")
def free_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("free") / "free.safetensors", True)


def test_design_writes_structures_table_and_report(command, csp_model, tmp_path):
    """Every sample is the same perovskite: one distinct structure with the right space group and cell."""
    out, page = tmp_path / "designs", tmp_path / "r.html"
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 6, "--relax", "none", "--out", out, "--report", page)
    code, printed, err = command("design", "crystal", *words)
    assert code == 0, err
    assert "Pm-3m" in printed and "6 samples, 1 distinct" in " ".join(printed.split())
    assert [file.name for file in out.iterdir()] == ["001_SrTiO3_221.cif"]
    found = Structure.from_file(out / "001_SrTiO3_221.cif")
    assert found.lattice.abc == pytest.approx([EDGE] * 3, rel=2e-3)
    side = json.loads((tmp_path / "designs.json").read_text())
    assert side["counts"]["samples"] == 6 and side["table"][0]["copies"] == 6 and side["seed"] == 0
    rows = list(csv.DictReader((tmp_path / "designs.csv").read_text().splitlines()))
    assert (rows[0]["name"], rows[0]["spacegroup_number"]) == ("001_SrTiO3_221", "221")
    text = page.read_text()
    assert text.count("<svg") == 1 and "<title>SrTiO3</title>" in text
    assert "files in it" in command("design", "crystal", *words)[2]  # nothing is overwritten


@pytest.mark.parametrize("guidance", ["best_of", "svdd"])
def test_design_towards_a_reward(command, csp_model, tmp_path, guidance):
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 3, "--relax", "none", "--guidance", guidance)
    out = tmp_path / "d.extxyz"
    code, printed, err = command(
        "design", "crystal", *words, "--reward", "density=5.0", "--candidates", 2, "--out", out
    )
    assert code == 0, err
    assert "mean reward" in printed and "network evaluations" in printed
    side = json.loads((tmp_path / "d.extxyz.json").read_text())
    assert "unguided" in side["rewards"]
    density = read_structures(out)[0][0].density
    assert side["table"][0]["reward"] == pytest.approx(-abs(density - 5.0), abs=1e-3)


def test_without_the_space_group_that_was_asked_for_all_are_written(command, csp_model, tmp_path):
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 2, "--relax", "none", "--spacegroup", "Pnma")
    code, printed, _ = command("design", "crystal", *words, "--out", tmp_path / "d", "--report", tmp_path / "r.html")
    assert code == 0 and "NONE of the 1 distinct structures has space group 62" in " ".join(printed.split())
    assert [file.name for file in (tmp_path / "d").iterdir()] == ["001_SrTiO3_221.cif"]


def metals(path, **replaced):
    """Sr and Ti of a cell of 4 x 4.1 x 4.2 angstrom, off their usual places."""
    cell = Structure(Lattice.orthorhombic(4.0, 4.1, 4.2), ["Sr", "Ti"], [(0.1, 0.2, 0.3), (0.6123456, 0.7, 0.8)])
    cell.replace_species(replaced)  # type: ignore[arg-type]
    path.write_text(cell.to(fmt="cif"))
    return path


def test_fixed_cell_and_sites_stay_exactly(command, csp_model, tmp_path):
    file, out = metals(tmp_path / "metals.cif"), tmp_path / "d"
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 2, "--relax", "none", "--out", out)
    code, _, err = command("design", "crystal", *words, "--fix-sites", file, "--fix-lattice", "4,4.1,4.2,90,90,90")
    assert code == 0, err
    for one in (Structure.from_file(path) for path in out.iterdir()):
        assert one.lattice.parameters == pytest.approx((4.0, 4.1, 4.2, 90, 90, 90), abs=1e-6)
        places = {site.specie.symbol: site.frac_coords for site in one}
        assert places["Sr"] == pytest.approx((0.1, 0.2, 0.3), abs=1e-6)
        assert places["Ti"] == pytest.approx((0.6123456, 0.7, 0.8), abs=1e-6)
        assert one.composition.reduced_formula == "SrTiO3"
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 1, "--relax", "none", "--out", tmp_path / "e.cif")
    assert command("design", "crystal", *words, "--fix-lattice", file)[0] == 0
    assert read_structures(tmp_path / "e.cif")[0][0].lattice.abc == pytest.approx((4.0, 4.1, 4.2), abs=1e-6)


@pytest.mark.slow
def test_fixed_parts_stay_in_the_relaxation(command, csp_model, tmp_path):
    pytest.importorskip("chgnet")
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 1, "--fix-sites", metals(tmp_path / "m.cif"))
    code, _, err = command("design", "crystal", *words, "--out", tmp_path / "d.cif")
    assert code == 0, err
    one = read_structures(tmp_path / "d.cif")[0][0]
    assert one[0].frac_coords == pytest.approx((0.1, 0.2, 0.3), abs=1e-6)
    assert one[1].frac_coords == pytest.approx((0.6123456, 0.7, 0.8), abs=1e-6)
    assert abs(one.volume - EDGE**3) > 0.1  # the cell did relax


def test_free_composition(command, free_model, tmp_path):
    words = ("--model", free_model, "--num", 3, "--relax", "none", "--method", "svdd", "--reward", "density")
    code, printed, err = command("design", "crystal", *words, "--candidates", 2, "--out", tmp_path / "d.extxyz")
    assert code == 0, err
    assert "free composition: 3 samples" in " ".join(printed.split())
    assert read_structures(tmp_path / "d.extxyz")[0][0].composition.reduced_formula == "SrTiO3"


@pytest.mark.parametrize("moment", ["samples", "relaxation", "table"])
def test_a_killed_run_goes_on(command, csp_model, tmp_path, monkeypatch, moment):
    """Killed in the second batch, the second relaxation, or once the folder is written: the same files in the end."""
    from sciflow.cli import design_crystal
    from sciflow.domains.crystals import design as module
    from sciflow.domains.crystals.relax import Relaxed

    calls = {"samples": 0, "relaxation": 0, "table": 0}

    def counted(stage, function):
        def call(*args, **options):
            calls[stage] += 1
            if stage == moment and calls[stage] == kill:
                raise Killed
            return function(*args, **options)

        return call

    def relax(structures, *args, **options):
        return [Relaxed(one, -8.0 - one.volume / 1e6, -7.0, 3, True, 0.1) for one in structures]

    kill = 0
    monkeypatch.setattr(Model, "generate", counted("samples", Model.generate))
    monkeypatch.setattr(module, "relax", counted("relaxation", relax))
    monkeypatch.setattr(module, "_hull", lambda with_energy: (None, []))  # takes seconds
    monkeypatch.setattr(module, "SAME", module.Tolerances(1e-9, 1e-9, 1e-9))  # every sample is relaxed
    monkeypatch.setattr(design_crystal, "_csv", counted("table", design_crystal._csv))
    words = ("--formula", "SrTiO3", "--model", csp_model, "--num", 4, "--batch-size", 2, "--reward", "density")
    words = (*words, "--candidates", 1, "--out", "d", "--report", "r.html")
    for name, killed in (("whole", False), ("cut", True)):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        calls |= dict.fromkeys(calls, 0)
        kill = {"samples": 2, "relaxation": 2, "table": 1}[moment] if killed else 0
        if killed:
            with pytest.raises(Killed):
                command("design", "crystal", *words)
            other = command("design", "crystal", *words, "--seed", 1)
            assert other[0] == 2 and "unfinished run with other settings" in other[2]
        code, printed, err = command("design", "crystal", *words)
        assert code == 0, err
        assert ("resuming" in printed) == killed
    expected = {"samples": 2, "relaxation": 4, "table": 1}
    assert calls == expected | {moment: expected[moment] + 1}  # nothing is made twice but what was cut
    whole, cut = (
        {str(file.relative_to(tmp_path / name)): file.read_bytes() for file in (tmp_path / name).rglob("*.*")}
        for name in ("whole", "cut")
    )
    assert len(whole) == 7 and whole == cut  # four CIFs, table, settings, report; no parts are left


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--formula", "nonsense!"), "expected one such as SrTiO3"),
        (("--formula", "CaTiO3"), "got Ca, expected only elements of the training set"),
        (("--z", 2), "got a cell of 10 atoms, expected at most 5"),
        (("--z", 0), "z: got 0"),
        (("--num", 0), "num: got 0"),
        (("--relax", "vasp"), "expected one of chgnet, none"),
        (("--guidance", "magic"), "expected one of best_of, svdd"),
        (("--spacegroup", "231"), "expected 1 .. 230"),
        (("--reward", "magic"), "reward: got 'magic'"),
        (("--out", "d.xlsx"), "or a folder"),
        (("--out", "/proc/none/d"), "cannot be written"),
        (("--model", "missing"), "no model file 'missing'"),
        (("--formula", "SrTi03x"), "formula: got 'SrTi03x'"),
        (("--guidance", "svdd"), "give --reward"),
        (("--fix-lattice", "4,4,4"), "expected a structure file or"),
        (("--fix-lattice", "4,4,4,10,20,170"), "angles of a cell"),
        (("--fix-sites", "missing.cif"), "missing.cif: no such file"),
        (("--fix-sites", "BROKEN"), "broken.cif: got no crystal"),
        (("--fix-sites", "DISORDERED"), "partial occupancy"),
        (("--fix-sites", "BARIUM"), "got 1 Ba, expected at most 0 in a cell of Sr Ti O O O"),
    ],
)
def test_refusals(refused, csp_model, tmp_path, words, expected):
    (tmp_path / "broken.cif").write_text("data_x\n_cell_length_a hello\nloop_\n")
    Structure(Lattice.cubic(4), [{"Sr": 0.5}], [[0, 0, 0]]).to(str(tmp_path / "disordered.cif"))
    files = {"BROKEN": tmp_path / "broken.cif", "DISORDERED": tmp_path / "disordered.cif"}
    files["BARIUM"] = metals(tmp_path / "barium.cif", Sr="Ba")
    words = [files.get(word, word) for word in words]
    given = ("--formula", "SrTiO3", "--model", csp_model, "--relax", "none", "--out", tmp_path / "d", *words)
    assert expected in refused("design", "crystal", *given)


def test_a_formula_is_missing(refused, csp_model, free_model, tmp_path):
    words = ("--relax", "none", "--out", tmp_path / "d", "--model")
    assert "give one such as SrTiO3" in refused("design", "crystal", *words, csp_model)
    assert "give --formula" in refused("design", "crystal", *words, free_model, "--z", 2)
    sites = ("--fix-sites", metals(tmp_path / "m.cif"))
    assert "give --formula" in refused("design", "crystal", *words, free_model, *sites)


def test_models_of_other_domains_are_refused(refused, tiny_model, tmp_path):
    words = ("--formula", "SrTiO3", "--model", tiny_model, "--relax", "none", "--out", tmp_path / "d")
    assert "got a model for 'molecules', expected crystals" in refused("design", "crystal", *words)


@pytest.mark.slow
def test_the_shipped_model_finds_the_perovskite(command, tmp_path):
    """Cubic, a within 3 % of 3.94 angstrom, among the best 3 of 20; SrTiO3 is not in the training data."""
    pytest.importorskip("chgnet")
    from sciflow.pretrained import cards

    if "perov5-csp" not in cards():
        pytest.skip("the model perov5-csp is not shipped yet")
    code, _, err = command("design", "crystal", "--formula", "SrTiO3", "--num", 20, "--out", tmp_path / "d")
    assert code == 0, err
    best = json.loads((tmp_path / "d.json").read_text())["table"][:3]
    found = [row for row in best if row["spacegroup_number"] == 221]
    assert found and all(found[0][edge] == pytest.approx(3.94, rel=0.03) for edge in "abc")
