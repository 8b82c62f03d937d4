r"""Uncertainty of rates: the observed information in log-rates (section 10.6).

At the maximum, log F is approximately normal with the inverse of the negative Hessian of the log-likelihood (plus
log-prior) as covariance; standard errors of rates follow by the delta method, se(F) = F se(log F). Nuisance parameters
(noise, levels) are part of the Hessian, so that what they leave open widens the rates' errors.

A rate that the fit drives to 0 has no normal law: its posterior is exponential with the slope of the likelihood there,
which gives the standard error 1/|dl/dF| and a one-sided interval.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

AT_ZERO = 0.05  # expected jumps (with those of the prior) below which a rate lies on its boundary 0
STIFFEST = 1e-9  # curvatures below this share of the largest say nothing: the data do not identify that direction


@dataclass(frozen=True, eq=False)
class Information:
    """Errors of rates (edges in the order of `em.pack`).

    Attributes:
        covariance: (E, E) of log-rates; rows and columns of rates at 0 are 0.
        at_zero: (E,) bool, rates on the boundary.
        slope: (E,) -dl/dF at those (0 elsewhere): their posterior is Exponential(slope).
        identified: False if the data leave a direction of the rates open (its variance is cut off).
    """

    covariance: Tensor
    at_zero: Tensor
    slope: Tensor
    identified: bool


def observed_information(value: Callable[[Tensor], Tensor], theta: Tensor, edges: int, fixed: int = 0) -> Information:
    """Information at a maximum.

    Args:
        value: Log-likelihood plus log-prior of theta (p,).
        theta: (p,): `edges` log-rates, then nuisance parameters.
        edges: S (S - 1).
        fixed: Number of parameters at the end of theta that are held (logits of p0: they hardly depend on rates).
    """
    tail = theta[len(theta) - fixed :]
    free = theta[: len(theta) - fixed].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(value(torch.cat([free, tail])), free, create_graph=True)
    rows = [torch.autograd.grad(entry, free, retain_graph=True)[0] for entry in gradient.unbind()]
    hessian = -torch.stack(rows).detach()
    hessian = (hessian + hessian.T) / 2
    rates, slope = free.detach()[:edges].exp(), gradient.detach()[:edges]
    # d/dlog F = F (E n / F - E T) with E n -> 0 at the boundary: gradient and curvature both vanish with F
    at_zero = hessian.diagonal()[:edges].abs() < AT_ZERO
    inside = torch.cat([~at_zero, torch.ones(len(free) - edges, dtype=torch.bool)])
    values, vectors = torch.linalg.eigh(hessian[inside][:, inside])
    floor = STIFFEST * values.abs().max() if len(values) else torch.tensor(0.0)
    inverse = (vectors / values.clamp_min(floor)) @ vectors.T
    covariance = torch.zeros_like(hessian)
    covariance[inside.nonzero(), inside.nonzero().T] = inverse
    return Information(
        covariance[:edges, :edges],
        at_zero,
        torch.where(at_zero, (-slope / rates).clamp_min(1e-300), 0.0),
        bool((values > floor).all()),
    )
