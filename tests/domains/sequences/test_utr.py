"""Ribosome-load networks: published weights, golden predictions, calibration; and a small network against a loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sciflow.core.errors import UserError
from sciflow.domains.sequences.rewards import load_reward
from sciflow.domains.sequences.utr import LAYERS, UTRReward

# shared/data/sequences/README.md: first three predictions, Pearson with measured load, calibration
FIRST = {"a": [-0.39166, -0.27844, -0.14572], "b": [-0.27806, -0.25908, 0.06409]}
PEARSON = {"a": 0.816, "b": 0.829}
LINE = {"a": (1.513, 5.505), "b": (1.483, 5.984)}


@pytest.fixture(scope="module")
def measured(data_dir):
    with np.load(data_dir / "sequences" / "utr5_mrl_variants.npz") as stored:
        return torch.from_numpy(stored["seq"].astype(np.int64)), stored["mrl"]


@pytest.mark.golden
@pytest.mark.parametrize("model", ["a", "b"])
def test_published_predictions(measured, model):
    tokens, load = measured
    reward = load_reward(f"utr:{model}", "rna")
    values = reward(tokens)
    assert values[:3] == pytest.approx(FIRST[model], abs=1e-5)
    assert np.corrcoef(values, load)[0, 1] == pytest.approx(PEARSON[model], abs=6e-4)
    assert np.polyfit(values, load, 1) == pytest.approx(LINE[model], abs=1e-3)
    residual = load - reward.ribosome_load(values)
    assert residual.std() == pytest.approx({"a": 0.69, "b": 0.67}[model], abs=0.005)
    strings = ["".join("ACGT"[i] for i in row) for row in tokens[:3].tolist()]
    assert load_reward(f"utr:{model}", "dna")(strings) == pytest.approx(FIRST[model], abs=1e-5)


@pytest.mark.golden
def test_scale_of_random_sequences(data_dir):
    """Quantiles 5/50/95 % of a: -1.50/0.45/0.97.

    Standard errors of the quantiles of 8,000 draws are 0.017, 0.014, 0.0042 (sqrt(p (1 - p) / n) / density, measured);
    5 of them plus the rounding of the figures (0.005) bound the false-alarm rate by 2e-6.
    """
    tokens = torch.randint(4, (8_000, 50), generator=torch.Generator().manual_seed(0))
    low, middle, high = np.quantile(load_reward("utr:a", "rna")(tokens), [0.05, 0.5, 0.95])
    assert abs(low + 1.50) < 0.090 and abs(middle - 0.45) < 0.075 and abs(high - 0.97) < 0.026


def test_layers_by_hand(tmp_path):
    """Random weights from the user's own file, against loops over positions in numpy."""
    generator = np.random.default_rng(0)
    arrays = {}
    for layer, shape in LAYERS.items():
        arrays[f"own.{layer}.weight"] = generator.normal(0, 0.1, shape).astype(np.float32)
        arrays[f"own.{layer}.bias"] = generator.normal(0, 0.1, shape[:1]).astype(np.float32)
    np.savez(tmp_path / "weights.npz", **arrays)
    reward = load_reward(f"utr:{tmp_path / 'weights.npz'}#own", "rna")
    tokens = generator.integers(4, size=50)
    x = np.eye(4)[[*tokens, 0, 3, 2, 2]]  # ATGG behind the 50 nucleotides
    for layer in ("conv1", "conv2"):
        weight, bias = arrays[f"own.{layer}.weight"], arrays[f"own.{layer}.bias"]
        x = np.array([[(weight[c].T * x[i : i + 8]).sum() + bias[c] for c in range(40)] for i in range(len(x) - 7)])
        x = np.maximum(x, 0)
    hidden = np.maximum(arrays["own.fc1.weight"] @ x.ravel() + arrays["own.fc1.bias"], 0)
    expected = arrays["own.fc2.weight"] @ hidden + arrays["own.fc2.bias"]
    assert reward(torch.from_numpy(tokens)[None]) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="no calibration for model 'own'"):
        reward.ribosome_load(np.zeros(1))


def test_bad_weights_and_lengths(tmp_path, data_dir):
    with pytest.raises(UserError, match="length 49, expected 50"):
        load_reward("utr:a", "rna")(["A" * 49])
    with pytest.raises(UserError, match="cannot read weights from"):
        UTRReward(tmp_path / "absent.npz", "a")
    np.savez(tmp_path / "wrong.npz", **{"c.conv1.weight": np.zeros((40, 4, 7), np.float32)})
    with pytest.raises(UserError, match=r"shape \(40, 4, 7\) at c.conv1.weight, expected \(40, 4, 8\); models: c"):
        UTRReward(tmp_path / "wrong.npz", "c")
    with pytest.raises(UserError, match="has nothing at a.conv1.weight"):
        UTRReward(tmp_path / "wrong.npz", "a")
