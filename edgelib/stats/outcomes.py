"""Long outcome rows -> checked, paired arrays and per-cell tables; severity 0 is the clean cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.metrics import fractions
from edgelib.stats.paired import REPLICATES, drawn_sums, percentile_interval, replicates, rng_for, wilson

COLUMNS = ("item", "config", "corruption", "severity", "correct")
CLEAN = "clean"


@dataclass(frozen=True)
class CellSums:
    """Outcomes summed per cluster: sums [G, K configs, 1 + J cells], cell 0 clean; sizes [G] items per cluster.

    corrupted [G]: how many of these items have corrupted outcomes as well, the same ones in every cell.
    """

    configs: tuple[str, ...]
    cells: tuple[tuple[str, int], ...]
    sums: np.ndarray
    sizes: np.ndarray
    corrupted: np.ndarray

    @property
    def n_clusters(self) -> int:
        """Clusters with corrupted outcomes."""
        return int((self.corrupted > 0).sum())


def check_rows(rows: pd.DataFrame, columns=COLUMNS) -> None:
    """Raise EdgelibError unless the rows have `columns` without holes, whole severities and outcomes in [0, 1]."""
    for column in columns:
        if column not in rows.columns:
            raise EdgelibError(f"outcome rows lack the column {column!r}; they need {', '.join(columns)}")
    if len(rows) == 0:
        raise EdgelibError("there are no outcome rows: evaluate at least one configuration first")
    severity = rows["severity"]
    if not pd.api.types.is_integer_dtype(severity) or (severity < 0).any():
        raise EdgelibError("column 'severity' must hold whole numbers, 0 for clean and 1 to 5 for corrupted images")
    fractions(rows["correct"].to_numpy(), "column 'correct'")
    for column in columns:
        if (rows[column].isna() & ~((column == "corruption") & (severity == 0))).any():
            raise EdgelibError(f"column {column!r} has missing values; every outcome needs one")


def _cells(rows: pd.DataFrame) -> tuple[np.ndarray, list[tuple[str, int]]]:
    """(cell number per row, cells by name and severity); severity 0 is the one clean cell, whatever its name."""
    severity = rows["severity"].to_numpy(np.int64)
    name_codes, names = pd.factorize(rows["corruption"], sort=True)
    base = int(severity.max()) + 1
    codes, keys = pd.factorize(np.where(severity == 0, -1, name_codes * base + severity), sort=True)
    return codes, [(CLEAN, 0) if key < 0 else (names[key // base], int(key % base)) for key in keys]


def _corrupted(counts: np.ndarray, items, configs, cells) -> np.ndarray:
    """Which items [items] have corrupted outcomes; of counts [items * configs * cells] of outcomes each must be one, or
    for an item that is clean everywhere none in the corrupted cells."""
    by_item = counts.reshape(len(items), len(configs), len(cells))
    corrupted = by_item[:, :, 1:].any(axis=(1, 2))
    expected = np.ones_like(by_item)
    expected[~corrupted, :, 1:] = 0
    wrong = np.flatnonzero(counts != expected.ravel())
    if len(wrong):
        item, config, cell = np.unravel_index(wrong[0], (len(items), len(configs), len(cells)))
        raise EdgelibError(
            f"outcomes must be complete to be paired: item {items[item]!s} occurs {counts[wrong[0]]} times for config "
            f"{configs[config]!r}, {cells[cell][0]} severity {cells[cell][1]}, instead of once ({len(wrong)} such "
            "places); finish the sweep, or drop that config or cell"
        )
    return np.asarray(corrupted)


def cell_sums(rows: pd.DataFrame, cluster: str = "item") -> CellSums:
    """Return the outcomes of long rows as one array; rows may come in any order.

    rows: columns item, config, corruption, severity, correct (0/1, or graded in [0, 1]); severity 0 is clean. Every
    config needs every item in every cell exactly once, because comparisons are paired; an item may be clean only, if
    it is so for all of them. cluster: the column whose ids are resampled (the image, when several items share one).
    Raises EdgelibError naming the first missing or repeated outcome, and for missing columns or clean rows.
    """
    check_rows(rows, dict.fromkeys((*COLUMNS, cluster)))
    cell_codes, cells = _cells(rows)
    if cells[0] != (CLEAN, 0) or len(cells) < 2:
        raise EdgelibError(f"outcome rows must hold clean cells (severity 0) and corrupted ones (1 to 5), got {cells}")
    config_codes, configs = pd.factorize(rows["config"])
    item_codes, items = pd.factorize(rows["item"])
    cluster_codes, clusters = pd.factorize(rows[cluster], sort=True)
    shape, column = (len(clusters), len(configs), len(cells)), config_codes * len(cells) + cell_codes
    width = len(configs) * len(cells)
    counts = np.bincount(item_codes * width + column, minlength=len(items) * width)
    corrupted = _corrupted(counts, items, configs, cells)
    of_item = np.zeros(len(items), int)
    of_item[item_codes] = cluster_codes
    if (of_item[item_codes] != cluster_codes).any():
        raise EdgelibError(f"column {cluster!r} must be the same for all outcomes of an item: it is resampled")
    flat, size = cluster_codes * width + column, len(clusters)
    sums = np.bincount(flat, weights=rows["correct"].to_numpy(float), minlength=size * width)
    sizes = (np.bincount(part, minlength=size) for part in (of_item, of_item[corrupted]))
    return CellSums(tuple(configs), tuple(cells[1:]), sums.reshape(shape), *sizes)


def resampled(outcomes: CellSums, n_boot: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (accuracy [1 + n_boot, K, 1 + J], items [1 + n_boot, 1 + J]), data in row 0; one resampling for all.

    Clusters that have clean outcomes only are a stratum of their own: each replicate draws as many of either kind as
    there are, so that the clean outcomes of a cluster stay together with its corrupted ones.
    """
    rng, sums = rng_for(seed, "robustness gap"), outcomes.sums.reshape(len(outcomes.sizes), -1)
    columns = np.column_stack([sums, outcomes.sizes, outcomes.corrupted])
    strata = [columns[kind] for kind in (outcomes.corrupted > 0, outcomes.corrupted == 0) if kind.any()]
    drawn = np.sum([drawn_sums(stratum, n_boot, rng) for stratum in strata], axis=0)
    accuracy = drawn[:, :-2].reshape(len(drawn), *outcomes.sums.shape[1:])
    items = drawn[:, [-2] + [-1] * len(outcomes.cells)]
    return accuracy / items[:, None], items


