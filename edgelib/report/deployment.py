"""What the deployment chapter decides, as tables: its record, and a line per device, tier and part of memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pandas as pd

from edgelib.decide.decision import Decision, decide
from edgelib.decide.margins import ALPHA, joint_draws, means_table, pair_bounds
from edgelib.decide.measured import KEY as MEASURED
from edgelib.decide.pareto import TIERS
from edgelib.decide.record import (
    CLEAN,
    CORRUPTED,
    Accuracy,
    Caveat,
    Configuration,
    DecisionRecord,
    DeviceOptions,
    Writer,
)
from edgelib.devices.deploy.memory import MIB, PARTS
from edgelib.devices.deploy.runtimes import NO_KERNEL, doubts
from edgelib.devices.device import GIB, Device
from edgelib.quant.scheme import scheme
from edgelib.report.claims.choices import caveat_text, chance_text, choice_text, open_text
from edgelib.report.claims.text import points_text, spread_text

DRAWS = 400

Wanted = Mapping[str, tuple[Device, Mapping[str, float]]]


def decision_record(
    outcomes: Mapping[str, pd.DataFrame],
    devices: list[DeviceOptions],
    labels: Mapping[str, str],
    commands: Mapping[str, str],
    caveats: Mapping[str, list[Caveat]],
    *,
    n_boot: int,
    level: float,
    seed: int,
    latency_level: float,
    writer: Writer | None = None,
    **facts,
) -> DecisionRecord:
    """Return the record of a decision from outcomes and costs; everything that choosing needs is computed here.

    outcomes: {criterion: items by (config, run)}, "clean", "corrupted" and each corruption. labels, commands: by
    configuration, in the order of the options of `devices`. facts: further fields of `DecisionRecord`.
    """
    bounds = pair_bounds(outcomes, n_boot=n_boot, seed=seed)
    means = means_table(outcomes, n_boot=n_boot, level=level, seed=seed)
    draws = joint_draws(outcomes, n_boot=DRAWS, seed=seed)

    accuracy = {
        (row.config, row.criterion): Accuracy(
            value=round(row.value, 6), low=round(max(0.0, row.low), 6), high=round(min(1.0, row.high), 6)
        )
        for row in means.itertuples()
    }
    configs = [
        Configuration(
            key=key,
            label=label,
            command=commands[key],
            accuracy={criterion: accuracy[key, criterion] for criterion in outcomes},
            caveats=list(caveats.get(key, [])),
        )
        for key, label in labels.items()
    ]
    whole = {c: {k: [round(1e4 * mean) for mean in draws[c][k]] for k in labels} for c in outcomes}
    return DecisionRecord(
        n_images=len(next(iter(outcomes.values()))),
        n_draws=DRAWS,
        alpha=ALPHA,
        level=level,
        latency_level=latency_level,
        criteria=list(outcomes),
        configs=configs,
        bounds=_by_pair(bounds, "low", outcomes, labels),
        effects=_by_pair(bounds, "effect", outcomes, labels),
        draws=whole,
        devices=devices,
        writer=writer,
        unverified=doubts(),
        **facts,
    )


def _by_pair(
    bounds: pd.DataFrame, column: str, criteria: Iterable[str], configs: Iterable[str]
) -> dict[str, dict[str, dict[str, float]]]:
    """{criterion: {config: {other: value}}} of a column of `pair_bounds`."""
    found: dict[str, dict[str, dict[str, float]]] = {c: {k: {} for k in configs} for c in criteria}
    for row in bounds.itertuples():
        found[row.criterion][row.config][row.other] = round(getattr(row, column), 6)
    return found


def wanted_tiers(tiers: Mapping[str, str], budgets: Mapping[str, float] | None, known: Mapping[str, Device]) -> Wanted:
    """Return {name: (device, budgets)} of published tiers, each on a device, and of one's own budgets on each of these.

    tiers: name of a published tier -> key of a device. known: key -> device.
    """
    wanted = {name: (known[key], TIERS[name].budgets) for name, key in tiers.items()}
    if budgets:
        wanted |= {f"your budgets on {known[key].name}": (known[key], budgets) for key in dict.fromkeys(tiers.values())}
    return wanted


def tier_decisions(record: DecisionRecord, wanted: Wanted, *, margin: float, order) -> dict[str, tuple]:
    """Return {tier: (decision by the upper end of the time, decision by its middle)}."""
    found = {}
    for name, (device, budgets) in wanted.items():
        limits = dict(memory=budgets.get("bytes"), latency_ms=budgets.get("latency_ms"), margin=margin, order=order)
        found[name] = tuple(decide(record, device.key, end=end, **limits) for end in ("upper", "middle"))
    return found


def options_table(record: DecisionRecord, device: str, chosen: Sequence[str] = ()) -> pd.DataFrame:
    """Return a row per configuration that runs on a device, index config: clean and corrupted accuracy, memory,
    latency_ms, each accuracy and the latency with its ends, and whether it is among `chosen`."""
    place = next(d for d in record.devices if d.key == device)
    scores = {config.key: config.accuracy for config in record.configs}
    rows = {}
    for option in place.options:
        if option.reason:
            continue
        row: dict = {"memory": option.total, "chosen": option.config in chosen, "latency_ms": option.latency_ms}
        row |= {"latency_ms_low": option.low, "latency_ms_high": option.high}
        for name, criterion in (("accuracy", CLEAN), ("corrupted", CORRUPTED)):
            seen = scores[option.config][criterion]
            row |= {name: seen.value, f"{name}_low": seen.low, f"{name}_high": seen.high}
        rows[option.config] = row
    columns = ["memory", "chosen", "latency_ms", "latency_ms_low", "latency_ms_high"]
    columns += [f"{name}{end}" for name in ("accuracy", "corrupted") for end in ("", "_low", "_high")]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns)


STAR = "a star: no source was seen for a fact of that runtime, such as the memory it holds"


def starred(runtime: str) -> str:
    """Return the name of a runtime, with a star where a fact of it is unverified."""
    return f"{runtime}*" if runtime in doubts() else runtime


def memory_rows(devices: Mapping[str, Sequence], labels: Mapping[str, str], scale: float = MIB) -> pd.DataFrame:
    """Return a line per configuration: MiB of each part of memory, of their sum, and what runs it (`starred`).

    devices: {name: options or needs}; a column says which, where there are several. Parts that nothing has are
    left out.
    """
    rows = []
    for name, options in devices.items():
        for option in options:
            row = {"Device": name, "Configuration": labels.get(option.config, option.config)}
            row |= {part: option.memory.get(part, 0.0) / scale for part in PARTS}
            rows.append(row | {"In all": option.total / scale, "Runtime": starred(option.runtime) or "none"})
    table = pd.DataFrame(rows)
    empty = [part for part in PARTS if not table[part].any()]
    return table.drop(columns=[*empty, *(["Device"] if len(devices) == 1 else [])])


def deployment_guide(
    record: DecisionRecord, devices: Iterable[str], *, margin: float, order, latency_ms: float | None = None
) -> pd.DataFrame:
    """Return a line per device: what to ship there, how sure that is, what to beware of, why not the others.

    The memory of configurations that are tied is that of the largest.
    """
    labels = {config.key: config.label for config in record.configs}
    caveats = {config.key: config.caveats for config in record.configs}
    lines = []
    for key in devices:
        found = decide(record, key, margin=margin, order=order, latency_ms=latency_ms)
        line = {"Device": found.name}
        if not found.tied:
            lines.append(
                line | {"Ship": "nothing: see the last column"} | {"Why not the others": _barred(found, labels)}
            )
            continue
        first = found.tied[0]
        beware = dict.fromkeys(
            f"{labels[choice.config]}: {caveat_text(caveat)}"
            for choice in found.tied
            for caveat in caveats[choice.config][:1]
        )
        lines.append(
            line
            | {
                "Ship": choice_text(found, labels),
                f"P(within {points_text(margin)})": chance_text(found),
                "Memory, GiB": f"{max(c.memory for c in found.tied) / GIB:.2f}",
                "Time, ms": spread_text(first.latency_ms, first.low, first.high),
                "Runtime": ", ".join(dict.fromkeys(starred(choice.runtime) for choice in found.tied)),
                "Beware": "; ".join(beware),
                "Why not the others": _barred(found, labels),
            }
        )
    return pd.DataFrame(lines).fillna("")


def _barred(found: Decision, labels: Mapping[str, str]) -> str:
    """Why configurations are out: those with one reason together; one that names the configuration alone."""
    reasons: dict[str, list[str]] = {}
    for config, reason in found.out.items():
        reasons.setdefault(NO_KERNEL if reason.startswith(NO_KERNEL) else reason, []).append(labels[config])
    later = [config for config in found.kept if config not in {choice.config for choice in found.tied}]
    if later:
        what = {"speed": "slower", "bytes": "larger", "energy": "takes more energy"}[found.order]
        reasons.setdefault(what, []).extend(labels[config] for config in later)
    for config, images in found.open.items():
        if config not in {choice.config for choice in found.tied}:
            reasons[open_text(images)] = [*reasons.get(open_text(images), []), labels[config]]
    return "; ".join(f"{', '.join(names)}: {reason}" for reason, names in reasons.items())


def _width(config: str) -> str:
    """How wide the weights of a configuration are, in three kinds."""
    bits = scheme(config).weight_format.bits
    return "16 bits or more" if bits > 8 else "8 bits" if bits > 4 else "4 bits or fewer"


def device_cloud(record: DecisionRecord) -> pd.DataFrame:
    """Return a row per device and configuration that runs there, in the words and units of a reader; the ends of
    intervals have names in small letters. Times are projected ones, so a machine that was measured is left out."""
    labels = {config.key: config.label for config in record.configs}
    rows = []
    for device in (d for d in record.devices if d.key != MEASURED):
        for config, row in options_table(record, device.key).iterrows():
            rows.append(
                {
                    "Device": device.name,
                    "Configuration": labels[str(config)],
                    "Weights": _width(str(config)),
                    "Projected latency (ms)": float(f"{row['latency_ms']:.3g}"),
                    "Its interval (ms)": f"{row['latency_ms_low']:.3g} to {row['latency_ms_high']:.3g}",
                    "latency low": float(f"{row['latency_ms_low']:.3g}"),
                    "latency high": float(f"{row['latency_ms_high']:.3g}"),
                    "Memory in all (MiB)": round(row["memory"] / MIB, 1),
                    "Clean accuracy (%)": round(100 * row["accuracy"], 1),
                    "Corrupted accuracy (%)": round(100 * row["corrupted"], 1),
                    "corrupted low": round(100 * row["corrupted_low"], 1),
                    "corrupted high": round(100 * row["corrupted_high"], 1),
                }
            )
    return pd.DataFrame(rows)
