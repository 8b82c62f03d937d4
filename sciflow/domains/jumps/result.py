"""`Estimate`: the rates of a jump process with their uncertainty and what follows from them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from sciflow.core import markov
from sciflow.core.errors import UserError
from sciflow.core.noise import Fresh
from sciflow.domains.jumps.data import Paths
from sciflow.domains.jumps.em import pack, unpack
from sciflow.domains.jumps.judging import ChapmanKolmogorov, HellingerScore, chapman_kolmogorov, hellinger

NOTHING = 1e-9  # slope of the likelihood, of the steepest, below which the data say nothing about a rate
ONE_WAY = 1e-8  # flow back over flow forth below which an edge goes one way only (section 1)


@dataclass(frozen=True, eq=False)
class Estimate:
    """Rates of a jump process and what is known about them. Times have the unit of the paths, rates its inverse.

    Attributes:
        rates: (S, S) F_ij of i -> j; rows sum to 0. 0 with the error inf where neither data nor prior say anything.
        stderr: (S, S) standard errors; on the diagonal that of the exit rate.
        initial: (S,) law p0 of the first state.
        method: That gave it, e.g. "em".
        loglik: Log-likelihood of the observations at the estimate, None if it was not computed.
        noise_rate: Probability that a label is wrong; None if labels were taken as right or a signal was used.
        warnings: Named warnings, "name: sentence".
        unit: Of time.
        names: S names of states.
        log_covariance: (E, E) of log F_ij, off-diagonals row by row; None where there are `draws` only.
        slopes: (E,) for rates on the boundary 0, of their exponential posterior; 0 for all others.
        draws: (n, S, S) posterior samples of the rates, for samplers.
        confusion: (S, S) law of labels given states, if it was learned.
        means: (S,) levels of a signal, if they were learned; `deviations` their widths.
        values: Log-likelihood plus log-prior along the EM steps.
        visited: (S,) bool, states that occur in the data; None: all. Stationary law, time scales and passage times are
            those among them: the rates of other states come from a prior alone, and so would whatever they enter.
        details: Anything else worth keeping: plain numbers and text.
    """

    rates: np.ndarray
    stderr: np.ndarray
    initial: np.ndarray
    method: str
    loglik: float | None = None
    noise_rate: float | None = None
    warnings: tuple[str, ...] = ()
    unit: str = ""
    names: tuple[str, ...] = ()
    log_covariance: np.ndarray | None = None
    slopes: np.ndarray | None = None
    draws: np.ndarray | None = None
    confusion: np.ndarray | None = None
    means: np.ndarray | None = None
    deviations: np.ndarray | None = None
    values: tuple[float, ...] = ()
    visited: np.ndarray = None  # type: ignore[assignment]  # set below
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.visited is None:
            object.__setattr__(self, "visited", np.ones(len(self.rates), bool))

    @classmethod
    def of(
        cls,
        rates: np.ndarray,
        initial: np.ndarray,
        method: str,
        *,
        log_covariance: np.ndarray | None = None,
        slopes: np.ndarray | None = None,
        draws: np.ndarray | None = None,
        **others: Any,
    ) -> Estimate:
        """An estimate from off-diagonals (whatever stands on the diagonal) and the spread of log-rates or of draws."""
        F = generator(rates)
        if slopes is not None:
            nothing = (slopes > 0) & (slopes < NOTHING * slopes.max())
            slopes = np.where(nothing, 0.0, slopes)
            F[~np.eye(len(F), dtype=bool)] *= ~nothing
            F = generator(F)
        if draws is not None:
            draws = markov.generator(torch.from_numpy(draws)).numpy()
            stderr = draws.std(0)
        else:
            stderr = _standard_errors(F, log_covariance, slopes)
        given = {"log_covariance": log_covariance, "slopes": slopes, "draws": draws, **others}
        return cls(F, stderr, np.asarray(initial, float), method, **given)

    @property
    def states(self) -> int:
        """S."""
        return len(self.rates)

    def warned(self, *sentences: str) -> Estimate:
        """The same estimate with further warnings (each once)."""
        fresh = [s for s in dict.fromkeys(sentences) if s not in self.warnings]
        return replace(self, warnings=(*self.warnings, *fresh))

    # ------------------------------------------------------------ what follows from the rates

    def stationary(self, rates: np.ndarray | None = None) -> np.ndarray:
        """Stationary law (S,) of the visited states, 0 for all others; p0 where nothing ever moves.

        Args:
            rates: (S, S) in place of the estimate's, so that `intervals(of=found.stationary)` gives its interval.
        """
        law = np.zeros(self.states)
        law[self.visited] = stationary(self._among_visited(rates).numpy())
        law = law if law.any() else self.initial * self.visited
        return law / law.sum()

    def timescales(self, rates: np.ndarray | None = None) -> np.ndarray:
        """-1/Re of the non-zero eigenvalues (..., S - 1), slowest first: the first one is the relaxation time.

        Of the V visited states; the S - V at the end are NaN.

        Args:
            rates: (..., S, S) in place of the estimate's.
        """
        return self._padded(markov.timescales(self._among_visited(rates)))

    def periods(self) -> np.ndarray:
        """2 pi/|Im| of the same eigenvalues (S - 1,): period of a damped oscillation, inf where there is none."""
        return self._padded(markov.periods(self._among_visited()))

    def _padded(self, values: Tensor) -> np.ndarray:
        return functional.pad(values, (0, self.states - 1 - values.shape[-1]), value=math.nan).numpy()

    def mfpt(self) -> np.ndarray:
        """Mean first-passage times (S, S) from row to column among the visited states, NaN for all others.

        inf where the column may never be reached.
        """
        times = np.full((self.states, self.states), np.nan)
        times[np.ix_(self.visited, self.visited)] = markov.mean_first_passage(self._among_visited()).numpy()
        return times + 0.0  # no -0 on the diagonal

    def _among_visited(self, rates: np.ndarray | None = None) -> Tensor:
        """Generators (..., V, V) of the visited states."""
        rates = self.rates if rates is None else rates
        return markov.generator(torch.from_numpy(rates[..., self.visited, :][..., self.visited]))

    def one_way_edges(self) -> list[tuple[int, int]]:
        """Edges i -> j used in the stationary law whose way back is (nearly) closed: flow ratio below 1e-8."""
        flow = self._flow()
        return [(int(i), int(j)) for i, j in np.argwhere((flow > 0) & (ONE_WAY * flow >= flow.T))]

    def entropy_production(self) -> float:
        """Entropy production rate in the stationary law, nats per unit time, over edges that go both ways.

        `one_way_edges` lists the others: each of them makes the exact value infinite.
        """
        flow = self._flow()
        both = (flow > ONE_WAY * flow.T) & (ONE_WAY * flow < flow.T)
        return float((flow[both] * np.log(flow[both] / flow.T[both])).sum())

    def _flow(self) -> np.ndarray:
        flow = self.stationary()[:, None] * self.rates * self.visited
        np.fill_diagonal(flow, 0)
        return flow

    # ------------------------------------------------------------ uncertainty

    def posterior(self, count: int, seed: int = 0) -> np.ndarray:
        """Rate matrices (count, S, S) from the (approximate) posterior.

        Draws of a sampler as they are; otherwise log-rates are normal, rates on the boundary 0 exponential.

        Raises:
            UserError: The estimate came without uncertainty.
        """
        noise = np.random.default_rng(seed)
        if self.draws is not None:
            return self.draws[noise.integers(0, len(self.draws), count)]
        if self.log_covariance is None:
            raise UserError(f"intervals: the estimate of method {self.method} carries no uncertainty")
        edges = pack(torch.from_numpy(self.rates)).numpy()
        values, vectors = np.linalg.eigh(self.log_covariance)
        root = vectors * np.sqrt(values.clip(0))
        drawn = edges * np.exp(np.clip(noise.standard_normal((count, len(edges))) @ root.T, -50, 50))
        if self.slopes is not None and self.slopes.any():
            zero = self.slopes > 0
            drawn[:, zero] = noise.exponential(1 / self.slopes[zero], (count, zero.sum()))
        matrices = np.zeros((count, self.states, self.states))
        matrices[:, ~np.eye(self.states, dtype=bool)] = drawn
        return markov.generator(torch.from_numpy(matrices)).numpy()

    def intervals(
        self,
        level: float = 0.9,
        of: Callable[[np.ndarray], np.ndarray] | None = None,
        count: int = 400,
        seed: int = 0,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Central intervals: lower and upper ends.

        Args:
            level: Probability that an interval is to hold the truth.
            of: Function of a rate matrix (S, S), e.g. `found.stationary`; None: the rates.
            count: Posterior draws, where they are needed.
            seed: Of those draws.

        Returns:
            Two arrays: (S, S) with NaN on the diagonal for rates, else the shape of what `of` returns. The law of a
            rate is taken as Gamma (mean and relative error as estimated); an interval of a rate that is not told from
            0 at this level begins at 0.
        """
        if not 0 < level < 1:
            raise UserError(f"intervals: got level {level}, expected between 0 and 1, e.g. 0.9")
        ends = (1 - level) / 2, (1 + level) / 2
        if of is not None or self.log_covariance is None:
            matrices = self.posterior(count, seed) if self.draws is None else self.draws
            low, high = np.quantile(np.stack([of(F) for F in matrices]) if of else matrices, ends, axis=0)
        else:
            edges = pack(torch.from_numpy(self.rates)).numpy()
            bottom, top = _gamma_interval(level, edges, np.diag(self.log_covariance), self.slopes)
            low, high = (unpack(torch.from_numpy(e), self.states).numpy() for e in (bottom, top))
        if of is None:
            for ends in (low, high):
                np.fill_diagonal(ends, np.nan)
        return low, high

    def timescale_intervals(self, level: float = 0.9, count: int = 300) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends (S - 1,) for `timescales`, from the spread of their logarithms over `count` draws.

        NaN where that is unknown. Quantiles of the draws would be biased: with many uncertain rates, almost every draw
        is faster than the estimate.
        """
        drawn = self.timescales(self.posterior(count))
        logs = np.ma.log(np.ma.masked_invalid(drawn))
        spread = np.where(logs.count(0) > count / 10, logs.std(0).filled(np.nan), np.nan)
        wide = np.exp(NormalDist().inv_cdf((1 + level) / 2) * spread)
        return self.timescales() / wide, self.timescales() * wide

    # ------------------------------------------------------------ simulation and tests against data

    def simulate(self, count: int, times: Sequence[float] | np.ndarray, seed: int = 0) -> Paths:
        """Exact paths of the estimated chain on a grid, with right labels.

        Args:
            count: Number of paths.
            times: (L,) not decreasing; the first state is a draw of `initial`.
            seed: Of the paths.
        """
        grid = torch.as_tensor(np.asarray(times, float))
        if grid.ndim != 1 or not len(grid) or count < 1:
            raise UserError(f"simulate: got {count} paths, times {tuple(grid.shape)}; expected at least one path, (L,)")
        F, initial = torch.from_numpy(self.rates), torch.from_numpy(self.initial)
        states = markov.grid_paths(F, initial, grid, count, Fresh(seed)).numpy()
        return Paths.of(grid.numpy(), states, states_count=self.states, unit=self.unit, names=self.names)

    def hellinger(self, paths: Paths, sets: int = 100, seed: int = 0) -> HellingerScore:
        """Time-averaged Hellinger distance between paths and simulations of the estimate, with its sampling floor."""
        return hellinger(self.rates, self.initial, paths, sets, seed, self._labels())

    def ck_test(self, paths: Paths, lags: Sequence[float] | None = None) -> ChapmanKolmogorov:
        """Chapman-Kolmogorov test: exp(F D) against the transition frequencies of the paths at each lag D."""
        return chapman_kolmogorov(self.rates, self.stationary(), paths, lags, self._labels())

    def _labels(self) -> np.ndarray | None:
        """Law of labels given states (S, S), None if labels are right."""
        if self.confusion is not None:
            return self.confusion
        if not self.noise_rate:
            return None
        wrong = self.noise_rate / (self.states - 1)
        return np.where(np.eye(self.states, dtype=bool), 1 - self.noise_rate, wrong)

    # ------------------------------------------------------------ files

    def to_dict(self, level: float = 0.9) -> dict[str, Any]:
        """Plain numbers and lists; what is infinite or unknown is None. Keys of the JSON file."""
        known = self.log_covariance is not None or self.draws is not None
        low, high = self.intervals(level) if known else (None, None)
        fast, slow = self.timescale_intervals(level) if known else (None, None)
        content = {
            "rates": self.rates,
            "stderr": self.stderr,
            "initial": self.initial,
            "stationary": self.stationary(),
            "timescales": self.timescales(),
            "timescales_low": fast,
            "timescales_high": slow,
            "mfpt": self.mfpt(),
            "noise_rate": self.noise_rate,
            "loglik": self.loglik,
            "warnings": list(self.warnings),
            "method": self.method,
            "unit": self.unit,
            "names": list(self.names),
            "periods": self.periods(),
            "entropy_production": self.entropy_production(),
            "one_way_edges": self.one_way_edges(),
            "interval_level": level,
            "interval_low": low,
            "interval_high": high,
            "confusion": self.confusion,
            "means": self.means,
            "deviations": self.deviations,
            **self.details,
        }
        return {key: _plain(value) for key, value in content.items()}

    def to_json(self, level: float = 0.9) -> str:
        """The content of `to_dict` as JSON text."""
        return json.dumps(self.to_dict(level), indent=1, allow_nan=False)


def stationary(rates: np.ndarray) -> np.ndarray:
    """Stationary law (S,) of rates (S, S); states without any rate are left out and get 0."""
    off = generator(rates)
    np.fill_diagonal(off, 0)
    used = (off.sum(0) > 0) | (off.sum(1) > 0)
    law = np.zeros(len(rates))
    if used.any():
        block = markov.generator(torch.from_numpy(off[used][:, used]))
        law[used] = markov.stationary(block).numpy()
    return law


def relaxation(rates: np.ndarray) -> np.ndarray:
    """The slowest time scale, (), of rates (S, S)."""
    return markov.timescales(torch.from_numpy(rates)).numpy()[0]


def generator(rates: Any) -> np.ndarray:
    """Rates (S, S) float64 whose diagonal makes rows sum to 0; what stood on the diagonal is ignored.

    Raises:
        UserError: Not square, negative, or not finite.
    """
    off = np.array(rates, np.float64)
    if off.ndim != 2 or off.shape[0] != off.shape[1]:
        raise UserError(f"rates: got shape {off.shape}, expected a square matrix (S, S)")
    np.fill_diagonal(off, 0)
    if not np.isfinite(off).all() or (off < 0).any():
        raise UserError("rates: got negative or infinite rates off the diagonal, expected finite ones, at least 0")
    return off - np.diag(off.sum(1))


def _standard_errors(F: np.ndarray, log_covariance: np.ndarray | None, slopes: np.ndarray | None) -> np.ndarray:
    """Delta method; rates on the boundary have the deviation 1/slope of their exponential posterior."""
    S = len(F)
    if log_covariance is None:
        return np.full((S, S), np.nan)
    edges: Tensor = pack(torch.from_numpy(F))
    covariance = torch.from_numpy(log_covariance) * edges * edges[:, None]
    if slopes is not None:
        zero = torch.from_numpy((slopes > 0) | (edges.numpy() == 0))
        spread = torch.from_numpy(slopes).reciprocal().square()  # inf: nothing is known
        covariance = torch.where(torch.diag(zero), torch.diag(spread), covariance)
    errors = unpack(covariance.diagonal().sqrt(), S)
    rows = torch.eye(S, dtype=torch.bool).logical_not().nonzero()[:, 0]
    exits = torch.stack([covariance[rows == i][:, rows == i].sum() for i in range(S)]).clamp_min(0).sqrt()
    return (errors + torch.diag(exits)).numpy()


def _gamma_interval(
    level: float, rates: np.ndarray, log_variance: np.ndarray, slopes: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Ends (E,) for Gamma laws with shape 1/log_variance and the rates as means; shape 1, mean 1/slope at 0."""
    from scipy.stats import chi2, gamma

    zero = rates == 0 if slopes is None else (slopes > 0) | (rates == 0)
    with np.errstate(divide="ignore"):
        shape = np.where(zero, 1.0, 1 / log_variance)
        mean = np.where(zero, np.inf if slopes is None else 1 / slopes, rates)
    tail = (1 + level) / 2
    z2 = chi2.ppf(level, 1)  # shape = (rate / error)^2: below z^2 the rate is not told from 0
    bottom = np.where(shape < z2, 0.0, gamma.ppf(1 - tail, shape) * mean / shape)
    return bottom, gamma.ppf(tail, shape) * mean / shape


def _plain(value: Any) -> Any:
    """Lists and numbers for JSON; NaN and infinities become None."""
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
