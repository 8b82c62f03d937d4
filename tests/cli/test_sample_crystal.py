"""`sciflow sample` and `evaluate` of crystals with an oracle in place of a trained network."""

from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pymatgen")
from perovskite_toy import Killed, perovskite, save

from sciflow.domains.crystals.files import read_structures, write_crystals
from sciflow.model import Model


@pytest.fixture(scope="module")
def csp_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("csp") / "perovskite.safetensors", False)


@pytest.fixture(scope="module")
def free_model(tmp_path_factory):
    return save(tmp_path_factory.mktemp("free") / "free.safetensors", True)


def formulas(path):
    path.write_text("id,formula\nfirst,SrTiO3\nse/cond,BaTiO3\n")
    return path


def test_predictions_are_named_and_evaluated_by_name(command, csp_model, tmp_path):
    """Both predictions match a reference of the same name; a third reference without a prediction is a failure."""
    out = tmp_path / "predictions"
    words = ("--compositions", formulas(tmp_path / "f.csv"), "--out", out)
    code, printed, err = command("sample", csp_model, *words)
    assert code == 0, err
    assert "wrote 2 structures of 2 compositions" in printed
    assert sorted(file.name for file in out.iterdir()) == ["first.cif", "se_cond.cif"]
    assert not (tmp_path / "predictions.parts").exists()
    names = ["first", "se/cond", "third"]
    write_crystals(tmp_path / "ref.npz", [perovskite(one) for one in ("SrTiO3", "BaTiO3", "BaSrO3")], names)
    figures, page = tmp_path / "m.json", tmp_path / "r.html"
    from sciflow.domains.crystals import metrics

    with pytest.MonkeyPatch.context() as patch:  # fingerprints take seconds; tests/domains/crystals has them
        patch.setattr(metrics, "fingerprints", lambda structures, *_: (np.zeros((len(structures), 61)), None))
        words = ("--reference", tmp_path / "ref.npz", "--out", figures, "--report", page)
        code, printed, err = command("evaluate", out, *words)
    assert code == 0, err
    result = json.loads(figures.read_text())
    assert (result["domain"], result["protocol"], result["references"]) == ("crystals", "csp", 3)
    assert result["match_rate"] == pytest.approx(2 / 3)
    assert result["rmse"] < 0.02
    assert result["floors"]["shaken_reference"]["match_rate"] == 1
    assert "1 references without a prediction" in " ".join(printed.split())
    text = page.read_text()
    assert "first: reference, SrTiO3, Pm-3m (221)" in text and text.count("<title>SrTiO3</title>") == 2


def test_several_copies_and_one_file(command, csp_model, tmp_path):
    words = ("--compositions", formulas(tmp_path / "f.csv"), "--num", 2, "--out", tmp_path / "p.extxyz")
    assert command("sample", csp_model, *words)[0] == 0
    _, names, _ = read_structures(tmp_path / "p.extxyz")
    assert names == ["first__0", "first__1", "se/cond__0", "se/cond__1"]
    assert json.loads((tmp_path / "p.extxyz.json").read_text())["copies"] == 2


def test_compositions_of_a_list_of_files(command, csp_model, tmp_path):
    """Places are relative to the list."""
    write_crystals(tmp_path / "ref", [perovskite("SrTiO3"), perovskite("BaTiO3")], ["first", "second"])
    (tmp_path / "list.csv").write_text("file\nref/first.cif\nref/second.cif\n")
    assert command("sample", csp_model, "--compositions", tmp_path / "list.csv", "--out", tmp_path / "p")[0] == 0
    assert sorted(file.name for file in (tmp_path / "p").iterdir()) == ["first.cif", "second.cif"]


