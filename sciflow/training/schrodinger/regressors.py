"""Drift regression on simulated paths: from a bundle of paths to a function of (point, clock).

Inputs are z_j = (x_j, t_j), targets the increments v_j = (x_{j+1} - x_j) / dt ("autoregressive" maximum likelihood of
IPML: Vargas, Thodoroff, Lamacraft, Lawrence, Entropy 23:1134, 2021). The drift of the time-reversed process is fitted
to the same paths with their states flipped along time while the clock keeps increasing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable

Drift = Callable[[Tensor, Tensor], Tensor]  # (points (n, d), clock ()) -> drift (n, d)


@dataclass(frozen=True, eq=False)
class DriftData:
    """What a drift is fitted to.

    Attributes:
        inputs: (paths, steps, d + 1) points with their clock as last coordinate.
        targets: (paths, steps, d) increments per unit of time.
        sigma: Diffusion coefficient: a target has noise of variance sigma^2 / dt.
        dt: Time step.
        mean: Drift of the reference in the direction of these paths; what a regression may start from.
    """

    inputs: Tensor
    targets: Tensor
    sigma: float
    dt: float
    mean: Drift

    @classmethod
    def of(cls, paths: Tensor, times: Tensor, sigma: float, mean: Drift) -> DriftData:
        """Increments of paths (n, steps + 1, d) on equally spaced `times` (steps + 1,)."""
        dt = float(times[-1] - times[0]) / (len(times) - 1)
        clocks = times[:-1, None].expand(len(paths), -1, 1).to(paths)
        inputs = torch.cat([paths[:, :-1], clocks], -1)
        return cls(inputs, paths.diff(dim=1) / dt, sigma, dt, mean)

    def rows(self) -> tuple[Tensor, Tensor]:
        """Inputs (m, d + 1) and targets (m, d), path after path."""
        return self.inputs.flatten(0, 1), self.targets.flatten(0, 1)


class Regressor(Configurable, ABC):
    """A way to fit a drift."""

    @abstractmethod
    def fit(self, data: DriftData, generator: torch.Generator) -> Drift:
        """The fitted drift. `generator` is the source of all random choices (inducing points, initial weights)."""


class MLP(Regressor):
    """Network on (point, clock) with SiLU units, trained from new weights by full-batch Adam.

    IPML: three layers of width 500, learning rate 0.005, 250 steps. Width 64 by default: the data are low-dimensional.

    Args:
        width: Units of each of the three hidden layers.
        steps: Adam steps.
        lr: Learning rate.
    """

    def __init__(self, width: int = 64, steps: int = 250, lr: float = 5e-3) -> None:
        self.width, self.steps, self.lr = width, steps, lr

    def fit(self, data: DriftData, generator: torch.Generator) -> Drift:
        """Least squares."""
        inputs, targets = data.rows()
        centre, scale = inputs.mean(0), inputs.std(0).clamp_min(1e-6)
        network = perceptron(inputs.shape[1], targets.shape[1], self.width, 3, generator).to(inputs.dtype)
        optimizer = torch.optim.Adam(network.parameters(), self.lr)
        z = (inputs - centre) / scale
        with torch.inference_mode(False), torch.enable_grad():
            for _ in range(self.steps):
                optimizer.zero_grad()
                nn.functional.mse_loss(network(z), targets).backward()
                optimizer.step()
        network.requires_grad_(False)
        return lambda x, t: network((joined(x, t) - centre) / scale)


def perceptron(inputs: int, outputs: int, width: int, layers: int, generator: torch.Generator) -> nn.Sequential:
    """SiLU network with `layers` hidden layers and weights of variance 1 / fan-in drawn from `generator`."""
    sizes = [inputs, *[width] * layers, outputs]
    parts: list[nn.Module] = []
    for a, b in zip(sizes[:-1], sizes[1:], strict=True):
        linear = nn.Linear(a, b)
        with torch.no_grad():
            linear.weight.copy_(torch.randn(b, a, generator=generator) / a**0.5)
            linear.bias.zero_()
        parts += [linear, nn.SiLU()]
    return nn.Sequential(*parts[:-1])


def joined(x: Tensor, t: Tensor) -> Tensor:
    """Points (n, d) with the clock, () or (n,), as last coordinate: (n, d + 1)."""
    return torch.cat([x, t.to(x).expand(len(x)).unsqueeze(-1)], -1)
