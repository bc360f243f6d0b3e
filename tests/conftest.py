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


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT
