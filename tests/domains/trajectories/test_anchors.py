"""Anchors on hand-made trajectories: which observed frames they use, for forecasts, interpolation and key frames."""

from __future__ import annotations

import pytest
import torch
from egtn_toy import walks
from torch import Tensor

from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import (
    CentreOfMass,
    ConstantVelocity,
    FrameWeights,
    LastFrame,
    LearnedAnchor,
    Observed,
    Origin,
    ResidualScale,
)
from sciflow.domains.trajectories.network import EGTN

F64 = torch.float64
TIMES = torch.tensor([0.0, 1.0, 2.0, 4.0, 5.0, 9.0], dtype=F64)
KEYS = torch.tensor([1.0, 0, 0, 0, 1, 0])  # frames 0 and 4, times 0 and 5


def straight(seen: Tensor) -> tuple[State, Tensor]:
    """Three bodies on straight lines at TIMES, and their true places."""
    state = walks((2, 1), 6, seen, dtype=F64)
    start, velocity = state["pos"][:, :1], state["pos"][:, 1:2]
    true = start + TIMES[None, :, None] * velocity
    given = true * state.cond["seen"][state.layouts["pos"].index][:, :, None]
    return state.put(pos=true, observed=given).condition(times=TIMES.expand(2, 6)), true


@pytest.mark.parametrize(
    ("seen", "nearest"),
    [
        ([1.0, 1, 1, 0, 0, 0], [0, 1, 2, 2, 2, 2]),  # forecast
        ([1.0, 0, 0, 0, 1, 0], [0, 0, 0, 4, 4, 4]),  # key frames: time 2 is nearer to 0 than to 5
        ([0.0, 0, 0, 0, 0, 1], [5, 5, 5, 5, 5, 5]),  # backwards
    ],
)
def test_nearest_observed_frame(seen, nearest):
    state, true = straight(torch.tensor(seen))
    assert Observed.of(state).nearest.tolist() == [nearest] * 2
    torch.testing.assert_close(LastFrame().anchor(state), true[:, nearest])


@pytest.mark.parametrize(
    "seen", [[1.0, 1, 1, 0, 0, 0], [1.0, 0, 0, 0, 1, 0], [0.0, 0, 0, 0, 1, 1], [1.0, 1, 1, 1, 1, 0]]
)
def test_straight_lines_are_continued_and_filled(seen):
    state, true = straight(torch.tensor(seen))
    torch.testing.assert_close(ConstantVelocity().anchor(state), true)


def test_constant_velocity_takes_the_two_last_frames_and_brackets_key_frames():
    state = walks((2, 1), 6, torch.tensor([1.0, 1, 1, 0, 0, 0]), dtype=F64).condition(times=TIMES.expand(2, 6))
    x = state["pos"]
    expected = x[:, 2] + (9 - 2) / (2 - 1) * (x[:, 2] - x[:, 1])
    torch.testing.assert_close(ConstantVelocity().anchor(state)[:, 5], expected)
    state = walks((2, 1), 6, KEYS, dtype=F64).condition(times=TIMES.expand(2, 6))
    x = state["pos"]
    torch.testing.assert_close(ConstantVelocity().anchor(state)[:, 1], x[:, 0] + (x[:, 4] - x[:, 0]) / 5)


def test_one_observed_frame_stands_still():
    state, true = straight(torch.tensor([0.0, 0, 1, 0, 0, 0]))
    torch.testing.assert_close(ConstantVelocity().anchor(state), true[:, 2:3].expand_as(true))


def test_centres_and_origin():
    state, true = straight(torch.tensor([1.0, 0, 1, 0, 0, 0]))
    both, last = CentreOfMass().anchor(state), CentreOfMass(nearest=True).anchor(state)
    torch.testing.assert_close(both[0, 5], true[:2, [0, 2]].mean((0, 1)))
    torch.testing.assert_close(last[1, 5], true[:2, 2].mean(0))
    torch.testing.assert_close(both[2, 3], true[2, [0, 2]].mean(0))
    assert Origin().anchor(state).abs().max() == 0


class Fixed(torch.nn.Module):
    """A block that sets features and coordinates to given functions of the coordinates."""

    def __init__(self, features, places) -> None:
        super().__init__()
        self.features, self.places = features, places

    def forward(self, h, x, graph, frames):
        return self.features(x)[:, :, None].expand(-1, -1, 4), self.places(x)


def reduced(features, places=lambda x: x) -> LearnedAnchor:
    """A learned anchor whose network is replaced."""
    anchor = LearnedAnchor(3, 2, weights=FrameWeights(3), hidden=4, layers=1).double()
    anchor.blocks = torch.nn.ModuleList([Fixed(features, places)])
    return anchor


def test_learned_anchor_reduces_to_the_others():
    """h = 0 is the last frame; h = 1/S on the centres is the centre of mass; a one-hot h picks a frame."""
    state, true = straight(torch.tensor([1.0, 1, 1, 0, 0, 0]))
    future, sample = slice(3, 6), torch.tensor([0, 0, 1])
    zero = reduced(lambda x: torch.zeros_like(x[..., 0]))
    torch.testing.assert_close(zero.anchor(state)[:, future], LastFrame().anchor(state)[:, future])

    def centre(x: Tensor) -> Tensor:
        middle = torch.stack([x[:2].mean((0, 1)), x[2].mean(0)])[sample]
        return middle[:, None].expand_as(x)

    mean = reduced(lambda x: torch.full_like(x[..., 0], 1 / 3), centre)
    torch.testing.assert_close(mean.anchor(state)[:, future], CentreOfMass().anchor(state)[:, future])
    one = torch.tensor([0.0, 1.0, 0.0], dtype=F64)
    picked = reduced(lambda x: one.expand_as(x[..., 0])).anchor(state)[:, future]
    torch.testing.assert_close(picked, true[:, 1:2].expand(-1, 3, -1))


