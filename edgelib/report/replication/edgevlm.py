"""Evidence on the claims of EdgeVLM-Bench: one function a claim, from tables of this book or from its own table."""

from __future__ import annotations

from collections.abc import Mapping

from edgelib.devices.deploy.memory import MIB
from edgelib.report.claims.text import interval_text
from edgelib.report.figures.palette import label, readable
from edgelib.report.replication.evidence import (
    CONTRADICTED,
    HOLDS,
    OPEN,
    UNTESTED,
    Finding,
    Tables,
    amount,
    as_large,
    direction,
    points,
    reads,
    within,
)
from edgelib.stats.metrics import accuracy_drop

SOURCE = "edgevlm-bench"


def _clean(tables: Tables, config: str) -> dict:
    """The paired difference of a configuration to the reference on clean images."""
    row = tables("robustness_gap", "behind", config=config, severity=0).iloc[0]
    return {"effect": row["value"], "low": row["low"], "high": row["high"]}


def _gap(tables: Tables, config: str) -> tuple[dict, str]:
    row = tables("robustness_gap", "gaps", config=config, scale="logit").iloc[0].to_dict()
    span = interval_text((row["low"], row["high"]), 0.95, digits=2)
    return row, f"gap {row['effect']:+.2f} log odds ({span})"


@reads(SOURCE, "eight-bits-clean")
def eight_bits_clean(tables: Tables, claim: Mapping) -> Finding:
    """Whether eight bits change clean accuracy by no more than the claim says."""
    row = _clean(tables, "w8a8-minmax")
    what = f"{label('w8a8-minmax')} minus the reference on clean images, paired; margin {100 * claim['said']:g} points"
    return Finding(what, points(row), within(row, claim["said"]))


@reads(SOURCE, "eight-bits-robust")
def eight_bits_robust(tables: Tables, _claim: Mapping) -> Finding:
    """Whether SmoothQuant at eight bits has a gap below zero."""
    row, number = _gap(tables, "w8a8-smoothquant")
    what = f"robustness gap of {label('w8a8-smoothquant')}, which has no floor; below 0 is more robust"
    return Finding(what, number, direction(row, -1))


@reads(SOURCE, "four-bits-clean")
def four_bits_clean(tables: Tables, claim: Mapping) -> Finding:
    """Whether four bits lose as much on clean images as claimed."""
    row = _clean(tables, "w4a8-minmax")
    what = f"{label('w4a8-minmax')} minus the reference on clean images, paired"
    return Finding(what, points(row), as_large(row, claim["said"]))


@reads(SOURCE, "four-bits-gap")
def four_bits_gap(tables: Tables, _claim: Mapping) -> Finding:
    """Whether four bits have a gap above zero."""
    row, number = _gap(tables, "w4a8-minmax")
    return Finding(f"robustness gap of {label('w4a8-minmax')}; above 0 is amplified", number, direction(row, 1))


def _rung(tables: Tables, config: str, sign: int, what: str) -> Finding:
    """One configuration of the calibration ladder against min-max: plain model first, then what twins say."""
    rows = tables("calibration_sensitivity", "ladder", config=config)
    plain = rows[rows["twin"] == "plain"]
    if not len(plain):
        return Finding(what, "the plain model was not run", UNTESTED)
    others = [f"{row.twin} {100 * row.effect:+.1f}" for row in rows[rows["twin"] != "plain"].itertuples()]
    row = plain.iloc[0].to_dict()
    said = points(row) + (f"; with outliers: {', '.join(others)}" if others else "")
    verdicts = {direction(row, sign) for row in rows.to_dict("records")}
    on_plain = direction(row, sign)
    verdict = CONTRADICTED if on_plain == OPEN and CONTRADICTED in verdicts and HOLDS not in verdicts else on_plain
    return Finding(what, said, verdict)


@reads(SOURCE, "awq-below")
def awq_below(tables: Tables, _claim: Mapping) -> Finding:
    """Whether AWQ with a fixed strength is worse than min-max, on the plain model or on twins."""
    what = f"{label('w4a8-awq-fixed')} minus {label('w4a8-minmax')}, Holm-corrected, on the plain model and on twins"
    return _rung(tables, "w4a8-awq-fixed", -1, what)


@reads(SOURCE, "awq-tuned")
def awq_tuned(tables: Tables, _claim: Mapping) -> Finding:
    """Whether a searched strength gains on min-max where the fixed one loses."""
    rows = tables("calibration_sensitivity", "ladder_accuracy", twin="plain").set_index("config")
    fixed, searched = (rows["accuracy"].get(config) for config in ("w4a8-awq-fixed", "w4a8-awq"))
    if fixed is None or searched is None:
        return Finding("AWQ with a fixed and with a searched strength", "not both were run", UNTESTED)
    finding = _rung(tables, "w4a8-awq", 1, f"{label('w4a8-awq')} minus {label('w4a8-minmax')}, Holm-corrected")
    number = f"fixed {100 * fixed:.1f} %, searched {100 * searched:.1f} %; to min-max {finding.number}"
    hurt = _rung(tables, "w4a8-awq-fixed", -1, "").verdict
    # without a loss of the fixed strength there is nothing to recover
    return Finding(finding.tested, number, finding.verdict if hurt == HOLDS else OPEN)


