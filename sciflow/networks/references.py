r"""Reference drifts b_theta(x, t) of diffusions in physical time, as modules `forward(x (n, d), t) -> (n, d)`.

Families of Shen, Berlinghieri & Broderick (arXiv 2408.06277) and standard ones. All float64. A family that is linear in
theta, b = sum_p theta_p f_p(x, t), says so by its `features`; its theta-step is one linear solve.
"""

from __future__ import annotations

from collections.abc import Callable as Function
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from sciflow.core.config import Configurable

F64 = torch.float64


def scalar(value: float) -> nn.Parameter:
    """A learned number."""
    return nn.Parameter(torch.tensor(float(value), dtype=F64))


class Reference(nn.Module, Configurable):
    """Base of all reference drifts.

    Attributes:
        dim: Dimension d that the family is made for; None: any.
        linear: b is linear in the parameters, `features` exists.
    """

    dim: ClassVar[int | None] = None
    linear: ClassVar[bool] = False

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift at positions (n, d) and physical times () or (n,): (n, d), units of x per time.

        A linear family: its features times its parameters, in the order of `parameters()`.
        """
        theta = [parameter.reshape(()) for parameter in self.parameters()]
        return self.features(x, t) @ torch.stack(theta) if theta else torch.zeros_like(x)

    def features(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Design matrix of a linear family: (n, d, p)."""
        raise NotImplementedError(f"{type(self).__name__} is not linear in its parameters")

    def jacobian(self, x: Tensor, t: Tensor | float) -> Tensor:
        """db_i/dx_j at each row: (n, d, d). By automatic differentiation; rows do not see each other."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            drift = self(x, t)
            if not drift.requires_grad:
                return x.new_zeros(*x.shape, x.shape[1])
            sums = [column.sum() for column in drift.unbind(1)]
            rows = [torch.autograd.grad(one, x, retain_graph=True, materialize_grads=True)[0] for one in sums]
            return torch.stack(rows, 1)

    def next_mean(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Mean of one step of duration h (n,) from positions (n, d) at times (n,): Euler-Maruyama, x + h b."""
        return x + h[:, None] * self(x, t)

    def linearised(self, x: Tensor, t: Tensor, h: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """One step of the reference: mean (n, d), its derivative by x (n, d, d) and covariance (n, d, d).

        I + h J and sigma^2 h I here. Families with an exact law replace this and `next_mean`.
        """
        eye = torch.eye(x.shape[1], dtype=x.dtype)
        matrix = eye + h[:, None, None] * self.jacobian(x, t)
        with torch.no_grad():
            return self.next_mean(x, t, h), matrix, sigma**2 * h[:, None, None] * eye


class Brownian(Reference):
    """No drift: the vanilla Schroedinger bridge."""

    linear: ClassVar[bool] = True

    def features(self, x: Tensor, t: Tensor | float) -> Tensor:
        """No columns."""
        return x.new_zeros(*x.shape, 0)


class OU(Reference):
    """Ornstein-Uhlenbeck, b = -rate x + pull, i.e. relaxation to pull/rate; steps are exact for any duration.

    Args:
        dim: Dimension.
        rate: Starting value, per time; any sign.
    """

    linear: ClassVar[bool] = True

    def __init__(self, dim: int, rate: float = 0.0) -> None:
        super().__init__()
        self.size = dim
        self.rate = scalar(rate)
        self.pull = nn.ParameterList(scalar(0.0) for _ in range(dim))

    def features(self, x: Tensor, t: Tensor | float) -> Tensor:
        """-x, and a unit vector for each pull."""
        return torch.cat([-x[..., None], torch.eye(self.size, dtype=x.dtype).expand(len(x), -1, -1)], -1)

    def next_mean(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """e^{-rate h} x + pull (1 - e^{-rate h})/rate."""
        return (-self.rate * h).exp()[:, None] * x + torch.stack(list(self.pull)) * _relaxed(self.rate, h)[:, None]

    def linearised(self, x: Tensor, t: Tensor, h: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
        """Derivative e^{-rate h}, variance sigma^2 (1 - e^{-2 rate h})/(2 rate)."""
        with torch.no_grad():
            eye = torch.eye(x.shape[1], dtype=x.dtype)
            decay, variance = (-self.rate * h).exp(), sigma**2 * _relaxed(2 * self.rate, h)
            return self.next_mean(x, t, h), decay[:, None, None] * eye, variance[:, None, None] * eye


def _relaxed(rate: Tensor, h: Tensor) -> Tensor:
    """(1 - e^{-rate h})/rate, h at rate 0."""
    return h if float(rate.detach()) == 0 else -torch.expm1(-rate * h) / rate


class LotkaVolterra(Reference):
    """Prey x and predators y: dx = alpha x - beta x y, dy = delta x y - gamma y."""

    dim: ClassVar[int | None] = 2
    linear: ClassVar[bool] = True

    def __init__(self, alpha: float = 1e-5, beta: float = 1e-5, gamma: float = 1e-5, delta: float = 1e-5) -> None:
        super().__init__()
        self.alpha, self.beta, self.gamma, self.delta = scalar(alpha), scalar(beta), scalar(gamma), scalar(delta)

    def features(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Columns of alpha, beta, gamma, delta."""
        (prey, predators), meet = x.unbind(1), x.prod(1)
        zero = torch.zeros_like(prey)
        rows = [prey, -meet, zero, zero], [zero, zero, -predators, meet]
        return torch.stack([torch.stack(row, -1) for row in rows], 1)


class Repressilator(Reference):
    """Three genes in a ring, each repressed by the one before: dx_i = beta/(1 + (x_{i-1}/k)^n) - gamma x_i.

    Concentrations are clamped to max(x, 0) + 1e-8 everywhere, the decay included; parameters act by their absolute
    values (both as published).
    """

    dim: ClassVar[int | None] = 3

    def __init__(self, beta: float = 1e-5, n: float = 1.0, k: float = 1.0, gamma: float = 1e-5) -> None:
        super().__init__()
        self.beta, self.n, self.k, self.gamma = scalar(beta), scalar(n), scalar(k), scalar(gamma)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift (n, 3)."""
        x = x.clamp_min(0) + 1e-8
        # (x/k)^n as an exponential, bounded: beyond e^50 the production is zero anyway and gradients overflow
        crowd = (self.n.abs() * (x.roll(1, -1) / (self.k.abs() + 1e-8)).log()).clamp_max(50).exp()
        return self.beta.abs() / (1 + crowd) - self.gamma.abs() * x


class Vortex(Reference):
    """Elliptic rotation about a centre (the published "big vortex"): with q = (y - y0) e^{-l}, b = s (q, -(x - x0))."""

    dim: ClassVar[int | None] = 2

    def __init__(self, x0: float = 0.0, y0: float = 0.0, stretch: float = 0.0, speed: float = 0.0) -> None:
        super().__init__()
        self.x0, self.y0, self.stretch, self.speed = scalar(x0), scalar(y0), scalar(stretch), scalar(speed)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift (n, 2)."""
        return self.speed * torch.stack([(x[:, 1] - self.y0) * (-self.stretch).exp(), self.x0 - x[:, 0]], -1)


class LambOseen(Reference):
    """Vortex with a core: b = speed (-sin phi, cos phi) (1 - e^{-r^2})/r in coordinates (x - centre) e^{-log_scale}."""

    dim: ClassVar[int | None] = 2

    def __init__(self, x0: float = 0.0, y0: float = 0.0, log_scale: float = 0.0, speed: float = 0.0) -> None:
        super().__init__()
        self.x0, self.y0, self.log_scale, self.speed = scalar(x0), scalar(y0), scalar(log_scale), scalar(speed)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift (n, 2)."""
        z = (x - torch.stack([self.x0, self.y0])) * (-self.log_scale).exp()
        r2 = z.square().sum(-1, keepdim=True) + 1e-12
        return self.speed * torch.stack([-z[:, 1], z[:, 0]], -1) * -torch.expm1(-r2) / r2


class Spring(Reference):
    """Relaxation to the origin, b = -|h| x."""

    def __init__(self, h: float = 0.1) -> None:
        super().__init__()
        self.h = scalar(h)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift (n, d)."""
        return -self.h.abs() * x


class GradientField(Reference):
    """b = grad phi with phi an MLP; SiLU, because grad phi of a ReLU network has no Jacobian. Starts at zero drift.

    Args:
        dim: Dimension.
        widths: Hidden sizes.
        seed: Seed of the first weights.
    """

    def __init__(self, dim: int, widths: Sequence[int] = (128, 64, 64), seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers: list[nn.Module] = []
            for size, width in zip((dim, *widths), widths):
                layers += [nn.Linear(size, width, dtype=F64), nn.SiLU()]
            last = nn.Linear(widths[-1], 1, bias=False, dtype=F64)  # a constant has no gradient
        nn.init.zeros_(last.weight)
        self.potential = nn.Sequential(*layers, last)

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Drift (n, d), differentiable twice."""
        outer = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone() if x.is_inference() else x
            x = x if x.requires_grad else x.detach().requires_grad_()
            return torch.autograd.grad(self.potential(x).sum(), x, create_graph=outer)[0]


class Callable(Reference):
    """Any drift without learned parameters.

    Args:
        drift: `drift(x (n, d), t () or (n,)) -> (n, d)`, torch operations, float64, row by row.
    """

    def __init__(self, drift: Function[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.drift = drift

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """As given; t as a tensor, () or (n,)."""
        return self.drift(x, torch.as_tensor(t, dtype=x.dtype))
