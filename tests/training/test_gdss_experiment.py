"""The published GDSS configuration (experiments/graphs/gdss_community_small.yaml): sizes, loss, sampler, short fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

pytest.importorskip("networkx")

from sciflow.cli.fit import run
from sciflow.core.config import from_config, to_config
from sciflow.core.noise import Draws
from sciflow.domains.graphs.datamodule import GDSSGraphData
from sciflow.interop.gdss import sampling_plan
from sciflow.model import load
from sciflow.training.denoising import Denoising

CONFIG = Path(__file__).parents[2] / "experiments/graphs/gdss_community_small.yaml"
PARTS = ("processes", "network", "objectives", "sampling", "time_law", "weights")


@pytest.fixture
def arguments() -> dict:
    return yaml.safe_load(CONFIG.read_text())["model"]["init_args"]


def training(arguments: dict) -> Denoising:
    torch.manual_seed(0)
    return Denoising(**{name: from_config(arguments[name]) for name in PARTS})


def test_networks_have_the_published_size_and_fit_the_data(arguments) -> None:
    """Parameter counts of gdss.md, section 5; all training graphs are one batch."""
    networks, source = from_config(arguments["network"]), GDSSGraphData("community_small", batch_size=128)
    counts = [sum(p.numel() for p in network.parameters()) for network in (networks.x, networks.adj)]
    assert counts == [72_434, 134_369]
    source.setup("fit")
    assert source.codec.degree_classes == arguments["network"]["init_args"]["x"]["init_args"]["max_feat_num"]
    assert len(source.train_dataloader()) == 1 and len(source.samples["train"]) == 80


def test_sampler_is_the_released_one(arguments) -> None:
    """The plan that the importer of official checkpoints makes (its runs are checked against golden vectors)."""
    released = {"predictor": "Euler", "corrector": "Langevin", "snr": 0.05, "scale_eps": 0.7, "n_steps": 1}
    expected = sampling_plan(released, 1000, {"eps": 1e-4, "noise_removal": True})
    assert to_config(from_config(arguments["sampling"])) == to_config(expected)


class Given(Draws):
    """Prepared normals in the order x, adj."""

    def __init__(self, *normals: torch.Tensor) -> None:
        self.normals = iter(normals)

    def normal(self, like, layout):
        return next(self.normals)

    upper_normal = normal

    def uniform(self, like, layout):
        raise AssertionError("the clocks are given")


def test_loss_is_the_published_formula(arguments) -> None:
    """1/2 sum over all entries of (score std + z)^2 with score = -n/std, at the published VP 0.1..1 (gdss.md, 2, 4)."""
    module, source = training(arguments), GDSSGraphData("community_small", batch_size=128)
    source.setup("fit")
    batch, t = source.samples["train"].batch([0, 7, 30]), torch.tensor([0.2, 0.6, 1.0])
    node = batch.layouts["x"].mask
    pair = node * node.transpose(1, 2) * (1 - torch.eye(node.shape[1]))
    z_x = torch.randn(batch["x"].shape) * node
    z_adj = torch.randn(batch["adj"].shape).triu(1)
    z_adj = (z_adj + z_adj.transpose(1, 2)) * pair
    with torch.no_grad():
        losses = module.losses(batch, Given(z_x, z_adj), t)  # type: ignore[arg-type]
        log_mean = (-(t**2) * (1.0 - 0.1) / 4 - t * 0.1 / 2)[:, None, None]
        std = (1 - (2 * log_mean).exp()).sqrt()
        noisy = batch.put(x=log_mean.exp() * batch["x"] + std * z_x, adj=log_mean.exp() * batch["adj"] + std * z_adj)
        raw = module.model.denoiser.network(noisy, {})
    for name, z in (("x", z_x), ("adj", z_adj)):
        expected = 0.5 * ((-raw[name] / std * std + z) ** 2).flatten(1).sum(1)
        assert torch.allclose(module.weights[name] * losses[name], expected, rtol=1e-4), name


def test_two_epochs_of_a_small_version(tmp_path, monkeypatch) -> None:
    """The YAML runs from the command line; its checkpoint holds the raw weights (decay 0) and samples graphs."""
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)  # a setting of the process
    config = yaml.safe_load(CONFIG.read_text())
    networks = config["model"]["init_args"]["network"]["init_args"]
    networks["x"]["init_args"].update(depth=1, nhid=8)
    networks["adj"]["init_args"].update(nhid=8, num_layers=2, c_hid=2, c_final=2, adim=8)
    config["trainer"].update(max_epochs=2, enable_progress_bar=False)
    config["trainer"]["logger"] = {"class_path": "CSVLogger", "init_args": {"save_dir": str(tmp_path), "name": "run"}}
    config["checkpoint"]["every_n_epochs"] = 1
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    assert run(["fit", "--config", str(tmp_path / "small.yaml")]) == 0
    last = tmp_path / "run/version_0/checkpoints/last.ckpt"
    stored = torch.load(last, weights_only=True)
    assert all(torch.equal(v, stored["state_dict"][k]) for k, v in stored["current_model_state"].items())
    assert stored["lr_schedulers"][0]["_last_lr"] == [pytest.approx(0.01 * 0.999**2)]
    graphs = load(last).sample(3, steps=4)
    assert len(graphs) == 3 and all(1 <= len(graph) <= 20 for graph in graphs)
