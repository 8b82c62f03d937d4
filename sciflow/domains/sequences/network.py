r"""The dilated CNN of masked diffusion on DNA (Stark et al. 2024, Dirichlet flow matching; Wang et al. 2025, DRAKES).

    h_0 = ReLU(conv_1(one_hot(x)));   h_i = h_{i-1} + ReLU(conv_{d_i}(norm(h_{i-1} + c_i)));   logits = mlp(h_n)

Five dilations d = 1, 1, 4, 16, 64, each repeated `stacks` times in a row; kernel 9; the last layers have kernel 1.

The published network adds to each block a linear map of a clock code, but is trained with that clock fixed at zero (for
an absorbing process the best prediction does not depend on the clock): the map of a constant is a constant, so here it
IS one vector c_i per block. The published network has 3,326,661 parameters at hidden 128 and 4 stacks, this one
2,982,276: without the clock's 64 frequencies, its 128 x 128 map and 20 maps of 128 x 128 (346,816 in all), with 20
vectors (2,560), and without the logit of the mask (129), which no sampler may use.

Speed without change of arithmetic: features stay channels-last, so that the normalisation over channels needs no copy,
and the taps of a dilated kernel that see nothing but padding at this length are not multiplied at all.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.core.kernels import one_hot
from sciflow.core.state import State

DILATIONS = (1, 1, 4, 16, 64)
KERNEL = 9


class SequenceCNN(nn.Module, Configurable):
    """Logits of the clean tokens of masked sequences of any length.

    Args:
        tokens: Number K of letters (4 for DNA and RNA, 20 for proteins); the mask has id K.
        hidden: Channels.
        stacks: Blocks per dilation.
    """

    clock_free = True

    def __init__(self, tokens: int = 4, hidden: int = 128, stacks: int = 4) -> None:
        super().__init__()
        self.tokens = tokens
        self.dilations = [dilation for dilation in DILATIONS for _ in range(stacks)]
        self.first = nn.Conv1d(tokens + 1, hidden, KERNEL)
        self.shifts = nn.Parameter(torch.zeros(len(self.dilations), hidden))
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in self.dilations)
        self.convolutions = nn.ModuleList(nn.Conv1d(hidden, hidden, KERNEL) for _ in self.dilations)
        self.mix, self.last = nn.Linear(hidden, hidden), nn.Linear(hidden, tokens)

    def build(self, features: dict[str, int]) -> None:
        """Check that the data have as many letters as the network.

        Raises:
            UserError: They have not.
        """
        if features["seq"] != self.tokens:
            raise UserError(
                f"the data have {features['seq']} letters, network and process expect {self.tokens}; set "
                "data.alphabet, or tokens of network and process"
            )

    def forward(self, state: State, signals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Predict the clean tokens.

        Args:
            state: `seq` (B, L) int64 with ids 0..K, or relaxed (B, L, K + 1); a mask in its layout
                marks real positions.
            signals: Not used.

        Returns:
            `seq` (B, L, K) logits; those at padded positions mean nothing.
        """
        x, mask = state["seq"], state.layouts["seq"].mask
        h = x if x.is_floating_point() else one_hot(x, self.tokens + 1)
        padding = None if mask is None else mask[..., None].to(h)
        h = functional.relu(_convolve(h, self.first, 1, padding))
        for shift, norm, convolution, dilation in zip(
            self.shifts, self.norms, self.convolutions, self.dilations, strict=True
        ):
            h = h + functional.relu(_convolve(norm(h + shift), convolution, dilation, padding))
        return {"seq": self.last(functional.relu(self.mix(h)))}


def _convolve(h: Tensor, layer: nn.Module, dilation: int, mask: Tensor | None) -> Tensor:
    """Convolution of (B, L, C) that keeps the length: zeros beyond the ends and where `mask` (B, L, 1) is zero."""
    if mask is not None:
        h = h * mask
    half = KERNEL // 2
    reach = min(half, (h.shape[1] - 1) // dilation)  # taps further out see only padding
    weight = layer.weight[:, :, half - reach : half + reach + 1]  # type: ignore[index]
    image = h[:, None].permute(0, 3, 1, 2)  # (B, C, 1, L), channels last in memory
    out = functional.conv2d(
        image,
        weight[:, :, None],  # type: ignore[index]
        layer.bias,  # type: ignore[arg-type]
        padding=(0, reach * dilation),
        dilation=(1, dilation),
    )
    return out.permute(0, 2, 3, 1)[:, 0]
