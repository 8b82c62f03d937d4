r"""Likelihoods: of the probability flow (Song et al. 2021, appendix D.2) and the variational bound from kernels.

Along dx/dt = u(x, t) the density obeys d log p/dt = -div u, so log p_0(x) = log p_1(x_1) + int_0^1 div u dt. The pair
(x, log p) is integrated by the classical Runge-Kutta method. The divergence is exact (one backward pass per coordinate)
or Skilling-Hutchinson: E[v . J v] over Rademacher v, one backward pass per probe.

Divergences count the free coordinates of the space: pairs once for symmetric matrices, no centre of mass.

The bound: log p(x0) >= E log p(x0 | x_last) - sum KL(q(x_s | x_t, x0) || p(x_s | x_t)) - KL(q(x_1 | x0) || prior).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Grid
from sciflow.core.hooks import Denoise
from sciflow.core.kernels import Kernel
from sciflow.core.noise import Draws, Move, Noise
from sciflow.core.process import Process
from sciflow.core.spaces import Euclidean
from sciflow.core.state import Layout, State

Field = Callable[[Tensor], Tensor]


class Divergence(ABC):
    """A way to get the divergence of a vector field per sample."""

    @abstractmethod
    def __call__(
        self, field: Field, x: Tensor, space: Euclidean, layout: Layout, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """(field(x), divergence (B,)) at x; `field` gives tangent vectors of `space`."""


class _Direction(Draws):
    """A given array in place of normals: `space.noise` makes it a tangent vector of the space."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    def normal(self, like: Tensor, layout: Layout) -> Tensor:
        return self.value

    uniform = normal


