"""From outcome rows to the errors that mCE and relative mCE take."""

from __future__ import annotations

import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.measure.grid import COLUMNS, cell_table, check_rows


def corruption_errors(rows: pd.DataFrame, config: str) -> tuple[dict[str, list[float]], float]:
    """Return ({corruption: [error per severity, ascending]}, clean error) of one config, as `relative_mce` takes them.

    Raises EdgelibError for an unknown config, missing columns, and rows without a clean cell.
    """
    check_rows(rows, COLUMNS[1:])
    choose(dict.fromkeys(rows["config"].unique()), config, "config")
    table = cell_table(rows[rows["config"] == config])
    if table["severity"].iloc[0] != 0:
        raise EdgelibError(f"config {config!r} has no clean rows (severity 0), so it has no clean error")
    errors = (1 - table[1:].set_index("corruption")["accuracy"]).groupby(level=0, sort=False)
    return {name: values.tolist() for name, values in errors}, float(1 - table["accuracy"].iloc[0])
