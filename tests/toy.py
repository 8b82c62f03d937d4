"""A small network and model for tests of training, files and commands; dotted path `toy.ToyNetwork`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from sciflow.core.config import Configurable
from sciflow.core.schedules import Cosine
from sciflow.core.spaces import SymmetricMatrix
from sciflow.domains.molecules.codec import MoleculeCodec
from sciflow.model import Model
from sciflow.processes.gaussian import GaussianProcess
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral

SMILES = ["CCO", "CC(=O)N", "C1CC1", "CCN", "C#N", "OCC=O", "CC", "NCC#N", "C1CO1", "CNC=O", "CCCO", "O=C"]


class ToyNetwork(nn.Module, Configurable):
    """Two small MLPs on nodes and pairs; equivariant, time-conditioned, sized by the data."""

    def __init__(self, hidden: int = 8, features: dict[str, int] | None = None) -> None:
        super().__init__()
        self.hidden = hidden
        self.register_buffer("table", torch.tensor([1, 6, 7, 53]))  # an integer buffer that averaging must not touch
        if features is not None:
            self.build(features)

    def build(self, features: dict[str, int]) -> None:
        self.init_args["features"] = dict(features)
        f, k = features["x"], features["adj"]
        self.node = nn.Sequential(nn.Linear(f + k + 1, self.hidden), nn.SiLU(), nn.Linear(self.hidden, f))
        self.edge = nn.Sequential(nn.Linear(k + f + 1, self.hidden), nn.SiLU(), nn.Linear(self.hidden, k))

    def forward(self, state, signals):
        x, adj = state["x"], state["adj"]
        n = x.shape[1]
        t = signals["x"].expand(x.shape[0])[:, None, None]
        node = self.node(torch.cat([x, adj.sum(2), t.expand(-1, n, 1)], -1)).softmax(-1)
        pair = torch.cat([adj, x[:, :, None] + x[:, None], t[..., None].expand(-1, n, n, 1)], -1)
        return {
            "x": node * state.layouts["x"].mask,
            "adj": self.edge(pair).softmax(-1) * state.layouts["adj"].mask,
        }


def processes() -> dict[str, GaussianProcess]:
    return {
        "x": GaussianProcess(Cosine(), kind="data"),
        "adj": GaussianProcess(Cosine(), SymmetricMatrix(), kind="data"),
    }


def toy_model(steps: int = 4) -> Model:
    """A molecule model with random weights (seeded), atoms C N O, at most 4 atoms."""
    torch.manual_seed(7)
    codec = MoleculeCodec(["C", "N", "O"], 4)
    plan = SamplingPlan({"x": Ancestral(), "adj": Ancestral()}, steps=steps)
    network = ToyNetwork(features={"x": 3, "adj": 4})
    spec = {"name": "toy", "domain": "molecules", "sizes": {"2": 1, "3": 2, "4": 3}}
    return Model(processes(), network, plan, codec, spec).eval()


def write_smiles(folder: Path) -> Path:
    """A CSV with a SMILES column, one entry broken."""
    path = folder / "mine.csv"
    path.write_text("SMILES,name\n" + "".join(f"{s},m{i}\n" for i, s in enumerate([*SMILES, "C1CC"])))
    return path


CONFIG = """
seed_everything: 3
model:
  class_path: sciflow.training.denoising.Denoising
  init_args:
    processes:
      x: {class_path: sciflow.processes.gaussian.GaussianProcess,
          init_args: {kind: data, schedule: {class_path: sciflow.core.schedules.Cosine}}}
      adj: {class_path: sciflow.processes.gaussian.GaussianProcess,
            init_args: {kind: data, schedule: {class_path: sciflow.core.schedules.Cosine},
                        space: {class_path: sciflow.core.spaces.SymmetricMatrix}}}
    network: {class_path: toy.ToyNetwork}
    objectives:
      x: {class_path: sciflow.objectives.cross_entropy.CrossEntropy}
      adj: {class_path: sciflow.objectives.cross_entropy.CrossEntropy}
    sampling:
      class_path: sciflow.sampling.SamplingPlan
      init_args:
        solvers:
          x: {class_path: sciflow.solvers.ancestral.Ancestral}
          adj: {class_path: sciflow.solvers.ancestral.Ancestral}
        steps: 5
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 0.01}}
data:
  class_path: sciflow.domains.molecules.datamodule.MoleculeData
  init_args: {source: SOURCE, batch_size: 4, validation: 0.1, test: 0.1}
trainer:
  max_epochs: 4
  accelerator: cpu
  devices: 1
  enable_progress_bar: false
  logger: {class_path: lightning.pytorch.loggers.CSVLogger, init_args: {save_dir: RUNS}}
"""


def write_config(folder: Path) -> Path:
    """CONFIG for the CSV of `write_smiles`, logging into the same folder."""
    source = write_smiles(folder)
    path = folder / "toy.yaml"
    path.write_text(CONFIG.replace("SOURCE", str(source)).replace("RUNS", str(folder)))
    return path
