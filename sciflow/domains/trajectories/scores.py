r"""Scores of trajectories that were generated freely (GeoTDM, section 5.2), each with its floor: real against real.

Generated and real sets are (B, T, N, D), T = 20 in the published figures, as many generated as real ones.

| score | meaning |
|---|---|
| marginal | mean over axes and bins of \|density difference\| of all coordinates, 50 bins over the real range, pooled |
| marginal_per_frame | the same for each frame, then the mean (what the paper's text says; its code pools) |
| bond_marginal | the same of bond lengths, mean over bonds (molecules) |
| outside | share of generated values outside the real range: the histograms do not see it |
| classification | cross-entropy [nats] of EqMotion telling generated from real; ln 2 = .693: it cannot |
| prediction | MSE on real data of EqMotion trained on generated data: first half -> second half |

A floor replaces the generated set by real trajectories of its size. Published marginals of .0055 are at the floor.
"""

from __future__ import annotations

import numpy as np

from sciflow.core.errors import UserError
from sciflow.domains.trajectories.torsions import lengths

BINS = 50
LEAST = 10  # trajectories of each side for the trained scores


def marginal(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Marginal score of coordinates, all frames and atoms in one histogram per axis, and the share outside.

    Args:
        samples: (B, T, N, D).
        reference: (B', T, N, D), real; its range spans the bins.
    """
    return histogram_distance(samples.reshape(-1, samples.shape[-1]), reference.reshape(-1, reference.shape[-1]))


def marginal_per_frame(samples: np.ndarray, reference: np.ndarray) -> float:
    """The mean over frames of the marginal score of one frame."""
    frames = range(samples.shape[1])
    return float(np.mean([marginal(samples[:, t : t + 1], reference[:, t : t + 1])[0] for t in frames]))


def bond_marginal(samples: np.ndarray, reference: np.ndarray, bonds: np.ndarray) -> tuple[float, float]:
    """The same of bond lengths: mean over bonds (n, 2); and the share outside."""
    ours, theirs = (lengths(one, bonds).reshape(-1, len(bonds)) for one in (samples, reference))
    return histogram_distance(ours, theirs)


def histogram_distance(samples: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """Mean absolute difference of densities (50 bins over the reference's range), mean over columns; share outside.

    As the published code does, the density of the samples is normalised over those inside the range, so a mass outside
    is invisible in the score: look at the second number.

    Args:
        samples: (values, columns).
        reference: (values, columns).
    """
    scores, outside = [], []
    for ours, theirs in zip(samples.T, reference.T, strict=True):
        low, high = float(theirs.min()), float(theirs.max())
        if low == high:
            raise UserError("a marginal of the reference has one value only; a histogram of it says nothing")
        edges = np.linspace(low, high, BINS + 1)
        real = np.histogram(theirs, edges, density=True)[0]
        counts = np.histogram(ours, edges)[0]
        density = counts / max(counts.sum(), 1) / np.diff(edges)
        scores.append(np.abs(density - real).mean())
        outside.append(1 - counts.sum() / len(ours))
    return float(np.mean(scores)), float(np.mean(outside))


def unconditional_scores(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    bonds: np.ndarray | None = None,
    scalars: tuple[np.ndarray, np.ndarray] | None = None,
    trained: bool = True,
    epochs: int = 100,
    seeds: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """All scores of one set against real ones; see the module docstring.

    Args:
        samples: (B, T, N, D).
        reference: (B', T, N, D).
        bonds: (n, 2) of a molecule: bond marginal; None: marginal of coordinates.
        scalars: Charges (B, N), (B', N), for the trained scores.
        trained: Whether to train the classifier and the predictor.
        epochs: Of those trainings.
        seeds: Trainings that are averaged.
        seed: Of the first; the next ones follow.

    Returns:
        Score -> number; trained scores with `_std` over seeds.
    """
    samples, reference = (np.asarray(one, np.float64) for one in (samples, reference))
    if samples.shape[1:] != reference.shape[1:]:
        raise UserError(f"got trajectories of shape {samples.shape[1:]}, expected {reference.shape[1:]} as real ones")
    if bonds is not None and len(bonds):
        score, outside = bond_marginal(samples, reference, bonds)
        found = {"bond_marginal": score, "outside": outside}
    else:
        score, outside = marginal(samples, reference)
        per_frame = marginal_per_frame(samples, reference)
        found = {"marginal": score, "marginal_per_frame": per_frame, "outside": outside}
    if trained and min(len(samples), len(reference)) >= LEAST:
        found |= trained_scores(samples, reference, scalars=scalars, epochs=epochs, seeds=seeds, seed=seed)
    return found


def trained_scores(
    samples: np.ndarray,
    reference: np.ndarray,
    *,
    scalars: tuple[np.ndarray, np.ndarray] | None = None,
    epochs: int = 100,
    seeds: int = 3,
    seed: int = 0,
) -> dict[str, float]:
    """Classification and prediction, mean and standard deviation over seeds; see `unconditional_scores`."""
    import torch

    from sciflow.domains.trajectories.eqmotion import classify, predict

    equal = min(len(samples), len(reference))
    ours, theirs = (torch.as_tensor(np.asarray(one), dtype=torch.float32) for one in (samples, reference))
    numbers = None
    if scalars is not None:
        numbers = (torch.as_tensor(scalars[0], dtype=torch.float32), torch.as_tensor(scalars[1], dtype=torch.float32))
    both = None if numbers is None else (numbers[0][:equal], numbers[1][:equal])
    values: dict[str, list[float]] = {"classification": [], "prediction": []}
    for one in range(seed, seed + seeds):
        values["classification"].append(classify(ours[:equal], theirs[:equal], both, epochs=epochs, seed=one))
        values["prediction"].append(predict(ours, theirs, numbers, epochs=epochs, seed=one))
    means = {name: float(np.mean(found)) for name, found in values.items()}
    return means | {f"{name}_std": float(np.std(found)) for name, found in values.items()}


def split_for_floor(count: int, wanted: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two disjoint random sets of real trajectories: as many as generated (at most half), and the rest.

    Args:
        count: Real trajectories, at least 2.
        wanted: Generated trajectories.
        rng: Generator.
    """
    order = rng.permutation(count)
    held = max(min(wanted, count // 2), 1)
    return order[:held], order[held:]
