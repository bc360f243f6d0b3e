"""Records, guides and sentences of the deployment chapter say what the decisions below them say."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from matplotlib.collections import PathCollection
from small_record import GIB, options_of, outcomes_of, record_of

from edgelib.decide.decision import decide
from edgelib.decide.pareto import TIERS
from edgelib.decide.record import Caveat
from edgelib.devices.table import devices
from edgelib.report import deployment
from edgelib.report.claims.choices import (
    caveat_text,
    certainty_text,
    chance_text,
    choice_text,
    decision_opening,
    points_text,
    tier_claim,
    tiers_claim,
)
from edgelib.report.figures.choices import tier_panels

KNOWN = devices()
COSTS = {"fp32": (2.0, 50.0), "w8a8-minmax": (1.0, 20.0), "w4a8-minmax": (0.9, 19.0), "w3a8-minmax": (0.8, 5.0)}
TRUTH = {"fp32": 0.9, "w8a8-minmax": 0.9, "w4a8-minmax": 0.9, "w3a8-minmax": 0.6}
LABELS = {key: key.upper() for key in COSTS}


@pytest.fixture(scope="module")
def record():
    made = record_of(outcomes_of(TRUTH, 500, 0, 1.0), options_of(COSTS))
    failed = Caveat(kind="twin", where="activation:128", drop=0.38, value=0.51, instead_of=0.89, chapter="elsewhere")
    made.configs[2].caveats.append(failed)
    return made


def test_tiers_are_published_ones_and_budgets_of_ones_own():
    wanted = deployment.wanted_tiers({"mobile": "jetson-nano"}, {"bytes": 3e8}, KNOWN)
    assert wanted["mobile"] == (KNOWN["jetson-nano"], TIERS["mobile"].budgets)
    assert wanted[f"your budgets on {KNOWN['jetson-nano'].name}"] == (KNOWN["jetson-nano"], {"bytes": 3e8})
    assert list(deployment.wanted_tiers({"mobile": "jetson-nano"}, None, KNOWN)) == ["mobile"]


def test_a_record_is_made_of_outcomes_and_costs(record):
    outcomes = outcomes_of(TRUTH, 500, 0, 1.0)
    facts = dict(model="m", costs="m", latency_level=0.9, n_boot=200, level=0.95, seed=0)
    made = deployment.decision_record(outcomes, record.devices, LABELS, LABELS, {}, **facts)
    assert made.n_images == 500 and made.n_draws == deployment.DRAWS and made.writer is None
    assert decide(made, "board").kept == decide(record, "board").kept


def test_a_recommendation_carries_its_caveat_with_its_number(record):
    guide = deployment.deployment_guide(record, ["board"], margin=0.01, order="speed").iloc[0]
    assert guide["Ship"] == "W4A8-MINMAX or W8A8-MINMAX (tied in speed)" and guide["Memory, GiB"] == "1.00"
    assert (
        guide["Beware"]
        == "W4A8-MINMAX: 51.0 instead of 89.0 % with planted outliers (activation:128) (chapter elsewhere)"
    )
    assert "W3A8-MINMAX: " in guide["Why not the others"] and "FP32: slower" in guide["Why not the others"]
    opening = decision_opening(*(decide(record, "board", end=e) for e in ("upper", "middle")), record, "8 GB")
    assert "51.0 instead of 89.0 %" in opening.advice and opening.answer.startswith("Ship W4A8-MINMAX or W8A8")
    assert "95 % interval" in opening.number


def test_where_nothing_fits_the_reason_is_told(record):
    sure, middle = (decide(record, "board", memory=GIB / 2, end=end) for end in ("upper", "middle"))
    assert "nothing fits (needs 2.00 GiB in all of 0.50 GiB" in tier_claim(sure, middle, LABELS, "tiny")
    assert "ship none of 4 configurations" in decision_opening(sure, middle, record, "512 MB").answer.lower()
    tiny = record.model_copy(update={"devices": [record.devices[0].model_copy(update={"memory_bytes": GIB / 2})]})
    assert deployment.deployment_guide(tiny, ["board"], margin=0.01, order="speed")["Ship"][0].startswith("nothing")


def test_a_time_whose_upper_end_is_over_the_budget_is_not_called_sure(record):
    sure, middle = (decide(record, "board", latency_ms=25, end=end) for end in ("upper", "middle"))
    assert [choice.config for choice in middle.tied] == ["w4a8-minmax", "w8a8-minmax"]
    assert [choice.config for choice in sure.tied] == ["w3a8-minmax"]
    said = tier_claim(sure, middle, LABELS, "mine")
    assert "would do, and then W3A8-MINMAX is -" in said
    narrow = [decide(record, "board", latency_ms=7, memory=0.85 * GIB, end=end) for end in ("upper", "middle")]
    assert "time it on the device" in tier_claim(*narrow, LABELS, "mine")
    opening = decision_opening(*narrow, record, "0.85 GB and 7 ms")
    assert f"once you have timed it there: it may take up to {narrow[1].tied[0].high:.0f} ms" in opening.answer
    both = tiers_claim({"mine": (sure, middle), "narrow": narrow}, LABELS)
    assert both.startswith("ship W3A8-MINMAX on Board; ") and both.endswith(
        "on Board only once a time taken there is within the budget"
    )


def test_a_probability_stands_beside_whether_it_is_shown(record):
    found = decide(record, "board", margin=0.5)
    assert certainty_text(found) == "within 50 points of the best with probability 1.00 (shown)"
    assert (
        chance_text(found) == "1.00, shown"
        and choice_text(found, LABELS) == "W3A8-MINMAX"
        and points_text(0.01) == "1 point"
    )
    assert caveat_text(Caveat(kind="mix", where="gray", drop=0.2, chapter="c")) == (
        "20.0 points lost calibrated on gray (chapter c)"
    )


def test_memory_is_told_by_part(record):
    rows = deployment.memory_rows({"Board": record.devices[0].options}, LABELS)
    assert deployment.starred("llama.cpp") == "llama.cpp*" and deployment.starred("TensorRT") == "TensorRT"
    assert list(rows) == ["Configuration", "vision tower", "In all", "Runtime"]
    assert rows["In all"].tolist() == [2048, 1024, pytest.approx(921.6), pytest.approx(819.2)]


def test_the_cloud_has_what_runs_in_units_of_a_reader(record):
    cloud = deployment.device_cloud(record)
    assert len(cloud) == 4 and cloud["Its interval (ms)"][0] == "33.3 to 75"
    assert (cloud["latency low"][0], cloud["latency high"][0]) == (33.3, 75)


def test_panels_draw_the_interval_of_a_time_and_ring_what_is_shipped(record):
    wanted = {"mine": (KNOWN["jetson-nano"], {"bytes": 4e9, "latency_ms": 30})}
    table = deployment.options_table(record, "board", ["w8a8-minmax"])
    ax = tier_panels({"mine": table}, wanted).axes[0]
    [ring] = [c for c in ax.collections if isinstance(c, PathCollection)]
    assert ring.get_offsets().tolist() == [[20.0, list(table.index).index("w8a8-minmax")]] and ax.patches
    over = table.loc["w8a8-minmax", "latency_ms_high"] > 30
    assert (ring.get_linestyles()[0][1] is not None) == over  # dotted
    zone = ax.patches[0].get_extents().transformed(ax.transData.inverted()).x0
    assert zone == pytest.approx(30) and all(x <= zone for x, _ in ring.get_offsets())
    other = tier_panels({"mine": table, "none": table[:0]}, wanted | {"none": wanted["mine"]}).axes[1]
    assert {text.get_text() for text in other.texts} == {"no kernel"}
    assert len(tier_panels({"mine": table[:0]}, wanted).axes) == len(tier_panels({}, {}).axes) == 1
    plt.close("all")
