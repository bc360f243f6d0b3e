"""Evidence on the claims of Swift-VLM-Flow: one function a claim, each from tables of this book or its device facts."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.devices.table import devices
from edgelib.quant.scheme import scheme
from edgelib.report.claims.openings import twin_text
from edgelib.report.claims.text import names_text
from edgelib.report.figures.palette import label
from edgelib.report.replication.evidence import (
    CONTRADICTED,
    HOLDS,
    OPEN,
    UNTESTED,
    Finding,
    Missing,
    Tables,
    as_large,
    direction,
    points,
    reads,
)

SOURCE = "swift-vlm-flow"
CACHE = "e4m3-amax"


@reads(SOURCE, "fp8-cache")
def fp8_cache(tables: Tables, claim: Mapping) -> Finding:
    """Whether a calibrated FP8 cache loses as much as claimed."""
    rows = tables("fp8_kv_ablation", "recovery", cache=CACHE)
    plain, planted = rows[rows["twin"] == "plain"], rows[(rows["twin"] != "plain") & ~rows["non_inferior"]]
    if not len(plain):
        raise Missing("fp8_kv_ablation did not run the plain model")
    row = plain.iloc[0]
    number = f"plain model {points(row)}"
    hurt = [twin_text(twin) for twin in planted["twin"]]
    number += f"; not shown safe with {names_text(hurt)}" if hurt else ""
    what = f"answers with a calibrated {CACHE} cache minus those with the exact cache, paired"
    return Finding(what, number, as_large(row, claim["said"]))


@reads(SOURCE, "cache-cause")
def cache_cause(tables: Tables, _claim: Mapping) -> Finding:
    """Whether range, and not resolution, carries the loss where it is largest."""
    rows = tables("fp8_kv_ablation", "ladder", game="cause")
    twin = rows.loc[rows["total"].idxmax(), "twin"]
    rows = rows[rows["twin"] == twin].set_index("factor")
    parts = {factor.removeprefix("cause: "): row for factor, row in rows.iterrows()}
    if set(parts) != {"range", "resolution"}:
        raise Missing("fp8_kv_ablation did not share a loss between range and resolution")
    number = "; ".join(f"{name} {points(row)}" for name, row in parts.items())
    found = {name: direction(row, 1) for name, row in parts.items()}
    verdict = HOLDS if found["range"] == HOLDS else CONTRADICTED if found["resolution"] == HOLDS else OPEN
    where = "the plain model" if twin == "plain" else f"a model with {twin_text(twin)}"
    return Finding(f"share of the loss of a cache that is due to range and to resolution, on {where}", number, verdict)


@reads(SOURCE, "cache-attention")
def cache_attention(tables: Tables, _claim: Mapping) -> Finding:
    """Whether the cache loses alone, and attention computed in FP8 nothing, where most is lost."""
    rows = tables("fp8_kv_ablation", "ablation")
    worst = rows.loc[rows["effect"].idxmin()]
    own = rows[rows["twin"] == worst["twin"]].set_index("rounded")
    number = "; ".join(f"{what} {points(own.loc[what])}" for what in ("cache", "attention") if what in own.index)
    alone = {what: direction(own.loc[what], -1) for what in ("cache", "attention") if what in own.index}
    verdict = OPEN
    if alone.get("attention") == HOLDS:
        verdict = CONTRADICTED
    elif alone.get("cache") == HOLDS:
        verdict = HOLDS
    where = "the plain model" if worst["twin"] == "plain" else f"a model with {twin_text(worst['twin'])}"
    return Finding(f"cache alone and attention alone in FP8, on {where}, where most is lost", number, verdict)


def _vqa(tables: Tables, config: str) -> dict:
    return tables("vlm_accuracy", "differences", task="vqa", config=config).iloc[0].to_dict()


@reads(SOURCE, "smoothquant-gains")
def smoothquant_gains(tables: Tables, _claim: Mapping) -> Finding:
    """Whether SmoothQuant at eight bits answers better than BF16."""
    row = _vqa(tables, "w8a8-smoothquant")
    what = f"{label('w8a8-smoothquant')} minus BF16, answers scored as VQAv2's, Holm-corrected"
    return Finding(what, points(row, digits=2), direction(row, 1))


@reads(SOURCE, "int4-loses")
def int4_loses(tables: Tables, claim: Mapping) -> Finding:
    """Whether plain four bits lose as much as claimed."""
    row = _vqa(tables, "w4a16")
    what = f"{label('w4a16')} minus BF16, answers scored as VQAv2's, Holm-corrected"
    return Finding(what, points(row, digits=2), as_large(row, claim["said"]))


def _sub_task(tables: Tables, config: str, task: str) -> dict:
    return tables("vlm_accuracy", "sub_tasks", config=config, task=task).iloc[0].to_dict()


@reads(SOURCE, "awq-translation")
def awq_translation(tables: Tables, _claim: Mapping) -> Finding:
    """Whether AWQ loses translations that plain four bits keep."""
    awq, plain = (_sub_task(tables, config, "text_translation") for config in ("w4a16-awq", "w4a16"))
    number = f"AWQ {points(awq, 1)}, plain {points(plain, 1)}; one test finds {awq['mde']:.0f} points"
    found = direction(awq, -1)
    verdict = found if found != HOLDS or direction(plain, -1) != HOLDS else CONTRADICTED
    return Finding(f"MME text translation, {awq['n']:.0f} questions, Holm-corrected", number, verdict)


@reads(SOURCE, "awq-language")
def awq_language(tables: Tables, _claim: Mapping) -> Finding:
    """Whether calibrating without translations costs AWQ translations."""
    rows = tables("vlm_accuracy", "language")
    worst = rows.loc[rows["effect"].idxmin()]
    number = f"{points(worst)} on {worst['twin']}; one test finds {100 * worst['mde']:.1f} points"
    what = f"AWQ calibrated without translations minus with them, scored on {worst['n']:.0f} translations"
    return Finding(what, number, direction(worst, -1))


@reads(SOURCE, "nvfp4-reasoning")
def nvfp4_reasoning(tables: Tables, _claim: Mapping) -> Finding:
    """Whether NVFP4 loses on both sub-tasks of reasoning."""
    rows = [_sub_task(tables, "nvfp4", task) for task in ("commonsense_reasoning", "code_reasoning")]
    number = "; ".join(f"{row['task'].replace('_', ' ')} {points(row, 1)}" for row in rows)
    found = [direction(row, -1) for row in rows]
    verdict = HOLDS if found == [HOLDS, HOLDS] else OPEN if OPEN in found else CONTRADICTED
    return Finding(f"the two sub-tasks of MME, {rows[0]['n']:.0f} questions each, Holm-corrected", number, verdict)


@reads(SOURCE, "nvfp4-w4a8")
def nvfp4_w4a8(_tables: Tables, _claim: Mapping) -> Finding:
    """Whether NVFP4 rounds activations to another format than weights."""
    made = scheme("nvfp4")
    both = made.weight == made.activation
    what = "the format of both operands in the default recipe of ModelOpt, whose codes ours equal"
    return Finding(what, f"weights {made.weight}, activations {made.activation}", CONTRADICTED if both else HOLDS)


def _gains(tables: Tables) -> pd.DataFrame:
    rows = tables("efficiency", "gains").set_index("config")
    return rows[rows.index.str.startswith("TRT") & (rows.index != "TRT BF16")]


@reads(SOURCE, "decode-bits")
def decode_bits(tables: Tables, _claim: Mapping) -> Finding:
    """Whether decoding speeds up as the bits fall, in the source's own figures."""
    own = _gains(tables)["decode_speedup_quantization"]
    eight, four = own[own.index.str.contains("INT8|FP8|Smooth")], own[own.index.str.contains("INT4|NVFP4")]
    if eight.empty or four.empty:
        raise Missing("the table of published speed-ups lacks 8 or 4 bits")
    number = f"8 bits {eight.min():.2f} to {eight.max():.2f}, 4 bits {four.min():.2f} to {four.max():.2f} times"
    what = "their figures divided by their own BF16 engine; bytes alone promise 2 and 4 times"
    falls, short = four.min() > eight.max(), four.max() < 0.9 * 2 * eight.min()
    return Finding(what, number, CONTRADICTED if short or not falls else HOLDS)


