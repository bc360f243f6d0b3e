"""Choices and guides of the deployment chapter are those of the rooms below, a line per tier and device."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from edgelib.decide.choice import choose_for_tier
from edgelib.decide.pareto import TIERS
from edgelib.devices.table import devices
from edgelib.report import deployment
from edgelib.report.figures.choices import frontier_panels, tier_panels

KNOWN = devices()
CONFIGS = {"fp32": "FP32", "w8a8-minmax": "W8A8", "fp8": "FP8"}
COST = pd.DataFrame(
    [
        (key, config, size, ms, 0.5 * ms, 2 * ms, "memory", "no units" if np.isnan(ms) else "")
        for key in ("jetson-nano", "orin-nx-16gb")
        for config, size, ms in (("fp32", 577e6, 50.0), ("w8a8-minmax", 225e6, 20.0), ("fp8", 225e6, np.nan))
    ],
    columns=["device", "config", "bytes", "latency_ms", "low", "high", "binds", "reason"],
)
ACCURACY = pd.DataFrame({"accuracy": [0.9, 0.89, 0.88], "corrupted": [0.6, 0.59, 0.5]}, index=list(CONFIGS))


def outcomes():
    rng, columns = np.random.default_rng(0), pd.MultiIndex.from_product([list(CONFIGS), ["once"]])
    return {
        name: pd.DataFrame(rng.random((40, 3)) < 0.8, columns=columns).astype(float) for name in deployment.CRITERIA
    }


def test_tiers_are_published_ones_and_budgets_of_ones_own():
    wanted = deployment.wanted_tiers({"mobile": "jetson-nano"}, {"bytes": 3e8}, KNOWN)
    assert wanted["mobile"] == (KNOWN["jetson-nano"], TIERS["mobile"].budgets)
    assert wanted[f"your budgets on {KNOWN['jetson-nano'].name}"] == (KNOWN["jetson-nano"], {"bytes": 3e8})
    assert list(deployment.wanted_tiers({"mobile": "jetson-nano"}, None, KNOWN)) == ["mobile"]


def test_a_choice_is_made_among_what_runs():
    wanted = {"mine": (KNOWN["jetson-nano"], {"bytes": 3e8})}
    tables = deployment.tier_tables(outcomes(), COST, wanted, list(CONFIGS), n_boot=100)
    assert list(tables["mine"].index) == ["fp32", "w8a8-minmax"] and tables["mine"]["latency_ms_high"]["fp32"] == 100
    choice = deployment.tier_choices(tables, COST, wanted, list(CONFIGS))["mine"]
    assert (choice.choice, choice.n, choice.n_feasible) == ("w8a8-minmax", 3, 1) and choice.illegal == {
        "fp8": "no units"
    }


def test_where_nothing_runs_there_is_no_table_and_no_choice():
    none = COST.assign(reason="no units")
    wanted = {"mine": (KNOWN["jetson-nano"], {"bytes": 3e8})}
    assert deployment.tier_tables(outcomes(), none, wanted, list(CONFIGS), n_boot=100) == {}
    choice = deployment.tier_choices({}, none, wanted, list(CONFIGS))["mine"]
    assert choice.choice is None and choice.binds is None


def test_the_guide_names_the_least_regret_and_why_not_the_others():
    guide = deployment.deployment_guide(COST, [KNOWN["orin-nx-16gb"]], ACCURACY, CONFIGS).iloc[0]
    table = ACCURACY.join(deployment.on_device(COST, "orin-nx-16gb", list(CONFIGS))[["bytes", "latency_ms"]])[:2]
    pick = choose_for_tier(table, {"bytes": 1e12}, "x", maximize=deployment.CRITERIA, minimize=deployment.COSTS)
    assert guide["Least regret"] == CONFIGS[pick.choice] and guide["Why not the others"] == "FP8: no units"


@pytest.mark.parametrize(
    ("cost", "said"),
    [(COST.assign(reason="no rate"), "nothing can be projected"), (COST.assign(bytes=1e15), "nothing fits")],
    ids=["nothing runs", "nothing fits"],
)
def test_a_device_without_a_choice_has_a_line_that_says_so(cost, said):
    guide = deployment.deployment_guide(cost, [KNOWN["orin-nx-16gb"]], ACCURACY, CONFIGS)
    assert guide["Least regret"].tolist() == [said] and guide["Why not the others"][0]


def test_the_cloud_has_what_runs_in_units_of_a_reader():
    cloud = deployment.device_cloud(COST, ACCURACY.assign(probability=0.456), KNOWN, CONFIGS)
    assert len(cloud) == 4 and set(cloud["Configuration"]) == {"FP32", "W8A8"}
    assert cloud.iloc[0].tolist() == [KNOWN["jetson-nano"].name, "FP32", 50.0, 550.3, 90.0, 60.0, 0.46]


def test_frontiers_are_drawn_side_by_side():
    wanted = {"mine": (KNOWN["jetson-nano"], {"bytes": 3e8, "latency_ms": 30})}
    tables = deployment.tier_tables(outcomes(), COST, wanted, list(CONFIGS), n_boot=100)
    both = frontier_panels(tables["mine"])
    assert [ax.get_title(loc="left") or ax.get_title() for ax in both.axes] == ["clean", "corrupted"]
    tiers = tier_panels(tables, wanted, crowded=True)
    assert tiers.axes[0].patches and tiers.axes[0].get_legend() is not None
    assert len(tier_panels({}, {}, crowded=True).axes) == 1