@reads(SOURCE, "mix-matters")
def mix_matters(tables: Tables, _claim: Mapping) -> Finding:
    """Whether the calibration mix that costs most is shown to cost anything."""
    rows = tables("calibration_sensitivity", "mixes")
    worst = rows.loc[rows["effect"].idxmin()]
    number = f"{readable(worst['mix'])} images {points(worst)}"
    what = "the configuration whose runs differ most, mixes against balanced, Holm-corrected"
    return Finding(what, number, direction(worst, -1))


@reads(SOURCE, "mce")
def mce_is_a_drop(_tables: Tables, claim: Mapping) -> Finding:
    """Whether the column called mCE is more than the mean drop in accuracy."""
    rows = claim["table"].values()
    apart = max(abs(accuracy_drop(clean, [clean * rs]) - printed) for clean, rs, printed in rows)
    what = f"their {len(claim['table'])} rows: clean times (1 - RS), the mean drop in accuracy, against the column"
    # the rows are printed with three decimals, so that a product of two is known to about 0.001
    return Finding(what, f"largest difference {apart:.4f}", CONTRADICTED if apart < 0.0015 else HOLDS)


def _size(tables: Tables, config: str) -> float:
    return float(tables("efficiency", "sizes", model="clip-vit-base-patch32", config=config)["bytes"].iloc[0])


@reads(SOURCE, "fp16-size")
def fp16_size(tables: Tables, claim: Mapping) -> Finding:
    """Whether the dimensions take the claimed bytes at 16 bits."""
    half, whole = (_size(tables, config) / MIB for config in ("fp16", "fp32"))
    number = f"FP16 {half:.1f} MiB, FP32 {whole:.1f} MiB"
    return Finding("bytes of the same dimensions", number, amount(half, claim["said"], 0.02))


def _compression(tables: Tables, claim: Mapping, config: str) -> Finding:
    ratio = _size(tables, "fp16") / _size(tables, config)
    what = f"packed bytes of FP16 over {label(config)}, what is not quantized in 16 bits"
    return Finding(what, f"{ratio:.2f} times", amount(ratio, claim["said"], 0.05))


@reads(SOURCE, "w8-compression")
def w8_compression(tables: Tables, claim: Mapping) -> Finding:
    """Whether eight bits compress the 16-bit file as claimed."""
    return _compression(tables, claim, "w8a8-minmax")


@reads(SOURCE, "w4-compression")
def w4_compression(tables: Tables, claim: Mapping) -> Finding:
    """Whether four bits compress the 16-bit file as claimed."""
    return _compression(tables, claim, "w4a8-minmax")


@reads(SOURCE, "real-kernels")
def real_kernels(tables: Tables, _claim: Mapping) -> Finding:
    """Whether the fastest INT8 kernel that was timed beats FP32 of its own runtime."""
    rows = tables("efficiency", "encoders", model="clip-vit-base-patch32")
    rows = rows[rows["batch"] == rows["batch"].min()]
    narrow = rows[(rows["weight"] == "int8") & (rows["activation"] == "int8")]
    if not len(narrow):
        return Finding("measured time of an encoder", "no INT8 kernel was timed", UNTESTED)
    best = narrow.loc[narrow["p50"].idxmin()]
    base = rows[(rows["runtime"] == best["runtime"]) & (rows["weight"] == "fp32")]
    if not len(base):
        return Finding("measured time of an encoder", f"no floating point of {best['runtime']} was timed", UNTESTED)
    plain = base.iloc[0]
    low, high = plain["p25"] / best["p75"], plain["p75"] / best["p25"]
    number = f"{plain['p50'] / best['p50']:.2f} times as fast ({low:.2f} to {high:.2f} by opposite quartiles)"
    verdict = HOLDS if low > 1 else CONTRADICTED if high < 1 else OPEN
    return Finding(f"{best['config']} against FP32 of the same runtime, measured on one processor", number, verdict)


@reads(SOURCE, "safe-default")
def safe_default(tables: Tables, _claim: Mapping) -> Finding:
    """Whether a runtime has a kernel of eight bits on the device of every tier."""
    tiers = tables("pareto", "costs", config="w8a8-minmax").set_index("device")
    named = [key for key in ("jetson-nano", "snapdragon-8-gen-3", "orin-nx-16gb") if key in tiers.index]
    refused = [key for key in named if isinstance(tiers.loc[key, "reason"], str) and tiers.loc[key, "reason"]]
    if not named:
        return Finding("a kernel on the device of each tier", "no device of the tiers was costed", UNTESTED)
    number = f"runs on {len(named) - len(refused)} of {len(named)} devices"
    number += f", not on {', '.join(refused)}" if refused else ""
    what = f"whether a runtime has a kernel for {label('w8a8-minmax')} on the device of each tier"
    return Finding(what, number, CONTRADICTED if refused else HOLDS)


@reads(SOURCE, "scores")
def their_model(_tables: Tables, _claim: Mapping) -> Finding:
    """Never tested here: the model and the images are not part of the package."""
    return Finding(
        "their weights and images are not part of this package", "params/clip-vit-base-patch32 runs it", UNTESTED
    )
