"""Whole samplers: a turned and shifted observation and turned noise give turned and shifted samples (float64, 1e-8)."""

from __future__ import annotations

import pytest
import torch
from egtn_toy import learned, moved, network, rotation, walks
from torch import Tensor

from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import Draws, Move, Noise, PerSample
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.spaces import Euclidean, ZeroCoM
from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.anchors import Anchor, ConstantVelocity, LastFrame, ResidualScale
from sciflow.domains.trajectories.cross import CrossEGTN
from sciflow.domains.trajectories.network import EGTN
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.heun import Heun

MASKS = {
    "forecast": (torch.arange(8) < 3).float(),
    "interpolation": torch.tensor([1.0, 1, 0, 0, 0, 0, 1, 1]),
    "key frames": torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 1]),
}


class Turned(Noise):
    """The same draws, turned."""

    def __init__(self, noise: Noise, turn: Tensor) -> None:
        self.noise, self.turn = noise, turn

    def at(self, field: str, move: Move, copy: int = 0) -> Draws:
        return TurnedDraws(self.noise.at(field, move, copy), self.turn)


class TurnedDraws(Draws):
    def __init__(self, draws: Draws, turn: Tensor) -> None:
        self.draws, self.turn = draws, turn

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return self.draws.normal(like, layout) @ self.turn.T

    def uniform(self, like: Tensor, layout: Layout) -> Tensor:
        return self.draws.uniform(like, layout)


def trained(anchor: Anchor | None, kind: type[EGTN] = EGTN) -> EGTN:
    """A network whose residual scale has seen data."""
    net = network(anchor, kind, scale=ResidualScale())
    net.train().prepare(walks((4, 3), 8, None if anchor is None else MASKS["forecast"], dtype=torch.float64))
    return net.eval()


def sample(net: EGTN, state: State, noise: Noise, solver) -> State:
    """50 moves from the prior around the anchor."""
    space = ZeroCoM() if net.anchor is None else Euclidean()
    denoiser = Denoiser(net, {"pos": Anchored(GaussianProcess(VP(), space, "v"))})
    sampler = Sampler(dict(denoiser.processes), {"pos": solver}, Uniform())  # type: ignore[arg-type]
    with torch.no_grad():
        start = sampler.prior(denoiser.prepare(state), noise)
    return sampler.run(start, denoiser, noise, steps=50).state


solvers = pytest.mark.parametrize("solver", [Ancestral(), DPMpp2M(), Heun()], ids=lambda s: type(s).__name__)


@solvers
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize(
    ("anchor", "kind"),
    [(LastFrame(), EGTN), (ConstantVelocity(), EGTN), (learned(), EGTN), (ConstantVelocity(), CrossEGTN)],
    ids=["last", "velocity", "learned", "cross"],
)
def test_conditional_samples_turn_with_observation_and_noise(anchor, kind, mask, solver):
    state = walks((4, 1, 3), 8, MASKS[mask], dtype=torch.float64)
    turn, shift = rotation(3), torch.tensor([3.0, -7.0, 10.0], dtype=torch.float64)
    net = trained(anchor, kind)
    plain = sample(net, state, PerSample(5), solver)["pos"]
    turned = sample(net, moved(state, lambda x: x @ turn.T + shift), Turned(PerSample(5), turn), solver)["pos"]
    assert (turned - (plain @ turn.T + shift)).abs().max() < 1e-8
    seen = MASKS[mask] > 0
    assert torch.equal(plain[:, seen], state["pos"][:, seen])  # observed frames are kept to the last bit
    assert (plain[:, ~seen] - state["pos"][:, ~seen]).abs().max() > 0.1


@solvers
def test_unconditional_samples_turn_with_the_noise_and_have_zero_mean(solver):
    state, turn = walks((4, 1, 3), 8, None, dtype=torch.float64), rotation(3)
    net = trained(None)
    plain = sample(net, state, PerSample(5), solver)["pos"]
    turned = sample(net, state, Turned(PerSample(5), turn), solver)["pos"]
    assert (turned - plain @ turn.T).abs().max() < 1e-8
    for rows in (plain[:4], plain[4:5], plain[5:]):
        assert rows.mean((0, 1)).abs().max() < 1e-9
    assert plain.abs().max() > 0.1
