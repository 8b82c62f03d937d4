"""Design of molecules towards a reward, always with a best-of-N of equal budget beside it.

Guidance spends network calls on its candidates. The honest alternative is to draw that many more unguided samples and
keep the best: per design, best of N with N = (network rows of the guided run) / (network rows of an unguided run). A
row is one evaluation of the network on one molecule. Reward calls are counted too; guidance usually needs far more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from sciflow.core.codec import batches_by_size
from sciflow.core.errors import UserError
from sciflow.core.hooks import Denoise, Hook, Transition
from sciflow.core.state import State
from sciflow.domains.molecules.decode import DecodedMolecule
from sciflow.domains.molecules.metrics import PROPERTIES
from sciflow.domains.molecules.rewards import Reward

Guide = Callable[[Callable[[State], Tensor]], Hook]
Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class Designs:
    """Molecules made by one method.

    Attributes:
        records: One decoding record per design.
        rewards: (num,) float64; samples that are no molecule have the floor of the reward.
        samples: (num,) index of the sample each design came from.
        network_rows: Network evaluations on single molecules, all samples together.
        reward_calls: Molecules that were scored, repeats included.
        seconds: Wall time.
    """

    records: list[DecodedMolecule]
    rewards: np.ndarray
    samples: np.ndarray
    network_rows: int
    reward_calls: int
    seconds: float


@dataclass(frozen=True)
class DesignResult:
    """A design run.

    Attributes:
        method: ``best_of`` or the class name of the guidance.
        chosen: What was asked for.
        baselines: Name -> other ways to get as many molecules: ``unguided`` (the first samples of the pool) and, for a
            guided run, ``best_of_N`` with N samples per design from the same budget of network rows.
        table: One row per design, best first: sample, smiles, reward, qed, logp, sa, unique, novel, and how it decoded.
        summary: One row per method: reward (mean, standard error, median, best), shares, property means, cost.
    """

    method: str
    chosen: Designs
    baselines: dict[str, Designs]
    table: list[dict[str, Any]]
    summary: dict[str, dict[str, Any]]

    @property
    def molecules(self) -> list[Chem.Mol | None]:
        """The designs in the order of the table, with sample, reward and properties as tags for SDF and CSV."""
        by_sample = dict(zip(self.chosen.samples.tolist(), self.chosen.records, strict=True))
        return [_tagged(by_sample[row["sample"]].marked(), row) for row in self.table]


def _tagged(molecule: Chem.Mol | None, row: dict[str, Any]) -> Chem.Mol | None:
    if molecule is not None:
        molecule.SetIntProp("sample", row["sample"])
        for name in ("reward", *PROPERTIES):
            molecule.SetDoubleProp(name, float(row[name]))
    return molecule


def design_molecules(
    model: Any,
    reward: Reward,
    num: int,
    guide: Guide | None = None,
    *,
    candidates: int = 8,
    seed: int = 0,
    steps: int | None = None,
    solver: str | None = None,
    batch_size: int = 256,
    train: Sequence[str] = (),
    progress: Progress = lambda stage, done: None,
) -> DesignResult:
    """Molecules with a high reward.

    Args:
        model: `sciflow.Model` of the molecule domain.
        reward: See `load_reward`.
        num: Number of designs.
        guide: Makes the guidance from a reward of states (clean molecules -> (B,)), e.g.
            ``lambda reward: SVDD(PosteriorMean(reward), 8, alpha=0.02)``; None: best of `candidates` samples each.
        candidates: Samples per design without `guide`.
        seed: Design i depends on (seed, i) and, for best-of, on the samples i, i + num, i + 2 num, ...
        steps: Moves of the sampler; None: the model's default.
        solver: Solver for all fields; None: the model's default.
        batch_size: Rows of the network at a time.
        train: Training SMILES (canonical, without stereo) for novelty.
        progress: Called with (stage, share done).

    Raises:
        UserError: Not a molecule model, or num, candidates or batch_size below 1.
    """
    for name, number in (("num", num), ("candidates", candidates), ("batch_size", batch_size)):
        if number < 1:
            raise UserError(f"{name}: got {number}, expected at least 1")
    if not hasattr(model.codec, "decode"):
        raise UserError(
            f"design molecule: got a model for '{model.spec.get('domain', 'unknown')}', expected one for molecules"
        )
    run = _Runner(model, reward, model.sampling.changed(steps, solver), seed, batch_size, progress)
    if guide is None:
        pool = run.generate("best of N", range(num * candidates))
        chosen, baselines = best_of(pool, num), {"unguided": _first(pool, num)}
    else:
        chosen = run.generate("guided", range(num), guide)
        unguided = run.generate("unguided", range(num))
        total = max(round(chosen.network_rows / unguided.network_rows * num), num)
        rest = run.generate("best of N", range(num, total)) if total > num else None
        pool = _joined(unguided, rest)
        baselines = {"unguided": unguided, f"best_of_{total / num:.3g}": best_of(pool, num)}
    method = f"best_of_{candidates}" if guide is None else run.guidance
    known = set(train)
    table = sorted(design_table(chosen, known), key=lambda row: -row["reward"])
    summary = {name: summarise(designs, known) for name, designs in {method: chosen, **baselines}.items()}
    return DesignResult(method, chosen, baselines, table, summary)


class _Runner:
    """Generates samples with one plan and counts what they cost."""

    def __init__(self, model: Any, reward: Reward, plan: Any, seed: int, batch_size: int, progress: Progress) -> None:
        self.model, self.reward, self.plan, self.seed = model, reward, plan, seed
        self.batch_size, self.progress, self.guidance = batch_size, progress, ""

    def generate(self, stage: str, samples: range, guide: Guide | None = None) -> Designs:
        """These samples, each once."""
        start, calls = time.perf_counter(), len(samples)
        meter = _Meter(
            lambda done: self.progress(stage, (finished + done * len(batch)) / len(samples)), self.plan.steps
        )

        def value(clean: State) -> Tensor:
            nonlocal calls
            calls += clean.batch
            return torch.from_numpy(self.reward(self.model.codec.to_objects(clean)))

        hooks: list[Hook] = [] if guide is None else [guide(value)]
        rows = max(hook.candidates for hook in [meter, *hooks])
        self.guidance = type(hooks[0]).__name__.lower() if hooks else self.guidance
        sizes = self.model.sizes(torch.tensor(samples), self.seed)
        records: dict[int, DecodedMolecule] = {}
        finished = 0
        for positions, batch_sizes in batches_by_size(sizes, max(self.batch_size // rows, 1)):
            batch = [samples[i] for i in positions]
            state = self.model.generate(
                torch.tensor(batch), self.seed, sizes=batch_sizes, plan=self.plan, hooks=[*hooks, meter]
            )
            records.update(zip(batch, self.model.codec.decode(state), strict=True))
            finished += len(batch)
        ordered = [records[i] for i in samples]
        rewards = self.reward([record.molecule for record in ordered])
        return Designs(ordered, rewards, np.array(samples), meter.rows, calls, time.perf_counter() - start)


class _Meter(Hook):
    """Counts network rows and reports progress; must come last, so that it sees the calls of the other hooks."""

    def __init__(self, report: Callable[[float], None], steps: int) -> None:
        self.report, self.steps, self.rows = report, steps, 0

    def wrap(self, denoise: Denoise) -> Denoise:
        """Count the rows of each call."""

        def counted(state: State, clocks: Any) -> Any:
            self.rows += state.batch
            return denoise(state, clocks)

        return counted

    def after(self, state: State, kernels: Any, transition: Transition) -> State:
        """Report how far the batch is."""
        self.report((transition.move.index + 1) / self.steps)
        return state


def best_of(pool: Designs, num: int) -> Designs:
    """The best of the samples i, i + num, i + 2 num, ... for each design i."""
    groups = [range(i, len(pool.records), num) for i in range(num)]
    best = [max(group, key=lambda j: pool.rewards[j]) for group in groups]
    return _picked(pool, best)


def _picked(pool: Designs, index: Sequence[int]) -> Designs:
    records = [pool.records[j] for j in index]
    return Designs(
        records,
        pool.rewards[list(index)],
        pool.samples[list(index)],
        pool.network_rows,
        pool.reward_calls,
        pool.seconds,
    )


def _first(pool: Designs, num: int) -> Designs:
    """The first samples of a pool, with their share of its cost."""
    share = num / len(pool.records)
    first = _picked(pool, range(num))
    cost = (round(pool.network_rows * share), round(pool.reward_calls * share), pool.seconds * share)
    return Designs(first.records, first.rewards, first.samples, *cost)


def _joined(first: Designs, rest: Designs | None) -> Designs:
    if rest is None:
        return first
    return Designs(
        [*first.records, *rest.records],
        np.concatenate([first.rewards, rest.rewards]),
        np.concatenate([first.samples, rest.samples]),
        first.network_rows + rest.network_rows,
        first.reward_calls + rest.reward_calls,
        first.seconds + rest.seconds,
    )


def design_table(designs: Designs, train: set[str]) -> list[dict[str, Any]]:
    """One row per design, in their order; properties of samples that are no molecule are None."""
    seen: set[str] = set()
    rows = []
    for sample, record, value in zip(designs.samples.tolist(), designs.records, designs.rewards.tolist(), strict=True):
        row: dict[str, Any] = {"sample": sample, "smiles": None, "reward": value}
        row |= dict.fromkeys((*PROPERTIES, "unique", "novel"))
        if record.molecule is not None:
            smiles = Chem.MolToSmiles(record.molecule, isomericSmiles=False)
            row |= {name: function(record.molecule) for name, function in PROPERTIES.items()}
            row |= {"smiles": smiles, "unique": smiles not in seen, "novel": smiles not in train if train else None}
            seen.add(smiles)
        row |= {"valid_without_correction": record.valid_without_correction, "connected": record.connected}
        rows.append(row)
    return rows


def summarise(designs: Designs, train: set[str]) -> dict[str, Any]:
    """Reward, shares, property means and cost of one method; rewards are over the designs that are molecules."""
    rows = design_table(designs, train)
    valid = [row for row in rows if row["smiles"] is not None]
    rewards = np.array([row["reward"] for row in valid])
    several = len(valid) > 1

    def share(name: str, among: Sequence[dict[str, Any]]) -> float | None:
        return float(np.mean([row[name] for row in among])) if among else None

    return {
        "reward_mean": float(rewards.mean()) if len(valid) else None,
        "reward_standard_error": float(rewards.std(ddof=1) / len(valid) ** 0.5) if several else None,
        "reward_median": float(np.median(rewards)) if len(valid) else None,
        "reward_best": float(rewards.max()) if len(valid) else None,
        "validity": len(valid) / len(rows),
        "validity_without_correction": share("valid_without_correction", rows),
        "connectivity": share("connected", rows),
        "uniqueness": share("unique", valid),
        "novelty": share("novel", [row for row in valid if row["unique"]]) if train else None,
        **{f"mean_{name}": share(name, valid) for name in PROPERTIES},
        "network_rows_per_design": designs.network_rows / len(rows),
        "reward_calls_per_design": designs.reward_calls / len(rows),
        "seconds": designs.seconds,
    }
