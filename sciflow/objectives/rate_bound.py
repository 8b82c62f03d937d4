r"""Path-space bound of continuous-time Markov chains: one formula for every process with jump rates.

Let R_theta(x, y) be the model's reverse rates at x_t = x and R_0(x, y) those given the data x0. By Girsanov

    -log p(x0) <= int_0^1 E_{x_t | x0} sum_{y != x_t} [ R_theta - R_0 + R_0 log(R_0/R_theta) ] dt + KL(q(x_1|x0) || pi)

(Campbell et al. 2022; Lou et al. 2024, "Discrete diffusion modeling by estimating the ratios of the data distribution",
equation 10, the DWDSE loss with ratio = R/Q). For masked processes it is the NELBO of `objectives.nelbo`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.kernels import one_hot
from sciflow.core.objective import Example, Objective
from sciflow.core.process import Prediction


class RateBound(Objective):
    """The integrand at the drawn clock, in nats per token of the sample; >= 0, and 0 where the rates agree.

    Its mean over t ~ U(0, 1) is the integral; the term at t = 1 is left out (0 for masked processes, about alpha(1) for
    others). Needs a process whose `rates` come from a data prediction, and int64 tokens.
    """

    def __call__(self, pred: Prediction, example: Example) -> Tensor:
        """(B,) divergences of the rates.

        Raises:
            UserError: The process has no rates that follow from x0.
        """
        process, layout = pred.process, pred.layout
        if "rates" not in process.provides() or "data" not in process.kinds:
            raise UserError(f"RateBound needs rates that follow from x0; {type(process).__name__} has none")
        model = process.rates(pred.x, pred, pred.t, layout)  # type: ignore[operator]
        clean = one_hot(example.x0, process.tokens).to(model)  # type: ignore[arg-type]
        true = process.rates(pred.x, pred.replace(clean, "data"), pred.t, layout).to(model)  # type: ignore[operator]
        tiny = torch.finfo(model.dtype).tiny
        terms = model - true + torch.xlogy(true, true) - true * model.clamp_min(tiny).log()
        return layout.per_sample(terms.sum(-1)) / layout.counts(example.x0).clamp_min(1)
