"""Outcome rows become errors of mCE, accuracies by attribute and changed answers."""

from __future__ import annotations

import pandas as pd
import pytest

from edgelib.errors import EdgelibError
from edgelib.stats import metrics
from edgelib.stats.outcomes import attribute_table, changed_answers, corruption_errors
from edgelib.stats.paired import wilson

# config -> (corruption, severity) -> how many of four images are right
RIGHT = {
    "fp32": {("clean", 0): 4, ("fog", 3): 2, ("fog", 1): 3, ("blur", 5): 1},
    "w4": {("clean", 0): 3, ("fog", 3): 1, ("fog", 1): 2, ("blur", 5): 0},
}
ROWS = pd.DataFrame(
    [
        dict(item=str(i), config=config, corruption=corruption, severity=severity, correct=i < right)
        for config, cells in RIGHT.items()
        for (corruption, severity), right in cells.items()
        for i in range(4)
    ]
)


def test_errors_are_by_ascending_severity_and_of_one_configuration():
    errors, clean = corruption_errors(ROWS, "w4")
    assert errors == {"blur": [1.0], "fog": [0.5, 0.75]} and clean == 0.25


def test_they_are_what_mce_and_relative_mce_take():
    (errors, clean), (base, base_clean) = (corruption_errors(ROWS, config) for config in ("w4", "fp32"))
    assert metrics.mce(errors, base) == pytest.approx((1 / 0.75 + 1.25 / 0.75) / 2)
    relative = metrics.relative_mce(errors, clean, base, base_clean)
    assert relative == pytest.approx((0.75 / 0.75 + 0.75 / 0.75) / 2)


@pytest.mark.parametrize(
    ("rows", "config", "words"),
    [(ROWS[ROWS["severity"] > 0], "w4", "no clean rows"), (ROWS, "w5", "unknown config 'w5'")],
    ids=["no clean rows", "unknown config"],
)
def test_rows_that_cannot_do_are_named(rows, config, words):
    with pytest.raises(EdgelibError, match=words):
        corruption_errors(rows, config)


def test_accuracy_is_split_by_attribute_and_value():
    rows = pd.DataFrame({"shape": ["disc", "disc", "star"], "bar": ["bar", "no bar", "bar"], "correct": [1, 0, 1]})
    table = attribute_table(rows, ["shape", "bar"], 0.9)
    assert table[["by", "value"]].to_numpy().tolist() == [
        ["shape", "disc"],
        ["shape", "star"],
        ["bar", "bar"],
        ["bar", "no bar"],
    ]
    assert table["mean"].tolist() == [0.5, 1, 1, 0] and table["size"].tolist() == [2, 1, 2, 1]
    assert tuple(table[["low", "high"]].iloc[0]) == wilson(0.5, 2, 0.9)
    with pytest.raises(EdgelibError, match="lack the column 'colour'"):
        attribute_table(rows, ["colour"])


def test_an_answer_changed_if_it_is_not_the_references():
    rows = pd.DataFrame(
        {"config": ["w4", "w4", "bf16", "bf16"], "task": "vqa", "item": [1, 2, 2, 1], "prediction": list("abba")}
    )
    assert changed_answers(rows, "bf16")["correct"].tolist() == [0, 0, 0, 0]
    assert changed_answers(rows.assign(prediction=list("abca")), "bf16")["correct"].tolist() == [0, 1, 0, 0]
    with pytest.raises(EdgelibError, match="unknown config 'fp32'"):
        changed_answers(rows, "fp32")