def cell_table(rows: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Return one row per config, corruption and severity: accuracy, its Wilson interval low and high, and n.

    Configs keep their order of appearance; clean rows come first as corruption "clean". The interval takes items as
    independent: with several items per image use `paired_difference` or `rs_table`.
    Raises EdgelibError for missing columns or bad values.
    """
    check_rows(rows, COLUMNS[1:])
    codes, cells = _cells(rows)
    grouped = rows["correct"].astype(float).groupby([rows["config"], codes], sort=False).agg(["mean", "size"])
    config_codes = {name: i for i, name in enumerate(rows["config"].unique())}
    grouped = grouped.loc[sorted(grouped.index, key=lambda key: (config_codes[key[0]], key[1]))]
    low, high = wilson(grouped["mean"], grouped["size"], level)
    corruption, severity = zip(*(cells[code] for code in grouped.index.get_level_values(1)), strict=True)
    return pd.DataFrame(
        dict(
            config=grouped.index.get_level_values(0),
            corruption=corruption,
            severity=severity,
            accuracy=grouped["mean"].to_numpy(),
            low=low,
            high=high,
            n=grouped["size"].to_numpy(),
        )
    )


def severity_table(
    rows: pd.DataFrame, *, cluster: str = "item", n_boot: int = REPLICATES, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return one row per config and severity: value, the mean accuracy over corruptions, with low and high, n items and
    n_cells corruptions.

    The interval is a bootstrap over clusters (images): the cells of one severity share their images.
    Severity 0 is clean. Raises EdgelibError as `cell_sums`.
    """
    outcomes = cell_sums(rows, cluster)
    accuracy, items = resampled(outcomes, n_boot, seed)
    severities = np.array([0, *(severity for _, severity in outcomes.cells)])
    table = []
    for place, config in enumerate(outcomes.configs):
        for severity in np.unique(severities):
            at = severities == severity
            values = accuracy[:, place, at].mean(axis=1)
            low, high = percentile_interval(values[1:], level, outcomes.n_clusters)
            table.append(
                dict(
                    config=config,
                    severity=int(severity),
                    value=float(values[0]),
                    low=low,
                    high=high,
                    n=int(items[0, at][0]),
                    n_cells=int(at.sum()),
                )
            )
    return pd.DataFrame(table)


def corruption_costs(
    rows: pd.DataFrame, *, cluster: str = "item", n_boot: int = REPLICATES, level: float = 0.95, seed: int = 0
) -> pd.DataFrame:
    """Return one row per corruption, config and severity: cost, clean minus corrupted accuracy of the same config, with
    low and high, and n items.

    A cost is a fraction of all items; positive: corruption costs accuracy. Its interval is a percentile bootstrap over
    clusters (images), which keeps the clean and the corrupted outcome of an image together.
    Raises EdgelibError as `cell_sums`.
    """
    outcomes = cell_sums(rows, cluster)
    accuracy, items = resampled(outcomes, n_boot, seed)
    costs = accuracy[..., :1] - accuracy[..., 1:]
    order = sorted(range(len(outcomes.cells)), key=lambda place: outcomes.cells[place])
    table = []
    for corruption in dict.fromkeys(outcomes.cells[place][0] for place in order):
        for k, config in enumerate(outcomes.configs):
            for place in order:
                name, severity = outcomes.cells[place]
                if name != corruption:
                    continue
                draws = costs[:, k, place]
                low, high = percentile_interval(draws[1:], level, len(outcomes.sizes))
                place_of = dict(corruption=name, config=config, severity=severity)
                table.append(place_of | dict(cost=float(draws[0]), low=low, high=high, n=int(items[0, 0])))
    return pd.DataFrame(table)


def severity_differences(
    rows: pd.DataFrame,
    reference: str,
    *,
    cluster: str = "item",
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per other config and severity: value, its mean accuracy minus that of the reference, low, high.

    Both are means over corruptions, on the same items; the interval is a percentile bootstrap over clusters (images).
    Severity 0 is clean. Raises EdgelibError as `cell_sums` and for an unknown reference.
    """
    outcomes = cell_sums(rows, cluster)
    choose(dict.fromkeys(outcomes.configs), reference, "config")
    accuracy, _ = resampled(outcomes, n_boot, seed)
    difference = accuracy - accuracy[:, [outcomes.configs.index(reference)]]
    severities = np.array([0, *(severity for _, severity in outcomes.cells)])
    table = []
    for place, config in enumerate(outcomes.configs):
        for severity in np.unique(severities) if config != reference else ():
            values = difference[:, place, severities == severity].mean(axis=1)
            low, high = percentile_interval(values[1:], level, len(outcomes.sizes))
            table.append(dict(config=config, severity=int(severity), value=float(values[0]), low=low, high=high))
    return pd.DataFrame(table)


def accuracy_table(
    rows: pd.DataFrame,
    by: list[str],
    *,
    cluster: str = "item",
    n_boot: int = REPLICATES,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Return one row per group of `by`: those columns, accuracy, low, high, n; n counts clusters.

    accuracy: mean of `correct` (0/1 or graded) over all rows of the group, so that several runs on the same images
    are averaged. low, high: percentile bootstrap over clusters, which keeps the runs of an image together.
    Raises EdgelibError for missing columns and outcomes outside [0, 1].
    """
    for column in (*by, cluster, "correct"):
        if column not in rows.columns:
            raise EdgelibError(f"outcome rows lack the column {column!r}")
    fractions(rows["correct"].to_numpy(), "column 'correct'")
    groups = []
    for key, group in rows.groupby(by, sort=False, observed=True):
        sums = group.groupby(cluster, sort=True)["correct"].agg(["sum", "size"]).to_numpy(float)
        draws, _ = replicates(sums[:, :1], sums[:, 1], n_boot, rng_for(seed, "accuracy"))
        low, high = percentile_interval(draws[1:, 0], level, len(sums))
        groups.append((*key, sums[:, 0].sum() / sums[:, 1].sum(), low, high, len(sums)))
    return pd.DataFrame(groups, columns=[*by, "accuracy", "low", "high", "n"])


def attribute_table(rows: pd.DataFrame, by: Sequence[str], level: float = 0.95) -> pd.DataFrame:
    """Return a row per attribute of `by` and value: by, value, mean (accuracy), size (items), low, high (Wilson).

    Raises EdgelibError for missing columns and outcomes outside [0, 1].
    """
    for column in (*by, "correct"):
        if column not in rows.columns:
            raise EdgelibError(f"outcome rows lack the column {column!r}")
    correct = pd.Series(fractions(rows["correct"].to_numpy(), "column 'correct'"), rows.index)
    parts = [correct.groupby(rows[column]).agg(["mean", "size"]) for column in by]
    table = pd.concat(parts, keys=by, names=["by", "value"]).reset_index()
    low, high = wilson(table["mean"], table["size"], level)
    return table.assign(low=low, high=high)


def changed_answers(rows: pd.DataFrame, reference: str, value: str = "prediction") -> pd.DataFrame:
    """Return the rows with `correct` 1 where an answer is not the reference config's to the same question, else 0.

    rows: columns config, task, item and `value`. Raises EdgelibError for an unknown reference.
    """
    choose(dict.fromkeys(rows["config"].unique()), reference, "config")
    base = rows[rows["config"] == reference].set_index(["task", "item"])[value]
    expected = base.loc[pd.MultiIndex.from_frame(rows[["task", "item"]])].to_numpy()
    return rows.assign(correct=(rows[value].to_numpy() != expected).astype(float))


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
