"""Design of molecules towards a reward, always with a best-of-N of equal budget beside it (`domains.designing`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rdkit import Chem
from torch import Tensor

from sciflow.core.errors import UserError
from sciflow.core.state import State
from sciflow.domains.designing import (
    Designs,
    Guide,
    Progress,
    Runner,
    Task,
    Way,
    check_numbers,
    designs_and_baselines,
)
from sciflow.domains.molecules.metrics import PROPERTIES
from sciflow.domains.molecules.rewards import Reward


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
    check_numbers(num=num, candidates=candidates, batch_size=batch_size)
    if not hasattr(model.codec, "decode"):
        raise UserError(
            f"design molecule: got a model for '{model.spec.get('domain', 'unknown')}', expected one for molecules"
        )

    def value(clean: State) -> Tensor:
        return torch.from_numpy(reward(model.codec.to_objects(clean)))

    task = Task(model.codec.decode, lambda records: reward([record.molecule for record in records]), value)
    run = Runner(model, model.sampling.changed(steps, solver), task, seed, batch_size, progress)
    way = None if guide is None else Way(type(guide(value)).__name__.lower(), guide)
    method, chosen, baselines = designs_and_baselines(run, num, way, candidates)
    known = set(train)
    table = sorted(design_table(chosen, known), key=lambda row: -row["reward"])
    summary = {name: summarise(designs, known) for name, designs in {method: chosen, **baselines}.items()}
    return DesignResult(method, chosen, baselines, table, summary)


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
