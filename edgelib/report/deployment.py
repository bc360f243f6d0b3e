"""What the deployment chapter decides, as tables: choices within tiers, and a guide with a line per device."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from edgelib.decide.choice import TierChoice, choose_for_tier
from edgelib.decide.frontier import uncertain_frontier
from edgelib.decide.pareto import TIERS, pareto_frontier
from edgelib.devices.device import Device
from edgelib.report.claims.choices import tier_claim
from edgelib.report.claims.text import spread_text

CRITERIA, COSTS = ("accuracy", "corrupted"), ("bytes", "latency_ms")
MIB, GIB = 2**20, 2**30

Wanted = Mapping[str, tuple[Device, Mapping[str, float]]]


def on_device(cost: pd.DataFrame, device: str, configs: Sequence[str]) -> pd.DataFrame:
    """Return the rows of `deployment_costs` of one device, indexed by config, in the order of `configs`."""
    return cost[cost["device"] == device].set_index("config").loc[list(configs)]


def wanted_tiers(tiers: Mapping[str, str], budgets: Mapping[str, float] | None, known: Mapping[str, Device]) -> Wanted:
    """Return {name: (device, budgets)} of published tiers, each on a device, and of one's own budgets on each of these.

    tiers: name of a published tier -> key of a device. known: key -> device.
    """
    wanted = {name: (known[key], TIERS[name].budgets) for name, key in tiers.items()}
    if budgets:
        wanted |= {f"your budgets on {known[key].name}": (known[key], budgets) for key in dict.fromkeys(tiers.values())}
    return wanted


def tier_tables(
    outcomes: Mapping[str, pd.DataFrame], cost: pd.DataFrame, wanted: Wanted, configs: Sequence[str], **options
) -> dict[str, pd.DataFrame]:
    """Return the `uncertain_frontier` of what runs on the device of each tier; tiers on whose device nothing runs lack.

    outcomes: criterion -> items by (config, run). options: cost_spread, n_boot, level and seed. Each table has the ends
    of the projected latency too.
    """
    tables = {}
    for name, (device, _) in wanted.items():
        costs = on_device(cost, device.key, configs)
        runs = costs[costs["reason"] == ""][list(COSTS)].astype(float)
        if len(runs):
            part = {k: t[[c for c in t.columns if c[0] in runs.index]] for k, t in outcomes.items()}
            ends = costs[["low", "high"]].add_prefix("latency_ms_")
            tables[name] = uncertain_frontier(part, runs, **options).table.join(ends)
    return tables


def tier_choices(
    tables: Mapping[str, pd.DataFrame], cost: pd.DataFrame, wanted: Wanted, configs: Sequence[str]
) -> dict[str, TierChoice]:
    """Return the configuration of least regret within the budgets of each tier, or what forbids one."""
    choices = {}
    for name, (device, budgets) in wanted.items():
        reasons = on_device(cost, device.key, configs)["reason"]
        table = tables.get(name, pd.DataFrame(columns=COSTS)).reindex(list(configs))
        illegal = {config: reason for config, reason in reasons.items() if reason}
        options: dict[str, Any] = dict(maximize=CRITERIA, minimize=COSTS, illegal=illegal, name=name)
        choices[name] = choose_for_tier(table, budgets, device.name, **options)
    return choices


def deployment_guide(
    cost: pd.DataFrame, devices: Iterable[Device], accuracies: pd.DataFrame, labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return a line per device: the configuration of least regret that runs and fits there, its costs, and the others.

    accuracies: index config, columns `CRITERIA`. labels: config -> what to call it, in the order of the configurations.
    """
    return pd.DataFrame([_guide_line(cost, device, accuracies, labels) for device in devices]).fillna("")


def _guide_line(cost, device: Device, accuracies: pd.DataFrame, labels: Mapping[str, str]) -> dict[str, str]:
    costs = on_device(cost, device.key, list(labels))
    runs = costs[costs["reason"] == ""]
    table = runs[list(COSTS)].join(accuracies[list(CRITERIA)]).astype(float)
    budgets = {"bytes": device.usable_gib * GIB if device.usable_gib else float("inf")}
    line = {"Device": device.name}
    if not len(table):
        return line | {"Least regret": "nothing can be projected", "Why not the others": costs["reason"].iloc[0]}
    pick = choose_for_tier(table, budgets, device.name, maximize=CRITERIA, minimize=COSTS)
    if pick.choice is None:
        why = tier_claim(pick, table, labels, list(COSTS))
        return line | {"Least regret": "nothing fits", "Why not the others": why}
    row = runs.loc[pick.choice]
    refused = costs[costs["reason"] != ""].groupby("reason", sort=False)
    barred = [f"{', '.join(labels[c] for c in part.index)}: {reason}" for reason, part in refused]
    front = pareto_frontier(table, maximize=CRITERIA, minimize=COSTS).index
    return line | {
        "Least regret": labels[pick.choice],
        "Packed, MiB": f"{row.bytes / MIB:.0f}",
        "Projected, ms": spread_text(row.latency_ms, row.low, row.high),
        "Bound by": row.binds,
        "Also on the frontier": ", ".join(labels[c] for c in front if c != pick.choice),
        "Why not the others": "; ".join(barred),
    }


def device_cloud(
    cost: pd.DataFrame, table: pd.DataFrame, devices: Mapping[str, Device], labels: Mapping[str, str]
) -> pd.DataFrame:
    """Return a row per device and configuration that runs there, in the words and units of a reader.

    table: of a frontier: index config, `CRITERIA` and probability. devices: key -> device.
    """
    shown = table[[*CRITERIA, "probability"]].rename_axis("config").reset_index()
    rows = cost[cost["reason"] == ""].merge(shown, on="config")
    return pd.DataFrame(
        {
            "Device": [devices[key].name for key in rows["device"]],
            "Configuration": [labels[config] for config in rows["config"]],
            "Projected latency (ms)": rows["latency_ms"].map("{:.3g}".format).astype(float),
            "Packed size (MiB)": (rows["bytes"] / MIB).round(1),
            "Clean accuracy (%)": (100 * rows["accuracy"]).round(1),
            "Corrupted accuracy (%)": (100 * rows["corrupted"]).round(1),
            "P(on frontier)": rows["probability"].round(2),
        }
    )
