"""Cross-attention: symmetries, any masks, reading once, and what its softmax runs over."""

from __future__ import annotations

import pytest
import torch
from egtn_toy import learned, moved, rotation, walks
from torch import Tensor

from sciflow.core.state import State
from sciflow.domains.trajectories.cross import CrossEGTN
from sciflow.domains.trajectories.network import ClockCode

CLOCK = torch.tensor([0.2, 0.7, 0.9], dtype=torch.float64)
MASKS = torch.stack([(torch.arange(8) < 3).float(), (torch.arange(8) % 3 == 1).float(), (torch.arange(8) > 4).float()])
SIZES = (4, 1, 3)


def network() -> CrossEGTN:
    torch.manual_seed(1)
    return CrossEGTN(3, 2, learned(), hidden=16, layers=2, waves=8, zero_init=False, clock=ClockCode(8)).double()


def predicted(net: CrossEGTN, state: State) -> Tensor:
    return net(net.prepare(state), {"pos": CLOCK[: state.batch]})["pos"].detach()


def test_symmetries():
    net, state, turn = network(), walks(SIZES, 8, MASKS, dtype=torch.float64), rotation(3)
    plain = predicted(net, state)
    assert plain.abs().max() > 0.01
    turned = predicted(net, moved(state, lambda x: x @ turn.T + 1000))
    assert (turned - plain @ turn.T).abs().max() < 1e-9
    late = predicted(net, state.condition(times=state.cond["times"] + 777))
    torch.testing.assert_close(late, plain, rtol=0, atol=1e-9)


def test_samples_of_any_masks_do_not_see_each_other_nor_the_padding():
    """One batch of three masks; each sample alone, prepared before or after the choice."""
    net, state = network(), walks(SIZES, 8, MASKS, dtype=torch.float64)
    together, prepared = predicted(net, state), net.prepare(state)
    for sample, rows in enumerate((slice(0, 4), slice(4, 5), slice(5, 8))):
        for part in (state, prepared):
            alone = net(net.prepare(part.select([sample])), {"pos": CLOCK[sample : sample + 1]})["pos"]
            torch.testing.assert_close(alone, together[rows], rtol=0, atol=1e-10)
    seen = MASKS[torch.tensor([0, 0, 0, 0, 1, 2, 2, 2])] > 0
    assert (together[seen] == 0).all()
    assert (together[~seen].abs().sum(-1) > 0).all()


def test_observed_frames_are_read_once():
    """After `prepare`, observed positions no longer enter; the context does, and gradients flow to what was read."""
    net, state = network(), walks(SIZES, 8, MASKS, dtype=torch.float64)
    prepared = net.prepare(state)
    out = net(prepared, {"pos": CLOCK})["pos"]
    seen = MASKS[torch.tensor([0, 0, 0, 0, 1, 2, 2, 2])] > 0
    elsewhere = torch.where(seen[:, :, None], 7.0, prepared["pos"])
    torch.testing.assert_close(net(prepared.put(pos=elsewhere), {"pos": CLOCK})["pos"], out)
    assert (net(prepared.put(context=0 * prepared["context"]), {"pos": CLOCK})["pos"] - out).abs().max() > 1e-3
    out.square().sum().backward()
    assert net.blocks[0].temporal.k_out.weight.grad.abs().max() > 0  # type: ignore[union-attr, operator]


@pytest.mark.parametrize(
    "seen", [torch.zeros(3, 8), torch.stack([MASKS[0], torch.zeros(8), MASKS[2]])], ids=["none", "some"]
)
def test_nothing_observed(seen):
    assert predicted(network(), walks(SIZES, 8, seen, dtype=torch.float64)).isfinite().all()
