"""A machine that was measured is a device of a decision, with its own times."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import pytest
from small_record import options_of, outcomes_of, record_of

from edgelib.decide.decision import decide
from edgelib.decide.measured import KEY, with_measured
from edgelib.devices.measurements import load_measurements
from edgelib.errors import EdgelibError

COSTS = {"fp32": (1.0, 50.0), "w8a8-minmax": (0.5, 20.0), "w3a8-minmax": (0.4, 5.0)}
NUMBERS = {"fp32": ("fp32", "fp32"), "w8a8-minmax": ("int8", "int8"), "w3a8-minmax": ("int3", "int8")}


@pytest.fixture(scope="module")
def record():
    made = record_of(outcomes_of(dict.fromkeys(COSTS, 0.9), 400, 0, 1.0), options_of(COSTS))
    return made.model_copy(update={"costs": "clip-vit-base-patch32"})


def test_the_fastest_kernel_that_was_timed_stands_for_a_configuration(record):
    measured = load_measurements(None)
    place = next(d for d in with_measured(record, measured, NUMBERS).devices if d.key == KEY)
    timed = measured.encoders.query("model == 'clip-vit-base-patch32' and batch == 1")
    options = {option.config: option for option in place.options}
    assert options["fp32"].latency_ms == timed[timed["weight"] == "fp32"]["p50"].min()
    assert options["fp32"].source == "measured" and options["fp32"].low <= options["fp32"].latency_ms
    assert "no kernel for int3/int8 was timed" in options["w3a8-minmax"].reason


def test_a_decision_for_a_measured_machine_uses_its_times(record):
    found = decide(with_measured(record, load_measurements(None), NUMBERS), KEY)
    assert found.tied and all(choice.source == "measured" for choice in found.tied)


def test_of_a_model_of_ones_own_images_count_and_not_texts(record):
    """Also where costs are those of the folder that the measurements lie in."""
    published = load_measurements(None)
    table = published.encoders.query("model == 'clip-vit-base-patch32' and batch == 1")
    quick = {column: table[column] / 100 for column in ("p25", "p50", "p75", "p95")}
    both = pd.concat([table.assign(part="vision"), table.assign(part="text", **quick)]).assign(model="my-clip")
    own = replace(published, machine={**published.machine, "model": {"name": "my-clip"}}, encoders=both)
    for costs, folder in (("my-clip", ""), ("./my-times", "/somewhere/my-times")):
        made = with_measured(record.model_copy(update={"costs": costs}), own, NUMBERS, folder)
        option = next(o for o in made.devices[-1].options if o.config == "fp32")
        assert option.latency_ms == table[table["weight"] == "fp32"]["p50"].min()


def test_measured_again_the_newer_times_count(record):
    measured = load_measurements(None)
    once = with_measured(record, measured, NUMBERS)
    assert [d.key for d in with_measured(once, measured, NUMBERS).devices] == [d.key for d in once.devices]
    assert once.devices[-1].name.endswith(", measured")


def test_measurements_of_another_model_are_refused(record):
    other = record.model_copy(update={"costs": "my-clip"})
    with pytest.raises(EdgelibError, match="have no my-clip one image at a time"):
        with_measured(other, load_measurements(None), NUMBERS)
