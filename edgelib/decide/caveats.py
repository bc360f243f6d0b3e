"""What other chapters found of a configuration, so that no recommendation is silent about it.

A configuration that is as good as any on clean images may fall apart on a model with outliers, or with calibration
images of another kind. The chapters on robustness, calibration and models that write measure that and save tables;
these are read here.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from edgelib.decide.record import Caveat
from edgelib.errors import EdgelibError
from edgelib.ground.records import one_line

LEAST = 0.05  # a loss of less than five points is no caveat
_PLAIN = ("plain", "plain:1")
_TABLES = {
    "robustness_gap": ("twin_scores", {"config", "clean", "twin"}),
    "calibration_sensitivity": ("runs", {"twin", "config", "mix", "size", "accuracy"}),
    "vlm_accuracy": ("twins", {"twin", "config", "effect"}),
}
CHAPTERS = tuple(_TABLES)


def read_caveats(folder: Path, configs: Iterable[str]) -> tuple[dict[str, list[Caveat]], list[str]]:
    """Return ({config: its caveats, the worst first}, what is not available).

    folder: where the published tables of the chapters lie. Of each chapter and kind the worst is named, if it costs at
    least five points. A chapter without a table, or with one that does not hold a configuration, is named as not
    available, so that silence is never read as safety.
    Raises EdgelibError for a table that cannot be read or lacks a column.
    """
    wanted = list(configs)
    found: dict[str, list[Caveat]] = {config: [] for config in wanted}
    missing = []
    for chapter, (name, columns) in _TABLES.items():
        words = f"chapter {chapter.replace('_', ' ')}"
        table = _table(folder / f"{chapter}-{name}.csv", columns)
        if table is None:
            missing.append(f"{words}: no published table")
            continue
        unknown = [config for config in wanted if config not in set(table["config"])]
        if unknown:
            missing.append(f"{words}: {', '.join(unknown)} not evaluated there")
        for config in wanted:
            own = table[table["config"] == config]
            found[config] += _READERS[chapter](own) if len(own) else []
    for caveats in found.values():
        caveats.sort(key=lambda caveat: (-caveat.drop, caveat.chapter, caveat.where))
    return found, missing


def _table(path: Path, columns: set[str]) -> pd.DataFrame | None:
    if not path.is_file():
        return None
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise EdgelibError(f"cannot read {path} ({one_line(error)}); publish its chapter anew") from None
    if columns - set(table.columns):
        raise EdgelibError(f"{path} lacks {', '.join(sorted(columns - set(table.columns)))}; publish its chapter anew")
    return table


def _worst(scores: pd.Series, plain: float, kind, chapter: str) -> list[Caveat]:
    """The caveat of the lowest score, if it is low enough; scores by what they are of."""
    if not len(scores) or not plain - scores.min() >= LEAST:
        return []
    value = float(scores.min())
    where = str(scores.idxmin())
    return [Caveat(kind=kind, where=where, drop=plain - value, value=value, instead_of=plain, chapter=chapter)]


def _of_robustness(own: pd.DataFrame) -> list[Caveat]:
    scores = own.set_index("twin")["clean"]
    plain = scores[scores.index.isin(_PLAIN)]
    return [] if plain.empty else _worst(scores.drop(plain.index), float(plain.iloc[0]), "twin", "robustness_gap")


def _of_calibration(own: pd.DataFrame) -> list[Caveat]:
    """The worst twin with the usual mix, and the worst mix against the best of the same model."""
    own = own[own["size"] == own["size"].max()]
    means = own.groupby(["twin", "mix"])["accuracy"].mean().unstack("mix")
    usual = means["balanced"] if "balanced" in means else means.iloc[:, 0]
    plain = usual[usual.index.isin(_PLAIN)]
    caveats = []
    if len(plain):
        caveats += _worst(usual.drop(plain.index), float(plain.iloc[0]), "twin", "calibration_sensitivity")
    spread = means.max(axis=1) - means.min(axis=1)
    twin = spread.idxmax()
    scores = means.loc[twin].rename(lambda mix: f"{mix} images" + ("" if twin in _PLAIN else f", on {twin}"))
    return caveats + _worst(scores, float(means.loc[twin].max()), "mix", "calibration_sensitivity")


def _of_writers(own: pd.DataFrame) -> list[Caveat]:
    row = own.loc[own["effect"].idxmin()]
    if -row["effect"] < LEAST:
        return []
    return [Caveat(kind="twin", where=str(row["twin"]), drop=-float(row["effect"]), chapter="vlm_accuracy")]


_READERS = {
    "robustness_gap": _of_robustness,
    "calibration_sensitivity": _of_calibration,
    "vlm_accuracy": _of_writers,
}
