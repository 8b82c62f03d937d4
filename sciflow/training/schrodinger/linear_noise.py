r"""Linear-noise kernels and bridges of a reference dX = b(X, t) dt + sigma dW on a time grid; exact for linear b.

Step j of the reference, linearised at l_j: x_{j+1} = A_j x_j + c_j + N(0, Q_j), with A_j = I + h J(l_j),
c_j = h (b(l_j) - J(l_j) l_j), Q_j = sigma^2 h I (families with an exact step give their own).

Transition density: along the mean path m from x, P_{j+1} = A P_j A^T + Q; y | x ~ N(m_N, P_N).

Bridge from x to y: what is left of the chain gives y | x_j ~ N(Phi_j x_j + mu_j, S_j), hence the exact forward law
x_{j+1} | x_j, y ~ N(A x_j + c + K_j (y - mu_j - Phi_j x_j), Q - K_j Phi_{j+1} Q), K_j = Q Phi_{j+1}^T S_j^{-1}.
The linearisation starts on the straight line and moves to the mean of the bridge in two sweeps.
All functions work on many cells at once; the only Python loops run over time steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sciflow.networks.references import Reference

SWEEPS = 2  # re-linearisations of a bridge


@dataclass(frozen=True, eq=False)
class Transition:
    """Law of the end y given the start x, per start.

    Attributes:
        mean: (n, d).
        covariance: (n, d, d).
        flow: (n, d, d), d mean/d x.
    """

    mean: Tensor
    covariance: Tensor
    flow: Tensor

    def log_prob(self, y: Tensor) -> Tensor:
        """log N(y_j; mean_i, covariance_i) for all ends (m, d): (n, m)."""
        factor = torch.linalg.cholesky(self.covariance)
        white = torch.linalg.solve_triangular(factor, (y - self.mean[:, None]).mT, upper=False)
        log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * white.square().sum(1) - log_det[:, None] - 0.5 * y.shape[1] * math.log(2 * math.pi)


def rowwise(function, x: Tensor, t: Tensor, h: Tensor, *extra):
    """A step function of `Reference` on all times at once: x (N, n, d), t (N,), h (N,)."""
    steps, n = x.shape[:2]
    out = function(x.flatten(0, 1), t.repeat_interleave(n), h.repeat_interleave(n), *extra)
    parts = out if isinstance(out, tuple) else (out,)
    parts = tuple(part.unflatten(0, (steps, n)) for part in parts)
    return parts if isinstance(out, tuple) else parts[0]


def transition(reference: Reference, x: Tensor, grid: Tensor, sigma: float) -> Transition:
    """Linear-noise law at grid[-1] of the reference started at x (n, d) at grid[0]."""
    h, means = grid.diff(), [x]
    with torch.no_grad():
        for t, step in zip(grid[:-1], h, strict=True):
            means.append(reference.next_mean(means[-1], t.expand(len(x)), step.expand(len(x))))
    _, matrix, noise = rowwise(reference.linearised, torch.stack(means[:-1]), grid[:-1], h, sigma)
    covariance = torch.zeros_like(matrix[0])
    flow = torch.eye(x.shape[1], dtype=x.dtype).expand_as(covariance)
    for a, q in zip(matrix, noise, strict=True):
        covariance, flow = a @ covariance @ a.mT + q, a @ flow
    return Transition(means[-1], covariance, flow)


@dataclass(frozen=True, eq=False)
class Bridges:
    """Forward laws x_{j+1} ~ N(matrix_j x_j + shift_j, factor_j factor_j^T) of n bridges on one grid.

    Attributes:
        start: (n, d).
        grid: (N + 1,) times.
        matrix: (N, n, d, d).
        shift: (N, n, d).
        factor: (N, n, d, d), lower; zero in the last step, which ends in y.
    """

    start: Tensor
    grid: Tensor
    matrix: Tensor
    shift: Tensor
    factor: Tensor

    def run(self, noise: Tensor | None) -> Tensor:
        """Paths (N + 1, n, d) from standard normals (N, n, d); None: the means."""
        kicks = self.shift if noise is None else self.shift + (self.factor @ noise[..., None])[..., 0]
        path = [self.start]
        for matrix, kick in zip(self.matrix, kicks, strict=True):
            path.append(torch.baddbmm(kick[..., None], matrix, path[-1][..., None])[..., 0])
        return torch.stack(path)

    def sample(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Paths (N + 1, n, d) and the normals they were made of (N, n, d)."""
        noise = torch.randn(self.shift.shape, generator=generator, dtype=self.shift.dtype)
        return self.run(noise), noise

    def velocity(self, paths: Tensor) -> Tensor:
        """E[x_{j+1} - x_j | x_j]/h_j along paths: (N, n, d)."""
        ahead = (self.matrix @ paths[:-1, ..., None])[..., 0] + self.shift
        return (ahead - paths[:-1]) / self.grid.diff()[:, None, None]

    def log_weight(self, reference: Reference, sigma: float, paths: Tensor, noise: Tensor) -> Tensor:
        """log p(path | x)/q(path) per bridge (n,): the mean of its exponential over bridges from x to y is p(y | x)."""
        h = self.grid.diff()
        with torch.no_grad():
            mean, _, covariance = rowwise(reference.linearised, paths[:-1], self.grid[:-1], h, sigma)
        dim = paths.shape[-1]
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, (paths[1:] - mean)[..., None], upper=False)[..., 0]
        log_p = -0.5 * white.square().sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_q = -0.5 * noise.square().sum(-1) - self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return log_p.sum(0) - log_q[:-1].sum(0) - 0.5 * dim * math.log(2 * math.pi)


