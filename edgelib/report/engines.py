"""Tables of GGUF files: what a name holds and weighs, the commands that make it, tokens beside bits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd

from edgelib.decide.pareto import pareto_frontier
from edgelib.errors import EdgelibError
from edgelib.files.gguf.write import gguf_size
from edgelib.models.generative import GenerativeModel
from edgelib.quant.mixes.report import mix_report
from edgelib.report.tables import Column, escaped, interval, number


def file_name(mix: str) -> str:
    """A mix as its files are called: "q4_k_m" -> "Q4_K_M"."""
    return mix.upper()


def pair_name(decoder: str, vision: str) -> str:
    """What tables and sentences call a decoder's file beside a vision tower's: "Q4_K_M + F16"."""
    return f"{file_name(decoder)} + {file_name(vision)}"


def held_types(model: GenerativeModel, mixes: Iterable[str]) -> pd.DataFrame:
    """Return what the files of each name hold: a row per name, part and type, the type of most values first.

    Columns: mix, part ("decoder" with its output and table of tokens, "vision"), type, tensors, share (of the part's
    weights), bits (of a value, scales included), why ("as named", "lifted", or the rows that blocks do not divide).
    """
    made = []
    for mix in mixes:
        rows = mix_report(model, f"gguf-{mix}+{mix}")
        rows = rows.assign(values=rows["rows"] * rows["columns"], why=rows["why"].where(rows["why"] != "", "as named"))
        for (part, type_), group in rows.groupby(["tower", "type"], sort=False):
            whole = rows.loc[rows["tower"] == part, "values"].sum()
            share, why = group["values"].sum() / whole, ", ".join(dict.fromkeys(group["why"]))
            made.append((mix, part, type_, len(group), share, group["bits"].iloc[0], why))
    table = pd.DataFrame(made, columns=["mix", "part", "type", "tensors", "share", "bits", "why"])
    order = {mix: place for place, mix in enumerate(dict.fromkeys(table["mix"]))}
    return table.sort_values(
        ["mix", "part", "share"], key=lambda c: c.map(order) if c.name == "mix" else c if c.name == "part" else -c
    ).reset_index(drop=True)


def file_bytes(model: GenerativeModel, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return config, decoder, vision, decoder_bytes, vision_bytes, bytes and exact of pairs of files, in order.

    pairs: scheme -> (decoder, vision). exact: whether they are those of the files, to the byte; where no file of such a
    model can be written, they are those of the weights that the names give types.
    """
    sizes: dict[tuple[str, str], int] = {}
    exact = True
    for decoder, vision in pairs.values():
        for part, mix in (("decoder", decoder), ("vision", vision)):
            try:
                sizes[part, mix] = gguf_size(model, mix, part=part)["total"]
            except EdgelibError:
                exact = False
    for mix in () if exact else {mix for pair in pairs.values() for mix in pair}:
        rows = mix_report(model, f"gguf-{mix}+{mix}")
        held = (rows["rows"] * rows["columns"] * rows["bits"] / 8).groupby(rows["tower"]).sum()
        sizes |= {(part, mix): int(held.get(part, 0)) for part in ("decoder", "vision")}
    made = [(c, d, v, sizes["decoder", d], sizes["vision", v]) for c, (d, v) in pairs.items()]
    table = pd.DataFrame(made, columns=["config", "decoder", "vision", "decoder_bytes", "vision_bytes"])
    return table.assign(bytes=table["decoder_bytes"] + table["vision_bytes"], exact=exact)


def commands(decoder: str, vision: str) -> tuple[str, str]:
    """Return the commands of llama.cpp that make the files of a pair from those in F16, and the one that runs them.

    >>> commands("q4_k_m", "f16")[0]
    'llama-quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M'
    """
    names = {"model": file_name(decoder), "mmproj": file_name(vision)}
    made = [
        f"llama-quantize {kind}-F16.gguf {kind}-{name}.gguf {name}" for kind, name in names.items() if name != "F16"
    ]
    run = f"llama-mtmd-cli -m model-{names['model']}.gguf --mmproj mmproj-{names['mmproj']}.gguf"
    return " && ".join(made) or "nothing to make: the converter writes F16", run


ANY = "any"  # what a step that all files share has for the name of a file


def type_columns() -> dict[str, str | Column]:
    """What a table of `held_types` shows."""
    columns: dict[str, str | Column] = {"File": _files(), "Part": "part", "Type": _files("type"), "Tensors": "tensors"}
    columns |= {"Weights, %": number("share", "{:.0f}", 100), "Bits": number("bits", "{:.2f}"), "Why": "why"}
    return columns


