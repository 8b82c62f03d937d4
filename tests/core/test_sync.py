"""The loop never waits for the device: no value of a field is looked at on the host.

The meta device holds shapes and no numbers, so reading one (`item`, `bool`, `nonzero`, a copy to the host) raises. A
run on it is a proof for every accelerator.
"""

from __future__ import annotations

import pytest
import torch

from sciflow.core.grids import Uniform
from sciflow.core.noise import PerSample
from sciflow.core.process import Prediction
from sciflow.core.sampler import Sampler
from sciflow.core.schedules import VP
from sciflow.core.spaces import SymmetricMatrix, ZeroCoM
from sciflow.core.state import Layout, State
from sciflow.processes.gaussian import GaussianProcess
from sciflow.processes.jump import Jump
from sciflow.processes.masked import Masked
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.dpmpp import DPMpp2M
from sciflow.solvers.euler_maruyama import EulerMaruyama
from sciflow.solvers.gillespie import Gillespie
from sciflow.solvers.heun import Heun
from sciflow.solvers.langevin import Langevin
from sciflow.solvers.reverse_diffusion import ReverseDiffusion
from sciflow.solvers.s4 import S4


def network(processes):
    def denoise(state, clocks):
        return {
            name: Prediction(state[name] * 0.5, "noise", process, state[name], clocks[name], state.layouts[name])
            for name, process in processes.items()
        }

    return denoise


def meta_state() -> State:
    mask = torch.ones(3, 5, 1, device="meta")
    index = torch.zeros(7, dtype=torch.long, device="meta")
    fields = {"x": torch.empty(3, 5, 2, device="meta"), "adj": torch.empty(3, 5, 5, 4, device="meta")}
    layouts = {"x": Layout(3, mask=mask), "adj": Layout(3, mask=(mask * mask.transpose(1, 2))[..., None])}
    return State({**fields, "pos": torch.empty(7, 3, device="meta")}, {**layouts, "pos": Layout(3, index)})


@pytest.mark.parametrize(
    "solver",
    [Ancestral(), EulerMaruyama(), DPMpp2M(), Heun(), S4(), ReverseDiffusion(10)],
    ids=lambda s: type(s).__name__,
)
def test_no_value_is_read_on_the_host(solver):
    spaces = {"x": None, "adj": SymmetricMatrix(), "pos": ZeroCoM()}
    processes = {name: GaussianProcess(VP(), space) for name, space in spaces.items()}
    correctors = dict.fromkeys(processes, Langevin())
    sampler = Sampler(processes, dict.fromkeys(processes, solver), Uniform(), correct=correctors)
    noise = PerSample(0)
    state = sampler.prior(meta_state(), noise)
    result = sampler.run(state, network(processes), noise, steps=2, final="mean").state
    assert all(result[name].device.type == "meta" for name in processes)
    assert all(result[name].shape == state[name].shape for name in processes)


def test_tokens_are_not_read_on_the_host():
    process = Masked(4)
    state = State({"seq": torch.empty(3, 6, dtype=torch.long, device="meta")}, {"seq": Layout(3)})

    def denoise(state, clocks):
        logits = torch.empty(3, 6, 4, device="meta")
        return {"seq": Prediction(logits, "logits", process, state["seq"], clocks["seq"], Layout(3))}

    sampler = Sampler({"seq": process}, {"seq": Ancestral()}, Uniform())
    assert sampler.run(state, denoise, PerSample(0), steps=3).state["seq"].device.type == "meta"


def test_the_meta_device_notices_a_read():
    """Control: Gillespie must look whether any chain is still running, and says so in its docstring."""
    process = Jump(3)
    state = State({"s": torch.empty(3, dtype=torch.long, device="meta")}, {"s": Layout(3)})

    def denoise(state, clocks):
        rates = torch.empty(3, 3, device="meta")
        return {"s": Prediction(rates, "rates", process, state["s"], clocks["s"], Layout(3))}

    sampler = Sampler({"s": process}, {"s": Gillespie()}, Uniform())
    with pytest.raises((RuntimeError, NotImplementedError)):
        sampler.run(state, denoise, PerSample(0), steps=1)
