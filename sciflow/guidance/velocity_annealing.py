r"""Velocity annealing: generation follows (1 + s t) v instead of the learned velocity v, t = 1 - clock running to data.

FlowMM (Miller et al. 2024) calls it anti-annealing, OMatG (Hoellmer et al. 2025) velocity annealing. The flow is pulled
harder the nearer it is to the data, so that samples of crystals are sharper; their law is no longer the model's. Of
an interpolant only the velocity b is scaled, not the noise prediction: its SDE becomes dx = ((1 + s t) b - epsilon
score) dt + sqrt(2 epsilon) dW.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook
from sciflow.core.process import Prediction
from sciflow.core.state import State


class VelocityAnnealing(Hook):
    """Scales predicted velocities (kinds "velocity" and "interpolant") by 1 + s (1 - clock).

    Args:
        strength: Field -> s > -1; 0 changes nothing. OMatG's crystals have 10.18 for coordinates, 1.82 for lattices.

    Raises:
        UserError: No field, or a strength that is not a number above -1; while sampling, a field that is not predicted
            or whose predictions are of another kind.
    """

    def __init__(self, strength: dict[str, float]) -> None:
        if not strength:
            raise UserError("velocity annealing needs at least one field, e.g. {'coords': 10.0}")
        for field, value in strength.items():
            if not (math.isfinite(value) and value > -1):
                raise UserError(f"strength of '{field}' must be a number above -1, got {value}")
        self.strength = dict(strength)

    def wrap(self, denoise: Denoise) -> Denoise:
        """The denoiser with scaled velocities."""

        def annealed(state: State, clocks: Mapping[str, Tensor]) -> dict[str, Prediction]:
            predictions = dict(denoise(state, clocks))
            for field, strength in self.strength.items():
                if field not in predictions:
                    raise UserError(f"velocity annealing of '{field}', but predicted are: {', '.join(predictions)}")
                predictions[field] = _scaled(field, predictions[field], strength)
            return predictions

        return annealed


def _scaled(field: str, prediction: Prediction, strength: float) -> Prediction:
    value, x = prediction.value, prediction.x
    factor = prediction.layout.rows((1 + strength * (1 - prediction.t)).to(x), x)
    if prediction.kind == "velocity":
        return prediction.replace(factor * value, "velocity")
    if prediction.kind == "interpolant":
        return prediction.replace(torch.stack([factor * value[..., 0], value[..., 1]], -1), "interpolant")
    raise UserError(
        f"velocity annealing of '{field}' needs predictions of a velocity (FlowMatching, StochasticInterpolant), "
        f"this model predicts '{prediction.kind}'"
    )