def test_weights_sum_to_one():
    """Places z_s = 1 everywhere give the anchor 1 around the centre, whatever the weights (1e-6)."""
    state, _ = straight(KEYS)
    anchor = reduced(lambda x: x[..., 0] * 3 + 1, lambda x: torch.ones_like(x))
    given = state["observed"]
    seen = state.cond["seen"][state.layouts["pos"].index][:, :, None]
    middle = (given * seen).sum(1) / 2
    middle = torch.stack([middle[:2].mean(0), middle[2]])[torch.tensor([0, 0, 1])]
    assert (anchor.anchor(state) - (middle[:, None] + 1)).abs().max() < 1e-6


def test_new_models_start_from_their_base():
    state, true = straight(KEYS)
    anchor = LearnedAnchor(3, 2, base=ConstantVelocity(), hidden=8, waves=8).double()
    torch.testing.assert_close(anchor.anchor(state), true)


def test_samples_with_nothing_observed_beside_others():
    state, _ = straight(torch.stack([KEYS, torch.zeros(6)]))
    for anchor in (LastFrame(), CentreOfMass(), ConstantVelocity(), LearnedAnchor(3, 2, hidden=8, waves=8).double()):
        assert anchor.anchor(state)[2].abs().max() < 1e-9  # the centre that the codec took off


# -- residual scale ------------------------------------------------------------------------------------------------


def residuals(deviation: Tensor, seen: Tensor, seed: int) -> tuple[State, Tensor]:
    """400 bodies that stand still plus noise of the given deviation (T,), and the anchor."""
    state = walks((4,) * 100, 6, seen, seed=seed)
    anchor = state["observed"][:, :1].expand(-1, 6, -1)
    noise = torch.randn(state["pos"].shape, generator=torch.Generator().manual_seed(seed))
    return state.put(pos=anchor + deviation[None, :, None] * noise), anchor


def test_scale_is_the_rms_at_every_distance():
    """Unit variance of (x - anchor)/scale at every frame: 20 updates of 1200 numbers, 5 standard errors are 2.3 %."""
    seen, deviation = torch.tensor([1.0, 0, 0, 0, 0, 0]), torch.tensor([0.0, 0.1, 0.3, 0.2, 1.0, 2.0])
    scale = ResidualScale(bins=8, decay=0.999).train()
    for seed in range(20):
        scale(*residuals(deviation, seen, seed))
    state, anchor = residuals(deviation, seen, 99)
    got = scale.eval()(state, anchor)
    assert got.shape == (400, 6, 1) and (got == got[:1]).all()  # the same for all atoms and axes
    assert ((got[0, 1:, 0] / deviation[1:]) - 1).abs().max() < 0.023
    before = scale.state_dict()["square"].clone()
    scale(state, anchor)
    assert torch.equal(scale.square, before)  # evaluation does not learn


def test_scale_between_bins_at_far_times_and_between_key_frames():
    scale = ResidualScale(bins=4)
    scale.weight[0, 1:3] = 1.0
    scale.square[0, 1:3] = torch.tensor([1.0, 9.0])  # rms 1 and 3 at distances 1 and 2
    scale.weight[1, 1], scale.square[1, 1] = 2.0, 0.5  # rms 0.5 between observed frames
    state, anchor = residuals(torch.zeros(6), torch.tensor([1.0, 0, 0, 0, 0, 0]), 0)
    times = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 50.0], dtype=F64).expand(100, 6)
    got = scale.eval()(state.condition(times=times), anchor)[0, 1:, 0]
    torch.testing.assert_close(got, torch.tensor([1.0, 1.0, 2.0, 3.0, 3.0]))
    state, anchor = residuals(torch.zeros(6), torch.tensor([1.0, 0, 0, 0, 0, 1.0]), 0)
    torch.testing.assert_close(scale(state, anchor)[0, :, 0], torch.full((6,), 0.5))


def test_untrained_scale_is_one_and_zero_residuals_keep_it_positive():
    state, anchor = residuals(torch.zeros(6), torch.tensor([1.0, 0, 0, 0, 0, 0]), 0)
    scale = ResidualScale().eval()
    assert (scale(state, anchor) == 1).all()
    assert (scale.train()(state, anchor) > 0).all()


def test_unconditional_scale_is_one_number():
    state = walks((4, 3), 6, None)
    net = EGTN(3, 2, None, ResidualScale(), hidden=8, layers=1).train()
    scale = net.prepare(state).layouts["pos"].scale
    torch.testing.assert_close(scale, state["pos"].square().mean().sqrt().expand(7, 6, 1))


def test_observed_frames_are_their_own_anchor():
    state, true = straight(KEYS)
    layout = EGTN(3, 2, CentreOfMass(), ResidualScale(), hidden=8, layers=1).prepare(state).layouts["pos"]
    assert torch.equal(layout.anchor[:, [0, 4]], true[:, [0, 4]])  # type: ignore[index]
    assert layout.scale.min() > 0  # type: ignore[union-attr]
