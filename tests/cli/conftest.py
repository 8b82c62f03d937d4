"""A tiny untrained molecule model and a runner: exit code and what was printed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sciflow.cli.main import main


@pytest.fixture(autouse=True)
def private_cache(tmp_path, monkeypatch):
    """No test reads or fills the user's cache."""
    monkeypatch.setenv("SCIFLOW_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """GDSS networks with random weights for molecules of 3 to 6 atoms, 4 steps."""
    pytest.importorskip("rdkit")
    from sciflow.core.schedules import VE, VP
    from sciflow.core.spaces import SymmetricMatrix
    from sciflow.domains.graphs.network import GraphScores, ScoreNetworkA, ScoreNetworkX
    from sciflow.domains.molecules.codec import GDSSMoleculeCodec
    from sciflow.model import Model
    from sciflow.processes.gaussian import GaussianProcess
    from sciflow.sampling import SamplingPlan
    from sciflow.solvers.ancestral import Ancestral

    torch.manual_seed(0)
    network = GraphScores(ScoreNetworkX(4, 1, 8), ScoreNetworkA(4, 8, 2, 2, 2, 4, 4, 8, 2))
    processes = {
        "x": GaussianProcess(VP(), kind="score"),
        "adj": GaussianProcess(VE(0.1, 1.0), SymmetricMatrix(), kind="score"),
    }
    plan = SamplingPlan({"x": Ancestral(), "adj": Ancestral()}, steps=4)
    codec = GDSSMoleculeCodec(["C", "N", "O", "F"], 6)
    spec = {"name": "tiny", "domain": "molecules", "sizes": {"3": 1, "4": 2, "5": 3, "6": 4}}
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    Model(processes, network, plan, codec, spec).save(path)
    return path


@pytest.fixture
def command(capsys):
    """Run `sciflow WORDS`; (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def refused(command):
    """Run a command that must fail: exit code 2 and one line on stderr, which is returned."""

    def run(*words: object) -> str:
        code, _, err = command(*words)
        assert code == 2
        assert err.count("\n") == 1, err
        return err

    return run
