"""IrrepsNet: symmetries, handedness, its temporal layer against double sums, training and sampling."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from egtn_toy import moved, rotation, walks
from torch import Tensor, nn

from sciflow.core.config import from_config, to_config
from sciflow.core.denoiser import Denoiser
from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, PerSample, Recorder, Replay
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP, Cosine
from sciflow.core.state import Layout, State
from sciflow.domains.trajectories.anchors import Anchor, ConstantVelocity, LastFrame, LearnedAnchor, ResidualScale
from sciflow.domains.trajectories.network import EGTN
from sciflow.domains.trajectories.network_layers import Frames, sinusoids
from sciflow.model import load
from sciflow.objectives.regression import Regression
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral

pytest.importorskip("e3nn")
from sciflow.domains.trajectories.equivariant import IrrepsNet, TemporalIrreps, sizes  # noqa: E402

FORECAST = (torch.arange(8) < 3).float()
CLOCK = torch.tensor([0.2, 0.7, 0.9])
SIZES = (4, 1, 3)  # a single body has no messages
WIDTHS = {"scalars": 16, "pseudo": 4, "vectors": 8, "axial": 4}


def network(anchor: Anchor | None = None, dtype: torch.dtype = torch.float64, **options) -> IrrepsNet:
    """A network whose heads are not zero, for `walks`."""
    torch.manual_seed(3)
    options = {"layers": 2, "waves": 8, "zero_init": False, **WIDTHS, **options}
    return IrrepsNet(3, 2, anchor, **options).to(dtype).eval()


def predicted(net: EGTN, state: State) -> Tensor:
    """Prediction at the positions of the state."""
    return net(net.prepare(state), {"pos": CLOCK.to(state["pos"])})["pos"].detach()


def with_anchors(test):
    """Unconditional, and two anchors."""
    torch.manual_seed(0)
    learned = LearnedAnchor(3, 2, hidden=16, waves=8, zero_init=False).double()
    return pytest.mark.parametrize("anchor", [None, ConstantVelocity(), learned], ids=["free", "velocity", "learned"])(
        test
    )


# -- symmetries ------------------------------------------------------------------------------------------------------
@with_anchors
def test_rotations_and_shifts(anchor):
    net = network(anchor)
    state = walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    turn, shift = rotation(3), torch.tensor([3.0, -7.0, 10.0], dtype=torch.float64)
    out = predicted(net, state)
    assert out.abs().max() > 0.1
    assert (predicted(net, moved(state, lambda x: x @ turn.T + shift)) - out @ turn.T).abs().max() < 1e-10


def test_rotations_and_shifts_in_float32_at_full_width():
    widths = {"scalars": 64, "pseudo": 16, "vectors": 32, "axial": 16}
    net = network(ConstantVelocity(), torch.float32, layers=2, waves=32, zero_init=True, **widths)
    for name, weight in net.named_parameters():
        if name.endswith("head.weight"):
            nn.init.normal_(weight, std=0.02)
    state = walks((5, 5, 5), 30, (torch.arange(30) < 10).float())
    turn, shift = rotation(3).float(), torch.tensor([3.0, -7.0, 10.0])
    out = predicted(net, state)
    assert out.abs().max() > 0.1
    assert (predicted(net, moved(state, lambda x: x @ turn.T + shift)) - out @ turn.T).abs().max() < 2e-5


@with_anchors
def test_permutations(anchor):
    """The first sample's atoms in another order."""
    net, state = network(anchor), walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    order = torch.tensor([2, 0, 3, 1])
    rows, (i, j) = torch.cat([order, torch.arange(4, 8)]), torch.triu_indices(4, 4, 1)
    table = torch.zeros(4, 4, 2, dtype=torch.float64)
    table[i, j] = table[j, i] = state["pairs"][:6]
    pairs = torch.cat([table[order][:, order][i, j], state["pairs"][6:]])
    shuffled = state.put(pairs=pairs, **{name: state[name][rows] for name in ("pos", "observed", "atoms")})
    assert (predicted(net, shuffled) - predicted(net, state)[rows]).abs().max() < 1e-10


