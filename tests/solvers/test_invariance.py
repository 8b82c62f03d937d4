"""What a sample depends on, end to end: not on batch-mates, padding or rank; symmetries of the network reach it."""

from __future__ import annotations

import pytest
import torch
from oracles import F64

from sciflow.core import schedules
from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.noise import Fresh, Move, PerSample, Rotated
from sciflow.core.sampler import Sampler
from sciflow.core.spaces import SymmetricMatrix, ZeroCoM
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin
from sciflow.solvers.s4 import S4

VP = schedules.VP(0.1, 10.0)
GRID = Uniform(0.9, 0.1)


def process(kind: str = "noise", space=None) -> GaussianProcess:
    return GaussianProcess(VP, space, kind)


def joint_network(state, signals):
    """Each sample's tokens and vector see each other: sums over the rows of the sample only."""
    seq, x, layout = state["seq"], state["x"], state.layouts["seq"]
    rows = (seq + 1).to(x.dtype)
    message = x.new_zeros(layout.batch).index_add(0, layout.index, rows) / 8
    logits = torch.stack([rows * 0.3, x.mean(1)[layout.index], message[layout.index]], -1)
    return {"seq": logits, "x": torch.tanh(x + message[:, None]) * signals["x"]}


JOINT_PROCESSES = {"seq": Masked(3), "x": process("noise")}


def joint_state(sizes) -> State:
    index = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    fields = {"seq": torch.zeros(sum(sizes), dtype=torch.long), "x": torch.zeros(len(sizes), 2, dtype=F64)}
    return State(fields, {"seq": Layout(len(sizes), index, sizes=tuple(sizes)), "x": Layout(len(sizes))})


def generate(sampler, template, noise, denoiser, steps: int = 8):
    return sampler.run(sampler.prior(template, noise), denoiser, noise, steps=steps).state


@pytest.mark.parametrize("solver", [EulerMaruyama(), Heun(), S4(snr=0.0)], ids=lambda s: type(s).__name__)
def test_ragged_batch_equals_one_by_one(solver):
    """Ragged tokens + dense vector: a batch of four samples of different sizes against each sample alone."""
    sampler = Sampler(JOINT_PROCESSES, {"seq": Ancestral(), "x": solver}, GRID)
    denoiser, sizes = Denoiser(joint_network, JOINT_PROCESSES), [3, 1, 5, 2]
    batch = generate(sampler, joint_state(sizes), PerSample(11), denoiser)
    assert len(set(batch["seq"].tolist())) > 2
    for i, size in enumerate(sizes):
        alone = generate(sampler, joint_state([size]), PerSample(11, samples=i), denoiser)
        mine = batch.select([i])
        assert torch.equal(mine["seq"], alone["seq"])
        torch.testing.assert_close(mine["x"], alone["x"], rtol=0, atol=1e-12)


def graph_network(state, signals):
    """Equivariant toy network: x -> adj x, adj -> x x^T, masked and symmetric."""
    x, adj = state["x"], state["adj"]
    message = adj @ x + x.sum(1, keepdim=True) / 5
    pair = torch.tanh(x @ x.transpose(1, 2) + adj)
    eye = torch.eye(adj.shape[1], dtype=adj.dtype)
    return {
        "x": torch.tanh(message) * state.layouts["x"].mask,
        "adj": pair * (1 - eye) * state.layouts["adj"].mask,
    }


GRAPH_PROCESSES = {"x": process("score"), "adj": process("noise", SymmetricMatrix())}


def graph_state(sizes, padded: int, dtype=torch.float32) -> State:
    mask = (torch.arange(padded)[None] < torch.tensor(sizes)[:, None]).to(dtype)
    layouts = {
        "x": Layout(len(sizes), mask=mask[..., None], sizes=tuple(sizes)),
        "adj": Layout(len(sizes), mask=mask[:, :, None] * mask[:, None], sizes=tuple(sizes)),
    }
    shape = len(sizes), padded
    return State({"x": torch.zeros(*shape, 3, dtype=dtype), "adj": torch.zeros(*shape, padded, dtype=dtype)}, layouts)


def graph_sampler() -> Sampler:
    return Sampler(
        GRAPH_PROCESSES,
        {"x": EulerMaruyama(), "adj": S4(snr=0.0)},
        GRID,
        correct=dict.fromkeys(GRAPH_PROCESSES, Langevin()),
    )