@reads(SOURCE, "ttft-bits")
def ttft_bits(tables: Tables, _claim: Mapping) -> Finding:
    """Whether the first token gains alike at every width, in the source's own figures."""
    own = _gains(tables)["ttft_speedup_quantization"]
    number = f"{own.min():.2f} times ({own.idxmin()}) to {own.max():.2f} times ({own.idxmax()})"
    verdict = CONTRADICTED if own.max() / own.min() > 1.1 else HOLDS
    return Finding("their figures divided by their own BF16 engine; alike: within a tenth", number, verdict)


@reads(SOURCE, "footprint")
def footprint(tables: Tables, _claim: Mapping) -> Finding:
    """Whether NVFP4 takes the least memory, in the source's own figures."""
    rows = tables("efficiency", "gains").set_index("config")
    whole = rows["static_gb"] + rows["dynamic_gb"]
    least, own = whole.idxmin(), whole[whole.index.str.contains("NVFP4")]
    if own.empty:
        raise Missing("the table of published memory lacks NVFP4")
    number = f"NVFP4 {own.iloc[0]:.2f} GB, least {whole.min():.2f} GB ({least})"
    return Finding("their static and dynamic memory, added", number, HOLDS if "NVFP4" in least else CONTRADICTED)


@reads(SOURCE, "hardware")
def hardware(tables: Tables, _claim: Mapping) -> Finding:
    """Whether the devices that compute in FP8 and NVFP4 are those of the claimed families."""
    rows, known = tables("efficiency", "legality"), devices()
    wanted = {"fp8": {"ada", "hopper", "blackwell"}, "nvfp4": {"blackwell"}}
    other, seen = [], 0
    for config, families in wanted.items():
        own = rows[rows["config"] == config]
        for row in own[own["device"].isin(known)].itertuples():
            seen += 1
            other += [f"{config} on {row.device}"] * (row.legal != (known[row.device].family in families))
    number = f"{seen - len(other)} of {seen} cells as claimed" + (f", not {', '.join(other)}" if other else "")
    what = "which devices of the table compute in these formats, by their vendors' facts"
    return Finding(what, number, CONTRADICTED if other else HOLDS) if seen else Finding(what, "none listed", UNTESTED)


@reads(SOURCE, "times")
def their_times(_tables: Tables, _claim: Mapping) -> Finding:
    """Never tested here: the card was not measured."""
    return Finding("their card was not measured", "times here are of other machines, or projected", UNTESTED)
