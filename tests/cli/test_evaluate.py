"""`sciflow evaluate`: right dispatch, right numbers in simple cases, files, and one-line refusals."""

from __future__ import annotations

import json

import networkx as nx
import pytest

pytest.importorskip("rdkit")

from sciflow import evaluate
from sciflow.core.errors import UserError
from sciflow.report.evaluation import evaluation_table

CHAINS = ["C" * n for n in range(1, 9)]
ALCOHOLS = ["C" * n + "O" for n in range(1, 9)]


def smiles_file(path, smiles):
    path.write_text("smiles\n" + "\n".join(smiles) + "\n")
    return path


@pytest.fixture
def sets(tmp_path):
    return smiles_file(tmp_path / "train.csv", CHAINS), smiles_file(tmp_path / "test.csv", ALCOHOLS)


def test_molecule_file_against_files(command, sets, tmp_path):
    """Ethane and octane are training molecules, propanol is not, one entry is broken, one repeats."""
    train, test = sets
    samples, out, report = (
        smiles_file(tmp_path / "s.csv", ["CC", "CCCCCCCC", "CCCO", "C1CC((", "CCCO"]),
        tmp_path / "m.json",
        tmp_path / "r.html",
    )
    words = (
        "evaluate",
        samples,
        "--reference",
        test,
        "--train",
        train,
        "--protocol",
        "fast",
        "--out",
        out,
        "--report",
        report,
    )
    code, printed, _ = command(*words)
    assert code == 0 and "1 skipped" in printed.replace("\n", " ")
    result = json.loads(out.read_text())
    assert (result["domain"], result["samples"], result["molecules"]) == ("molecules", 5, 4)
    value = {name: figure["value"] for name, figure in result["metrics"].items()}
    assert value["validity"] == 0.8
    assert value["uniqueness"] == 0.75
    assert value["novelty"] == pytest.approx(1 / 3)
    assert "fcd" not in value and "validity_without_correction" not in value
    assert "<svg" in report.read_text()


def test_sidecar_of_sample_counts_empty_samples(sets, tmp_path):
    """`sciflow sample` leaves no line for an empty sample in a .smi file but counts it beside it."""
    train, test = sets
    samples = tmp_path / "s.smi"
    samples.write_text("CC 0\nCCO 2\n")
    (tmp_path / "s.smi.json").write_text('{"num": 4, "empty_samples": 2}')
    assert evaluate(samples, test, train=train, protocol="fast")["metrics"]["validity"]["value"] == 0.5


@pytest.mark.parametrize("ending", ["smi", "csv", "sdf"])
def test_sampled_files_keep_validity_without_correction(command, tiny_model, sets, tmp_path, ending):
    """`sciflow sample --out FILE`, then `sciflow evaluate FILE`: as if the decoding records had been evaluated."""
    from sciflow.model import load

    train, test = sets
    out, figures = tmp_path / f"molecules.{ending}", tmp_path / "m.json"
    assert command("sample", tiny_model, "--num", 24, "--out", out)[0] == 0
    words = ("--reference", test, "--train", train, "--protocol", "fast", "--out", figures)
    code, printed, _ = command("evaluate", out, *words)
    assert code == 0 and "valid without correction" in printed and "connected before correction" in printed
    model = load(tiny_model)
    direct = evaluate(model.codec.decode(model.sample_state(24)), test, train=train, protocol="fast")["metrics"]
    stored = json.loads(figures.read_text())["metrics"]
    for name in ("validity", "validity_without_correction", "connectivity", "uniqueness"):
        assert stored[name]["value"] == pytest.approx(direct[name]["value"]), name
    assert 0 < stored["connectivity"]["value"] < 1  # the untrained model makes both kinds


@pytest.mark.parametrize("name", ["none.smi", "none.csv"])
def test_a_run_without_a_single_molecule_scores_zero(command, sets, tmp_path, name):
    from sciflow.writers import write_objects

    train, test = sets
    write_objects("molecules", tmp_path / name, [None] * 3, {"num": 3})
    words = ("--reference", test, "--train", train, "--protocol", "fast", "--report", tmp_path / "r.html")
    code, _, _ = command("evaluate", tmp_path / name, *words, "--out", tmp_path / "m.json")
    result = json.loads((tmp_path / "m.json").read_text())
    assert code == 0 and result["samples"] == 3 and result["metrics"]["validity"]["value"] == 0


def test_objects_in_python(sets):
    train, test = sets
    result = evaluate(["CC", None], test, train=train, protocol="fast")
    assert result["domain"] == "molecules" and result["metrics"]["validity"]["value"] == 0.5


def test_graphs(command, tmp_path):
    """Graphs that ARE the reference: every MMD is 0; all of them copies when the training set is the same file."""
    from sciflow.domains.graphs.files import write_npz

    graphs = [nx.cycle_graph(n) for n in range(4, 12)]
    write_npz(tmp_path / "g.npz", graphs)
    out = tmp_path / "m.json"
    words = (
        "evaluate",
        tmp_path / "g.npz",
        "--reference",
        tmp_path / "g.npz",
        "--train",
        tmp_path / "g.npz",
        "--out",
        out,
    )
    code, printed, _ = command(*words, "--report", tmp_path / "r.html")
    assert code == 0 and "average MMD" in printed
    result = json.loads(out.read_text())
    assert result["domain"] == "graphs"
    assert max(abs(value) for value in result["mmd"].values()) < 1e-12
    assert result["copies_of_train"] == 1.0
    assert evaluate(graphs, tmp_path / "g.npz", train=tmp_path / "g.npz", protocol="spectre")["kernel"] == "tv"


