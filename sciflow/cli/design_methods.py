"""The methods of `sciflow design sequence` and `protein`, made from the command line's numbers."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

from sciflow.core.errors import UserError

METHODS = ("svdd", "smc", "drakes", "best_of", "guidance")
DRAWS = 8  # completions per state for --value samples
CANDIDATES = 10  # draws per move, or samples per design, where nothing is given and children are not enumerated
RATE = 1e-3
GRADIENT_MOVES = 50  # gradients flow through so many last moves (Wang et al., ICLR 2025)
KEPT_MOVES = 16  # beyond, activations of moves are computed again in place of being kept
SMALL_LENGTH, SMALL_ALPHABET = 64, 20


def add_method_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the methods."""
    parser.add_argument("--method", default="svdd", help=f"one of {', '.join(METHODS)}")
    parser.add_argument(
        "--alpha", type=float, default=0.1, help="temperature in units of the reward: the price of a nat"
    )
    parser.add_argument(
        "--candidates",
        default=None,
        help="svdd: draws per move, or 'all' children; best_of: samples per design; default: all children of small "
        f"alphabets and short sequences, else {CANDIDATES}",
    )
    parser.add_argument(
        "--value",
        default="samples",
        help=f"svdd, smc: samples ({DRAWS} drawn completions) or mean (the most probable one)",
    )
    parser.add_argument(
        "--particles", type=int, default=16, help="smc: samples per group; those of a group are related"
    )
    parser.add_argument("--updates", type=int, default=300, help="drakes: optimiser steps")
    parser.add_argument(
        "--learning-rate",
        type=float,
        default=None,
        help=f"drakes: of Adam; default: {RATE}, or what the model's card says",
    )


def check_method(arguments: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    if arguments.method not in METHODS:
        raise UserError(f"method: got '{arguments.method}', expected one of {', '.join(METHODS)}")
    if arguments.value not in ("samples", "mean"):
        raise UserError(f"value: got '{arguments.value}', expected samples or mean")
    positive, greedy = 0 < arguments.alpha < float("inf"), arguments.method in ("svdd", "best_of")
    if not (positive or (arguments.alpha == 0 and greedy)):
        raise UserError(f"alpha: got {arguments.alpha:g}, expected a positive number (0, greedy, only for svdd)")
    for name in ("num", "particles", "updates", "batch_size"):
        if getattr(arguments, name) < 1:
            raise UserError(f"{name}: got {getattr(arguments, name)}, expected at least 1")
    if arguments.candidates not in (None, "all") and not (arguments.candidates.isdigit() and int(arguments.candidates)):
        raise UserError(f"candidates: got '{arguments.candidates}', expected a number of at least 1, or all")


def candidates_of(arguments: argparse.Namespace, letters: int, length: int, steps: int | None) -> int | None:
    """Draws per move, or samples per design; None: all children.

    Enumerating costs K values per token, K the number of letters. It is chosen where that is no more than the draws, or
    the sequences are short.
    """
    given = arguments.candidates
    single = steps is None or steps >= length
    if given == "all" and not single:
        raise UserError(
            f"candidates all: needs one token per move, got {steps} moves for {length} positions; drop --steps"
        )
    if given == "all":
        return None
    if given is not None:
        return int(given)
    small = letters <= CANDIDATES or (letters <= SMALL_ALPHABET and length <= SMALL_LENGTH)
    return None if single and small and arguments.method == "svdd" else CANDIDATES


def guide_of(arguments: argparse.Namespace, candidates: int | None) -> Callable[[Any], Any]:
    """Makes the hook from a reward of states."""
    from sciflow.core.values import PosteriorMean, PosteriorSamples
    from sciflow.guidance.enumeration import Enumeration
    from sciflow.guidance.gradient import GradientGuidance
    from sciflow.guidance.smc import SMC
    from sciflow.guidance.svdd import SVDD

    alpha = arguments.alpha

    def guide(reward: Any) -> Any:
        if arguments.method == "guidance":
            return GradientGuidance(reward, 1 / alpha)
        value = PosteriorMean(reward) if arguments.value == "mean" else PosteriorSamples(reward, DRAWS, alpha)
        if arguments.method == "smc":
            return SMC(value, alpha, arguments.particles)
        return Enumeration(value, alpha) if candidates is None else SVDD(value, candidates, alpha)

    return guide


def way_of(
    arguments: argparse.Namespace,
    model: Any,
    reward: Any,
    plan: Any,
    candidates: int | None,
    fixed: Any,
    shelf: Any,
    progress: Any,
) -> Any:
    """The `Way` of a method; None for best_of."""
    from sciflow.domains.designing import Way

    if arguments.method == "best_of":
        return None
    if arguments.method in ("drakes", "guidance") and not reward.differentiable:
        raise UserError(
            f"reward '{arguments.reward}' has no gradient, but method {arguments.method} follows it; use --method svdd "
            "or smc, or give a torch module"
        )
    if arguments.method == "drakes":
        return tuned_way(arguments, model, reward, plan, fixed, shelf, progress)
    return Way(
        arguments.method, guide_of(arguments, candidates), arguments.particles if arguments.method == "smc" else 1
    )


def tuned_way(
    arguments: argparse.Namespace, model: Any, reward: Any, plan: Any, fixed: Any, shelf: Any, progress: Any
) -> Any:
    """DRAKES: sample from a tuned copy, which is kept with the finished batches."""
    from sciflow.domains.designing import Way, counted_rows
    from sciflow.model import load
    from sciflow.pretrained import cards
    from sciflow.training.reward import fine_tune

    weights, stored = shelf.folder / "tuned.safetensors", shelf.get("tuning", 0)
    if stored is not None and weights.is_file():
        tuned = load(weights).to(next(model.parameters()).device)
    else:
        start, counting = time.perf_counter(), _Counting(reward)
        template = None
        if fixed is not None:
            template = model.codec.template([len(fixed)]).condition(fixed=fixed[None])
        with counted_rows(model) as rows:
            tuned = fine_tune(
                model,
                counting,
                alpha=arguments.alpha,
                steps=arguments.updates,
                learning_rate=arguments.learning_rate
                or cards().get(str(arguments.model), {}).get("learning_rate", RATE),
                batch_size=min(
                    arguments.batch_size, 128 if plan.steps <= SMALL_LENGTH else 32
                ),  # short paths are cheap
                solver=plan.solvers["seq"],
                moves=plan.steps,
                grad_last=min(plan.steps, GRADIENT_MOVES),
                recompute=plan.steps > KEPT_MOVES,
                seed=arguments.seed,
                template=template,
                validation=0,
                progress=progress,
            )
        tuned.denoiser.network._forward_pre_hooks.clear()  # the copy counts for itself
        stored = {"rows": rows(), "calls": counting.calls, "seconds": time.perf_counter() - start}
        tuned.save(weights)
        shelf.put("tuning", 0, stored)
    return Way("drakes", model=tuned, **stored)


class _Counting:
    """A differentiable reward that counts its calls."""

    differentiable = True

    def __init__(self, reward: Any) -> None:
        self.reward, self.name, self.calls = reward, reward.name, 0

    def score(self, x: Any, mask: Any = None) -> Any:
        """As the reward."""
        self.calls += len(x)
        return self.reward.score(x, mask)
