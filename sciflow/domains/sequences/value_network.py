"""A small value network for masked sequences of any length (svdd.md, appendix E): about 0.1 million parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.kernels import one_hot
from sciflow.core.state import State


class ValueCNN(nn.Module, Configurable):
    """V(x_t) from a convolution of width 15, residual blocks of width 5, the mean over positions and two dense layers.

    A masked position is a row of zeros; the masked share of the sequence is one more channel, so no clock is needed.

    Args:
        tokens: Number K of letters; the mask has id K.
        hidden: Channels.
        blocks: Residual blocks.
    """

    clock_free = True

    def __init__(self, tokens: int = 4, hidden: int = 64, blocks: int = 4) -> None:
        super().__init__()
        self.tokens = tokens
        self.first = nn.Conv1d(tokens + 1, hidden, 15, padding=7)
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(blocks))
        self.blocks = nn.ModuleList(nn.Conv1d(hidden, hidden, 5, padding=2) for _ in range(blocks))
        self.dense, self.last = nn.Linear(hidden, hidden), nn.Linear(hidden, 1)

    def forward(self, state: State, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Value of each sequence.

        Args:
            state: `seq` (B, L) int64 with ids 0..K, or relaxed (B, L, K + 1); a mask in its layout marks real
                positions.
            signals: Not used.

        Returns:
            `value` (B,).
        """
        x, mask = state["seq"], state.layouts["seq"].mask
        x = x if x.is_floating_point() else one_hot(x, self.tokens + 1)
        weight = (torch.ones_like(x[..., 0]) if mask is None else mask.to(x))[..., None]
        count = weight.sum(1, keepdim=True)
        masked = (x[..., -1:] * weight).sum(1, keepdim=True) / count
        h = torch.cat([x[..., :-1], masked.expand_as(x[..., :1])], -1) * weight
        h = functional.relu(self.first(h.transpose(1, 2)).transpose(1, 2))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + functional.relu(block((norm(h) * weight).transpose(1, 2)).transpose(1, 2))
        mean = (h * weight).sum(1) / count[:, 0]
        return {"value": self.last(functional.relu(self.dense(mean)))[:, 0]}
