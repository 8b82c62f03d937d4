"""EGTN against its formulas, and its symmetries (geotdm.md, section 16): rotation, shifts, permutation, time."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from egtn_formula import reference
from egtn_toy import learned, moved, network, rotation, walks
from torch import Tensor

from sciflow.core.config import from_config, to_config
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import (
    CentreOfMass,
    ConstantVelocity,
    LastFrame,
    LearnedAnchor,
    ResidualScale,
)
from sciflow.domains.trajectories.edge_messages import EdgeMessages
from sciflow.domains.trajectories.network import EGTN

FORECAST = (torch.arange(8) < 3).float()
CLOCK = torch.tensor([0.2, 0.7, 0.9])
SIZES = (4, 1, 3)  # a single body has no messages


def predicted(net: EGTN, state: State) -> Tensor:
    """Prediction at the positions of the state."""
    return net(net.prepare(state), {"pos": CLOCK.to(state["pos"])})["pos"].detach()


def permuted(state: State) -> tuple[State, Tensor]:
    """The first sample's atoms in another order, and that order of all rows."""
    order = torch.tensor([2, 0, 3, 1])
    rows = torch.cat([order, torch.arange(4, 8)])
    fields = {name: state[name][rows] for name in ("pos", "observed", "atoms")}
    table = torch.zeros(4, 4, state["pairs"].shape[1], dtype=state["pairs"].dtype)
    i, j = torch.triu_indices(4, 4, 1)
    table[i, j] = table[j, i] = state["pairs"][:6]
    shuffled = table[order][:, order][i, j]
    layout = state.layouts["pos"]
    kept = {"mask": None if layout.mask is None else layout.mask[rows]}
    layouts = {**state.layouts, "pos": replace(layout, **kept)}
    return replace(state.put(**fields, pairs=torch.cat([shuffled, state["pairs"][6:]])), layouts=layouts), rows


@pytest.mark.parametrize(
    "options", [{}, {"logit_scale": 1.0, "residual": False, "flag": False}, {"bonded": True}], ids=str
)
@pytest.mark.parametrize("dims", [2, 3])
def test_factorised_form_is_the_formula(options, dims):
    net = network(**options)
    state = walks(SIZES, 8, FORECAST, dims=dims, bonds=0.6, dtype=torch.float64)
    out = net(state, {"pos": CLOCK.double()})["pos"]
    expected = reference(net, state, {"pos": CLOCK.double()}) * state.layouts["pos"].mask  # type: ignore[operator]
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-6)  # the formula takes its sinusoids in float32
    assert out.abs().max() > 0.01


