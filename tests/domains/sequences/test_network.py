"""The dilated CNN against a plain form, and against the published time-conditioned form, both written here."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from sciflow.core.config import from_config, to_config
from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.sequences.codec import sequence_state
from sciflow.domains.sequences.network import SequenceCNN


def lively(network: nn.Module) -> nn.Module:
    """Random values in all parameters, so that zeros and ones of the start hide nothing."""
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.3
        parameter.data = torch.randn(parameter.shape, generator=generator) * scale
    return network


class Published(nn.Module):
    """drakes.md, section 5.1: channels first, padding multiplied, time conditioning."""

    def __init__(self, hidden: int = 128, stacks: int = 4, letters: int = 4) -> None:
        super().__init__()
        dilations = [d for d in (1, 1, 4, 16, 64) for _ in range(stacks)]
        self.letters = letters
        self.frequencies = nn.Parameter(torch.randn(hidden // 2) * 30, requires_grad=False)
        self.time = nn.Linear(hidden, hidden)
        self.first = nn.Conv1d(letters + 1, hidden, 9, padding=4)
        self.times = nn.ModuleList(nn.Linear(hidden, hidden) for _ in dilations)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in dilations)
        self.convolutions = nn.ModuleList(nn.Conv1d(hidden, hidden, 9, padding=4 * d, dilation=d) for d in dilations)
        self.final = nn.Sequential(nn.Conv1d(hidden, hidden, 1), nn.ReLU(), nn.Conv1d(hidden, letters + 1, 1))

    def code(self, t: torch.Tensor) -> torch.Tensor:
        angle = 2 * math.pi * t[:, None] * self.frequencies
        return functional.relu(self.time(torch.cat([angle.sin(), angle.cos()], 1)))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        h = functional.relu(self.first(functional.one_hot(x, self.letters + 1).float().transpose(1, 2)))
        for time, norm, convolution in zip(self.times, self.norms, self.convolutions, strict=True):
            y = norm((h + time(self.code(t))[:, :, None]).transpose(1, 2)).transpose(1, 2)
            h = h + functional.relu(convolution(y))
        return self.final(h).transpose(1, 2)


def folded(published: Published, hidden: int, stacks: int) -> SequenceCNN:
    """The same function at clock zero: vectors instead of maps of a constant, no logit of the mask."""
    network, code = SequenceCNN(published.letters, hidden, stacks), published.code(torch.zeros(1))
    network.first.load_state_dict(published.first.state_dict())
    network.norms.load_state_dict(published.norms.state_dict())
    network.convolutions.load_state_dict(published.convolutions.state_dict())
    with torch.no_grad():
        network.shifts.copy_(torch.cat([time(code) for time in published.times]))
        for layer, source, rows in ((network.mix, published.final[0], hidden), (network.last, published.final[2], 4)):
            layer.weight.copy_(source.weight[:rows, :, 0])
            layer.bias.copy_(source.bias[:rows])
    return network


def random_tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(0, 5, (batch, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("length", [1, 4, 9, 50, 200, 300])
def test_equals_the_published_form_at_clock_zero(length):
    """At 1 and 4 only the middle taps of dilations 4, 16, 64 see the sequence; at 300 all but the outermost."""
    published = lively(Published(32, 2))
    x = random_tokens(3, length)
    found = folded(published, 32, 2)(sequence_state(x, [length] * 3), {})["seq"]
    expected = published(x, torch.zeros(3))[..., :4]
    assert found.shape == (3, length, 4)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    planted = folded(published, 32, 2)
    planted.shifts.data[0, 0] += 1e-2  # the comparison sees a small fault
    assert (planted(sequence_state(x, [length] * 3), {})["seq"] - expected).abs().max() > 1e-5


def test_number_of_parameters_at_the_published_size():
    """3,326,661, of which the clock branch and the mask's logit go and 20 vectors come."""
    published, own = (sum(p.numel() for p in net.parameters()) for net in (Published(), SequenceCNN()))
    assert (published, own) == (3_326_661, 2_982_276)
    clock = 64 + (128 * 128 + 128) + 20 * (128 * 128 + 128)
    assert published - clock - (128 + 1) + 20 * 128 == own


def test_padding_changes_nothing():
    network = lively(SequenceCNN(4, 32, 1))
    lengths = [40, 7, 1, 23]
    x = random_tokens(4, 40)
    inside = torch.arange(40) < torch.tensor(lengths)[:, None]
    batch = network(sequence_state(torch.where(inside, x, 0), lengths), {})["seq"]
    for row, length in enumerate(lengths):
        alone = network(sequence_state(x[row : row + 1, :length], [length]), {})["seq"]
        torch.testing.assert_close(batch[row : row + 1, :length], alone, atol=1e-5, rtol=1e-5)
    blind = sequence_state(torch.where(inside, x, 0), [40] * 4)  # without a mask the padding is seen
    assert (network(blind, {})["seq"][1, :7] - batch[1, :7]).abs().max() > 1e-2


def test_relaxed_tokens_are_the_same_input():
    network = lively(SequenceCNN(4, 32, 1))
    x = random_tokens(2, 30)
    hard = sequence_state(x, [30, 30])
    soft = State({"seq": functional.one_hot(x, 5).float().requires_grad_()}, hard.layouts)
    found = network(soft, {})["seq"]
    torch.testing.assert_close(found, network(hard, {})["seq"])
    (gradient,) = torch.autograd.grad(found.square().sum(), soft["seq"])
    direction = torch.randn(soft["seq"].shape, generator=torch.Generator().manual_seed(0))
    step = 1e-3
    with torch.no_grad():
        ends = [
            network(soft.put(seq=soft["seq"] + sign * step * direction), {})["seq"].square().sum() for sign in (1, -1)
        ]
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / (2 * step), rtol=1e-2, atol=1e-2)


def test_clock_is_not_needed():
    assert SequenceCNN.clock_free
    network = lively(SequenceCNN(4, 16, 1))
    state = sequence_state(random_tokens(2, 20), [20, 20])
    values = [network(state, {"seq": torch.full((2,), t)})["seq"] for t in (0.1, 0.9)]
    assert torch.equal(*values)


def test_data_with_other_letters_are_refused():
    network = SequenceCNN(4, 16, 1)
    network.build({"seq": 4})
    with pytest.raises(UserError, match="data have 20 letters, network and process expect 4"):
        network.build({"seq": 20})


def test_checkpoint_rebuilds_the_network():
    network = SequenceCNN(20, 16, 1)
    again = from_config(to_config(network))
    assert [p.shape for p in again.parameters()] == [p.shape for p in network.parameters()]
