"""The tables that `edgelib nature` writes, and what follows from them: distances of states, agreement of rankings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from edgelib.errors import EdgelibError
from edgelib.stats.paired import percentile_interval, replicates, rng_for
from edgelib.stats.ranks import RankAgreement, rank_agreement
from edgelib.study.nature.caches import CONTROL
from edgelib.study.nature.chapters import KEPT
from edgelib.study.nature.grid import line_of
from edgelib.study.nature.states import distances

LEVEL = 0.95
NATURE = "nature"


@dataclass(frozen=True)
class Found:
    """The tables of a folder that `edgelib nature` wrote; raises EdgelibError where one is missing."""

    folder: Path

    def _table(self, name: str) -> pd.DataFrame:
        path = self.folder / f"{name}.csv"
        if not path.is_file():
            raise EdgelibError(f"{path} is not there: run edgelib nature DECODER --out {self.folder}")
        return pd.read_csv(path)

    @cached_property
    def told(self) -> dict:
        """Who made the numbers, of what, how."""
        return yaml.safe_load((self.folder / "provenance.yaml").read_text(encoding="utf-8"))

    @cached_property
    def states(self) -> dict[str, pd.DataFrame]:
        """State tables by subject: "nature", and every twin."""
        table = self._table("states")
        nature = table[(table.subject == NATURE) & (table.twin == "plain")]
        return {NATURE: nature} | {
            twin: own for twin, own in table[table.subject == "twin"].groupby("twin", sort=False)
        }

    @cached_property
    def control(self) -> pd.DataFrame:
        """State table of the decoder with its keys grown."""
        table = self._table("states")
        return table[(table.subject == NATURE) & (table.twin == CONTROL)]

    @property
    def ranks(self) -> bool:
        """Whether methods were compared."""
        return all((self.folder / f"{name}.csv").is_file() for name in ("kl", "nll", "twins"))

    @cached_property
    def kl(self) -> pd.DataFrame:
        return self._table("kl")

    @cached_property
    def nll(self) -> pd.DataFrame:
        return self._table("nll")

    @cached_property
    def twins(self) -> pd.DataFrame:
        return self._table("twins")

    @cached_property
    def caches(self) -> pd.DataFrame:
        return self._table("caches")

    @cached_property
    def graft(self) -> dict | None:
        """The model with this decoder whose chapters are kept here; None without."""
        kept = self.folder / KEPT
        return yaml.safe_load(kept.read_text(encoding="utf-8")) if kept.is_file() else None

    def chapter(self, name: str, table: str) -> pd.DataFrame:
        """A table that a chapter saved of the graft."""
        return self._table(f"{name}-{table}")

    @cached_property
    def schemes(self) -> list[str]:
        """What both the decoder and the twins were asked."""
        return [name for name in self.kl.columns if name in set(self.twins.columns) - {"item"}]

    @cached_property
    def distances(self) -> pd.DataFrame:
        """Distance of every twin's states from nature's, the nearest first."""
        twins = {name: table for name, table in self.states.items() if name != NATURE}
        return distances(self.states[NATURE], twins).sort_values("all", ignore_index=True)

    @cached_property
    def agreements(self) -> dict[str, RankAgreement]:
        """How far each twin ranks the schemes as nature does."""
        groups = [line_of(name) for name in self.schemes]
        own = self.kl[self.schemes].to_numpy(float)
        return {
            twin: rank_agreement(own, rows[self.schemes].to_numpy(float), groups, level=LEVEL)
            for twin, rows in self.twins.groupby("twin", sort=False)
        }


def mean_interval(values: Sequence[float] | pd.Series | np.ndarray, *key: object) -> tuple[float, float, float]:
    """Mean of one value a passage with the bootstrap interval over passages."""
    each = np.asarray(values, dtype=float)
    means, _ = replicates(each[:, None], np.ones(len(each)), 2000, rng_for(0, "nature", *key))
    return (float(each.mean()), *percentile_interval(means[1:, 0], LEVEL, len(each)))
