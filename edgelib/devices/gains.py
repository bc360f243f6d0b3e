"""How much faster, and thanks to what: speed-ups with their spread, and the share of a runtime kept apart."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError


def speedup_table(table: pd.DataFrame, time: str, baseline: str = "torch-fp32") -> pd.DataFrame:
    """Return the cases with `speedup` over the baseline configuration of the same case, with low and high.

    The same case: model, batch, and prompt where there is one. time: a column of medians, such as "tpot_p50". low and
    high divide opposite quartiles, the slow one of one by the fast one of the other; NaN where there are no quartiles.
    Raises EdgelibError where no case has the baseline, or where one has it twice.
    """
    keys = [column for column in ("model", "batch", "prompt", "new_tokens") if column in table.columns]
    low, high = (time.replace("p50", quartile) for quartile in ("p25", "p75"))
    columns = [c for c in dict.fromkeys((time, low, high)) if c in table.columns]
    base = table.loc[table["config"] == baseline, [*keys, *columns]]
    if len(base) == 0:
        known = ", ".join(dict.fromkeys(table["config"]))
        raise EdgelibError(f"no case was measured in {baseline!r}, to compare with; there is {known}")
    if base.duplicated(keys).any():
        raise EdgelibError(f"a case was measured twice in {baseline!r}; keep one of its rows")
    found = table.merge(base, on=keys, suffixes=("", "_base"))
    found["speedup"] = found[f"{time}_base"] / found[time]
    spread = low in columns and high in columns and low != time
    found["low"] = found[f"{low}_base"] / found[high] if spread else np.nan
    found["high"] = found[f"{high}_base"] / found[low] if spread else np.nan
    own = found["config"] == baseline
    found.loc[own, ["low", "high"]] = 1.0
    return found.drop(columns=[f"{column}_base" for column in columns])


def quantization_gains(table: pd.DataFrame, time: str, baseline: str = "torch-fp32") -> pd.DataFrame:
    """Return the cases with speed-ups as `speedup_table`, each over the 32-bit configuration of its own runtime.

    base: that configuration. A runtime without one is compared with `baseline`. What remains is what narrow numbers
    did; the rest of a speed-up over `baseline` is the runtime's.
    """
    parts = []
    for runtime, own in table.groupby("runtime", sort=False):
        plain = own.loc[(own["weight"] == "fp32") & (own["activation"] == "fp32"), "config"].unique()
        base = plain[0] if len(plain) else baseline
        rows = own if len(plain) else pd.concat([table[table["config"] == baseline], own])
        found = speedup_table(rows, time, base)
        parts.append(found[found["runtime"] == runtime].assign(base=base))
    return pd.concat(parts, ignore_index=True)


def separated_gains(table: pd.DataFrame, gains: list[str], same_runtime: str) -> pd.DataFrame:
    """Return <gain>_runtime and <gain>_quantization for each gain: their product is the gain that was reported.

    table: index config; gains: columns of speed-ups over an unquantized model in another runtime. same_runtime: the
    config that is unquantized in the runtime of the quantized ones; its gain is the runtime's, the rest is theirs.
    Raises EdgelibError for an unknown config or column and for gains that are not above 0.
    """
    if same_runtime not in table.index:
        raise EdgelibError(f"no config {same_runtime!r} to divide by; there is {', '.join(map(str, table.index))}")
    missing = [gain for gain in gains if gain not in table.columns]
    if missing:
        raise EdgelibError(f"no column {missing[0]!r}; there is {', '.join(table.columns)}")
    if not (table[gains] > 0).all(axis=None):
        raise EdgelibError("speed-ups must be above 0")
    found = table.copy()
    for gain in gains:
        found[f"{gain}_runtime"] = table.at[same_runtime, gain]
        found[f"{gain}_quantization"] = table[gain] / table.at[same_runtime, gain]
    return found


def swift_vlm_flow() -> pd.DataFrame:
    """Return the speed-ups and memory that Swift-VLM-Flow reports for Qwen2-VL-2B on an RTX 5060 Ti, by config."""
    with files("edgelib.devices").joinpath("swift_vlm_flow.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file, index_col="config")
