"""`edgelib choose`: what to ship on a device, from the record that the chapter `pareto` publishes."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from edgelib.cli.base import app, one_paragraph
from edgelib.errors import EdgelibError, did_you_mean

_BYTES = {"": 2**30, "b": 1, "kb": 2**10, "kib": 2**10, "mb": 2**20, "mib": 2**20, "gb": 2**30, "gib": 2**30}
_MILLISECONDS = {"": 1.0, "us": 1e-3, "ms": 1.0, "s": 1e3}


def amount(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    """Return a quantity such as "4GB" in its base unit. GB counts 2^30 bytes, as boards are sold.

    units: {unit in small letters: how many of the base unit}. Raises EdgelibError for text that is no quantity above 0.
    """
    found = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*([A-Za-z]*)\s*", text)
    unit = found.group(2).lower() if found else "none"
    if not found or unit not in units or not float(found.group(1)) > 0 or not math.isfinite(float(found.group(1))):
        known = ", ".join(name for name in units if name)
        raise EdgelibError(
            f"{what} must be a number above 0 with one of the units {known}, such as {example}; got {text!r}"
        )
    return float(found.group(1)) * units[unit]


def matching(wanted: str | None, names: dict[str, str]) -> list[str]:
    """Return the keys of the devices that a name means: that key, or all that hold each of its words.

    names: {key: name}; None means all. Raises EdgelibError for a name that means none, with the closest.
    """
    if wanted is None:
        return list(names)
    if wanted in names:
        return [wanted]
    words = set(re.split(r"[^a-z0-9]+", wanted.lower())) - {""}
    held = {key: set(re.split(r"[^a-z0-9]+", f"{key} {name}".lower())) for key, name in names.items()}
    found = [key for key, own in held.items() if words and words <= own]
    if not found:
        hint = did_you_mean(wanted, names)
        raise EdgelibError(f"unknown device {wanted!r}{hint}; choose from {', '.join(names)}")
    return found


def default_record() -> Path:
    """Return the published record, or the one of the last run of the chapter; raises EdgelibError if there is none."""
    from edgelib.ground.paths import find_root

    root = find_root()
    places = (root / "book" / "data" / "pareto-decision.json", root / "results" / "pareto" / "decision.json")
    for place in places:
        if place.is_file():
            return place
    raise EdgelibError(
        f"there is no record of a decision at {' or '.join(map(str, places))}; run the chapter, "
        "edgelib publish pareto, or name a record with --record"
    )


@app.command()
@one_paragraph
def choose(
    memory: Annotated[
        str | None, typer.Option(help="Memory of the board, such as 4GB; the system's share counts.")
    ] = None,
    latency: Annotated[str | None, typer.Option(help="Most that one image may take, such as 150ms.")] = None,
    device: Annotated[
        str | None, typer.Option(help="A key, or words of a name; all devices where none is named.")
    ] = None,
    margin: Annotated[float, typer.Option(help="Points of accuracy that may be lost.")] = 1.0,
    order: Annotated[
        str, typer.Option(help="speed, bytes or energy: what decides among those that keep it.")
    ] = "speed",
    corruption: Annotated[
        str | None, typer.Option(help="What to be ready for, such as fog; all where none is.")
    ] = None,
    measurements: Annotated[
        Path | None, typer.Option(help="Folder of `edgelib measure`: decide for the machine that was measured.")
    ] = None,
    record: Annotated[
        Path | None, typer.Option(help="decision.json of a run of one's own; default: the book's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the answers as JSON.")] = False,
) -> None:
    """Say which configurations to ship within budgets, how sure that is, and why the others are out."""
    from edgelib.decide.decision import decide
    from edgelib.decide.record import read_record

    known = read_record(record or default_record())
    if measurements is not None:
        from edgelib.decide.measured import KEY, with_measured
        from edgelib.devices.measurements import load_measurements
        from edgelib.quant.scheme import scheme

        numbers = {config.key: (scheme(config.key).weight, scheme(config.key).activation) for config in known.configs}
        known = with_measured(known, load_measurements(str(measurements)), numbers, measurements)
        device = device or KEY
    limits: dict = dict(margin=margin / 100, order=order, corruption=corruption)
    limits["memory"] = None if memory is None else amount(memory, _BYTES, "memory", "4GB")
    limits["latency_ms"] = None if latency is None else amount(latency, _MILLISECONDS, "latency", "150ms")
    places = matching(device, {place.key: place.name for place in known.devices})
    found = [[decide(known, key, end=end, **limits) for end in ("upper", "middle")] for key in places]
    if as_json:
        print(json.dumps([{d.end: dataclasses.asdict(d) for d in ends} for ends in found], indent=1))
        return
    for line in lines(known, found):
        print(line)


def lines(record, found: list) -> list[str]:
    """Return the answers as lines of text. record: of the decision; found: (by the upper end, by the middle) each."""
    from edgelib.report.claims.choices import caveat_text, open_text, tier_claim

    labels = {config.key: config.label for config in record.configs}
    about = {config.key: config for config in record.configs}
    synthetic = "; synthetic images, so run the chapter on your own model before you ship" if record.synthetic else ""
    text = [
        f"accuracy simulated, {record.model} on {record.n_images} images; memory and time of {record.costs}{synthetic}"
    ]
    for sure, middle in found:
        text += ["", tier_claim(sure, middle, labels, "answer")]
        shipped = sure if sure.tied else middle
        for choice in shipped.tied:
            config = about[choice.config]
            text.append(
                f"  {config.label}: {choice.memory / 2**30:.2f} GiB in all, {choice.source} {choice.latency_ms:.3g} ms "
                f"({choice.low:.3g} to {choice.high:.3g}), within the margin with probability {choice.p_within:.2f}, "
                f"as good as the first with {choice.p_as_good:.2f}, {choice.runtime}"
            )
            text += [f"    beware: {caveat_text(caveat)}" for caveat in config.caveats]
            doubt = record.unverified.get(choice.runtime)
            text += [f"    make: {config.command}", f"    run:  {choice.command}" + (f"  ({doubt})" if doubt else "")]
        if len(found) == 1:
            text += [f"  open: {labels[config]}: {open_text(images)}" for config, images in shipped.open.items()]
            text += [f"  out: {labels[config]}: {reason}" for config, reason in shipped.out.items()]
    if record.not_available:
        text += ["", *(f"not known: {line}" for line in record.not_available)]
    return text
