"""Trajectory models with a known law, without training.

A network that predicts no motion (v = 0) is exact for data of unit variance around the anchor: E[alpha z - sigma y0 |
y_t] = 0 under a variance-preserving schedule. Samples are then N(anchor, (gain scale)^2), independent between atoms,
frames and axes: a DDIM move from t to s multiplies y by alpha_t alpha_s + sigma_t sigma_s.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from sciflow.core.grids import Below, Grid, Uniform
from sciflow.core.schedules import Cosine
from sciflow.domains.trajectories.anchors import Anchor, ConstantVelocity, ResidualScale
from sciflow.domains.trajectories.codec import TrajectoryCodec
from sciflow.domains.trajectories.data import Trajectory
from sciflow.domains.trajectories.network import EGTN
from sciflow.model import Model
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.sampling import SamplingPlan
from sciflow.solvers.dpmpp import DDIM

START, END = 0.999, 0.001


def gaussian_model(
    example: Trajectory, frames: int = 8, scale: float = 0.5, anchor: Anchor | None = None, steps: int = 4
) -> Any:  # a Model, with the codec and network of this module
    """N(anchor, (gain scale)^2) for trajectories with the channels of `example`."""
    codec = TrajectoryCodec.infer([example], frames, conditional=True)
    network = EGTN(
        anchor=anchor if anchor is not None else ConstantVelocity(),
        scale=ResidualScale(),
        hidden=8,
        layers=1,
        waves=4,
    )
    network.build({"atoms": codec.features, "pairs": codec.pairs, "dims": codec.dims, "frames": frames})
    assert network.scale is not None
    network.scale.square.fill_(scale**2)
    network.scale.weight.fill_(1.0)
    plan = SamplingPlan({"pos": DDIM()}, Uniform(START, END), steps)
    process = Anchored(GaussianProcess(Cosine(), kind="v"))
    spec = {"domain": "trajectories", "task": "conditional", "name": "gaussian"}
    return Model({"pos": process}, network, plan, codec, spec).eval()


def gain(model: Any, start: float | None = None) -> float:
    """Factor of y over a whole run, or over one from the clock `start`."""
    grid: Grid = model.sampling.grid if start is None else Below(model.sampling.grid, start)
    ends = torch.tensor(grid.moves(model.sampling.steps), dtype=torch.float64)
    alpha, sigma = Cosine().alpha(ends), Cosine().sigma(ends)
    return math.prod((alpha.prod(1) + sigma.prod(1)).tolist())
