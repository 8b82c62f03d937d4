r"""Categorical Bayesian flow (Graves et al. 2023, section 6) as a Gaussian process on lifted logits.

A class e (one-hot, K entries) is lifted to x0 = K e - 1. The belief is theta = softmax(z) with

    z | e ~ N(beta (K e - 1), beta K I),   beta(t) = accuracy (1 - t)^2,

and the Bayesian update theta <- theta exp(y), y ~ N(alpha (K e - 1), alpha K I), is the Gaussian posterior: accuracies
add. The network predicts probabilities, whose lift K p - 1 is the mean of x0. A single class (K = 1) is legal: its
lift is 0 whatever happens, and so is its loss.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional

from sciflow.core.errors import UserError
from sciflow.core.schedules import CategoricalBFN as CategoricalFlow
from sciflow.core.state import Layout
from sciflow.processes.gaussian import GaussianProcess


class CategoricalBFN(GaussianProcess):
    """Bayesian flow of classes (rows, K), one-hot, noised as logits (rows, K).

    Args:
        classes: K.
        accuracy: beta_1 = beta(0); 3.0 for Perov-5 and 0.5 for MP-20 (public CrysBFN configurations).
        kind: What the network predicts: "probs", (rows, K) probabilities, or a kind of the lifted Gaussian process.
    """

    kinds: ClassVar[tuple[str, ...]] = ("probs", *GaussianProcess.kinds)

    def __init__(self, classes: int, accuracy: float = 3.0, kind: str = "probs") -> None:
        if classes < 1:
            raise UserError(f"classes must be at least 1, got {classes}")
        super().__init__(CategoricalFlow(max(classes, 2), accuracy), kind=kind)  # one class: noise without a meaning
        self.classes = classes

    def encode(self, x: Tensor) -> Tensor:
        """One-hot vectors (or probabilities) -> K x - 1."""
        return self.classes * x - 1

    def decode(self, x: Tensor, data: Tensor | None) -> Tensor:
        """Logits -> one-hot vectors of the most probable classes."""
        return functional.one_hot(x.argmax(-1), x.shape[-1]).to(x)

    def to_data(self, value: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Probabilities are lifted; the other kinds as in the Gaussian process."""
        return self.encode(value) if kind == "probs" else super().to_data(value, kind, x, t, layout)

    def from_data(self, data: Tensor, kind: str, x: Tensor, t: Tensor, layout: Layout) -> Tensor:
        """Inverse of `to_data`."""
        return (data + 1) / self.classes if kind == "probs" else super().from_data(data, kind, x, t, layout)
