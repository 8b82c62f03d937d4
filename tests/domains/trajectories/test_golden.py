"""EGTN, its learned anchor, the DDPM table and the gradients against the values recorded from the released code.

Tolerances of geotdm.md, section 16: 5e-6 on outputs and losses, 2e-5 on gradients.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from egtn_formula import golden_state, golden_weights, reference
from torch import Tensor

from sciflow.core.denoiser import Denoiser
from sciflow.core.objective import Example
from sciflow.core.schedules import DDPM
from sciflow.core.spaces import Euclidean, ZeroCoM
from sciflow.core.state import State
from sciflow.domains.trajectories.anchors import FrameWeights, LearnedAnchor
from sciflow.domains.trajectories.network import EGTN, ClockCode
from sciflow.objectives.regression import Regression
from sciflow.processes.anchored import Anchored
from sciflow.processes.gaussian import GaussianProcess

STEPS, OBSERVED = 100, 2
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def golden(data_dir: Path) -> Arrays:
    return dict(np.load(data_dir / "trajectories" / "geotdm_golden.npz"))


def released(conditional: bool) -> EGTN:
    """The configuration of the released code."""
    options = {"hidden": 8, "waves": 6, "logit_scale": 1.0, "residual": False, "zero_init": False}
    anchor = LearnedAnchor(2, 1, weights=FrameWeights(3), layers=1, **options) if conditional else None
    return EGTN(2, 1, anchor, layers=2, clock=ClockCode(6, STEPS, -1), flag=False, **options)


def setting(golden: Arrays, conditional: bool) -> tuple[Denoiser, State, State, Tensor]:
    """(denoiser, clean state, noised state, noise), clocks (t + 1)/100, noise as recorded."""
    network, name = released(conditional), "cond" if conditional else "uncond"
    network.load_state_dict(golden_weights(golden, f"{name}/param", 2, int(conditional)))
    base = GaussianProcess(DDPM(STEPS), Euclidean() if conditional else ZeroCoM(), "noise")
    denoiser = Denoiser(network, {"pos": Anchored(base)})
    clean = golden_state(golden, OBSERVED if conditional else 0)
    if not conditional:
        clean = clean.put(pos=ZeroCoM().project(clean["pos"], clean.layouts["pos"]))
    clean = denoiser.prepare(clean)
    recorded = torch.from_numpy(golden["cond/noise" if conditional else "uncond/noise_projected"]).transpose(1, 2)
    noise = torch.zeros_like(clean["pos"])
    noise[:, OBSERVED if conditional else 0 :] = recorded
    kernel = denoiser.processes["pos"].marginal(clean["pos"], clocks(golden), clean.layouts["pos"])  # type: ignore[operator]
    return denoiser, clean, clean.put(pos=kernel.location + kernel.std * noise), noise


def clocks(golden: Arrays) -> Tensor:
    """Steps 3 and 17 as clocks, (2,)."""
    return (torch.from_numpy(golden["t"])[[0, 3]].float() + 1) / STEPS


def frames_last(x: Tensor, conditional: bool) -> Tensor:
    """(N, T, D) -> generated frames as recorded, (N, D, T')."""
    return x[:, OBSERVED if conditional else 0 :].transpose(1, 2)


def near(got: Tensor, expected: np.ndarray, tolerance: float = 5e-6) -> None:
    torch.testing.assert_close(got.detach().float(), torch.from_numpy(expected), rtol=0, atol=tolerance)


cases = pytest.mark.parametrize("conditional", [True, False], ids=["conditional", "unconditional"])


def test_table_of_betas(golden):
    betas = torch.from_numpy(golden["betas_T100"])
    t = torch.arange(1, STEPS + 1, dtype=torch.float64) / STEPS
    schedule = DDPM(STEPS)
    torch.testing.assert_close(schedule.alpha(t) ** 2, (1 - betas).cumprod(0), rtol=1e-12, atol=0)
    torch.testing.assert_close(schedule.linear_step(t[:-1], t[1:])[1], betas[1:], rtol=1e-10, atol=0)


@cases
def test_outputs(golden, conditional):
    denoiser, _, noised, _ = setting(golden, conditional)
    name = "cond" if conditional else "uncond"
    layout = noised.layouts["pos"]
    if conditional:
        near(frames_last(layout.anchor, True), golden["cond/x_ref"])  # type: ignore[arg-type]
    near(frames_last(noised["pos"], conditional), golden[f"{name}/x_tau"])
    out = denoiser(noised, {"pos": clocks(golden)})["pos"].value
    expected = torch.from_numpy(golden[f"{name}/net_x_out"]).transpose(1, 2)
    if not conditional:  # recorded before its projection
        expected = ZeroCoM().project(expected, layout)
    near(out[:, OBSERVED if conditional else 0 :], expected.numpy())
    formula = reference(denoiser.network, noised, {"pos": clocks(golden)})
    formula = formula * layout.mask if layout.mask is not None else ZeroCoM().project(formula, layout)
    torch.testing.assert_close(out, formula, rtol=0, atol=5e-6)


@cases
def test_losses_and_gradients(golden, conditional):
    """Mean over the atoms of the recorded losses; once by hand, once as the objective sees it."""
    denoiser, clean, noised, noise = setting(golden, conditional)
    name = "cond" if conditional else "uncond"
    pred = denoiser(noised, {"pos": clocks(golden)})["pos"]
    per_atom = frames_last((pred.value - noise) ** 2, conditional).mean((1, 2))
    near(per_atom, golden[f"{name}/loss_per_node"])
    loss = Regression("noise", per_entry=False)(pred, Example("pos", clean["pos"], noised, denoiser)).sum()
    loss = loss / per_atom.numel() / frames_last(noise, conditional)[0].numel()
    near(loss[None], golden[f"{name}/loss_per_node"].mean(keepdims=True))
    loss.backward()
    expected = golden_weights(golden, f"{name}/grad", 2, int(conditional))
    for parameter, weight in denoiser.network.named_parameters():
        grad = torch.zeros_like(weight) if weight.grad is None else weight.grad
        torch.testing.assert_close(grad, expected[parameter], rtol=0, atol=2e-5, msg=lambda m, p=parameter: f"{p}: {m}")


@cases
def test_posterior_mean_and_variance(golden, conditional):
    """One ancestral move t -> t - 1, in coordinates around the anchor; released code keeps the larger variance beta."""
    denoiser, _, noised, _ = setting(golden, conditional)
    name = "cond" if conditional else "uncond"
    process, layout, t = denoiser.processes["pos"], noised.layouts["pos"], clocks(golden)
    data = denoiser(noised, {"pos": t})["pos"].to("data")
    kernel = process.posterior(noised["pos"], data, t, t - 1 / STEPS, layout)  # type: ignore[operator]
    mean = kernel.location if layout.anchor is None else kernel.location - layout.anchor
    near(frames_last(mean, conditional), golden[f"{name}/posterior_mean_shifted"])
    beta = process.linear_step(noised["pos"], t - 1 / STEPS, t, layout)[1]  # type: ignore[operator]
    near(beta.flatten(), golden[f"{name}/posterior_var"], 1e-6)