@with_anchors
def test_time_shift(anchor):
    net, state = network(anchor), walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    times = torch.tensor([0.0, 0.7, 1.1, 2.5, 3.0, 4.2, 4.9, 7.0], dtype=torch.float64).expand(3, 8)
    early, late = (predicted(net, state.condition(times=times + shift)) for shift in (0.0, 12345.0))
    assert (late - early).abs().max() < 1e-9
    assert (early - predicted(net, state)).abs().max() > 1e-3  # but the times do matter


def test_batch_mates_do_not_matter():
    net, state = network(LastFrame()), walks(SIZES, 8, FORECAST, dtype=torch.float64)
    alone = net(net.prepare(state.select([2])), {"pos": CLOCK[2:].double()})["pos"]
    assert (alone - predicted(net, state)[5:]).abs().max() < 1e-10


@with_anchors
@pytest.mark.parametrize("layers", [1, 3])
def test_reflections_are_no_symmetry_because_of_one_map(anchor, layers):
    """Mirror images get predictions that are no mirror images; without the map C they do, so all else keeps parity."""
    net = network(anchor, layers=layers)
    state = walks(SIZES, 8, None if anchor is None else FORECAST, dtype=torch.float64)
    mirror = rotation(3, determinant=-1)

    def gap() -> Tensor:
        return predicted(net, moved(state, lambda x: x @ mirror.T)) - predicted(net, state) @ mirror.T

    assert gap().abs().max() > 1e-3
    for block in net.blocks:
        nn.init.zeros_(block.spatial.handed.weight)  # type: ignore[union-attr]
    assert gap().abs().max() < 1e-10


