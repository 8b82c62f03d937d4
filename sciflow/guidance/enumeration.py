r"""Enumerated SVDD: every child of a one-token move is valued, so the move is tilted exactly.

Where a move reveals ONE token per sample, x_s is one of K children, and instead of weighing M random candidates
(`SVDD`) all of them are scored. With child(v) the state after token v,

    p(v) -> p(v) exp(V_s(child(v))/alpha) / Z,     Z = sum_v p(v) exp(V_s(child(v))/alpha).

This is SVDD with M = infinity at the price of K values (svdd.md, appendix A). With exact values and a denoiser whose
conditionals are those of one joint law, the samples follow p(x0) exp(r(x0)/alpha) exactly, for any K: no bias from M.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Hook, Transition
from sciflow.core.kernels import Categorical, Kernel
from sciflow.core.values import CommonNoise, Value


class Enumeration(Hook):
    """Tilts kernels that are random in at most one entry per sample, such as those of `AnyOrder` with steps = length.

    Tokens that no sample of the batch can draw are not scored. One host synchronisation per move (the check).

    Args:
        value: Values of states; NaN counts as the worst.
        alpha: Temperature in units of the reward; 0 takes the best child, equally good ones in proportion to p.

    Raises:
        UserError: alpha < 0; while sampling: a kernel is not categorical, or random in several entries of a sample.
    """

    def __init__(self, value: Value, alpha: float = 0.1) -> None:
        if alpha < 0:
            raise UserError(f"Enumeration: got alpha={alpha}, expected alpha >= 0")
        self.value, self.alpha = value, alpha

    def propose(self, field: str, kernel: Kernel, transition: Transition) -> Kernel:
        """The tilted kernel; other fields keep their values of before the move in the children."""
        if not isinstance(kernel, Categorical):
            raise UserError(
                f"Enumeration: field '{field}' has a {type(kernel).__name__} kernel, expected tokens (Categorical) "
                "moved by AnyOrder; SVDD works for every kernel"
            )
        layout, possible = kernel.layout, kernel.probs > 0  # (rows, ..., K)
        random = possible.sum(-1) > 1
        most = layout.per_sample(random.double()).max()
        random = random[..., None] & possible
        report = torch.cat([most[None], random.flatten(0, -2).any(0).to(most)]).tolist()  # one synchronisation
        if report[0] > 1:
            raise UserError(
                f"Enumeration: a move of field '{field}' is random in {report[0]:.0f} positions of a sample, expected "
                "at most 1; sample with AnyOrder and as many steps as tokens, or use SVDD"
            )
        tokens = [token for token, drawn in enumerate(report[1:]) if drawn]
        if not tokens:
            return kernel
        rest, before = kernel.probs.argmax(-1), transition.before
        children = torch.cat([torch.where(random[..., token], token, rest) for token in tokens])
        states = before.repeat(len(tokens)).put(**{field: children})
        values = self.value(states, transition.move, transition.denoise, CommonNoise(transition.noise, len(tokens)))
        values = values.reshape(len(tokens), before.batch).double()
        gradient = kernel.probs.new_zeros(kernel.probs.shape, dtype=torch.float64)
        for token, column in zip(tokens, values, strict=True):
            gradient[..., token] = layout.rows(column, rest)
        return kernel.tilt(tilt_of_values(gradient, random, self.alpha))


def tilt_of_values(values: Tensor, drawn: Tensor, alpha: float) -> Tensor:
    """Log factors (rows, ..., K) for the probabilities of entries with these values.

    The best entry that can be drawn gets 0. NaN and -inf entries get -inf unless an entry has no other. Positions
    without choice (`drawn` nowhere true) get 0.

    Args:
        values: (rows, ..., K), in units of the reward.
        drawn: Where a value was computed and the token has positive probability.
        alpha: Temperature; 0: 0 for the best, -inf for the rest.
    """
    values = values.nan_to_num(nan=-torch.inf, posinf=torch.finfo(values.dtype).max, neginf=-torch.inf)
    values = torch.where(drawn, values, -torch.inf)
    best = values.amax(-1, keepdim=True)
    nothing = torch.zeros_like(values)
    tilt = torch.where(values == best, nothing, -torch.inf) if alpha == 0 else (values - best) / alpha
    return torch.where(best.isneginf(), nothing, tilt)
