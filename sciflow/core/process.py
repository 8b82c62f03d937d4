"""Processes: how one field is noised, and what solvers may ask of it.

Clock: t = 0 is data, t = 1 is the prior; a move t -> s with s < t generates, s > t simulates. A process offers
capabilities (methods); a solver names those it `needs`. What fits is computed from the two, never written by hand.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.core.state import Layout

CAPABILITIES = (
    "prior",
    "marginal",
    "posterior",
    "reconstruction",
    "sde",
    "noise_sde",
    "velocity",
    "flow_step",
    "score_step",
    "discrete_pair",
    "rates",
    "generator",
    "masked",
    "unmask",
)


class Process(nn.Module, Configurable):
    """Base of all processes.

    Attributes:
        kind: What the network outputs for this field: data, noise, score, velocity, v, logits, rates ...
        joins_ends: The marginal is pinned at a given prior end x1 (bridges, interpolants), which training must supply.
        prepared: The prior depends on what `Denoiser.prepare` puts into the layout (anchors, scales).
        kinds: The kinds that predictions of this process convert between; empty: no conversion.

    A subclass defines those of these methods that its mathematics has (all take a `Layout` last):

    - `prior(like, layout) -> Kernel`: law at t = 1 for a field shaped like `like`.
    - `marginal(x0, t, layout, x1=None) -> Kernel`: q(x_t | x0), pinned at x1 if given.
    - `posterior(x_t, x0, t, s, layout) -> Kernel`: q(x_s | x_t, x0), x0 a point or probabilities.
    - `reconstruction(x_t, x0, t, layout) -> Kernel`: law of the data given x_t near t = 0 and the prediction x0.
    - `sde(x, pred, t, layout) -> (drift, g)`: the SDE run in the direction of generation, as dx = drift dt + g dW, dt
    < 0.
    - `velocity(x, pred, t, layout)`: dx/dt of the deterministic flow with the same marginals.
    - `noise_sde(x, t, layout) -> (drift, g)`: the SDE that adds noise, dt > 0; no network.
    - `flow_step(x, data, t, s, layout)`: exact flow from t to s for a constant data prediction; `log_snr(t)`.
    - `score_step(t, layout, x) -> (sigma, g2)`, `linear_step`, `langevin_alpha`: what score-based correctors need.
    - `discrete_pair(t, scales, layout, x) -> (F, G)`: reverse-diffusion predictor.
    - `rates(x, pred, t, layout)`: jump rates (rows, ..., K) per unit of |clock|, in the direction of the moves.
    - `generator`: rate matrix (K, K) of a chain with constant, known rates.
    - `masked(x)`: bool, which entries (rows, ...) are still masked; such a process has a `survival` schedule too.
    - `unmask(x_t, x0, chance, layout) -> Kernel`: masked entries are drawn with probability `chance`, others stay.
    """

    kind: str = "data"
    joins_ends: ClassVar[bool] = False
    prepared: ClassVar[bool] = False
    kinds: ClassVar[tuple[str, ...]] = ()

    def provides(self) -> frozenset[str]:
        """Names of the capabilities that this process has."""
        return frozenset(name for name in CAPABILITIES if hasattr(self, name))

    def encode(self, x: Tensor) -> Tensor:
        """Data -> the clean representation x0 that the process noises."""
        return x

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """Last value (and last data prediction, if any) -> data."""
        return x

    def signal(self, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """What the network is told about the noise level; the clock unless a process knows better."""
        return t

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """A prediction of some kind as a prediction of x0; of token processes, logits as probabilities."""
        if kind == "data":
            return value
        if kind == "logits" and kind in self.kinds:
            return value.softmax(-1, dtype=torch.promote_types(value.dtype, torch.float32))  # bfloat16 has 3 digits
        raise self._no_conversion(kind)

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """A prediction of x0 as a prediction of some kind; of token processes, probabilities as log probabilities."""
        if kind == "data":
            return data
        if kind == "logits" and kind in self.kinds:
            return data.clamp_min(torch.finfo(data.dtype).tiny).log()
        raise self._no_conversion(kind)

    def _no_conversion(self, kind: str) -> TypeError:
        return TypeError(
            f"{type(self).__name__} predicts '{self.kind}' and knows no '{kind}'; "
            f"its kinds: {', '.join(self.kinds) or self.kind}"
        )


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network said about one field.

    Attributes:
        value: Output, shaped as its kind demands.
        kind: data, noise, score, velocity, v, logits, rates ...
        process: The process that knows the conversions.
        x: The field that was shown to the network.
        t: Its clock, () or (B,).
        layout: Its layout.
        variance: Optional variance of the data prediction, for optimal-variance samplers.
    """

    value: Tensor
    kind: str
    process: Process
    x: Tensor
    t: Tensor
    layout: Layout
    variance: Tensor | None = None

    def to(self, kind: str) -> Tensor:
        """The same prediction as another kind.

        Raises:
            TypeError: The process has no such kind.
        """
        if kind == self.kind:
            return self.value
        data = self.process.to_data(self.value, self.kind, self.x, self.t, self.layout)
        return self.process.from_data(data, kind, self.x, self.t, self.layout)

    def replace(self, value: Tensor, kind: str) -> Prediction:
        """A prediction made from this one by a hook."""
        return Prediction(value, kind, self.process, self.x, self.t, self.layout, self.variance)