def bridges(reference: Reference, x: Tensor, y: Tensor, grid: Tensor, sigma: float) -> Bridges:
    """Bridges from x (n, d) at grid[0] to y (n, d) at grid[-1]."""
    share = ((grid - grid[0]) / (grid[-1] - grid[0]))[:, None, None]
    path, bridge = x + share * (y - x), None
    for _ in range(SWEEPS + 1):
        bridge = _bridges_along(reference, path[:-1], x, y, grid, sigma)
        mean = bridge.run(None)
        safe = mean.isfinite().all(-1).all(0)[:, None]  # linearisation may run away where the reference is wild
        path = torch.where(safe, mean, path)
    assert bridge is not None
    return bridge


def _bridges_along(reference: Reference, line: Tensor, x: Tensor, y: Tensor, grid: Tensor, sigma: float) -> Bridges:
    """Bridges of the chain linearised at `line` (N, n, d)."""
    mean, matrix, noise = rowwise(reference.linearised, line, grid[:-1], grid.diff(), sigma)
    shift = mean - (matrix @ line[..., None])[..., 0]
    steps, eye = len(line), torch.eye(x.shape[1], dtype=x.dtype)
    after = eye.expand_as(matrix[0])  # Phi_{j+1}
    offset, spread = torch.zeros_like(x), torch.zeros_like(matrix[0])
    afters, offsets, spreads = [], [], []
    for j in range(steps - 1, -1, -1):
        spread = spread + after @ noise[j] @ after.mT
        offset = offset + (after @ shift[j, ..., None])[..., 0]
        for parts, part in ((afters, after), (offsets, offset), (spreads, spread)):
            parts.append(part)
        after = after @ matrix[j]
    after, offset, spread = (torch.stack(parts[::-1]) for parts in (afters, offsets, spreads))
    gain = torch.linalg.solve(spread, after @ noise).mT  # Q Phi^T S^{-1}
    covariance = noise - gain @ after @ noise
    floor = 1e-13 * noise.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] * eye
    factor = torch.linalg.cholesky(0.5 * (covariance + covariance.mT)[:-1] + floor[:-1])
    factor = torch.cat([factor, torch.zeros_like(factor[:1]) if steps > 1 else torch.zeros_like(covariance)])
    pull = gain @ (y - offset)[..., None]
    return Bridges(x, grid, matrix - gain @ after @ matrix, shift + pull[..., 0], factor)
