"""The learned linear predictor: symmetries, its start, and an oscillation that it can predict exactly."""

from __future__ import annotations

import pytest
import torch
from egtn_toy import moved, rotation, walks

from sciflow.domains.trajectories.anchors import LastFrame
from sciflow.domains.trajectories.linear_anchor import LinearAnchor

F64 = torch.float64
MASKS = [[1.0, 1, 1, 0, 0, 0], [1.0, 0, 0, 0, 1, 1], [0.0, 1, 0, 0, 1, 0]]


def away() -> LinearAnchor:
    """One away from its start."""
    torch.manual_seed(0)
    anchor = LinearAnchor(3, rank=4, hidden=16, waves=8).to(F64)
    torch.nn.init.normal_(anchor.time[-1].weight, std=0.3)
    return anchor


@pytest.mark.parametrize("mask", MASKS)
def test_starts_as_the_last_frame(mask):
    state = walks((3, 2), 6, torch.tensor(mask), dtype=F64)
    seen = torch.tensor(mask) > 0
    expected, got = LastFrame().anchor(state), LinearAnchor(3).to(F64).anchor(state)
    torch.testing.assert_close(got[:, ~seen], expected[:, ~seen])


@pytest.mark.parametrize("mask", MASKS)
def test_turns_and_moves_with_the_observed_frames(mask):
    state, anchor = walks((3, 2), 6, torch.tensor(mask), dtype=F64), away()
    turn, shift = rotation(3), torch.tensor([3.0, -1.0, 2.0], dtype=F64)

    def move(x):
        return x @ turn.T + shift

    before, after = anchor.anchor(state), anchor.anchor(moved(state, move))
    torch.testing.assert_close(after, move(before), rtol=0, atol=1e-10)
    assert (before - LastFrame().anchor(state)).abs().max() > 0.05  # it does move


def test_depends_on_time_differences_only():
    state, anchor = walks((3, 2), 6, torch.tensor(MASKS[0]), dtype=F64), away()
    later = state.condition(times=state.cond["times"] + 100)
    torch.testing.assert_close(anchor.anchor(later), anchor.anchor(state), rtol=0, atol=1e-9)


def test_learns_an_oscillation_that_the_last_frames_determine():
    """x_{t+1} = 2 cos(w) x_t - x_{t-1} with w = 2.5 per frame, faster than one radian, is linear in two frames."""
    torch.manual_seed(0)
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])
    state = walks((4,) * 16, 8, mask, dtype=F64)
    phase = 2.5 * torch.arange(8, dtype=F64)
    centre, sine, cosine = (torch.randn(64, 1, 3, dtype=F64) for _ in range(3))
    true = centre + sine * phase.sin()[:, None] + cosine * phase.cos()[:, None]
    state = state.put(pos=true, observed=true * mask.to(F64)[:, None])
    anchor = LinearAnchor(3, rank=4, hidden=32, waves=16).to(F64)
    optimizer = torch.optim.Adam(anchor.parameters(), 1e-2)
    for _ in range(80):
        loss = (anchor.anchor(state) - true)[:, 4:].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    still = (LastFrame().anchor(state) - true)[:, 4:].square().mean()
    assert float(loss.detach()) < 0.05 * float(still)