# -- handedness ------------------------------------------------------------------------------------------------------
def tetrahedra(batch: int, seed: int) -> tuple[State, Tensor]:
    """Noisy, turned point sets with four kinds of points, and their handedness +1 or -1, (batch,)."""
    generator = torch.Generator().manual_seed(seed)
    side = (torch.arange(batch) % 2 * 2 - 1).float()
    corners = torch.tensor([[1.0, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    x = corners + 0.15 * torch.randn(batch, 2, 4, 3, generator=generator)
    x[..., 0] *= side[:, None, None]
    turn = torch.linalg.qr(torch.randn(batch, 3, 3, generator=generator))[0]
    x = x @ (turn * torch.linalg.det(turn)[:, None, None])[:, None]
    index = torch.arange(batch).repeat_interleave(4)
    plain = Layout(batch, index, sizes=(4,) * batch)
    fields = {"pos": x.transpose(1, 2).flatten(0, 1), "atoms": torch.eye(4).repeat(batch, 1)}
    fields |= {"observed": torch.zeros(4 * batch, 2, 3), "pairs": torch.zeros(6 * batch, 1)}
    layouts = dict.fromkeys(("pos", "atoms", "observed"), plain)
    layouts["pairs"] = Layout(batch, torch.arange(batch).repeat_interleave(6))
    cond = {"times": torch.arange(2.0).double().expand(batch, 2), "seen": torch.zeros(batch, 2)}
    return State(fields, layouts, cond), side


def readout(net: EGTN, state: State) -> Tensor:
    """An invariant number per sample: motion of point 0 along the way from point 1, mean of the frames, (batch,)."""
    motion = net(state, {"pos": torch.tensor(0.5)})["pos"].unflatten(0, (-1, 4))
    x = state["pos"].unflatten(0, (-1, 4))
    return (motion[:, 0] * (x[:, 0] - x[:, 1])).sum(-1).mean(-1)


def fitted(net: EGTN, steps: int) -> tuple[float, float]:
    """(Share of fresh samples whose handedness is the sign of the readout, last training loss)."""
    optimizer, loss = torch.optim.Adam(net.parameters(), lr=0.01), torch.tensor(0.0)
    for step in range(steps):
        state, side = tetrahedra(16, step)
        loss = (readout(net, state) - side).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        state, side = tetrahedra(400, 10_000)
        return float((readout(net, state).sign() == side).float().mean()), float(loss)


@pytest.mark.slow
def test_it_learns_left_from_right_and_egtn_does_not():
    """One readout for a set and its mirror image leaves EGTN with a loss of 1 at best, and half of 400 signs.

    A guess is right 240 times of 400 or more with probability 4e-5, 260 times with 1e-9.
    """
    torch.manual_seed(0)
    share, loss = fitted(IrrepsNet(4, 1, layers=1, waves=4, **WIDTHS), 60)
    blind, blind_loss = fitted(EGTN(4, 1, hidden=16, layers=2, waves=4), 60)
    print(f"IrrepsNet {share:.3f} {loss:.3f}, EGTN {blind:.3f} {blind_loss:.3f}")
    assert share > 0.98
    assert loss < 0.3
    assert blind < 0.65
    assert blind_loss > 0.7


def test_a_set_and_its_mirror_image_are_one_to_egtn():
    """Exactly, by any weights; the same difference is large for IrrepsNet."""
    torch.manual_seed(0)
    state, _ = tetrahedra(8, 0)
    state = state.map(lambda v: v.double() if v.is_floating_point() else v)
    mirrored = state.put(pos=state["pos"] * torch.tensor([1.0, 1, -1], dtype=torch.float64))
    nets = EGTN(4, 1, hidden=16, layers=2, zero_init=False), IrrepsNet(4, 1, layers=1, zero_init=False, **WIDTHS)
    gaps = [(readout(net.double(), state) - readout(net, mirrored)).abs() for net in nets]
    assert gaps[0].max() < 1e-10
    assert gaps[1].mean() > 1e-4


# -- layers ----------------------------------------------------------------------------------------------------------
def test_temporal_layer_is_its_double_sum():
    """Every pair of frames by itself: psi(t - s), inner products and x_t - x_s as written."""
    torch.manual_seed(0)
    widths, waves = (16, 4, 8, 4), 8
    layer = TemporalIrreps(widths, waves, False).double()
    h, x = torch.randn(3, 6, sum(sizes(widths))).double(), torch.randn(3, 6, 3).double()
    times = torch.rand(3, 6).double().cumsum(1) * 5
    got_h, got_x = layer(h, x, Frames(sinusoids(times, waves, torch.float64)))
    kinds = h.split([16, 4, 24, 12], -1)
    bounded = [v / (1 + v.square().sum(-1, keepdim=True) / n).sqrt() for v, n in zip(kinds, widths, strict=True)]
    query, key, value = (part(torch.cat(bounded, -1)) for part in layer.qkv)
    psi = layer.relative(sinusoids(times[:, :, None] - times[:, None], waves, torch.float64))  # (N, T, T, 16)
    logits = torch.einsum("ntc,nsc->nts", query, key)
    logits += torch.einsum("ntc,ntsc->nts", query[..., :16], psi)
    attention = (logits / sum(sizes(widths)) ** 0.5).softmax(-1)
    out = torch.einsum("nts,nsc->ntc", attention, value)
    out[..., :16] += torch.einsum("nts,ntsc->ntc", attention, psi)
    weight = layer.weigh(torch.nn.functional.silu(value[..., :16]))
    polar = torch.einsum("nts,nsv,ntsd->ntvd", attention, weight, x[:, :, None] - x[:, None])
    out[..., 20:44] += polar.flatten(-2)
    torch.testing.assert_close(got_h, h + out, rtol=0, atol=1e-10)
    push = torch.einsum("v,ntvd->ntd", layer.head.weight[0], out[..., 20:44].unflatten(-1, (8, 3)))
    torch.testing.assert_close(got_x, x + push, rtol=0, atol=1e-10)
    assert push.abs().max() > 0.01


def test_gradients_reach_every_parameter_and_stay_finite_where_points_coincide():
    net, state = network(), walks(SIZES, 8, FORECAST, dtype=torch.float64)
    net(state, {"pos": CLOCK.double()})["pos"].square().sum().backward()
    assert not [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()]
    pos = state["pos"].clone()
    pos[0] = pos[1]
    pos.requires_grad_()
    net.zero_grad()
    net(state.put(pos=pos), {"pos": CLOCK.double()})["pos"].square().sum().backward()
    assert pos.grad.isfinite().all()  # type: ignore[union-attr]
    assert all(weight.grad.isfinite().all() for weight in net.parameters())  # type: ignore[union-attr]


# -- sampling, training, files ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("anchor", [LastFrame(), ConstantVelocity()], ids=["last", "velocity"])
def test_samples_turn_with_observation_and_noise(anchor):
    net = network(anchor, scale=ResidualScale(), layers=1)
    state = walks((4, 1, 3), 8, torch.tensor([1.0, 1, 0, 0, 0, 1, 0, 0]), dtype=torch.float64)
    net.train().prepare(state)  # the residual scale sees data
    net.eval()
    turn, shift = rotation(3), torch.tensor([3.0, -7.0, 10.0], dtype=torch.float64)
    denoiser = Denoiser(net, {"pos": Anchored(GaussianProcess(VP(), kind="v"))})
    sampler = Sampler(dict(denoiser.processes), {"pos": Ancestral()}, Uniform())  # type: ignore[arg-type]

    def sample(start: State, noise) -> Tensor:
        with torch.no_grad():
            start = sampler.prior(denoiser.prepare(start), noise)
        return sampler.run(start, denoiser, noise, steps=50).state["pos"]

    noise = Recorder(PerSample(5))
    plain = sample(state, noise)
    turned_noise = Replay({key: [draw @ turn.T for draw in draws] for key, draws in noise.log.items()})
    turned = sample(moved(state, lambda x: x @ turn.T + shift), turned_noise)
    assert (turned - (plain @ turn.T + shift)).abs().max() < 1e-8
    assert (plain - state["pos"]).abs().max() > 0.1


def springs(batch: int, frames: int = 10, observed: int = 4) -> State:
    """Simulated bodies on springs as a clean state."""
    from sciflow.domains.trajectories.codec import TrajectoryCodec
    from sciflow.domains.trajectories.data import points
    from sciflow.domains.trajectories.nbody import simulate

    runs = simulate("springs", batch, frames=frames, seed=1)
    seen = np.arange(frames) < observed
    made = [
        points(x, 1.0, pairs=k[..., None], observed=seen) for x, k in zip(runs.positions, runs.couplings, strict=True)
    ]
    return TrajectoryCodec(frames, 1, 1).to_state(made)


@pytest.mark.slow
def test_it_trains_and_is_loaded_again(tmp_path):
    """40 steps of `Denoising` on 16 systems: the loss of v falls by 15 % from 1 (no motion predicted)."""
    from sciflow.training.denoising import Denoising

    torch.manual_seed(0)
    net = IrrepsNet(anchor=ConstantVelocity(), scale=ResidualScale(), layers=1, waves=8, **WIDTHS)
    processes = {"pos": Anchored(GaussianProcess(Cosine(), kind="v"))}
    plan = SamplingPlan({"pos": Ancestral()}, Uniform(0.999, 0.001), steps=5)
    module = Denoising(processes, net, {"pos": Regression("v")}, plan)
    net.build({"atoms": 1, "pairs": 1})
    optimizer, losses, data = torch.optim.Adam(net.parameters(), lr=0.01), [], springs(16)
    for step in range(40):
        loss = module.losses(data, Fresh(step))["pos"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    print(f"loss {losses[0]:.3f} -> {np.mean(losses[-10:]):.3f}")
    assert np.mean(losses[-10:]) < 0.85 * np.mean(losses[:3])
    module.model.save(tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors").denoiser.network
    state = net.eval().prepare(data)
    torch.testing.assert_close(
        again.eval()(state, {"pos": torch.tensor(0.4)}), net(state, {"pos": torch.tensor(0.4)}), rtol=0, atol=0
    )


def test_it_starts_at_rest_and_is_rebuilt_from_plain_json():
    net = IrrepsNet(anchor=LastFrame(), layers=1, **WIDTHS)
    net.build({"atoms": 3, "pairs": 2})
    assert predicted(net, walks(SIZES, 8, FORECAST)).abs().max() == 0
    assert [p.shape for p in from_config(to_config(net)).parameters()] == [p.shape for p in net.parameters()]


# -- what users see --------------------------------------------------------------------------------------------------
def test_errors(monkeypatch):
    with pytest.raises(UserError, match="2 dimensions, expected 3; use EGTN"):
        predicted(network(), walks(SIZES, 8, FORECAST, dims=2, dtype=torch.float64))
    with pytest.raises(UserError, match="at least 1 channel"):
        network(pseudo=0)
    monkeypatch.setitem(sys.modules, "e3nn", None)
    with pytest.raises(UserError, match=r"pip install 'sciflow\[e3nn\]'"):
        IrrepsNet()
