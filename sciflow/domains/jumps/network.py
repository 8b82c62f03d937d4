"""Network that reads rates off pooled statistics: FIM-MJP improved as its specification proposes (section 13).

    statistics -> noise p (small MLP of invariants) -> EM rounds on pair counts given p -> log-rates and their
    deviations -> graph network over ordered pairs of states -> corrections in units of those deviations

The EM rounds carry all units and nearly all of the information; the network, which sees dimensionless numbers only,
adds what a prior over systems knows (absent edges, typical rates), undoes what rounds and pooled pairs miss, and
learns how wide the result is. Because corrections are measured in deviations, more data always means less correction.
By construction: equivariant to relabelling of the states, any number of states, invariant to the order of paths,
exactly inverse to the unit of time, untouched by padding; the cost depends on the data only through one counting pass.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable
from sciflow.domains.jumps.batch import PathBatch, pairs
from sciflow.domains.jumps.network_layers import (
    PairLayer,
    edge_features,
    global_features,
    node_features,
    noise_features,
)
from sciflow.domains.jumps.pooling import Expectation, Pooled, expectation, pool

LARGEST_NOISE = 0.6
NEAR, FAR = (1.0, 0.0, 0.0), (0.2, 0.4, 0.4)  # shares of the strides


@dataclass(frozen=True, eq=False)
class RateLaw:
    """Posterior of B systems: an edge is there with probability sigmoid(presence), its rate is then log-normal.

    Attributes:
        presence: (B, S, S) logits.
        log_rate: (B, S, S) mean of the logarithm of the rate, in the unit of time of the data.
        log_sd: (B, S, S) logarithm of the deviation of the logarithm of the rate.
        initial: (B, S) logits of the initial law, -inf for padding.
        noise: (B,) probability that a label is replaced by a uniform state.
        noise_log_sd: (B,) logarithm of its deviation.
        first_noise: (B, 2) noise and log deviation before the EM rounds (trained alongside).
        n_states: (B,) numbers of states.
        window: (B,) unit of time that the network worked in; losses use it.
    """

    presence: Tensor
    log_rate: Tensor
    log_sd: Tensor
    initial: Tensor
    noise: Tensor
    noise_log_sd: Tensor
    first_noise: Tensor
    n_states: Tensor
    window: Tensor

    @property
    def edges(self) -> Tensor:
        """(B, S, S) bool, ordered pairs of different states."""
        return pairs(self.n_states, self.presence.shape[-1])

    def mean(self) -> Tensor:
        """Posterior mean of the rates (B, S, S), which minimises the expected squared error; 0 on the diagonal."""
        return self.presence.sigmoid() * (self.log_rate + self.log_sd.mul(2).exp() / 2).exp() * self.edges

    def deviation(self) -> Tensor:
        """Posterior standard deviation of the rates, (B, S, S)."""
        second = self.presence.sigmoid() * (2 * self.log_rate + 2 * self.log_sd.mul(2).exp()).exp() * self.edges
        return (second - self.mean() ** 2).clamp_min(0).sqrt()

    def quantile(self, level: float) -> Tensor:
        """Quantile of the rates (B, S, S): 0 up to the probability that the edge is absent."""
        there = self.presence.double().sigmoid()
        inside = ((level - 1 + there) / there).clamp(1e-12, 1 - 1e-12)
        normal = math.sqrt(2) * torch.erfinv(2 * inside - 1)
        value = (self.log_rate + self.log_sd.exp() * normal).exp()
        return torch.where((level > 1 - there) & self.edges, value, 0.0)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draws of the rates, (count, B, S, S) float64."""
        shape = (count, *self.presence.shape)
        normals = torch.randn(shape, generator=generator, dtype=torch.float64)
        there = torch.rand(shape, generator=generator) < self.presence.sigmoid()
        return (self.log_rate + self.log_sd.exp() * normals).exp() * (there & self.edges)

    def flips(self) -> Tensor:
        """Probability (B,) that a label is wrong: a replaced label is right once in n_states."""
        return self.noise * (self.n_states - 1) / self.n_states


