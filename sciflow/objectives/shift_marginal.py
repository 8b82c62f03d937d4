r"""Bayesian-flow losses of periodic coordinates in the plane, with the rigid shift of a crystal marginalised.

A crystal shifted by tau along an axis is the same crystal, tau ~ U. Given the beliefs mu_j (as complex numbers) of its
atoms and the angles x_j of one of its descriptions,

    S = sum_j mu_j e^{-i x_j},   tau | mu ~ vM(arg S, |S|/(1 - gamma)),   E[u_j | mu, tau in posterior]
      = A(|S|/(1 - gamma)) e^{i (x_j + arg S)},   A = I1/I0,

because N(mu_j; gamma u_j e^{i tau}, gamma (1 - gamma)) ~ exp(Re(mu_j conj(u_j e^{i tau}))/(1 - gamma)).
Regressing that mean instead of u_j has the same minimiser and less variance (Rao-Blackwell; specification crysbfn,
sections 6 and 14).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.objective import Example
from sciflow.core.process import Prediction
from sciflow.core.state import Layout
from sciflow.objectives.snr_weighted import SNRWeighted


class ShiftMarginal(SNRWeighted):
    """Mean over the coordinates of a sample of w(t) |u' - target|^2, w as in `SNRWeighted`.

    The target is the posterior mean over the shift, mixed with the given description: marginal E[u] + (1 - marginal) u.
    For planar beliefs with the Bayesian-flow schedule.

    Args:
        marginal: Share of the shift-marginalised target; 0 is the plain loss.
        power: Of the weight: 1 is the Bayesian-flow bound, 0 the plain squared error.
    """

    def __init__(self, marginal: float = 1.0, power: float = 1.0) -> None:
        super().__init__(power)
        self.marginal = marginal

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) losses; both components of a planar vector count as one coordinate."""
        layout, clean = pred.layout, example.x0
        width = (1 - pred.process.schedule.alpha(pred.t)).to(clean)  # type: ignore[union-attr, operator] # 1 - gamma
        target = clean + self.marginal * (shift_posterior_mean(pred.x, clean, width, layout) - clean)
        error = (self.weight(pred) * (pred.to("data") - target) ** 2).sum(-1)
        return layout.per_sample(error) / layout.counts(error).clamp_min(1)


def shift_posterior_mean(x: Tensor, clean: Tensor, width: Tensor, layout: Layout) -> Tensor:
    """E[u_j e^{i tau}] for tau from its posterior, per sample and axis.

    Args:
        x: (rows, d, 2) beliefs mu.
        clean: (rows, d, 2) unit vectors u.
        width: (B,) 1 - gamma.
        layout: Ragged layout: the rows of sample b are the atoms that shift together.
    """
    mu, u = torch.view_as_complex(x.contiguous()), torch.view_as_complex(clean.contiguous())
    total = torch.zeros(layout.batch, x.shape[1], dtype=mu.dtype, device=x.device)
    index = layout.index if layout.index is not None else torch.arange(layout.batch, device=x.device)
    total = total.index_add(0, index, mu * u.conj())
    size = total.abs()
    concentration = size / width[:, None]
    mean_resultant = torch.special.i1e(concentration) / torch.special.i0e(concentration)
    shift = torch.where(size > 0, mean_resultant / size.clamp_min(1e-30), size) * total
    return torch.view_as_real(u * shift[index])
