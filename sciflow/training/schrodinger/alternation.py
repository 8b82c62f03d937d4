r"""Iterative reference refinement (SBIRR; Shen, Berlinghieri & Broderick, arXiv 2408.06277): the one alternation.

Round 0 is the Q-step of the reference as given (at zero drift the vanilla Schroedinger bridge). Every further round is
a theta-step on the paths of the last Q, then the Q-step of the new reference. Both lower J(Q, theta) =
KL(Q || P_theta).

After each round the whole state is written in one step to `<folder>/rounds.safetensors`; a fit that was interrupted
goes on from there and ends with the same numbers.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sciflow.core.config import Configurable
from sciflow.core.errors import UserError
from sciflow.networks.references import Reference
from sciflow.training.schrodinger.engine import FIT, PATHS, Engine, PathLaw, Problem
from sciflow.training.schrodinger.history import History, fingerprint, load, save
from sciflow.training.schrodinger.result import SchrodingerBridge
from sciflow.training.schrodinger.snapshots import Snapshots
from sciflow.training.schrodinger.theta import ThetaStep, default_step, get_theta, set_theta, uncertainty


class Anderson(Configurable):
    """Anderson acceleration of the fixed-point map theta -> F(theta): least squares over the last differences.

    A round that raised J is forgotten: the next one takes the plain step from the best theta.

    Args:
        memory: Differences that are combined.
        reach: Longest accelerated step, in plain steps (relative to |theta|).
    """

    def __init__(self, memory: int = 3, reach: float = 4.0) -> None:
        self.memory, self.reach = memory, reach

    def next(self, history: History) -> Tensor:
        """The theta to go on with: (p,)."""
        values = history.objectives
        good = [i for i in range(len(values)) if values[i] <= min(values[: i + 1])]
        if good[-1] != len(values) - 1 and not torch.equal(history.thetas[good[-1] + 1], history.mapped[good[-1]]):
            return history.mapped[good[-1]]
        good = good[-self.memory - 1 :]
        old, new = (torch.stack([values[i] for i in good]) for values in (history.thetas, history.mapped))
        if len(old) < 3:
            return history.mapped[-1]
        scale = new[-1].abs() + 1e-3  # parameters of different units count alike
        miss = (new - old) / scale
        mix = torch.linalg.lstsq(miss.diff(dim=0).T, miss[-1][:, None], rcond=1e-6, driver="gelsd").solution[:, 0]
        step = miss[-1] - (new.diff(dim=0) / scale).T @ mix
        return old[-1] + scale * step * (self.reach * miss[-1].norm() / step.norm()).clamp_max(1)


@dataclass(frozen=True, eq=False)
class Round:
    """What is told after every round.

    Attributes:
        number: 0 for the first Q-step.
        law: Its path law.
        theta: (p,) of its reference.
        seconds: CPU seconds of the round.
    """

    number: int
    law: PathLaw
    theta: Tensor
    seconds: float


def alternate(
    snapshots: Snapshots,
    reference: Reference,
    engine: Engine,
    *,
    sigma: float,
    dt: float,
    rounds: int = 10,
    theta_step: ThetaStep | None = None,
    acceleration: Anderson | None = None,
    tolerance: float = 1e-2,
    seed: int = 0,
    folder: str | Path | None = None,
    told: Callable[[Round], None] = lambda _: None,
) -> SchrodingerBridge:
    """Fit a Schroedinger bridge and its reference to snapshots.

    Args:
        snapshots: Populations at K times.
        reference: Starting reference; it is copied, never changed.
        engine: Solver of the Q-step.
        sigma: Noise, > 0, units of x per square root of time; the same for data and reference.
        dt: Largest step of the time grid, > 0.
        rounds: Theta-steps at most; 0, or a reference without parameters: the bridge of the reference as given.
        theta_step: None: least squares up to 50 parameters, Adam for networks.
        acceleration: None: plain alternation.
        tolerance: Stop once theta moved by less, relative, in two rounds running. 0: never.
        seed: Seed of all random numbers.
        folder: Where the state is kept after every round; None: nowhere.
        told: Called after every round.

    Raises:
        UserError: sigma, dt or rounds out of range; a family of another dimension; the folder holds another problem.
    """
    problem = Problem(snapshots, sigma, dt, seed)
    _check(problem, reference, rounds)
    reference = copy.deepcopy(reference)
    step = theta_step if theta_step is not None else default_step(reference)
    digest = fingerprint(problem, reference, (engine, step, acceleration))
    history = load(folder, digest) or History(thetas=[get_theta(reference)])
    start = time.process_time()
    while True:
        law = _bridge(problem, reference, engine, history)
        if len(history.seconds) < len(history.objectives):
            history.seconds.append(time.process_time() - start)
            save(folder, digest, history)
            told(Round(len(history.objectives) - 1, law, history.thetas[-1], history.seconds[-1]))
        if len(history.mapped) >= rounds or len(history.thetas[-1]) == 0 or history.settled(tolerance):
            break
        start = time.process_time()
        step.fit(reference, law.increments(problem.generator(PATHS)), problem.generator(FIT))
        history.mapped.append(get_theta(reference))
        history.thetas.append(acceleration.next(history) if acceleration is not None else history.mapped[-1])
    errors = uncertainty(reference, law.increments(problem.generator(PATHS)), sigma)
    return SchrodingerBridge(snapshots, reference, sigma, dt, engine, law, history, errors, seed)


def _bridge(problem: Problem, reference: Reference, engine: Engine, history: History) -> PathLaw:
    """The Q-step of the last theta; one that the history knows (an interrupted fit) is only restored."""
    set_theta(reference, history.thetas[-1])
    fixed = copy.deepcopy(reference)  # the law keeps it, the theta-step moves the other
    if len(history.objectives) == len(history.thetas):
        return engine.restore(problem, fixed, history.before, history.warm)
    history.before = history.warm
    law = engine.bridge(problem, fixed, history.before)
    history.warm = law.warm()
    history.objectives.append(law.objective)
    history.effective.append(law.effective if law.effective is not None else torch.zeros(0, dtype=torch.float64))
    return law


def _check(problem: Problem, reference: Reference, rounds: int) -> None:
    if rounds < 0:
        raise UserError(f"rounds: got {rounds}, expected 0 or more")
    if reference.dim not in (None, problem.snapshots.dimension):
        raise UserError(
            f"reference {type(reference).__name__} is made for dimension {reference.dim}, the data have dimension "
            f"{problem.snapshots.dimension}; take another reference or other coordinates"
        )
