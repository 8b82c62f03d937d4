"""`sciflow sample`: resumable, independent of batches and processes, one-line errors with exit code 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import networkx as nx
import pytest
import torch
from toy import toy_model

from sciflow.cli.main import main
from sciflow.core.errors import UserError
from sciflow.domains.graphs.files import read_graphs
from sciflow.model import load
from sciflow.streaming import Job
from sciflow.writers import check_ending, write_objects

ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(["tests", "."]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def model_file(tmp_path) -> Path:
    path = tmp_path / "toy.safetensors"
    toy_model().save(path)
    return path


def sample(*words: object) -> int:
    return main(["sample", *map(str, words)])


def test_interrupted_run_resumes_to_the_same_bytes(model_file, tmp_path, capsys) -> None:
    assert sample(model_file, "--num", 20, "--out", tmp_path / "whole.smi", "--batch-size", 4) == 0
    model = load(model_file)
    job = Job(model, tmp_path / "cut.smi", 20, 0, 4, model.sampling)
    job.open()
    for number in job.missing()[:3]:  # 60 % of the batches, then the process dies
        job.generate(number)
    (job.parts / "batch-00003.tmp").write_bytes(b"half a file")
    assert sample(model_file, "--num", 20, "--out", tmp_path / "cut.smi", "--batch-size", 4) == 0
    assert "3 of 5 batches are on disk" in capsys.readouterr().out
    assert (tmp_path / "cut.smi").read_bytes() == (tmp_path / "whole.smi").read_bytes()
    assert not job.parts.exists()


def test_samples_do_not_depend_on_batch_size(model_file, tmp_path) -> None:
    for size in (1, 7, 20):
        assert sample(model_file, "--num", 20, "--out", tmp_path / f"{size}.smi", "--batch-size", size) == 0
    assert (tmp_path / "1.smi").read_text() == (tmp_path / "7.smi").read_text() == (tmp_path / "20.smi").read_text()


def test_other_settings_are_not_mixed_into_an_unfinished_run(model_file, tmp_path, capsys) -> None:
    model = load(model_file)
    job = Job(model, tmp_path / "a.smi", 20, 0, 4, model.sampling)
    job.open()
    job.generate(0)
    assert sample(model_file, "--num", 20, "--out", tmp_path / "a.smi", "--batch-size", 4, "--seed", 1) == 2
    assert "unfinished run with other settings" in capsys.readouterr().err
    assert job.path(0).exists()


def test_a_run_that_failed_before_its_first_batch_blocks_nothing(model_file, tmp_path, capsys) -> None:
    """A mistaken --sizes leaves settings behind but no work; the corrected command must run."""
    out = tmp_path / "a.smi"
    assert sample(model_file, "--num", 3, "--out", out, "--sizes", 9) == 2
    assert sample(model_file, "--num", 3, "--out", out, "--sizes", 3) == 0
    assert out.exists() and not Path(f"{out}.parts").exists()


@pytest.mark.slow
def test_run_killed_at_60_percent_resumes_to_the_same_bytes(model_file, tmp_path) -> None:
    """kill -9 of the real command, restart with the same batch size."""
    words = [sys.executable, "-m", "sciflow", "sample", model_file, "--num", 400, "--batch-size", 4, "--steps", 40]
    whole, cut = tmp_path / "whole.smi", tmp_path / "cut.smi"
    subprocess.run([*map(str, words), "--out", whole], check=True, env=ENVIRONMENT, timeout=240)
    process = subprocess.Popen([*map(str, words), "--out", cut], env=ENVIRONMENT)
    parts = Path(f"{cut}.parts")
    while len(list(parts.glob("batch-*.safetensors"))) < 60:
        time.sleep(0.005)
        assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    assert not cut.exists()
    subprocess.run([*map(str, words), "--out", cut], check=True, env=ENVIRONMENT, timeout=240)
    assert cut.read_bytes() == whole.read_bytes()


def test_a_damaged_part_is_named(model_file, tmp_path, capsys) -> None:
    model = load(model_file)
    job = Job(model, tmp_path / "a.smi", 8, 0, 4, model.sampling)
    job.open()
    job.path(0).write_bytes(b"not a tensor file")
    assert sample(model_file, "--num", 8, "--out", tmp_path / "a.smi", "--batch-size", 4) == 2
    assert "batch-00000.safetensors' is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_give_the_same_set_as_one(model_file, tmp_path) -> None:
    """Lightning's distributed predict over gloo on two CPU processes."""
    for devices in (1, 2):
        command = [sys.executable, "-m", "sciflow", "sample", model_file, "--num", 30, "--batch-size", 4]
        command += ["--out", tmp_path / f"{devices}.smi", "--devices", devices]
        subprocess.run(list(map(str, command)), check=True, env=ENVIRONMENT, timeout=240)
    assert (tmp_path / "1.smi").read_bytes() == (tmp_path / "2.smi").read_bytes()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.ckpt", "--num", "3", "--out", "OUT/a.smi"], "no model file 'missing.ckpt'"),
        (["MODEL", "--num", "0", "--out", "OUT/a.smi"], "must be at least 1"),
        (["MODEL", "--num", "3", "--out", "OUT/a.xyz"], "expected one of the endings .smi"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--solver", "Rk45"], "unknown solver 'Rk45'; expected one of"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--solver", "Gillespie"], "solvers that fit: Adaptive"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--solver", "ReverseDiffusion"], "made for 1000 moves, 4 were"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--solver", "Langevin"], "stays at its clock"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--solver", "Adaptive"], "needs arguments"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--steps", "0"], "steps must be at least 1"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--sizes", "9"], "expected numbers from 1 to max_nodes=4"),
        (["MODEL", "--num", "3", "--out", "/proc/none/a.smi"], "cannot be written"),
        (["MODEL", "--num", "3", "--out", "OUT/folder.smi"], "is a folder, expected the name of a file"),
        (["MODEL", "--num", "3", "--out", "OUT/a.smi", "--devices", "0"], "--devices must be at least 1"),
    ],
)
def test_mistakes_give_one_line_and_exit_code_2(model_file, tmp_path, capsys, words, message) -> None:
    places = {"MODEL": str(model_file)}
    (tmp_path / "folder.smi").mkdir()
    assert sample(*[places.get(w, w.replace("OUT", str(tmp_path))) for w in words]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_place_that_cannot_be_written_is_refused_before_sampling(model_file, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Job, "open", lambda self: pytest.fail("sampling has begun"))
    (tmp_path / "folder.smi").mkdir()
    for out in (tmp_path / "folder.smi", "/proc/none/a.smi"):
        assert sample(model_file, "--num", 3, "--out", out) == 2


@pytest.mark.parametrize("ending", ["npz", "json", "g6", "G6"])
def test_graph_files_that_can_be_written_are_not_refused(tmp_path, ending) -> None:
    graphs = [nx.cycle_graph(4), None, nx.path_graph(3)]
    out = tmp_path / f"a.{ending}"
    check_ending("graphs", out, 3)
    write_objects("graphs", out, graphs, {"num": 3})
    assert json.loads(Path(f"{out}.json").read_text()) == {"num": 3, "empty_samples": 1}
    if ending.islower():
        assert [len(graph) for graph in read_graphs(out).graphs] == [4, 3]


def test_graphml_holds_one_graph() -> None:
    check_ending("graphs", Path("a.graphml"), 1)
    with pytest.raises(UserError, match="one graph per file, got 2 for 'a.graphml'; expected one of .npz, .json, .g6"):
        check_ending("graphs", Path("a.graphml"), 2)
    with pytest.raises(UserError, match="domain 'cells' has no file writer"):
        check_ending("cells", Path("a.cif"), 1)


def test_truncated_model_file(model_file, tmp_path, capsys) -> None:
    model_file.write_bytes(model_file.read_bytes()[:-100])
    assert sample(model_file, "--num", 3, "--out", tmp_path / "a.smi") == 2
    assert "as a sciflow model" in capsys.readouterr().err


def test_model_files_round_trip(tmp_path) -> None:
    """Weights, configuration and samples survive; bfloat16 storage changes weights by less than its precision."""
    model = toy_model()
    model.save(tmp_path / "full.safetensors")
    model.save(tmp_path / "half.safetensors", torch.bfloat16)
    again, half = load(tmp_path / "full.safetensors"), load(tmp_path / "half.safetensors")
    assert again.config() == model.config()
    for name, value in model.denoiser.state_dict().items():
        assert torch.equal(value, again.denoiser.state_dict()[name])
        assert torch.allclose(value.float(), half.denoiser.state_dict()[name].float(), rtol=2**-8)
    state = [m.sample_state(5, seed=3)["adj"] for m in (model, again)]
    assert torch.equal(*state)


def test_unknown_command(capsys) -> None:
    assert main(["smaple"]) == 2
    assert "unknown command 'smaple'; expected one of: fit" in capsys.readouterr().err


def test_samplers_that_couple_a_batch_say_so(model_file, tmp_path, capsys) -> None:
    assert sample(model_file, "--num", 3, "--out", tmp_path / "a.smi", "--solver", "S4") == 0
    assert "couples the samples of a batch" in capsys.readouterr().out