class PairNetwork(nn.Module, Configurable):
    """The default estimator.

    Args:
        hidden: Width.
        layers: Message-passing layers over ordered pairs.
        rounds: EM rounds on neighbouring observations.
        long_rounds: Further rounds on strides 1, 2 and 4 (matter with label noise).
    """

    def __init__(self, hidden: int = 64, layers: int = 3, rounds: int = 8, long_rounds: int = 5) -> None:
        super().__init__()
        self.rounds, self.long_rounds = rounds, long_rounds
        last = nn.Linear(hidden, 2)
        nn.init.constant_(last.bias[:1], -4.0)  # hardly any noise, to begin with
        self.noise = nn.Sequential(nn.LazyLinear(hidden), nn.SiLU(), nn.Linear(hidden, hidden), nn.SiLU(), last)
        self.pair_in, self.node_in, self.global_in = (nn.LazyLinear(hidden) for _ in range(3))
        self.layers = nn.ModuleList(PairLayer(hidden) for _ in range(layers))
        self.pair_out, self.node_out, self.global_out = (_head(hidden, width) for width in (3, 1, 2))
        self._size()

    def forward(self, batch: PathBatch) -> RateLaw:
        """Posterior of each system."""
        with torch.no_grad():
            pooled = pool(batch)
            invariants = noise_features(pooled)
        first = self.noise(invariants)
        noise = LARGEST_NOISE * first[:, 0].sigmoid()
        with torch.no_grad():
            near, far, base = self.start(pooled, noise)
            inputs = edge_features(pooled, near, far, base, noise), node_features(pooled, near, base)
            rest = global_features(pooled, near, noise, invariants)
        hidden = self._hidden(pooled, *inputs, rest)
        return self._law(pooled, near, base, hidden, first)

    def start(self, pooled: Pooled, noise: Tensor) -> tuple[Expectation, Expectation, Tensor]:
        """EM on neighbours, EM on several strides, and the rates between the two that corrections start from."""
        near = expectation(pooled, noise, NEAR, self.rounds)
        far = expectation(pooled, noise, FAR, self.long_rounds, near.rates)
        weight = (noise / 0.05).clamp(0, 1)[:, None, None].double()
        base = (near.rates.clamp_min(1e-12).log() * (1 - weight) + far.rates.clamp_min(1e-12).log() * weight).exp()
        return near, far, base

    def _hidden(self, pooled: Pooled, edge: Tensor, node: Tensor, rest: Tensor) -> Tensor:
        size = edge.shape[1]
        eye = torch.eye(size, dtype=torch.bool, device=edge.device)[:, :, None]
        hidden = torch.where(eye, self.node_in(node)[:, :, None], self.pair_in(edge))
        hidden = hidden + self.global_in(rest)[:, None, None]
        real = torch.arange(size, device=edge.device) < pooled.n_states[:, None]
        mask = (real[:, :, None] & real[:, None, :]).to(hidden)
        for layer in self.layers:
            hidden = layer(hidden, mask, pooled.n_states)
        return hidden * mask[..., None]

    def _law(self, pooled: Pooled, near: Expectation, base: Tensor, hidden: Tensor, first: Tensor) -> RateLaw:
        presence, shift, spread = self.pair_out(hidden).unbind(-1)
        jumps = near.jumps.float()
        deviation = -0.5 * (jumps + 0.5).log()  # of the log-rate, if every jump were seen
        edges = pairs(pooled.n_states, base.shape[-1])
        unit = base.clamp_min(1e-12).log().float()
        log_rate = torch.where(edges, unit + deviation.exp() * shift, 0.0) - pooled.window[:, None, None].log()
        diagonal = hidden.diagonal(dim1=1, dim2=2).mT
        real = torch.arange(base.shape[-1], device=base.device) < pooled.n_states[:, None]
        known = (pooled.first + 2 * near.dwell / near.dwell.sum(1, keepdim=True).clamp_min(1e-9) + 0.1).log().float()
        initial = (known + self.node_out(diagonal)[..., 0]).masked_fill(~real, -torch.inf)
        change, width = self.global_out(hidden.sum((1, 2)) / pooled.n_states[:, None] ** 2).unbind(-1)
        noise = LARGEST_NOISE * (first[:, 0].detach() + change).sigmoid()
        wide = 3 * torch.tanh(spread / 3)
        first = torch.stack([LARGEST_NOISE * first[:, 0].sigmoid(), first[:, 1]], 1)
        return RateLaw(
            presence,
            log_rate,
            (deviation + wide).clamp(-9, 0.4),
            initial,
            noise,
            first[:, 1].detach() + width,
            first,
            pooled.n_states,
            pooled.window,
        )

    def _size(self) -> None:
        """Give the lazy layers their sizes by one made-up system."""
        batch = PathBatch(
            torch.arange(3.0).double().expand(1, 2, 3),
            torch.tensor([[[0, 1, 0], [0, 0, 1]]]),
            torch.tensor([[3, 3]]),
            torch.ones(1, 2, dtype=torch.bool),
            torch.tensor([2]),
            2,
        )
        with torch.no_grad():
            self(batch)


def _head(hidden: int, width: int) -> nn.Sequential:
    """Two layers; the last starts at 0, so that training starts from the EM rounds."""
    last = nn.Linear(hidden, width)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), last)
