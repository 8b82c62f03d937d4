r"""Losses of von Mises Bayesian flows, and of directions in general.

KL(vM(x, a) || vM(x', a)) = a A(a) (1 - cos(x - x')): with the accuracies of the flow this is, per unit of clock,
-dc*/dt (1 - cos(x' - x)). The released CrysBFN code takes the squared wrapped difference in place of 1 - cos, which is
about twice as large and has a gradient at opposite points too (specification crysbfn, section 6).

A crystal shifted by tau is the same crystal. Given the beliefs C_j about its atoms and one description x_j,

    R = sum_j C_j e^{-i x_j},   tau | C ~ vM(arg R, |R|),
    E[1 - cos(x'_j - x_j - tau)] = 1 - A(|R|) cos(x'_j - x_j - arg R),

exactly, because the senders' likelihood of the shift is exp(Re(R e^{-i tau})).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction
from sciflow.objectives.shift_marginal import shift_posterior_mean


class CosineLoss(Objective):
    """-dc*/dt (1 - cos(x' - x)), averaged over the coordinates of a sample; the shift is marginalised.

    Args:
        marginal: Marginalise the shift of the sample; otherwise x is taken as it is described.
    """

    def __init__(self, marginal: bool = True) -> None:
        self.marginal = marginal

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses."""
        layout, process = pred.layout, pred.process
        predicted, target = pred.to("data"), self.target(pred, example)
        error = self.error(predicted, target)
        rate = process.concentration_rate(pred.t).to(error)  # type: ignore[operator]
        return rate * layout.per_sample(error) / layout.counts(error).clamp_min(1)

    def target(self, pred: Prediction, example: Example) -> Tensor:
        """Mean of the true unit vector over the posterior of the shift, of length A(|R|): (rows, d, 2)."""
        if not self.marginal:
            return example.x0
        width = pred.x.new_ones(pred.layout.batch)
        return shift_posterior_mean(pred.x, example.x0, width, pred.layout)

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """1 - A cos: (rows, d)."""
        return 1 - (predicted * target).sum(-1)


class SquaredWrapped(CosineLoss):
    """As `CosineLoss` with (x' - x)^2, the shortest way round, in place of 1 - cos.

    `marginal` aligns the description: x is shifted by arg R, the most probable shift.
    """

    def error(self, predicted: Tensor, target: Tensor) -> Tensor:
        """Squared angle between the vectors: (rows, d)."""
        across = predicted[..., 0] * target[..., 1] - predicted[..., 1] * target[..., 0]
        return torch.atan2(across, (predicted * target).sum(-1)) ** 2
