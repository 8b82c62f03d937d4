"""Sizes of samples are drawn from the training histogram, per sample."""

from __future__ import annotations

import numpy as np
import torch

from sciflow.core.codec import draw_sizes


def test_sizes_follow_the_histogram_and_depend_on_seed_and_index_only() -> None:
    """Chi-square with 2 degrees of freedom; 25 is exceeded with probability 3.7e-6."""
    histogram = {"3": 5, "5": 3, "6": 2}
    sizes = draw_sizes(histogram, 3, torch.arange(4000))
    assert sizes[1000:1010] == draw_sizes(histogram, 3, torch.arange(1000, 1010))
    assert sizes != draw_sizes(histogram, 4, torch.arange(4000))
    observed = np.bincount(sizes, minlength=7)[[3, 5, 6]]
    expected = np.array([2000, 1200, 800])
    assert observed.sum() == 4000 and ((observed - expected) ** 2 / expected).sum() < 25