def test_a_prediction_killed_after_its_folder_was_written_goes_on(command, csp_model, tmp_path, monkeypatch):
    from sciflow.domains.designing import Shelf

    words = ("sample", csp_model, "--compositions", formulas(tmp_path / "f.csv"), "--out", tmp_path / "p")
    with monkeypatch.context() as patch:
        patch.setattr(Shelf, "close", lambda self: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            command(*words)
    assert (tmp_path / "p.parts").is_dir()
    assert command(*words)[0] == 0 and not (tmp_path / "p.parts").exists()
    assert "files in it" in command(*words)[2]  # a new run does not touch the folder


@pytest.mark.slow
def test_predictions_on_two_processes(command, csp_model, tmp_path):
    words = ("sample", csp_model, "--compositions", formulas(tmp_path / "f.csv"), "--num", 2, "--batch-size", 1)
    assert command(*words, "--out", tmp_path / "one.npz")[0] == 0
    code, _, err = command(*words, "--devices", 2, "--out", tmp_path / "two.npz")
    assert code == 0, err
    one, two = (read_structures(tmp_path / name)[0] for name in ("one.npz", "two.npz"))
    assert [a.composition for a in one] == [b.composition for b in two]
    assert all(a.lattice.abc == pytest.approx(b.lattice.abc, abs=1e-6) for a, b in zip(one, two, strict=True))


def test_an_interrupted_prediction_goes_on(command, csp_model, tmp_path, monkeypatch):
    """The second batch fails; the same command then samples that batch only and gives the same bytes."""
    words = ["--compositions", formulas(tmp_path / "f.csv"), "--num", 2, "--batch-size", 2, "--out"]  # two batches
    assert command("sample", csp_model, *words, tmp_path / "whole.extxyz")[0] == 0
    generate, calls = Model.generate, []

    def failing(self, *args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no more memory")
        return generate(self, *args, **options)

    monkeypatch.setattr(Model, "generate", failing)
    assert command("sample", csp_model, *words, tmp_path / "cut.extxyz")[0] == 2
    code, printed, _ = command("sample", csp_model, *words, tmp_path / "cut.extxyz")
    assert code == 0 and "resuming: 1 of 2 batches" in printed and len(calls) == 3
    assert (tmp_path / "cut.extxyz").read_bytes() == (tmp_path / "whole.extxyz").read_bytes()


@pytest.mark.parametrize("name", ["out", "out.extxyz", "out.npz"])
def test_de_novo_samples(command, free_model, tmp_path, name):
    """All samples are SrTiO3, which is also the reference: all distances zero."""
    code, printed, err = command("sample", free_model, "--num", 4, "--out", tmp_path / name)
    assert code == 0 and "wrote 4 of 4 samples" in printed, err
    structures, names, _ = read_structures(tmp_path / name)
    assert {one.composition.reduced_formula for one in structures} == {"SrTiO3"}
    assert sorted(names) == [f"sample_{i}" for i in range(4)]
    write_crystals(tmp_path / "ref.npz", [perovskite("SrTiO3")] * 2)
    figures = tmp_path / "m.json"
    words = ("--domain", "crystals", "--reference", tmp_path / "ref.npz", "--out", figures)
    from sciflow.domains.crystals import metrics

    with pytest.MonkeyPatch.context() as patch:  # coverage takes seconds; tests/domains/crystals has it
        patch.setattr(metrics, "coverage_scores", lambda *_: {})
        code, printed, err = command("evaluate", tmp_path / name, *words, "--report", tmp_path / "r.html")
    assert code == 0, err
    assert "structurally valid" in printed and "No floors" in " ".join(printed.split())
    result = json.loads(figures.read_text())
    assert (result["protocol"], result["structural_validity"], result["w1_elements"]) == ("de_novo", 1.0, 0.0)
    assert result["w1_density"] < 0.05


def test_structures_in_python():
    from sciflow import evaluate
    from sciflow.domains.crystals import metrics

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "coverage_scores", lambda *_: {})
        report = evaluate([perovskite("SrTiO3"), None], "crystal_prototypes")
    assert (report["domain"], report["protocol"], report["structural_validity"]) == ("crystals", "de_novo", 0.5)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--num", 3), "give --compositions FILE.csv"),
        ((), "--num is missing"),
        (("--compositions", "missing.csv"), "missing.csv"),
        (("--compositions", "F", "--num", 0), "must be at least 1"),
        (("--compositions", "F", "--sizes", 5), "leave it out"),
        (("--compositions", "EMPTY"), "empty.csv: is empty"),
        (("--compositions", "HEADER"), "header.csv: is empty"),
        (("--compositions", "TYPO"), "typo.csv, row 2: formula: got 'SrTi03x'"),
        (("--compositions", "UNITS"), "units.csv, row 1: z: got 'two'"),
        (("--compositions", "ELEMENT"), "entry '1-CaTiO3': got Ca, expected only elements of the training set"),
        (("--compositions", "LARGE"), "entry '0-SrTiO3': got a cell of 10 atoms, expected at most 5"),
        (("--compositions", "FILES"), "files.csv, row 1:"),
        (("--compositions", "F", "--out", "x.poscar"), "a POSCAR holds one structure"),
        (("--compositions", "F", "--steps", 0), "steps must be at least 1"),
    ],
)
def test_refusals_of_sample(refused, csp_model, tmp_path, words, expected):
    sources = {"F": formulas(tmp_path / "f.csv")}
    for name, text in {
        "EMPTY": "",
        "HEADER": "id,formula\n",
        "TYPO": "formula\nSrTiO3\nSrTi03x\n",
        "UNITS": "formula,z\nSrTiO3,two\n",
        "ELEMENT": "formula\nSrTiO3\nCaTiO3\n",
        "LARGE": "formula,z\nSrTiO3,2\n",
        "FILES": "file\nmissing.cif\n",
    }.items():
        sources[name] = tmp_path / f"{name.lower()}.csv"
        sources[name].write_text(text)
    given = [sources.get(word, word) for word in words]
    assert expected in refused("sample", csp_model, "--out", tmp_path / "out", *given)


def test_compositions_are_for_structure_prediction(refused, free_model, tiny_model, tmp_path):
    for model in (free_model, tiny_model):
        words = ("--compositions", formulas(tmp_path / "f.csv"), "--out", tmp_path / "out")
        assert "is for crystal structure prediction" in refused("sample", model, *words)


def test_names_that_do_not_pair_are_refused(refused, tmp_path):
    write_crystals(tmp_path / "a.npz", [perovskite("SrTiO3")], ["a"])
    write_crystals(tmp_path / "b.npz", [perovskite("SrTiO3")], ["b"])
    words = ("--domain", "crystals", "--reference", tmp_path / "b.npz", "--protocol", "csp")
    assert "expected the names of the references" in refused("evaluate", tmp_path / "a.npz", *words)