class ExactDivergence(Divergence):
    """Trace of the Jacobian, one row (backward pass) per coordinate.

    For dense fields only: sample i's velocity may depend on sample i alone.
    """

    def __call__(
        self, field: Field, x: Tensor, space: Euclidean, layout: Layout, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Sum of e_i . J P e_i over the coordinates, P the projection to tangent vectors."""
        if layout.index is not None:
            raise UserError("the exact divergence needs a dense field; use Hutchinson for ragged ones")
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = field(leaf)
            columns, total = value.reshape(len(x), -1), x.new_zeros(len(x))
            for i in range(columns.shape[1]):
                unit = torch.zeros_like(columns)
                unit[:, i] = 1
                tangent = space.noise(x, layout, _Direction(unit.reshape(x.shape)))
                (row,) = torch.autograd.grad(columns[:, i].sum(), leaf, retain_graph=True)
                total = total + (row * tangent).reshape(len(x), -1).sum(1)
        return value.detach(), total


class Hutchinson(Divergence):
    """Unbiased estimate from `probes` Rademacher vectors.

    Its variance is 2 (|J|_F^2 - |diag J|^2)/probes for symmetric J.
    """

    def __init__(self, probes: int = 1) -> None:
        if probes < 1:
            raise ValueError(f"need at least one probe, got {probes}")
        self.probes = probes

    def __call__(
        self, field: Field, x: Tensor, space: Euclidean, layout: Layout, draws: Draws
    ) -> tuple[Tensor, Tensor]:
        """Mean of v . J v."""
        total = x.new_zeros(layout.batch)
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            value = field(leaf)
            for _ in range(self.probes):
                signs = (draws.uniform(x, layout) < 0.5).to(x) * 2 - 1
                probe = space.noise(x, layout, _Direction(signs))
                (row,) = torch.autograd.grad(space.reduce(probe * value, layout).sum(), leaf, retain_graph=True)
                total = total + layout.per_sample(row * probe)
        return value.detach(), total / self.probes


def flow_log_prob(
    state: State,
    process: Process,
    denoise: Denoise,
    noise: Noise,
    *,
    steps: int = 400,
    start: float = 1e-5,
    divergence: Divergence | None = None,
    prior: Kernel | None = None,
) -> Tensor:
    """log p(x0) under the probability flow of a model with one field: (B,), in nats.

    Args:
        state: Data; its only field is the one that `process` noises.
        process: Provides `velocity` and `prior`.
        denoise: The denoiser.
        noise: For Hutchinson probes; with `PerSample` noise the same probes serve at all clocks of one call.
        steps: Runge-Kutta steps.
        start: Smallest clock.
        divergence: Exact by default.
        prior: Law at t = 1 other than the process's.

    Raises:
        UserError: More than one field, or a process without a flow.
    """
    if len(state.fields) != 1 or not {"velocity", "prior"} <= process.provides():
        raise UserError(
            f"the flow likelihood needs one field and a process with a velocity and a prior; got fields "
            f"{sorted(state.fields)} and {type(process).__name__}"
        )
    state = _prepared(state, denoise)
    (name,), layout = state.fields, next(iter(state.layouts.values()))
    divergence = divergence if divergence is not None else ExactDivergence()

    def rate(x: Tensor, clock: Tensor) -> tuple[Tensor, Tensor]:
        def field(y: Tensor) -> Tensor:
            pred = denoise(state.put(**{name: y}), {name: clock})[name]
            return process.velocity(y, pred, clock, layout)  # type: ignore[operator]

        return divergence(field, x, process.space, layout, noise.at(name, Move(0, 0.0, 1.0)))  # type: ignore[arg-type]

    x, change = state[name], state[name].new_zeros(state.batch)
    clocks = torch.linspace(start, 1, steps + 1, dtype=torch.float64)
    with torch.no_grad():
        for t, s in zip(clocks[:-1].clone(), clocks[1:].clone(), strict=True):
            h = s - t
            k1, d1 = rate(x, t)
            k2, d2 = rate(x + h / 2 * k1, t + h / 2)
            k3, d3 = rate(x + h / 2 * k2, t + h / 2)
            k4, d4 = rate(x + h * k3, s)
            x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            change = change + h / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        law: Kernel = prior if prior is not None else process.prior(x, layout)  # type: ignore[operator]
        return law.log_prob(x) + change


def variational_bound(
    state: State,
    processes: Mapping[str, Process],
    denoise: Denoise,
    noise: Noise,
    *,
    grid: Grid,
    steps: int,
) -> Tensor:
    """One-sample estimate of the bound on log p(x0), in nats: (B,). Averaging over noise seeds removes its spread.

    Each move but the last is one term: x_t is drawn from the marginal, the true posterior is compared with the model's.
    The last one goes to the data itself (`process.reconstruction`), so its start should be near t = 0.

    Args:
        state: Encoded data.
        processes: Field -> process with prior, marginal, posterior and reconstruction.
        denoise: The denoiser.
        noise: Source of the draws of x_t.
        grid: From 1 to near 0.
        steps: Number of moves.

    Raises:
        UserError: A process lacks one of these.
    """
    for name, p in processes.items():
        missing = {"prior", "marginal", "posterior", "reconstruction"} - p.provides()
        if missing:
            lacks = ", ".join(sorted(missing))
            raise UserError(f"field '{name}': {type(p).__name__} has no {lacks}, which the bound needs")
    state = _prepared(state, denoise)
    moves = [Move(i, t, s) for i, (t, s) in enumerate(grid.moves(steps))]
    total = torch.zeros(state.batch, dtype=torch.float64)
    with torch.no_grad():
        for move in moves:
            t, s = (torch.tensor(clock, dtype=torch.float64) for clock in (move.t, move.s))
            noised = {
                name: p.marginal(state[name], t, state.layouts[name]).sample(noise.at(name, move))  # type: ignore[operator]
                for name, p in processes.items()
            }
            preds = denoise(state.put(**noised), dict.fromkeys(processes, t))
            last = move.index == len(moves) - 1
            for name, p in processes.items():
                layout, x_t, data = state.layouts[name], noised[name], preds[name].to("data")
                if last:
                    end: Kernel = p.reconstruction(x_t, data, t, layout)  # type: ignore[operator]
                    total = total + end.log_prob(state[name])
                else:
                    model: Kernel = p.posterior(x_t, data, t, s, layout)  # type: ignore[operator]
                    true: Kernel = p.posterior(x_t, state[name], t, s, layout)  # type: ignore[operator]
                    total = total - true.kl(model)
        first = torch.tensor(moves[0].t, dtype=torch.float64)
        for name, p in processes.items():
            layout, x0 = state.layouts[name], state[name]
            far: Kernel = p.marginal(x0, first, layout)  # type: ignore[operator]
            prior: Kernel = p.prior(x0, layout)  # type: ignore[operator]
            if type(far) is type(prior):  # a point-mass prior is reached exactly at t = 1
                total = total - far.kl(prior)
        return total


def _prepared(state: State, denoise: Denoise) -> State:
    """The state with what the denoiser computes once, as the sampler and training do."""
    prepare = getattr(denoise, "prepare", None)
    return state if prepare is None else prepare(state)