def test_graph_objects_in_python(tmp_path):
    """torch_geometric graphs in a list and networkx graphs are the same samples; None is a sample without a graph."""
    from sciflow.domains.graphs.files import write_graphs
    from sciflow.domains.graphs.pyg import to_pyg

    graphs = [nx.cycle_graph(n) for n in range(4, 12)]
    write_graphs(tmp_path / "g.npz", graphs)
    options = {"reference": tmp_path / "g.npz", "train": tmp_path / "g.npz"}
    for objects in (graphs[:4], to_pyg(graphs[:4]), [None, *graphs[:4]]):
        report = evaluate(objects, **options)
        assert (report["domain"], report["generated"], report["copies_of_train"]) == ("graphs", 4, 1.0)
    assert report["skipped"]["samples without a graph"] == 1


def test_valid_unique_and_novel_graphs(tmp_path, monkeypatch):
    """Against the set `grid_like` (sides 10..19): a new lattice, its copy, a broken one, and one without a graph."""
    from sciflow.domains.graphs.generators import GENERATORS, grid_like
    from sciflow.writers import write_objects

    monkeypatch.setitem(GENERATORS, "grid_like", lambda: grid_like(10))  # all 100 take seconds
    lattice, broken = nx.grid_2d_graph(3, 5), nx.grid_2d_graph(4, 5)
    broken.remove_edge((0, 0), (0, 1))
    graphs = [nx.convert_node_labels_to_integers(graph) for graph in (lattice, lattice, broken)]
    write_objects("graphs", tmp_path / "g.npz", [*graphs, None], {})
    report = evaluate(tmp_path / "g.npz", "grid_like")
    assert (report["valid"], report["vun"]) == (2 / 4, 1 / 4)
    printed = " ".join(evaluation_table(report).text().split())
    assert "valid, unique and novel [%]" in printed and "Left out: 1 samples without a graph." in printed


def fasta(path, sequences):
    path.write_text("".join(f">{i}\n{one}\n" for i, one in enumerate(sequences)))
    return path


def random_sequences(number, length=30, seed=0, letters="ACGT"):
    import random

    source = random.Random(seed)
    return ["".join(source.choice(letters) for _ in range(length)) for _ in range(number)]


def test_sequences(command, tmp_path):
    """Training copies are not novel, one sequence repeats, one entry is broken; k-mer figures as `metrics` says."""
    from sciflow.domains.sequences.alphabets import DNA
    from sciflow.domains.sequences.metrics import kmer_likeness

    train, test, out = random_sequences(20), random_sequences(30, seed=1), tmp_path / "m.json"
    new = random_sequences(2, seed=2)
    samples = fasta(tmp_path / "s.fasta", [train[0], *new, new[0], "ACGTXX"])
    words = ("--reference", fasta(tmp_path / "test.fasta", test), "--train", fasta(tmp_path / "train.fa", train))
    code, printed, _ = command("evaluate", samples, *words, "--out", out, "--report", tmp_path / "r.html")
    assert code == 0 and "1 skipped" in " ".join(printed.split()) and "3-mer correlation" in printed
    result = json.loads(out.read_text())
    assert (result["domain"], result["protocol"], result["alphabet"]) == ("sequences", "kmer", "dna")
    assert (result["samples"], result["sequences"]) == (5, 4)
    value = {name: figure["value"] for name, figure in result["metrics"].items()}
    assert (value["validity"], value["uniqueness"], value["novelty"]) == (0.8, 0.75, pytest.approx(2 / 3))
    assert value["kmer3_pearson"] == pytest.approx(kmer_likeness([train[0], *new, new[0]], test, 3, DNA)[0])
    assert (tmp_path / "r.html").read_text().count("<svg") == 4


def test_protein_sequences_are_recognised(tmp_path):
    letters = "ACDEFGHIKLMNPQRSTVWY"
    reference = fasta(tmp_path / "p.fasta", random_sequences(30, letters=letters))
    objects = [*random_sequences(4, seed=1, letters=letters), None]
    report = evaluate(objects, reference, domain="sequences")
    assert report["alphabet"] == "protein" and report["metrics"]["validity"]["value"] == 0.8
    with pytest.raises(UserError, match="motifs is for nucleotides"):
        evaluate(objects, reference, domain="sequences", protocol="motifs")


@pytest.mark.parametrize(
    ("file", "content", "words", "expected"),
    [
        ("missing.smi", None, (), "no such file"),
        ("empty.smi", "", (), "got no molecule"),
        ("broken.smi", "C1CC((\n", (), "got no molecule"),
        ("columns.csv", "name,value\na,1\n", (), "expected one named smiles"),
        ("unknown.xyz", "C 0 0 0\n", (), "does not tell the domain"),
        ("good.smi", "CC\n", ("--domain", "cells"), "expected one of molecules, graphs, sequences"),
        ("good.fasta", ">a\nACGT\n", ("--protocol", "magic"), "expected one of kmer, motifs"),
        ("empty.fasta", "", ("--protocol", "kmer"), "csv"),
        ("good.smi", "CC\n", ("--domain", "graphs", "--protocol", "gdss"), ".csv"),
        ("good.smi", "CC\n", ("--protocol", "magic"), "expected one of gdss, fast"),
        ("good.smi", "CC\n", ("--reference", "nothing"), "nothing"),
        ("good.smi", "CC\n", ("--out", "/proc/nowhere/m.json"), "cannot be written"),
    ],
)
def test_refusals(refused, sets, tmp_path, file, content, words, expected):
    train, test = sets
    if content is not None:
        (tmp_path / file).write_text(content)
    given = ("evaluate", tmp_path / file, "--reference", test, "--train", train, "--protocol", "fast", *words)
    assert expected in refused(*given)


def test_unknown_protocol_in_python(sets):
    with pytest.raises(UserError, match="expected one of gdss, fast"):
        evaluate(["CC"], sets[1], protocol="other")
