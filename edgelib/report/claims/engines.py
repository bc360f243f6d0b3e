"""Sentences about GGUF files: which pair to ship, whether the engine computes what was simulated, how fast it is."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import interval_text, points_text
from edgelib.report.engines import commands, file_name, pair_name
from edgelib.stats.family import Family
from edgelib.stats.recommend import Recommendation


def ladder_claims(ladders: pd.DataFrame) -> list[str]:
    """Say, for every name, whether the engine answers as the simulation of the same file does, within which bound.

    ladders: of `engine_ladders`.
    """
    claims = []
    for mix, rows in ladders.groupby("mix", sort=False):
        steps = rows.set_index("step")
        own, same = steps.loc["engine"], steps.loc["simulation"]
        claims.append(
            f"{file_name(str(mix))}: llama.cpp and the simulation of its file choose the same token in "
            f"{100 * same.top1:.0f} % of {same.n:.0f} prompts (at least {100 * same.top1_low:.0f} % by Wilson's "
            f"interval); the mean probability of any answer differs by at most {100 * same.bound:.2g} points, against "
            f"{100 * steps.loc['weights'].bound:.2g} for what rounding the weights does and {100 * own.bound:.2g} for "
            "the engine on unrounded numbers"
        )
    return claims


def speed_claims(times: pd.DataFrame) -> list[str]:
    """Say how fast every name decodes against F16 of the same engine, with 16-bit caches.

    times: of `engine_times`.
    """
    rows = times[times["cache"] == "f16"].set_index("mix")
    if "f16" not in rows.index:
        return []
    base, claims = rows.loc["f16"], []
    for mix, row in rows.drop(index="f16").iterrows():
        ratio, low, high = (
            row.decode_per_s / base.decode_per_s,
            row.decode_low / base.decode_high,
            row.decode_high / base.decode_low,
        )
        claims.append(
            f"{file_name(str(mix))} is measured to decode {ratio:.2f} times as fast as F16 ({low:.2f} to {high:.2f} by "
            f"opposite extremes), in a file of {row.file_bytes / base.file_bytes:.2f} of its size"
        )
    return claims


def budget_claims(table: pd.DataFrame) -> list[str]:
    """Say which numbers of image tokens and decoders no other setting beats in accuracy and in the wait.

    table: of `budget_table`; no claims where no wait was measured.
    """
    known = table.dropna(subset="wait_ms")
    if not len(known):
        return []
    said = [
        f"{row.tokens} tokens with {file_name(row.decoder)} ({100 * row.accuracy:.1f} %, {row.wait_ms:.3g} ms)"
        for row in known[known["best"]].sort_values("wait_ms").itertuples()
    ]
    return [f"by the estimates alone, these are not beaten, the quickest first: {'; '.join(said)}"]


def engines_opening(
    tests: Family, choice: Recommendation, pairs: Mapping[str, tuple[str, str]], sizes: pd.DataFrame
) -> Opening:
    """Open the chapter on GGUF files.

    tests: (decoder, vision) -> difference in accuracy to the reference, over all conditions. choice: among the
    schemes of `pairs`. sizes: of `file_bytes`.
    """
    weight = sizes.set_index("config")["bytes"]
    reference = next(iter(pairs))
    base = pair_name(*pairs[reference])
    lost = [key for key in tests.settled() if tests[key].effect < 0]
    taken = None if choice.choice is None else choice.choice["config"]
    within = points_text(choice.margin)
    if taken is None:
        answer = f"no pair of files is shown to keep within {within} of every other"
        answer += f", and {len(lost)} of {len(tests)} are shown to lose against {base}" if lost else ""
    else:
        share = weight[taken] / weight[reference]
        answer = (
            f"{pair_name(*pairs[taken])} (decoder + vision) is shown to stay within {within} of every other pair, "
            f"clean and corrupted together, in {100 * share:.0f} % of the bytes of {base}"
            if taken != reference
            else f"{base} is the only pair that is shown to keep the answers within {within}"
        )
    worst = min(tests, key=lambda key: tests[key].interval[0])
    worst = pairs[taken] if taken is not None and pairs[taken] in tests.tests else worst
    test = tests[worst]
    number = (
        f"the loss that stays possible is {max(0.0, -100 * test.interval[0]):.1f} points over all conditions "
        f"({pair_name(*worst)}: {100 * test.effect:+z.1f} points against {base}, "
        f"{interval_text(test.interval, test.level, 100)})"
    )
    ship = taken or reference
    made = [c for c in commands(*pairs[ship])[0].split(" && ") if c.startswith("llama-quantize")]
    advice = f"run {' and '.join(made)}" if made else f"ship {base}"
    return Opening(answer, number, f"{advice}, and read below what these names really hold for a model of your widths")