def test_gradients_of_the_messages():
    """The backward pass written by hand, against finite differences."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    n, t, h, receivers, senders = 3, 2, 4, torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1, 0, 0, 2, 2])
    inputs = [normal(n, t, h), normal(n, t, h), normal(5, h), normal(5, t, 1), normal(h)]
    inputs += [normal(h, h), normal(h), normal(h, h), normal(h), normal(1, h), normal(1)]
    assert torch.autograd.gradcheck(lambda *v: EdgeMessages.apply(*v, receivers, senders, True), inputs)


def test_gradients_of_the_network_are_those_of_the_formula():
    net, state = network(), walks((4, 3), 8, FORECAST, dtype=torch.float64)
    clock = {"pos": CLOCK[:2].double()}
    mask: Tensor = state.layouts["pos"].mask  # type: ignore[assignment]
    target = torch.randn_like(state["pos"])
    grads = []
    for out in (net(state, clock)["pos"], reference(net, state, clock) * mask):
        loss = ((out - target) ** 2).sum()
        grads.append(torch.autograd.grad(loss, list(net.parameters()), allow_unused=True, materialize_grads=True))
    for got, expected in zip(*grads, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


anchors = pytest.mark.parametrize(
    "anchor", [None, LastFrame(), CentreOfMass(), CentreOfMass(True), ConstantVelocity(), learned()],
    ids=["free", "last", "centre", "centre-last", "velocity", "learned"],
)  # fmt: skip


@anchors
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("determinant", [1, -1], ids=["rotation", "reflection"])
def test_rotations_turn_anchor_and_prediction(anchor, dims, determinant):
    """Reflections too: EGTN cannot tell mirror images apart (for the record)."""
    net = network(anchor)
    state = walks(SIZES, 8, None if anchor is None else FORECAST, dims=dims, dtype=torch.float64)
    turn = rotation(dims, determinant=determinant)
    turned = moved(state, lambda x: x @ turn.T)
    assert (predicted(net, turned) - predicted(net, state) @ turn.T).abs().max() < 1e-10
    if anchor is not None:
        before, after = (net.prepare(s).layouts["pos"].anchor for s in (state, turned))
        assert (after - before @ turn.T).abs().max() < 1e-10  # type: ignore[operator]


@anchors
def test_shifts_change_nothing_but_the_anchor(anchor):
    net, shift = network(anchor), torch.tensor([10.0, -20.0, 1000.0], dtype=torch.float64)
    state = walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    far = moved(state, lambda x: x + shift)
    assert (predicted(net, far) - predicted(net, state)).abs().max() < 1e-10
    if anchor is not None:
        before, after = (net.prepare(s).layouts["pos"].anchor for s in (state, far))
        assert (after - before - shift).abs().max() < 1e-10  # type: ignore[operator]


@anchors
def test_a_thousand_away_in_float32(anchor):
    """Positions in steps of 2^-12 are the same numbers plus 1000 in float32; the network loses no digit by it."""
    net = network(anchor, dtype=torch.float32, hidden=128, layers=6, waves=32, zero_init=True)
    for name, weight in net.named_parameters():
        if name.endswith(("coord_out.weight", "x_out.weight")):
            torch.nn.init.normal_(weight, std=0.02)
    state = walks((5, 5, 5), 30, None if anchor is None else (torch.arange(30) < 10).float())
    state = moved(state, lambda x: (x * 4096).round() / 4096)
    out = predicted(net, state)
    far = predicted(net, moved(state, lambda x: x + 1000))
    assert out.abs().max() > 0.01
    assert (far - out).abs().max() < 1e-5


@anchors
def test_permutations(anchor):
    net = network(anchor)
    state = walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    shuffled, rows = permuted(state)
    torch.testing.assert_close(predicted(net, shuffled), predicted(net, state)[rows], rtol=0, atol=1e-10)


@anchors
def test_time_shift(anchor):
    """Only time differences enter, at irregular times too."""
    net, state = network(anchor), walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    times = torch.tensor([0.0, 0.7, 1.1, 2.5, 3.0, 4.2, 4.9, 7.0], dtype=torch.float64).expand(3, 8)
    early, late = (predicted(net, state.condition(times=times + shift)) for shift in (0.0, 12345.0))
    torch.testing.assert_close(late, early, rtol=0, atol=1e-9)
    assert (early - predicted(net, state)).abs().max() > 1e-3  # but the times do matter


def test_batch_mates_do_not_matter():
    net = network(learned())
    seen = torch.stack([(torch.arange(8) < 3).float(), (torch.arange(8) % 3 == 0).float(), FORECAST])
    state = walks(SIZES, 8, seen, dtype=torch.float64)
    together = predicted(net, state)
    alone = net(net.prepare(state.select([1])), {"pos": CLOCK[1:2].double()})["pos"]
    torch.testing.assert_close(alone, together[4:5], rtol=0, atol=1e-10)


def test_unconditional_predictions_have_zero_mean():
    out = predicted(network(), walks((4, 1, 3), 8, None, dtype=torch.float64))
    for rows in (out[:4], out[4:5], out[5:]):
        assert rows.mean((0, 1)).abs().max() < 1e-12


def test_it_starts_at_rest_and_is_rebuilt_from_plain_json():
    net = EGTN(anchor=LearnedAnchor(hidden=16, waves=8), scale=ResidualScale(), hidden=16, layers=2)
    net.build({"atoms": 3, "pairs": 2})
    state = net.eval().prepare(walks((4, 3), 8, FORECAST))
    assert net(state, {"pos": CLOCK[:2]})["pos"].abs().max() == 0
    copy = from_config(to_config(net)).eval()
    copy.load_state_dict(net.state_dict())
    again = copy.prepare(walks((4, 3), 8, FORECAST))
    torch.testing.assert_close(again.layouts["pos"].anchor, state.layouts["pos"].anchor)
    assert net.prepare(state) is state  # prepared once


def test_directed_pair_features():
    """(P, 2, E) with equal halves is (P, E); unequal halves are not."""
    net, state = network(), walks(SIZES, 8, FORECAST, dtype=torch.float64)
    both = state["pairs"][:, None].repeat(1, 2, 1)
    torch.testing.assert_close(predicted(net, state.put(pairs=both)), predicted(net, state))
    assert (
        predicted(net, state.put(pairs=both * torch.tensor([1.0, -1.0])[None, :, None])) - predicted(net, state)
    ).abs().max() > 1e-4
