"""Design of sequences towards a reward, with a plain prior and a best-of-N of equal budget beside it.

A reward that steers is a poor judge of what it made: a network rewards its own mistakes. Hence every design carries,
next to its reward, a held-out reward (a replicate, another network, another assay) and its log-likelihood under the
untuned prior, and every method is summarised with its diversity and its 3-mer correlation with the training set.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.grids import Uniform
from sciflow.core.noise import PerSample
from sciflow.core.order_likelihood import order_bound
from sciflow.core.state import State
from sciflow.domains.designing import (
    Designs,
    Progress,
    Runner,
    Shelf,
    Task,
    Way,
    check_numbers,
    designs_and_baselines,
)
from sciflow.domains.sequences.alphabets import PROTEIN, Alphabet
from sciflow.domains.sequences.codec import FIELD
from sciflow.domains.sequences.metrics import diversity, kmer_likeness, sequence_recovery
from sciflow.domains.sequences.reward_base import SequenceReward

LIKELIHOOD_STRATA = 16  # network rows per sequence
SUMMED = 6  # positions up to which all 2^n - 1 sets of masked ones are evaluated instead


@dataclass(frozen=True)
class Scored:
    """Designs of one method and what else is known of them.

    Attributes:
        designs: The sequences (records), their rewards and cost; rewards are NaN where none was given.
        heldout: (num,) held-out rewards, or None.
        log_likelihoods: (num,) order-averaged log-likelihood under the untuned prior [nats per sequence].
    """

    designs: Designs
    heldout: np.ndarray | None
    log_likelihoods: np.ndarray


@dataclass(frozen=True)
class SequenceDesigns:
    """A design run.

    Attributes:
        method: ``best_of_N``, the name of the `Way`, or ``prior`` where there was no reward.
        methods: Method -> scored designs: what was asked for first, then ``unguided`` and ``best_of_N``.
        table: One row per design, best first: name, sequence, reward, heldout, loglik, sample.
        summary: One row of figures per method.
        alphabet: Letters.
        not_finite: Sequences whose reward came out as NaN or infinite, over the whole run; they count as the worst.
    """

    method: str
    methods: dict[str, Scored]
    table: list[dict[str, Any]]
    summary: dict[str, dict[str, Any]]
    alphabet: Alphabet
    not_finite: int = 0


def alphabet_of_model(model: Any) -> Alphabet:
    """Letters of a sequence model.

    Raises:
        UserError: Not a model of sequences.
    """
    if list(model.processes) != [FIELD]:
        raise UserError(
            f"design sequence: got a model for '{model.spec.get('domain', 'unknown')}', expected one for sequences "
            f"(one field '{FIELD}')"
        )
    if model.codec is None:
        raise UserError("this model needs a backbone; use `sciflow design protein --backbone FILE.pdb`")
    return getattr(model.codec, "alphabet", PROTEIN)


def fixed_positions(alphabet: Alphabet, start: str, positions: Sequence[int]) -> Tensor:
    """Condition "fixed" (L,): the letters of `start` at these positions, counted from 1, and -1 elsewhere.

    Raises:
        UserError: A letter outside the alphabet, or a position outside the sequence.
    """
    tokens, _ = alphabet.encode([start])
    wrong = [position for position in positions if not 1 <= position <= len(start)]
    if wrong:
        raise UserError(
            f"fixed positions: got {wrong[0]}, expected 1 to {len(start)}, the length of the start sequence"
        )
    fixed = torch.full_like(tokens[0], -1)
    index = torch.tensor([position - 1 for position in positions], dtype=torch.long)
    fixed[index] = tokens[0, index]
    return fixed


def design_sequences(
    model: Any,
    reward: SequenceReward | None,
    num: int,
    way: Way | None = None,
    *,
    candidates: int = 10,
    heldout: SequenceReward | None = None,
    seed: int = 0,
    plan: Any = None,
    batch_size: int = 256,
    fixed: Tensor | None = None,
    likelihood: Callable[[State], Tensor] | None = None,
    train: Sequence[str] = (),
    native: str | None = None,
    progress: Progress = lambda stage, done: None,
    shelf: Shelf | None = None,
) -> SequenceDesigns:
    """Sequences with a high reward.

    Args:
        model: `sciflow.Model` of sequences: the prior.
        reward: See `load_reward`; None: plain samples of the prior.
        num: Number of designs.
        way: Guidance, or a fine-tuned model to sample from, e.g.
            ``Way("svdd", lambda reward: Enumeration(PosteriorSamples(reward), 0.1))``; None: best of `candidates`.
        candidates: Samples per design without `way`.
        heldout: A reward that nothing is steered by.
        seed: Design i depends on (seed, i), or on its group.
        plan: How to sample; None: one token per move in random order.
        batch_size: Sequences at a time.
        fixed: (L,) int64 tokens that are given, -1 where free; its length is that of all sequences.
        likelihood: Clean state -> log-likelihoods (B,) under the prior; None: order-averaged, of `model`.
        train: Training sequences, for the 3-mer correlation.
        native: Sequence to compare with (recovery).
        progress: Called with (stage, share done).
        shelf: Where finished batches are kept.

    Raises:
        UserError: Not a sequence model, a reward that does not fit it, or num, candidates or batch_size below 1.
    """
    check_numbers(num=num, candidates=candidates, batch_size=batch_size)
    alphabet, length = alphabet_of_model(model), None if fixed is None else len(fixed)
    for judge in (reward, heldout):
        if judge is not None:
            judge.check(alphabet.name, length if length is not None else getattr(model.codec, "length", None))
    plan = plan if plan is not None else any_order_plan(model, fixed=fixed)
    task = Task(model.codec.to_objects, _score_of(reward), _value_of(reward))
    run = Runner(
        model,
        plan,
        task,
        seed,
        batch_size,
        progress,
        shelf,
        None if fixed is None else lambda sizes: _template(model, sizes, fixed),
        length,
    )
    if reward is None:
        method, chosen, baselines = "prior", run.generate("prior", range(num)), {}
    else:
        method, chosen, baselines = designs_and_baselines(run, num, way, candidates)
    likelihood = likelihood if likelihood is not None else prior_likelihood(model, fixed, seed)
    methods = {}
    for name, designs in {method: chosen, **baselines}.items():
        progress(f"scoring {name.replace('_', ' ')}", 0)
        methods[name] = _scored(model, designs, heldout, likelihood, batch_size)
        progress(f"scoring {name.replace('_', ' ')}", 1)
    floor = None if reward is None or not reward.not_finite else reward.floor
    free = None if fixed is None else (fixed < 0).nonzero()[:, 0].tolist()
    summary = {name: summarise(one, alphabet, floor, train, native, free) for name, one in methods.items()}
    not_finite = 0 if reward is None else reward.not_finite
    return SequenceDesigns(method, methods, design_table(methods[method], floor), summary, alphabet, not_finite)


def any_order_plan(model: Any, steps: int | None = None, fixed: Tensor | None = None) -> Any:
    """Random order, drawn to the last token; one token per move where `steps` is None."""
    if fixed is None:
        fixed = getattr(model.codec, "fixed", None)
    if steps is None:
        longest = max(map(int, model.spec["sizes"])) if "sizes" in model.spec else getattr(model.codec, "length", None)
        steps = int((fixed < 0).sum()) if fixed is not None else longest
        if not steps:
            raise UserError(
                "got nothing to design: all positions are fixed, or the model knows no length; expected free ones"
            )
    plan = model.sampling.changed(steps, "AnyOrder")
    plan.grid, plan.final = Uniform(1.0, 0.0), "sample"  # to clean data; the most probable last token is no draw
    return plan


def _template(model: Any, sizes: Sequence[int], fixed: Tensor) -> State:
    return model.codec.template(sizes).condition(fixed=fixed.expand(len(sizes), -1))


def _score_of(reward: SequenceReward | None) -> Callable[[list[str]], np.ndarray]:
    return (lambda records: np.full(len(records), np.nan)) if reward is None else reward


def _value_of(reward: SequenceReward | None) -> Callable[[State], Tensor]:
    """The reward of clean states; of relaxed tokens (B, L, K) with its gradient.

    Where either is NaN or infinite the sequence is counted and steered by nothing in that move.
    """

    def value(clean: State) -> Tensor:
        tokens, layout = clean[FIELD], clean.layouts[FIELD]
        if tokens.is_floating_point():
            return _finite_score(reward, tokens, layout.mask)  # type: ignore[arg-type]
        values = reward(tokens, layout.sizes)  # type: ignore[misc]
        return torch.from_numpy(values).to(tokens.device)

    return value


def _finite_score(reward: SequenceReward, tokens: Tensor, mask: Tensor | None) -> Tensor:
    tokens = tokens.clone()  # a hook of its own: the gradient of this reward and no other
    found = reward.score(tokens, mask)  # type: ignore[attr-defined]
    finite = found.isfinite()
    reward.not_finite += int((~finite).sum())

    def cleared(gradient: Tensor) -> Tensor:
        usable = gradient.isfinite().flatten(1).all(1)
        reward.not_finite += int((finite & ~usable).sum())
        return torch.where(usable[:, None, None], gradient, 0)

    if tokens.requires_grad:
        tokens.register_hook(cleared)
    return torch.where(finite, found, 0)


def _scored(
    model: Any,
    designs: Designs,
    heldout: SequenceReward | None,
    likelihood: Callable[[State], Tensor],
    batch_size: int,
) -> Scored:
    distinct = list(dict.fromkeys(designs.records))
    values: dict[str, float] = {}
    for i in range(0, len(distinct), batch_size):
        part = distinct[i : i + batch_size]
        values.update(zip(part, likelihood(model.codec.to_state(part)).tolist(), strict=True))
    found = np.array([values[record] for record in designs.records])
    return Scored(designs, None if heldout is None else heldout(designs.records), found)


def design_table(scored: Scored, floor: float | None = None) -> list[dict[str, Any]]:
    """One row per design, best reward first; without rewards by log-likelihood. Rewards of `floor` were NaN."""
    designs = scored.designs
    rows = []
    for i, sequence in enumerate(designs.records):
        row: dict[str, Any] = {"sequence": sequence}
        if not np.isnan(designs.rewards[i]):
            row["reward"] = float(designs.rewards[i])
        if scored.heldout is not None:
            row["heldout"] = float(scored.heldout[i])
        rows.append({**row, "loglik": float(scored.log_likelihoods[i]), "sample": int(designs.samples[i])})
    rows.sort(key=lambda row: -row.get("reward", row["loglik"]))
    for row in rows:
        if floor is not None and row.get("reward") == floor:
            row["reward"] = float("nan")
    return [{"name": f"design_{i:04d}", **row} for i, row in enumerate(rows, 1)]


def summarise(
    scored: Scored,
    alphabet: Alphabet,
    floor: float | None,
    train: Sequence[str],
    native: str | None,
    free: list[int] | None,
) -> dict[str, Any]:
    """Figures of one method; rewards that came out as NaN (`floor`) are counted and left out of the means."""
    designs = scored.designs
    rewards = designs.rewards
    lost = np.isnan(rewards) if floor is None else rewards == floor
    found = {"without_reward": int(lost.sum()) if floor is not None else 0, **_spread("reward", rewards[~lost])}
    found |= _spread("heldout", scored.heldout if scored.heldout is not None else np.zeros(0))
    found |= _spread("loglik", scored.log_likelihoods)
    records = designs.records
    uniform = -np.mean([len(one) for one in records]) * np.log(len(alphabet))
    found |= {
        "loglik_uniform": float(uniform),
        "kmer3_correlation": kmer_likeness(records, train, 3, alphabet)[0] if len(train) else None,
        "hamming": diversity(records, alphabet),
        "unique": len(set(records)) / len(records),
        "recovery": None if native is None else float(sequence_recovery(records, native, free).mean()),
        "network_rows_per_design": designs.network_rows / len(records),
        "reward_calls_per_design": None if np.isnan(rewards).all() else designs.reward_calls / len(records),
        "seconds": designs.seconds,
    }
    return found


def _spread(name: str, values: np.ndarray) -> dict[str, float | None]:
    keys = ("mean", "standard_error", "q10", "median", "q90", "best")
    if not len(values):
        return {f"{name}_{key}": None for key in keys}
    error = float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    q10, q50, q90 = (float(q) for q in np.quantile(values, [0.1, 0.5, 0.9]))
    figures = (float(values.mean()), error, q10, q50, q90, float(values.max()))
    return {f"{name}_{key}": value for key, value in zip(keys, figures, strict=True)}


def prior_likelihood(model: Any, fixed: Tensor | None = None, seed: int = 0) -> Callable[[State], Tensor]:
    """Order-averaged log-likelihoods (B,) of clean states in nats per sequence, given the fixed tokens.

    A lower bound on log p(x), equal to it for conditionals of one joint law. Up to 6 free tokens it is summed over all
    sets of masked tokens; beyond, estimated without bias by `LIKELIHOOD_STRATA` network rows per sequence. Equal
    sequences get equal values: the random numbers are a function of the tokens.
    """
    free = None if fixed is None else (fixed < 0)

    def likelihood(state: State) -> Tensor:
        state = state.to(next(model.denoiser.parameters()).device)
        tokens, layout = state[FIELD], state.layouts[FIELD]
        places = list(range(tokens.shape[1])) if free is None else free.nonzero()[:, 0].tolist()
        if len(places) <= SUMMED and layout.mask is None and getattr(model.denoiser.network, "clock_free", False):
            return _summed(model.denoiser, state, places)
        codes = [zlib.crc32(row.numpy().tobytes()) for row in tokens.to("cpu", torch.int32)]
        noise, denoise = PerSample(seed, torch.tensor(codes, device=tokens.device)), model.denoiser
        if free is not None:
            denoise = _Given(model.denoiser)
            state = _masked(state, free.to(tokens.device).expand(state.batch, -1))
        return -order_bound(state, FIELD, denoise, noise, strata=LIKELIHOOD_STRATA)[0]

    return likelihood


def _summed(denoiser: Any, state: State, places: Sequence[int]) -> Tensor:
    """sum_n (1/n) mean over sets S of n places of sum_{i in S} log p(x_i | x without S): (B,)."""
    tokens, total = state[FIELD], torch.zeros(state.batch, dtype=torch.float64, device=state[FIELD].device)
    with torch.no_grad():
        prepared = denoiser.prepare(state)
        for number in range(1, len(places) + 1):
            sets = list(itertools.combinations(places, number))
            for chosen in map(list, sets):
                shown = tokens.index_fill(
                    1, torch.tensor(chosen, device=tokens.device), denoiser.processes[FIELD].tokens
                )
                clock = torch.tensor(number / (len(places) + 1), dtype=torch.float64)
                prediction = denoiser(prepared.put(**{FIELD: shown}), {FIELD: clock})[FIELD]
                log_probs = prediction.to("logits")[:, chosen].double().log_softmax(-1)
                found = log_probs.gather(-1, tokens[:, chosen, None])[..., 0]
                total += found.sum(1) / (number * len(sets))
    return total


def _masked(state: State, free: Tensor | None) -> State:
    """The state with another mask of its tokens."""
    mask = None if free is None else free.to(torch.get_default_dtype())
    return replace(state, layouts={FIELD: replace(state.layouts[FIELD], mask=mask)})


class _Given:
    """A denoiser of sequences of one length whose layout marks the free tokens: the network must see all of them."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.processes = denoiser, denoiser.processes

    def prepare(self, state: State) -> State:
        """Conditions of whole sequences."""
        return replace(state, cond=self.denoiser.prepare(_masked(state, None)).cond)

    def __call__(self, state: State, clocks: Any) -> Any:
        return self.denoiser(_masked(state, None), clocks)
