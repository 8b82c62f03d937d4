"""Inverse folding: size, invariances, what is seen, and that training on real backbones lowers the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from sciflow.core.state import State
from sciflow.domains.sequences.inverse_folding import FoldReward, InverseFolding
from sciflow.domains.sequences.structure import Backbone, backbone_batch

MASK = 20


def real_batch(data_dir: Path, *names: str, end: int | None = None) -> State:
    """The named chains, cut to their first `end` residues."""
    with np.load(data_dir / "sequences" / "backbones.npz") as stored:
        return backbone_batch(
            [
                Backbone(
                    torch.from_numpy(stored[f"{name}.xyz"])[:end],
                    str(stored[f"{name}.seq"])[:end],
                    [str(number) for number in stored[f"{name}.resid"]][:end],
                )
                for name in names
            ]
        )


def half_masked(state: State, seed: int = 0) -> State:
    hidden = torch.rand(state["seq"].shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return state.put(seq=state["seq"].masked_fill(hidden, MASK))


@pytest.fixture
def network() -> InverseFolding:
    torch.manual_seed(0)
    return InverseFolding().eval()


def logits(network: InverseFolding, state: State) -> torch.Tensor:
    with torch.inference_mode():
        return network(network.prepare(state), {})["seq"]


def test_size_is_that_of_the_paper(network: InverseFolding):
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.7e6, rel=0.03)


def test_rigid_motion_changes_nothing(network: InverseFolding, data_dir: Path):
    state = half_masked(real_batch(data_dir, "2gi9", end=40))
    rotation, _ = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64))
    rotation = rotation * torch.linalg.det(rotation)
    moved = (state.cond["backbone"].double() @ rotation.T + torch.tensor([30.0, -10.0, 4.0])).float()
    assert (logits(network, state.condition(backbone=moved)) - logits(network, state)).abs().max() < 1e-4
    bent = state.cond["backbone"] * torch.tensor([1.0, 1.0, 1.1])
    assert (logits(network, state.condition(backbone=bent)) - logits(network, state)).abs().max() > 1e-3


def test_order_of_samples_and_padding_change_nothing(network: InverseFolding, data_dir: Path):
    state = half_masked(real_batch(data_dir, "1ejg", "2gi9"))
    both = logits(network, state)
    torch.testing.assert_close(logits(network, state.select([1, 0])), both[[1, 0]], atol=1e-4, rtol=1e-4)
    for row, length in enumerate(state.layouts["seq"].sizes or ()):
        alone = real_batch(data_dir, ("1ejg", "2gi9")[row]).put(seq=state["seq"][row : row + 1, :length])
        torch.testing.assert_close(logits(network, alone)[0], both[row, :length], atol=1e-4, rtol=1e-4)


def test_every_residue_sees_every_token_and_masks_too(network: InverseFolding, data_dir: Path):
    state = half_masked(real_batch(data_dir, "2gi9", end=20))
    base = logits(network, state)
    later = state["seq"].clone()
    later[0, 19] = (later[0, 19] + 1) % 20
    assert (logits(network, state.put(seq=later)) - base)[0, 0].abs().max() > 1e-6  # no causal mask
    masked = state["seq"].clone()
    masked[0, 10] = MASK if masked[0, 10] != MASK else 3
    assert (logits(network, state.put(seq=masked)) - base)[0].abs().amax(-1).min() > 1e-7


def test_relaxed_tokens_and_recomputed_layers_agree(data_dir: Path):
    state = half_masked(real_batch(data_dir, "1ejg", end=24))
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(0)
        network = InverseFolding(recompute=recompute, dropout=0.0, noise=0.0)
        soft = functional.one_hot(state["seq"], 21).float().requires_grad_()
        out = network(network.prepare(state.put(seq=soft)), {})["seq"]
        torch.testing.assert_close(out, network(network.prepare(state), {})["seq"], atol=1e-5, rtol=1e-5)
        out.square().sum().backward()
        gradients.append(
            [soft.grad, network.encoder.get_parameter("layers.0.third.weight").grad, network.tokens.weight.grad]
        )
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain is not None and float(plain.abs().max()) > 0
        torch.testing.assert_close(plain, recomputed, atol=1e-4, rtol=1e-4)


def test_noise_and_dropout_act_in_training_only(data_dir: Path):
    torch.manual_seed(0)
    network, state = InverseFolding(), half_masked(real_batch(data_dir, "1ejg", end=20))
    assert not torch.equal(logits(network, state), logits(network, state))
    assert torch.equal(network.prepare(state).cond["backbone"], state.cond["backbone"])
    network.eval()
    assert torch.equal(logits(network, state), logits(network, state))


@pytest.mark.slow
def test_training_on_real_backbones_lowers_the_loss(data_dir: Path):
    """Loss on a fixed half-masked chain, before and after 40 steps; memorising is what it must be able to do."""
    torch.manual_seed(0)
    state = real_batch(data_dir, "2gi9", end=32)
    network = InverseFolding(dropout=0.0, noise=0.02)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)

    def loss(seed: int) -> torch.Tensor:
        noised = half_masked(state, seed)
        hidden = noised["seq"] == MASK
        return functional.cross_entropy(network(network.prepare(noised), {})["seq"][hidden], state["seq"][hidden])

    first = loss(1000).item()
    for seed in range(40):
        optimizer.zero_grad()
        loss(seed).backward()
        optimizer.step()
    assert first > 2.5  # log 20 = 3.0 untrained
    assert loss(1000).item() < first - 0.7


def test_reward_pools_real_residues_and_is_differentiable(data_dir: Path):
    torch.manual_seed(0)
    reward = FoldReward().eval()
    state = real_batch(data_dir, "1ejg", "2gi9", end=50)
    both = reward(state)
    assert both.shape == (2,)
    alone = reward(real_batch(data_dir, "1ejg", end=50))
    torch.testing.assert_close(both[:1], alone, atol=1e-4, rtol=1e-4)
    soft = functional.one_hot(state["seq"], 21).float().requires_grad_()
    reward(state.put(seq=soft)).sum().backward()
    assert soft.grad is not None and float(soft.grad.abs().max()) > 0
    missing = reward.load_state_dict(InverseFolding().state_dict(), strict=False)
    assert all(name.startswith("head.") for name in missing.missing_keys)
