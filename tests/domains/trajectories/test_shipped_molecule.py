"""The shipped ethanol model against what needs no model."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sciflow
from sciflow.domains.trajectories.baselines import naive_forecasts
from sciflow.domains.trajectories.datamodule import TrajectoryData
from sciflow.domains.trajectories.windows import Ends, Forecast


@pytest.mark.slow
@pytest.mark.parametrize(("law", "naive"), [(Forecast(), "last frame"), (Ends(), "linear interpolation")])
def test_single_samples_are_better_than_naive_forecasts(data_dir, law, naive):
    """24 test windows, one sample each, seed 0; the mean error is below by at least 4 standard errors of the paired
    differences (false alarms < 1e-4 if the windows were independent; the seed is fixed)."""
    model = sciflow.load("ethanol-forecast")
    windows = TrajectoryData("ethanol").read()["test"]
    windows.law = law  # type: ignore[attr-defined]
    state = windows.batch(np.linspace(0, len(windows) - 1, 24).astype(int).tolist())
    codec = model.codec
    assert codec is not None
    drawn, true = (
        np.stack([one.positions for one in codec.to_objects(s)])
        for s in (model.generate(torch.arange(24), 0, template=state), state)
    )
    seen = np.asarray(state.cond["seen"][0]) > 0
    errors = [
        np.linalg.norm(one - true, axis=-1)[:, ~seen].mean((1, 2))
        for one in (drawn, naive_forecasts(true, seen)[naive])
    ]
    gain = errors[1] - errors[0]
    assert gain.mean() > 4 * gain.std(ddof=1) / 24**0.5
