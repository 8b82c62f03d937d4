"""Reward fine-tuning on Toy A: networks, rewards and exact sums that its tests share."""

from __future__ import annotations

from typing import Any

import token_toy as toy
import torch
from token_toy import F64
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.denoiser import Denoiser
from sciflow.core.grids import Uniform
from sciflow.core.solver import Solver
from sciflow.core.state import Layout, State
from sciflow.model import Model
from sciflow.processes.masked import Masked
from sciflow.sampling import SamplingPlan
from sciflow.solvers.ancestral import Ancestral
from sciflow.solvers.any_order import AnyOrder
from sciflow.training.reward_figures import differentiable_reward
from sciflow.training.reward_path import PathObjective

ALPHA = toy.ALPHA
TEMPLATE = State({"seq": torch.zeros(1, 3, dtype=torch.long)}, {"seq": Layout(1)})


class TableNetwork(nn.Module, Configurable):
    """Logits of all 64 partial states as parameters; relaxed tokens by the multilinear extension."""

    clock_free = True

    def __init__(self, perturbed: float = 0.0) -> None:
        super().__init__()
        noise = torch.randn(64, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64)
        self.logits = nn.Parameter(toy.DENOISER.clamp_min(1e-9).log() + perturbed * noise)

    def forward(self, state: State, signals: Any) -> dict[str, Tensor]:
        return {"seq": toy.TableDenoiser(self.logits).data(state["seq"])}


class ToyReward:
    """The multilinear reward of Toy A."""

    differentiable = True

    def __call__(self, x: Tensor) -> Tensor:
        return toy.reward(x)


def denoiser(perturbed: float = 0.0, **options: Any) -> Denoiser:
    return Denoiser(TableNetwork(perturbed), {"seq": Masked(3, **options)})


def objective(moves: int, solver: Solver | None = None, **options: Any) -> PathObjective:
    plan = SamplingPlan({"seq": solver or Ancestral()}, Uniform(1.0, 0.0), moves, final="sample")
    options = {"grad_last": moves, **options}
    return PathObjective(differentiable_reward(ToyReward()), ALPHA, plan, **options)


def exact_path_kl(table: Tensor, moves: int | None) -> Tensor:
    """Divergence of paths from the exact denoiser: `moves` ancestral moves; None: one token at a time."""
    masked = (toy.PARTIAL == toy.MASK).to(F64)
    nats = (table * (table.log() - toy.DENOISER.clamp_min(1e-300).log())).nan_to_num(0).sum(-1)
    law, total = toy.start_law(table), torch.zeros(())
    for k in range(moves or 3, 0, -1):
        chance = 1 / k if moves else 1 / masked.sum(1, keepdim=True).clamp_min(1)
        total = total + (law * (chance * masked * nats).sum(1)).sum()
        law = law @ (toy.ancestral_matrix(table, k, k - 1) if moves else toy.event_matrix(table))
    return total


def exact_objective(table: Tensor, moves: int | None) -> Tensor:
    law = toy.ancestral_law(table, moves) if moves else toy.any_order_law(table)
    return (law * toy.REWARD).sum() - ALPHA * exact_path_kl(table, moves)


def table_of(network: Any) -> Tensor:
    return network.logits.softmax(-1)


def gradient(value: Tensor, network: Any) -> Tensor:
    return torch.autograd.grad(value, network.logits)[0]


def masked(batch: int) -> State:
    return toy.masked_state(batch, 3, 3)


def toy_model() -> Model:
    plan = SamplingPlan({"seq": AnyOrder()}, Uniform(1.0, 0.0), 3, final="sample")
    return Model({"seq": Masked(3)}, TableNetwork(), plan)
