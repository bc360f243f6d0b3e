"""After how many items the verdicts of a grid would have been settled, told from the grid itself."""

from __future__ import annotations

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.outcomes import cell_sums
from edgelib.stats.paired import rng_for
from edgelib.stats.sequential.betting import settled_after

KEEPS, BREAKS = "keeps", "breaks"


def stopping_table(
    rows: pd.DataFrame,
    reference: str,
    margin: float,
    *,
    configs=None,
    level: float = 0.95,
    orders: int = 1,
    seed: int = 0,
) -> pd.DataFrame:
    """Return a row per config: whether it keeps the margin on corrupted images, and how many outcomes would have told.

    Columns: config, loss (accuracy of the reference minus its own over all corrupted cells, a fraction), verdict of the
    whole grid, n outcomes of it, used (mean over orders), share = used / n, and same, the share of orders with the
    verdict of the whole grid. A config keeps the margin if its loss is at most `margin`.
    An outcome is an image under a corruption at a severity. They are drawn in random order, without replacement, from
    all of them, and the config is left as soon as a confidence sequence for the loss *on this grid* excludes the
    margin: its verdict is that of the whole grid with probability `level` at least. To have that of all K configs
    together, pass level 1 - 0.05 / K.
    rows: as for `cell_sums`. margin: in the unit of the outcomes, 0 asks for the sign. orders: how many are averaged.
    Raises EdgelibError as `cell_sums`, for an unknown config, and a margin outside [0, 1).
    """
    if not 0 <= margin < 1:
        raise EdgelibError(f"margin must lie from 0 to below 1, in the unit of the outcomes, got {margin!r}")
    outcomes = cell_sums(rows)
    index = {name: i for i, name in enumerate(outcomes.configs)}
    sums = outcomes.sums[outcomes.corrupted > 0]
    base = sums[:, choose(index, reference, "reference config"), 1:]
    chosen = [name for name in outcomes.configs if name != reference] if configs is None else list(configs)
    rng, table = rng_for(seed, "order of outcomes"), []
    ways = [rng.permutation(base.size) for _ in range(orders)]
    for name in chosen:
        difference = (sums[:, choose(index, name, "config"), 1:] - base).ravel()
        whole = bool(difference.mean() >= -margin - 1e-12)
        found = [settled_after(difference[way], -margin, level=level, population=base.size) for way in ways]
        used = float(np.mean([one.n for one in found]))
        table.append(
            dict(
                config=name,
                loss=float(-difference.mean()),
                verdict=KEEPS if whole else BREAKS,
                n=base.size,
                used=used,
                share=used / base.size,
                same=float(np.mean([one.above == whole for one in found])),
            )
        )
    return pd.DataFrame(table)
