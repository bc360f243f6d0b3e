"""What every test file may rely on: the checkout, and a browser where one is asked for."""

from __future__ import annotations

import os

from helpers import ROOT

# Set before any library reads them: workers share two cores, and nothing may reach for a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Neither a deadline nor a rate of drawing: both would ask how busy the machine is. Unattended runs repeat exactly.
settings.register_profile(
    "edgelib", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("edgelib")


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
