r"""Continuous-time NELBO of masked diffusion (Sahoo et al. 2024, equation 10; Shi et al. 2024).

-log p(x0) <= E_{t ~ U(0,1)} [ -alpha'/(1 - alpha) sum_{i masked in x_t} -log p(x0_i | x_t) ], with equality for
exact conditionals. In the variable 1 - alpha the schedule drops out: the bound depends on the network only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction


class MaskedNELBO(Objective):
    """The bound's integrand at the drawn clock, in nats per token of the sample.

    Its mean over t ~ U(0, 1) is the bound divided by the sample's number of tokens; a time law that starts at `low`
    leaves out the part below, a fraction of about `low`. Needs a process with `masked` and a `survival`.
    """

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) weighted cross-entropies of the masked tokens."""
        process, layout, x0 = pred.process, pred.layout, example.x0
        logits = pred.to("logits")
        wide = torch.promote_types(logits.dtype, torch.float32)  # mixed precision: bfloat16 has 3 digits
        log_probs = logits.log_softmax(-1, dtype=wide).gather(-1, x0[..., None])[..., 0]
        masked = process.masked(pred.x)  # type: ignore[operator]
        losses = layout.per_sample((-log_probs).where(masked, log_probs.new_zeros(())))
        weight = process.survival.unmask_rate(pred.t).to(losses)  # type: ignore[union-attr, operator]
        return weight * losses / layout.counts(log_probs).clamp_min(1)
