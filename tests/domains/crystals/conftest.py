"""The settings in which CSPNet is tested."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["csp planar nine", "csp torus six", "de novo planar six"])
def setting(request) -> dict[str, bool]:
    """What is generated, and how coordinates and lattices are represented."""
    return {
        "planar": "planar" in request.param,
        "gram": "nine" in request.param,
        "species": "de novo" in request.param,
    }
