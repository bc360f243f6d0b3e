"""Caveats are read from the tables of other chapters: the worst of each, and what is not known."""

from __future__ import annotations

import pandas as pd
import pytest

from edgelib.decide.caveats import read_caveats
from edgelib.errors import EdgelibError


@pytest.fixture
def folder(tmp_path):
    scores = [("a", 0.9, "plain:1"), ("a", 0.6, "weight:8"), ("a", 0.5, "weight:16"), ("b", 0.9, "plain:1")]
    scores += [("b", 0.88, "weight:8")]
    table = pd.DataFrame(scores, columns=["config", "clean", "twin"])
    table.to_csv(tmp_path / "robustness_gap-twin_scores.csv", index=False)
    runs = [
        (twin, "a", mix, 64, accuracy)
        for twin, accuracies in {"plain": (0.9, 0.7), "weight:8": (0.9, 0.89)}.items()
        for mix, accuracy in zip(("balanced", "gray"), accuracies, strict=True)
    ]
    runs += [("plain", "a", "gray", 8, 0.1)]
    table = pd.DataFrame(runs, columns=["twin", "config", "mix", "size", "accuracy"])
    table.to_csv(tmp_path / "calibration_sensitivity-runs.csv", index=False)
    return tmp_path


def test_the_worst_of_each_chapter_and_kind_is_named(folder):
    found, _ = read_caveats(folder, ["a", "b"])
    twin, mix = found["a"]
    assert (twin.kind, twin.where, twin.value, twin.instead_of) == ("twin", "weight:16", 0.5, 0.9)
    assert (mix.kind, mix.where, mix.value, mix.instead_of) == ("mix", "gray images", 0.7, 0.9)
    assert twin.drop == pytest.approx(0.4) and found["b"] == []


def test_what_no_chapter_looked_at_is_not_passed_over_in_silence(folder):
    _, unknown = read_caveats(folder, ["a", "c"])
    assert unknown == [
        "chapter robustness gap: c not evaluated there",
        "chapter calibration sensitivity: c not evaluated there",
        "chapter vlm accuracy: no published table",
    ]


def test_a_table_that_lacks_a_column_is_named(folder):
    pd.DataFrame({"config": ["a"]}).to_csv(folder / "vlm_accuracy-twins.csv", index=False)
    with pytest.raises(EdgelibError, match=r"vlm_accuracy-twins.csv lacks effect, twin"):
        read_caveats(folder, ["a"])
