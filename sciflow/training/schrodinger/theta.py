r"""The theta-step: least squares of the increments of Q, argmin_theta sum_i w_i |v_i - b_theta(x_i, t_i)|^2.

By Girsanov this is argmin_theta KL(Q || P_theta) (spec, section 1). Families linear in theta: one set of normal
equations. Other small families: Levenberg-Marquardt. Networks: Adam on mini-batches. The information matrix of the same
least squares, `cells sum_i w_i (db/dtheta)^T (db/dtheta)/sigma^2`, gives standard errors. It is that of observed
paths: what is lost because cells are seen only at the snapshots is not in it, so the errors are lower bounds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from sciflow.core.config import Configurable
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import Increments

SMALL = 50  # parameters up to which matrices of theta are formed
RIDGE = 0.99  # correlation of two parameters from which on a warning is due


def get_theta(reference: Reference) -> Tensor:
    """All parameters as one vector (p,), float64; empty if there are none."""
    parameters = list(reference.parameters())
    return parameters_to_vector(parameters).detach().clone() if parameters else torch.zeros(0, dtype=torch.float64)


def set_theta(reference: Reference, theta: Tensor) -> None:
    """Write a vector back into the parameters."""
    if len(theta):
        vector_to_parameters(theta.clone(), reference.parameters())


def theta_names(reference: Reference) -> tuple[str, ...]:
    """Name of each entry of the vector; tensors of n entries give name[0] ... name[n - 1]."""
    named = [(name, value.numel(), value.ndim) for name, value in reference.named_parameters()]
    return tuple(name if ndim == 0 else f"{name}[{i}]" for name, size, ndim in named for i in range(size))


class ThetaStep(Configurable, ABC):
    """A way to move the parameters."""

    @abstractmethod
    def fit(self, reference: Reference, data: Increments, generator: torch.Generator) -> None:
        """Improve the parameters in place, from where they are."""


class LeastSquares(ThetaStep):
    """The minimum: normal equations, or Levenberg-Marquardt with that many evaluations at most.

    Args:
        evaluations: Most evaluations of the drift and its derivative.
    """

    def __init__(self, evaluations: int = 15) -> None:
        self.evaluations = evaluations

    def fit(self, reference: Reference, data: Increments, generator: torch.Generator) -> None:
        """Solve; directions that the data do not constrain stay where they are."""
        theta = get_theta(reference)
        if not len(theta):
            return
        damping, (loss, slope, curvature) = 1e-3, _normal_equations(reference, theta, data)
        if reference.linear:
            set_theta(reference, theta + torch.linalg.lstsq(curvature, slope[:, None], driver="gelsd").solution[:, 0])
            return
        for _ in range(self.evaluations):
            scale = curvature.diagonal() + 1e-3 * curvature.diagonal().max() + 1e-300
            step = torch.linalg.solve(curvature + damping * scale.diag(), slope)
            step = step / ((step / (theta.abs() + 1)).abs().max() / 0.5).clamp_min(1)  # a start may be far and flat
            trial = _normal_equations(reference, theta + step, data)
            if trial[0] < loss:  # never for NaN
                gain, theta, damping = loss - trial[0], theta + step, damping / 10
                loss, slope, curvature = trial
                if gain < 1e-6 * loss:
                    break
            else:
                damping *= 10
        set_theta(reference, theta)


class AdamSteps(ThetaStep):
    """Steps of Adam with a fresh state on mini-batches of increments.

    Args:
        steps: Number of steps.
        rate: Learning rate.
        batch: Increments per step; None: all (the published runs: 20 steps at 0.05).
    """

    def __init__(self, steps: int = 400, rate: float = 2e-3, batch: int | None = 1024) -> None:
        self.steps, self.rate, self.batch = steps, rate, batch

    def fit(self, reference: Reference, data: Increments, generator: torch.Generator) -> None:
        """Descend the weighted squared error."""
        parameters = list(reference.parameters())
        if not parameters:
            return
        adam = torch.optim.Adam(parameters, lr=self.rate)
        weight = data.weight / data.weight.mean()
        for _ in range(self.steps):
            rows = slice(None)
            if self.batch is not None:
                rows = torch.randint(len(data.x), (self.batch,), generator=generator)
            with torch.enable_grad():
                miss = (reference(data.x[rows], data.t[rows]) - data.velocity[rows]).square().sum(-1)
                adam.zero_grad()
                (weight[rows] * miss).mean().backward()
            adam.step()


def default_step(reference: Reference) -> ThetaStep:
    """Least squares for small families, Adam for networks."""
    return LeastSquares() if len(get_theta(reference)) <= SMALL else AdamSteps()


def sensitivity(reference: Reference, theta: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """Drift (n, d) at theta (p,) and its derivative by theta (n, d, p)."""
    if reference.linear:
        features = reference.features(x, t)
        return features @ theta, features
    names, shapes = zip(*[(name, value.shape) for name, value in reference.named_parameters()], strict=True)

    def drift(vector: Tensor) -> Tensor:
        parts = vector.split([shape.numel() for shape in shapes])
        values = {name: part.reshape(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return torch.func.functional_call(reference, values, (x, t))

    with torch.no_grad():
        return drift(theta), torch.func.jacfwd(drift)(theta)


def _normal_equations(reference: Reference, theta: Tensor, data: Increments) -> tuple[Tensor, Tensor, Tensor]:
    """Loss (), slope (p,) and curvature (p, p) of the weighted least squares, summed over d."""
    drift, derivative = sensitivity(reference, theta, data.x, data.t)
    miss = data.velocity - drift
    weighted = derivative * data.weight[:, None, None]
    slope = torch.einsum("ndp,nd->p", weighted, miss)
    flat = derivative.flatten(0, 1)
    return (data.weight @ miss.square().sum(-1)), slope, weighted.flatten(0, 1).T @ flat


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """Standard errors of theta.

    Attributes:
        stderr: (p,); infinite where the paths do not constrain a parameter, NaN for networks.
        covariance: (p, p), the inverse information; empty for networks.
        warnings: Sentences about ridges: pairs of parameters that the data cannot tell apart.
    """

    stderr: Tensor
    covariance: Tensor
    warnings: tuple[str, ...]


def uncertainty(reference: Reference, data: Increments, sigma: float) -> Uncertainty:
    """Inverse Fisher information of the least squares at the present theta."""
    theta, names = get_theta(reference), theta_names(reference)
    if not 0 < len(theta) <= SMALL:
        return Uncertainty(torch.full_like(theta, torch.nan), torch.zeros(0, 0, dtype=theta.dtype), ())
    _, _, curvature = _normal_equations(reference, theta, data)
    information = data.cells * curvature / sigma**2
    free = information.diagonal() > 1e-12 * information.diagonal().max()
    notes = [f"the paths do not constrain {name}" for name, seen in zip(names, free.tolist(), strict=True) if not seen]
    covariance = torch.full_like(information, torch.inf)
    scale = information.diagonal()[free].rsqrt()
    scale = scale * scale[:, None]  # to a correlation matrix and back: parameters have different units
    inverse = torch.linalg.pinv(information[free][:, free] * scale, hermitian=True) * scale
    covariance[free.nonzero(), free.nonzero()[:, 0]] = inverse
    stderr = covariance.diagonal().sqrt()
    correlation = covariance / stderr / stderr[:, None]
    for i, j in (correlation.abs().triu(1) > RIDGE).nonzero().tolist():
        notes.append(f"{names[i]} and {names[j]} lie on a ridge (correlation {float(correlation[i, j]):.3f})")
    return Uncertainty(stderr, covariance, tuple(notes))
