"""Records of a decision from outcomes with a known truth, for tests."""

from __future__ import annotations

import numpy as np
import pandas as pd

from edgelib.decide.margins import ALPHA, joint_draws, means_table, pair_bounds
from edgelib.decide.record import Accuracy, Configuration, DecisionRecord, DeviceOptions, Option

GIB = 2**30


def outcomes_of(truth: dict[str, float], n: int, seed: int, alike: float = 0.95) -> dict[str, pd.DataFrame]:
    """Clean and corrupted outcomes of n items; configurations agree on an item with probability `alike`."""
    rng, tables = np.random.default_rng(seed), {}
    for criterion in ("clean", "corrupted"):
        shared = rng.random(n)
        own = {k: np.where(rng.random(n) < alike, shared, rng.random(n)) < p for k, p in truth.items()}
        columns = pd.MultiIndex.from_tuples([(k, "once") for k in truth])
        tables[criterion] = pd.DataFrame(np.column_stack(list(own.values())).astype(float), columns=columns)
    return tables


def options_of(costs: dict[str, tuple[float, float]], spread: float = 0.05, factor: float = 1.5) -> list[Option]:
    """Options by {config: (GiB in all, ms)}."""
    return [
        Option(
            config=config,
            memory={"vision tower": gib * GIB},
            runtime="TensorRT",
            command="run",
            source="projected",
            latency_ms=ms,
            low=ms / factor,
            high=ms * factor,
            spread=spread,
        )
        for config, (gib, ms) in costs.items()
    ]


def record_of(outcomes, options: list[Option], n_boot: int = 200, n_draws: int = 100) -> DecisionRecord:
    """A record of one device, "board", with 8 GiB and 10 W."""
    keys, bounds = [option.config for option in options], pair_bounds(outcomes, n_boot=n_boot)
    draws, means = joint_draws(outcomes, n_boot=n_draws), means_table(outcomes, n_boot=n_boot)
    seen = {
        (r.config, r.criterion): Accuracy(value=r.value, low=max(0, r.low), high=min(1, r.high))
        for r in means.itertuples()
    }

    def paired(column):
        found = {c: {k: {} for k in keys} for c in outcomes}
        for row in bounds.itertuples():
            found[row.criterion][row.config][row.other] = getattr(row, column)
        return found

    return DecisionRecord(
        model="m",
        costs="m",
        n_images=len(next(iter(outcomes.values()))),
        n_draws=n_draws,
        alpha=ALPHA,
        level=0.95,
        latency_level=0.9,
        criteria=list(outcomes),
        configs=[
            Configuration(key=k, label=k.upper(), command=f"make {k}", accuracy={c: seen[k, c] for c in outcomes})
            for k in keys
        ],
        bounds=paired("low"),
        effects=paired("effect"),
        draws={c: {k: [round(1e4 * mean) for mean in draws[c][k]] for k in keys} for c in outcomes},
        devices=[DeviceOptions(key="board", name="Board", memory_bytes=8 * GIB, power_w=10, options=options)],
    )
