r"""Squared error of the data prediction, weighted by the loss of signal-to-noise ratio: the variational bound.

For x_t ~ N(alpha x0, sigma^2), -log p(x0) <= E_t[ -(1/2) dSNR/dt |x0 - x0'(x_t)|^2 ] + const with SNR = (alpha/sigma)^2
and -dSNR/dt = g^2 alpha^2/sigma^4 (Kingma et al. 2021, equation 17). For Bayesian flows it is their continuous-time
loss (Graves et al. 2023): -log(sigma_1) sigma_1^(-2 (1 - t)) |x0 - x0'|^2 for continuous data (equation 100), and K
beta_1 (1 - t) |e - e'|^2 for categories (equation 205), because x0 = K e - 1 there.
"""

from __future__ import annotations

from torch import Tensor

from sciflow.core.process import Prediction
from sciflow.objectives.regression import Regression


class SNRWeighted(Regression):
    """The bound's integrand at the drawn clock, for Gaussian processes with a point prior or data far from it.

    Args:
        power: The weight is raised to this power: 1 is the bound, 0 the plain squared error; between them, early clocks
            (little knowledge) count more.
        per_entry: As in `Regression`.
    """

    def __init__(self, power: float = 1.0, per_entry: bool = True) -> None:
        super().__init__("data", per_entry)
        self.power = power

    def weight(self, pred: Prediction) -> Tensor:
        """(-dSNR/dt / 2)^power, broadcastable to the field."""
        schedule, t = pred.process.schedule, pred.t.double()
        signal_to_variance = schedule.alpha(t) / schedule.variance(t)  # type: ignore[union-attr, operator]
        rate = 0.5 * schedule.g2(t) * signal_to_variance**2  # type: ignore[union-attr, operator]
        return pred.layout.rows((rate**self.power).to(pred.x), pred.x)
