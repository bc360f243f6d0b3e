"""A family of tests: paired comparisons that answer one question together, corrected for how many they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from edgelib.errors import EdgelibError, choose
from edgelib.stats.paired import PairedDifference, holm, paired_difference, settled

Key = str | tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Tests by key, in order, and what the parts of a key are called: ("twin", "config") for ("plain", "w4a8-awq").

    A test is a `PairedDifference` or has its fields effect, interval, p, n, n_clusters, mde and level, as `Gap` has.
    """

    tests: Mapping[Key, Any]
    names: tuple[str, ...] = ("config",)

    def __post_init__(self) -> None:
        for key in self.tests:
            if len(_parts(key)) != len(self.names):
                raise EdgelibError(f"key {key!r} of a family has not one part for each of {', '.join(self.names)}")

    def __iter__(self) -> Iterator[Key]:
        return iter(self.tests)

    def __len__(self) -> int:
        return len(self.tests)

    def __getitem__(self, key: Key) -> Any:
        if key not in self.tests:
            raise EdgelibError(f"unknown test {key!r}; choose from {', '.join(map(repr, self.tests))}")
        return self.tests[key]

    def items(self) -> Iterator[tuple[Key, Any, float]]:
        """Yield (key, test, adjusted p) in order."""
        return ((key, test, self.adjusted[key]) for key, test in self.tests.items())

    @cached_property
    def adjusted(self) -> dict[Key, float]:
        """Holm's (1979) adjusted p of every test: p < alpha keeps the error of the whole family at alpha."""
        if not self.tests:
            return {}
        return dict(zip(self.tests, map(float, holm([test.p for test in self.tests.values()])), strict=True))

    def settled(self) -> list[Key]:
        """Return the keys whose sign is known once all tests are counted, in order."""
        return [key for key, test, p in self.items() if settled(test, p)]

    def named(self, name: Callable[..., str]) -> Family:
        """Return the same tests under keys of one part, name(*parts)."""
        return Family({name(*_parts(key)): test for key, test in self.tests.items()}, ("name",))

    def verdict(self, key: Key, less: str = "less", more: str = "more") -> str:
        """Return which way a test is settled once all are counted: `less`, `more`, "open"; or "not estimated: why"."""
        test = self[key]
        if why := getattr(test, "unknown", ""):
            return f"not estimated: {why}"
        if not math.isfinite(test.effect):
            return "not estimated"
        return (more if test.effect > 0 else less) if settled(test, self.adjusted[key]) else "open"

    def table(self, *columns: str, scale: float = 1.0) -> pd.DataFrame:
        """Return a row per test: the parts of its key, then `columns`; effect, low, high, p, p_holm and mde by default.

        columns: any of these, n (items) and images (clusters). scale: of effect, low, high and mde; 1 keeps fractions.
        """
        wanted = columns or ("effect", "low", "high", "p", "p_holm", "mde")
        rows = []
        for key, test, adjusted in self.items():
            low, high = test.interval
            known = {
                "effect": scale * test.effect,
                "low": scale * low,
                "high": scale * high,
                "p": test.p,
                "p_holm": adjusted,
                "mde": scale * test.mde,
                "n": test.n,
                "images": test.n_clusters,
            }
            rows.append([*_parts(key), *(choose(known, column, "column of a family") for column in wanted)])
        return pd.DataFrame(rows, columns=[*self.names, *wanted])


def _parts(key: Key) -> tuple[str, ...]:
    return key if isinstance(key, tuple) else (key,)


def compare(
    pairs: Mapping[Key, Sequence],
    names: Sequence[str] = ("config",),
    *,
    test: Callable[..., PairedDifference] = paired_difference,
    cluster=None,
    **options,
) -> Family:
    """Test every pair of outcomes of the same items; return the differences first - second as one family.

    pairs: key -> (outcomes, outcomes of the reference), aligned item by item; a third part is the pair's own cluster.
    names: what the parts of a key are called. cluster: the image of each item, for pairs that do not bring their own.
    test, options: `paired_difference` with its level and seed. Raises EdgelibError as the test does, naming the pair.
    """
    tests = {}
    for key, (first, second, *images) in pairs.items():
        try:
            tests[key] = test(first, second, cluster=images[0] if images else cluster, **options)
        except EdgelibError as error:
            raise EdgelibError(f"{', '.join(_parts(key))}: {error}") from None
    return Family(tests, tuple(names))


def against(rows: pd.DataFrame, reference: str, configs: Sequence[str], value: str = "correct") -> dict[str, tuple]:
    """Return the pairs of `compare` from outcome rows: each config with the reference, both in the order of items.

    rows: columns config, item and `value`, one outcome per config and item. Raises EdgelibError for a config that the
    rows lack.
    """
    outcomes = {config: part.sort_values("item")[value].to_numpy() for config, part in rows.groupby("config")}
    first = choose(outcomes, reference, "reference config")
    return {config: (choose(outcomes, config, "config"), first) for config in configs}