def ladder_table(ladders: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `engine_ladders` to show: the steps before any rounding once, since all names share them."""
    shared = ladders["step"].isin(["preprocessing", "vision", "engine", "cache"])
    rows = ladders[~shared | (ladders["mix"] == ladders["mix"].iloc[0])]
    return rows.assign(mix=rows["mix"].mask(shared.loc[rows.index], ANY))


def ladder_columns() -> dict[str, str | Column]:
    """What a table of `engine_ladders` shows."""
    columns: dict[str, str | Column] = {"Decoder": _files("mix"), "Step": _steps()}
    columns |= {"Same token, %": number("top1", "{:.0f}", 100), "At least, %": number("top1_low", "{:.0f}", 100)}
    kl = Column(lambda rows: [f"{value:.0e}" if value else "0" for value in rows["kl"]])
    return columns | {"KL, nats": kl, "Bound, points": number("bound", "{:.1g}", 100)}


def times_columns() -> dict[str, str | Column]:
    """What a table of `engine_times` shows."""
    columns: dict[str, str | Column] = {
        "File": _files(),
        "Cache": _files("cache"),
        "MB": number("file_bytes", "{:,.0f}", 1e-6),
    }
    return columns | {f"{what.capitalize()}, tokens/s": _rates(what) for what in ("prompt", "decode")}


def choice_table(found: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> pd.DataFrame:
    """Return the table of `recommend` with verdict, and make, the commands of every pair; `pairs` by scheme."""
    verdict = found["passes"].map({True: "shown", False: "not shown"})
    return found.assign(verdict=verdict, make=[commands(*pairs[config])[0] for config in found["config"]])


def times_caption(times: pd.DataFrame) -> str:
    """Where, of what and how often the times of `engine_times` were taken, and how busy the machine was."""
    first = times.iloc[0]
    threads = "1 thread" if first.threads == 1 else f"{first.threads} threads"
    return (
        f"Measured on {escaped(first.machine)}, {threads}, {escaped(first.model)}, prompts of "
        f"{first.prompt_tokens} tokens: medians of {first.repeats} runs, with the slowest and the fastest. Other "
        f"programs took {100 * first.others:.0f} % of the machine meanwhile."
    )


def budget_table(accuracy: pd.DataFrame, waits: pd.DataFrame, vision: str, model: str) -> pd.DataFrame:
    """Return accuracy by image tokens and decoder beside the wait for a first token, and what no other setting beats.

    accuracy: rows of `accuracy_table` with tokens and decoder. waits: of `first_times`; those of the model and of the
    tower's file count, and between two measured numbers of tokens the wait lies on the line that joins them. Columns
    beside those of accuracy: wait_ms (NaN outside what was measured), wait_low, wait_high, best: whether no other
    setting is at least as accurate and as quick, and better in one.
    """
    own = waits[(waits["model"] == model) & (waits["vision"] == vision)]
    table = accuracy.reset_index(drop=True)
    for column, source in (("wait_ms", "first_ms"), ("wait_low", "first_low"), ("wait_high", "first_high")):
        at = zip(table["decoder"], table["tokens"], strict=True)
        table[column] = [_between(own[own["mix"] == decoder], tokens, source) for decoder, tokens in at]
    known = table.dropna(subset="wait_ms")
    best = pareto_frontier(known, maximize=["accuracy"], minimize=["wait_ms"]).index if len(known) else []
    return table.assign(best=table.index.isin(best))


def _between(rows: pd.DataFrame, tokens: int, column: str) -> float:
    """The value of a column at a number of image tokens, on straight lines between those that were measured."""
    if not len(rows):
        return math.nan
    rows = rows.sort_values("image_tokens")
    return float(np.interp(tokens, rows["image_tokens"], rows[column], left=math.nan, right=math.nan))


def budget_columns() -> dict[str, str | Column]:
    """What a table of `budget_table` shows."""
    columns: dict[str, str | Column] = {"Image tokens": "tokens", "Decoder": _files("decoder")}
    columns |= {"Accuracy, %": interval("accuracy"), "First token, ms": _spread("wait_ms", "wait_low", "wait_high")}
    return columns | {"Not beaten": Column(lambda rows: ["✓" if best else "" for best in rows["best"]], numeric=False)}


def _files(column: str = "mix") -> Column:
    return Column(lambda rows: [name if name == ANY else file_name(name) for name in rows[column]], numeric=False)


def _steps() -> Column:
    return Column(lambda rows: [text.replace("->", "→").replace("`", "") for text in rows["changes"]], numeric=False)


def _rates(what: str) -> Column:
    return _spread(f"{what}_per_s", f"{what}_low", f"{what}_high")


def _spread(*columns: str) -> Column:
    def cells(rows: pd.DataFrame) -> list[str]:
        numbers = rows[list(columns)].to_numpy(float)
        return ["" if np.isnan(row[0]) else "{:.3g} ({:.3g} to {:.3g})".format(*row) for row in numbers]

    return Column(cells)
