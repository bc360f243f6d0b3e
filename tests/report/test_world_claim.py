"""The sentence about the embedded world holds for a model that knows it and for one that guesses."""

import pandas as pd
import pytest

from edgelib.report.claims.openings import world_claim
from edgelib.stats.paired import wilson


@pytest.mark.parametrize("right", [0, 5, 6, 9, 30, 50])
def test_only_a_model_above_chance_has_something_to_lose(right):
    low, high = wilson(right / 50, 50, 0.95)
    said = world_claim("mine", pd.Series({"accuracy": right / 50, "low": low, "high": high}), 50, 0.1)
    assert ("something to lose" in said) == (low > 0.1)
    assert ("10.0 % of chance" in said) == (low <= 0.1)