def test_a_sample_does_not_depend_on_batch_padding_or_rank():
    """Sample 37: alone, in a batch of 64, padded to 9 nodes, and as second sample of another rank's batch.

    The numbers drawn are the same bit for bit; the float32 end states agree to 1e-4 (sums run in another order).
    """
    sizes = [2 + i % 5 for i in range(64)]
    sampler, denoiser, seed = graph_sampler(), Denoiser(graph_network, GRAPH_PROCESSES), 5
    batch = generate(sampler, graph_state(sizes, 6), PerSample(seed), denoiser)
    n = sizes[37]
    others = {
        "alone": (graph_state([n], n), PerSample(seed, samples=37), 0),
        "padded": (graph_state([n], 9), PerSample(seed, samples=37), 0),
        "other rank": (graph_state(sizes[36:40], 7), PerSample(seed, samples=36), 1),
        "any order": (graph_state([sizes[3], n], 6), PerSample(seed, samples=torch.tensor([3, 37])), 1),
    }
    move = Move(4, *GRID.moves(8)[4])
    for name, (template, noise, place) in others.items():
        mine = generate(sampler, template, noise, denoiser)
        for field in ("x", "adj"):
            drawn = noise.at(field, move).normal(template[field], template.layouts[field])
            wanted = PerSample(seed).at(field, move).normal(batch[field], batch.layouts[field])
            crop = (slice(n),) if field == "x" else (slice(n), slice(n))
            if field == "x" or template["adj"].shape == batch["adj"].shape:
                assert torch.equal(drawn[place][crop], wanted[37][crop]), name
            torch.testing.assert_close(mine[field][place][crop], batch[field][37][crop], rtol=0, atol=1e-4, msg=name)


# ---------------------------------------------------------------- end-to-end equivariance


def test_permuting_the_nodes_permutes_the_sample():
    """run(P x1, P noise) = P run(x1, noise). Pair noise is drawn for the upper triangle: P acts on its mirror image."""
    order = torch.tensor([3, 0, 4, 1, 2])
    sampler, denoiser = graph_sampler(), Denoiser(graph_network, GRAPH_PROCESSES)
    template, noise = graph_state([5, 5], 5, F64), PerSample(2)

    def pairs(a):
        return a[:, order][:, :, order]

    def mirrored(z):
        upper = z.triu(1)
        return pairs(upper + upper.transpose(1, 2))

    start = sampler.prior(template, noise)
    moved = start.put(x=start["x"][:, order], adj=pairs(start["adj"]))
    end = sampler.run(start, denoiser, noise, steps=10).state
    turned = Rotated(noise, {"x": lambda z: z[:, order], "adj": mirrored})
    other = sampler.run(moved, denoiser, turned, steps=10).state
    torch.testing.assert_close(other["x"], end["x"][:, order], rtol=0, atol=1e-10)
    torch.testing.assert_close(other["adj"], pairs(end["adj"]), rtol=0, atol=1e-10)
    assert not torch.allclose(end["x"], end["x"][:, order], atol=1e-2)


def point_network(state, signals):
    """Rotation-equivariant toy network: forces along the pair vectors of each sample, weighted by distance."""
    x, layout = state["x"], state.layouts["x"]
    difference = x[:, None] - x[None]
    weight = torch.exp(-(difference**2).sum(-1)) * (layout.index[:, None] == layout.index[None])
    return {"x": (weight[..., None] * difference).sum(1) * (1 + signals["x"])}


@pytest.mark.parametrize("solver", [EulerMaruyama(), Ancestral(), Heun(), DPMpp2M()], ids=lambda s: type(s).__name__)
def test_rotating_the_prior_and_the_noise_rotates_the_sample(solver):
    """run(R x1, R noise) = R run(x1, noise) on centred ragged points; the centre of mass stays at zero."""
    processes = {"x": process("score", ZeroCoM())}
    rotation, _ = torch.linalg.qr(Fresh(9).normal(torch.zeros(3, 3, dtype=F64), Layout(3)))
    index = torch.arange(3).repeat_interleave(torch.tensor([4, 2, 5]))
    template = State({"x": torch.zeros(11, 3, dtype=F64)}, {"x": Layout(3, index, sizes=(4, 2, 5))})
    sampler = Sampler(processes, {"x": solver}, GRID, correct={"x": Langevin()})
    denoiser, noise = Denoiser(point_network, processes), PerSample(4)
    start = sampler.prior(template, noise)
    end = sampler.run(start, denoiser, noise, steps=10).state["x"]
    turned = Rotated(noise, {"x": lambda z: z @ rotation})
    other = sampler.run(start.put(x=start["x"] @ rotation), denoiser, turned, steps=10).state["x"]
    torch.testing.assert_close(other, end @ rotation, rtol=0, atol=1e-10)
    centre = torch.zeros(3, 3, dtype=F64).index_add(0, index, end)
    assert float(centre.abs().max()) < 1e-12 and float(end.abs().max()) > 0.1
