"""What every test file may rely on: the checkout, and a browser where one is asked for."""

from __future__ import annotations

import functools
import os

from browser import MISSING
from helpers import ROOT

# Set before any library reads them: workers share two cores, and nothing may reach for a hub.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "agg")

from pathlib import Path

import pytest
import typer.testing
from hypothesis import HealthCheck, settings

# Typer builds every command again at each call, which is five sixths of the time of a small one.
typer.testing._get_command = functools.cache(typer.testing._get_command)

# Neither a deadline nor a rate of drawing: both would ask how busy the machine is. Unattended runs repeat exactly.
settings.register_profile(
    "edgelib", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize="CI" in os.environ
)
settings.load_profile("edgelib")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whole notebooks and the book go first: a worker that got them last would run alone at the end."""
    items.sort(key=lambda item: (item.get_closest_marker("book") is None, "test_notebooks" not in item.nodeid))


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return ROOT


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Say after everything else, in one line, that the page tests had no browser."""
    yield
    reasons = [report.longrepr[2] for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    missing = [reason.removeprefix("Skipped: ") for reason in reasons if MISSING in reason]
    if missing:
        terminalreporter.write_line(f"{len(missing)} page tests were skipped: {missing[0]}", yellow=True)
