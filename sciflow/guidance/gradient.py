r"""First-order guidance: kernels tilted by the gradient of the reward of the predicted clean state (DPS and its kin).

The soft value of a state is taken as V(x_t) ~ r(E[x0 | x_t]) and linearised (Dhariwal & Nichol, arXiv 2105.05233; Chung
et al., arXiv 2209.14687; for tokens Nisonoff et al., arXiv 2406.01572): with g = d r(E[x0 | x_t]) / d x_t

    p(x_s | x_t) -> p(x_s | x_t) exp(scale <g, x_s>) / Z,     scale = 1/alpha.

A Gaussian kernel N(m, v) becomes N(m + v scale g, v); a token's probabilities p_k are multiplied by exp(scale g_k), x_t
being relaxed to one-hot vectors. What the reward sees of tokens are PROBABILITIES (never their logarithms): 1 at what
is known, the prediction at what is masked,

    x0 = x[..., :K] + x[..., K] p(x0 | x)     masked process (K is the mask);     x0 = p(x0 | x)     all others,

linear in x, so that g_k - g_mask holds the direct effect of token k as well as the one through the predictions
elsewhere (for independent tokens and additive rewards the tilt is then exact). It is an approximation everywhere else;
as `guide` of `SMC` it is corrected exactly (TDS).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook, Transition
from sciflow.core.kernels import Gaussian, Kernel, one_hot
from sciflow.core.process import Prediction, Process
from sciflow.core.spaces import Discrete
from sciflow.core.state import State
from sciflow.core.values import Reward


class GradientGuidance(Hook):
    """Tilts the kernels of all fields by one gradient per move: one more network call, forwards and backwards.

    Works for stochastic solvers of every process; the network must accept relaxed tokens (float one-hot vectors).

    Args:
        reward: Differentiable, relaxed clean state -> (B,). It gets a `State` in which continuous fields are
            E[x0 | x_t] and token fields are probabilities (B, ..., K) over the K clean tokens, float; layouts and
            conditions are those of the run. Rewards of samples must not depend on each other.
        scale: 1/alpha, in units of 1/reward.
        start: Acts on moves that begin at a clock <= start.
        limit: Largest shift of a point (row, vector in the last dimension) by one move, in standard deviations of its
            Gaussian kernel; None: no limit. Steep rewards are too much for a linearisation early in a run.

    Raises:
        UserError: While sampling: the reward does not depend on the state through differentiable operations.
    """

    needs_grad: ClassVar[bool] = True

    def __init__(self, reward: Reward, scale: float = 10.0, start: float = 1.0, limit: float | None = None) -> None:
        self.reward, self.scale, self.start, self.limit = reward, scale, start, limit

    def prepare(self, state: State) -> None:
        """Forget the last run."""
        self.processes: dict[str, Process] = {}
        self.latest: tuple[Transition, dict[str, Tensor]] | None = None

    def wrap(self, denoise: Denoise) -> Denoise:
        """Note which process each field has: a field of integers does not say how many tokens there are."""

        def noting(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            predictions = denoise(state, clocks)
            self.processes = {name: prediction.process for name, prediction in predictions.items()}
            return predictions

        return noting

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        """The tilted kernel."""
        if transition.move.t > self.start:
            return kernel
        if self.latest is None or self.latest[0] is not transition:  # once for all fields
            self.latest = (transition, self.gradients(transition))
        pull = self.scale * self.latest[1][field]
        if self.limit is not None and isinstance(kernel, Gaussian):
            pull = pull * (self.limit / (kernel.std * pull.norm(dim=-1, keepdim=True)).clamp_min(1e-30)).clamp_max(1)
        return kernel.tilt(pull)

    def gradients(self, transition: Transition) -> dict[str, Tensor]:
        """Field -> derivative of the reward of the predicted clean state with respect to the state before the move.

        Shaped like a continuous field; of a token field (rows, ..., K), or (rows, ..., K + 1) where K is the mask.
        """
        before, clock = transition.before, torch.tensor(transition.move.t, dtype=torch.float64)
        with torch.enable_grad():
            inputs = {name: relaxed(before[name], process).requires_grad_() for name, process in self.processes.items()}
            state = before.put(**inputs)
            predictions = transition.denoise(state, dict.fromkeys(state.fields, clock))
            clean = state.put(**{name: expected_clean(prediction) for name, prediction in predictions.items()})
            total = self.reward(clean).sum()
            if not total.requires_grad:
                raise UserError(
                    "GradientGuidance: the reward of the relaxed state carries no gradient; give one made of "
                    "differentiable operations on float fields (token fields are probabilities), or use SVDD or SMC"
                )
            gradients = torch.autograd.grad(total, list(inputs.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(inputs, gradients, strict=True))


def relaxed(x: Tensor, process: Process) -> Tensor:
    """A copy of a field for differentiation: integer tokens become one-hot vectors of the process's states."""
    space = getattr(process, "space", None)
    if isinstance(space, Discrete) and not x.is_floating_point():
        return one_hot(x, space.size)
    return x.detach().clone()


def expected_clean(prediction: Prediction) -> Tensor:
    """E[x0 | x_t], linear in a relaxed field: what is known is kept, what is masked is predicted."""
    data, x = prediction.to("data"), prediction.x
    return x[..., :-1] + x[..., -1:] * data if hasattr(prediction.process, "masked") else data
