"""Sentences about speed: what was measured on one machine, and how far projections onto others are to be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from edgelib.devices.measurements import ModelFacts
from edgelib.devices.projection import Projection
from edgelib.devices.validation import Validation
from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import spread_text


def speedup_claim(row: pd.Series, name: str, baseline: str, machine: str) -> str:
    """Say how many times as fast as a baseline something was measured to be, or that quartiles leave it open.

    row: one row of `speedup_table`.
    """
    spread = f"{row.low:.2f} to {row.high:.2f} by opposite quartiles" if pd.notna(row.low) else "no quartiles"
    if pd.notna(row.low) and row.low <= 1 <= row.high:
        return (
            f"on {machine}, {name} and {baseline} cannot be told apart in speed (measured {row.speedup:.2f}x, {spread})"
        )
    verdict = f"{row.speedup:.2f} times as fast as" if row.speedup >= 1 else f"{1 / row.speedup:.2f} times slower than"
    return f"on {machine}, {name} is measured to be {verdict} {baseline} ({spread})"


def one_model_claim(machine: Mapping, evaluated: ModelFacts) -> str:
    """Say whether the times of a page and its other numbers are of one model, by what was written of the timed one.

    machine: of the measurements. evaluated: of the model that the page loads, by `edgelib.study.timing.identity`.
    """
    timed, own = machine.get("model"), evaluated.name
    if timed is None:
        return (
            f"Not one model: files and answers are those of {own}, times those of public dimensions with random "
            "weights. For your own, time it with edgelib measure FOLDER --model and name the folder as measurements"
        )
    if timed["weights"] == evaluated.weights:
        return f"One model: files, answers and times are all of {own} (weights {evaluated.weights[:8]})"
    if timed["architecture"] == evaluated.architecture:
        return (
            f"One architecture with two sets of weights: files and answers are those of {own}, times those of "
            f"{timed['name']}; times do not depend on weights"
        )
    return f"Not one model: files and answers are those of {own}, times those of {timed['name']}"


def efficiency_opening(
    sizes: pd.Series,
    timed: Sequence[str],
    labels: Mapping[str, str],
    fastest: pd.Series | None,
    machine: str,
    validation: Validation,
) -> Opening:
    """Open the chapter on bytes and times.

    sizes: bytes by config, the float baseline first. fastest: of the narrow kernels, the row with the least time, its
    speed-up over the same engine in floating point (base) with low and high; None where none was timed. timed: configs
    with weights as narrow as those of that kernel, so that bytes and time are of one format; all where there is none.
    """
    smallest = sizes[list(timed) or list(sizes.index)].idxmin()
    ratio = sizes.iloc[0] / sizes[smallest]
    file = f"{labels.get(smallest, smallest)} takes {ratio:.1f} times fewer bytes than {labels[sizes.index[0]]}"
    decode = validation.by_step[validation.by_step["step"] == "decode"]
    missed = (
        f", because projections miss published token times by {100 * decode.error.iloc[0]:.0f} %" if len(decode) else ""
    )
    advice = f"count the bytes of a saved file, and time a kernel on your own device{missed}"
    if fastest is None or pd.isna(fastest.low):
        return Opening(
            f"{file}; whether it is faster was not timed with an interval", f"no kernel was timed on {machine}", advice
        )
    number = (
        f"on {machine}, {fastest.config} is measured to take {1 / fastest.speedup:.2f} of the time of {fastest.base}: "
        f"{fastest.speedup:.2f} times as fast ({fastest.low:.2f} to {fastest.high:.2f} by opposite quartiles)"
    )
    if fastest.low <= 1 <= fastest.high or fastest.speedup < 1:
        return Opening(f"smaller, and not shown to be faster: {file}", number, advice)
    less = "less than its bytes promise" if fastest.speedup < ratio else "as much as its bytes promise"
    return Opening(
        f"yes, {less}: {file}, and the fastest kernel of such weights is {fastest.speedup:.1f} times as fast",
        number,
        advice,
    )


def validation_claim(validation: Validation) -> str:
    """Say how far projections are from published measurements of devices that they have not seen, step by step."""
    words = {"decode": "tokens", "prefill": "prompts", "encode": "images"}
    parts = [
        f"of {words[row.step]} by {100 * row.error:.0f} % on average ({row.n} points of {row.devices} "
        f"{'device' if row.devices == 1 else 'devices'}, {100 * row.coverage:.0f} % inside intervals of a factor "
        f"{row.factor:.1f} either way)"
        for row in validation.by_step.itertuples()
        if row.step in words
    ]
    return (
        f"projections with {100 * validation.level:g} % intervals onto devices that they have not seen miss published "
        f"times {', '.join(parts)}"
    )


def narrowing_claim(projection: Projection, after: float, device: str, step: str) -> str:
    """Say by how much an interval reaches, and which measurement of one's own would narrow it by how much.

    after: the factor that is left, of `Projector.after_one`. step: "decode", "prefill" or "encode".
    """
    timed = {"decode": "one token", "prefill": "one prompt", "encode": "one image"}[step]
    reach = f"the {100 * projection.level:g} % interval is a factor of {projection.factor:.1f} either way"
    return (
        f"on {device} {reach}; timing {timed} of the unquantized model there, in the runtime that you ship, "
        f"narrows it to a factor of {after:.1f}"
    )


def speed_ratio_claim(row: pd.Series, device: str) -> str:
    """Say what speed-up of narrow weights was measured and projected for one model on one device.

    row: one row of `speed_ratios`.
    """
    inside = "inside" if row.low <= row.measured <= row.high else "outside"
    both = f"measured {row.measured:.2f}x, projected {row.projected:.2f}x"
    interval = f"{inside} the interval {row.low:.2f} to {row.high:.2f}"
    known = f"calibrated by the 16-bit model on the device {row.calibrated:.2f}x"
    return f"{row.model}, {row.weight} weights, {device}: {both} ({interval}); {known}"


def refusal_claims(legal: pd.DataFrame, devices: Mapping[str, str], labels: Mapping[str, str]) -> list[str]:
    """Say for every reason which configurations it keeps from which devices, or nothing where all run everywhere.

    legal: of `legality`. devices: key -> name; labels: config -> label.
    """
    claims = []
    for reason, rows in legal[~legal["legal"]].groupby("reason", sort=False):
        configs = ", ".join(dict.fromkeys(labels[config] for config in rows["config"]))
        claims.append(f"{reason}: {configs} on {', '.join(dict.fromkeys(devices[key] for key in rows['device']))}")
    return claims


def size_claim(sizes: pd.Series, name: str, labels: Mapping[str, str]) -> str:
    """Say how large a model is in its first configuration and in its smallest one; sizes: config -> bytes."""
    first, smallest = sizes.index[0], sizes.idxmin()
    return (
        f"{name} takes {sizes[first] / 2**20:.1f} MiB in {labels[first]} and {sizes[smallest] / 2**20:.1f} MiB in "
        f"{labels[smallest]}, {sizes[first] / sizes[smallest]:.2f} times less"
    )


def projection_text(projection: Projection, digits: int = 3) -> str:
    """A projected time with its interval: "12.5 (8.1 to 19.2)"."""
    return spread_text(projection.ms, *projection.interval, digits)
