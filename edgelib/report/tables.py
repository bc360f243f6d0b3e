"""Tables: rows and what to show of them -> a numbered MyST table, ready for display in a chapter."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from edgelib.report.claims.text import as_written, fixed, spread_text, without_tags
from edgelib.report.figures.palette import label
from edgelib.stats.family import Family, Key

_LONGEST = 3000  # characters of a cell; our own longest are reasons, some 100 for a configuration


def with_interval(value: float, low: float, high: float, scale: float = 100.0, digits: int = 1) -> str:
    """ "93.1 (92.0 to 94.1)" from fractions; "not defined" for NaN; an end that is infinite is "open"."""
    if pd.isna(value):
        return "not defined"
    ends = [fixed(scale * end, digits) if math.isfinite(end) else "open" for end in (low, high)]
    return f"{fixed(scale * value, digits)} ({' to '.join(ends)})"


def escaped(text: object) -> str:
    """Text as table-cell content: markup and column separators of Markdown and HTML are neutralised, and what is longer
    than a cell can show is cut."""
    out = " ".join(str(text).split())
    out = out if len(out) <= _LONGEST else f"{out[: _LONGEST - 1]}…"
    out = out.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_{}[]|$" else c for c in out)


@dataclass(frozen=True)
class Column:
    """A column of a shown table: rows -> its cells as texts; numbers stand on the right."""

    cells: Callable[[pd.DataFrame], Sequence[str]]
    numeric: bool = True


def named(column: str = "config", names: Mapping[str, str] | None = None) -> Column:
    """Configurations by their labels, or other keys by `names`."""
    return Column(lambda rows: [(names or {}).get(key) or label(key) for key in rows[column]], numeric=False)


def interval(value: str = "effect", scale: float = 100.0, digits: int = 1, missing: str = "") -> Column:
    """A value with its interval, from the columns value, value_low and value_high, or value, low and high.

    missing: what a row without any number says, such as the reference among differences to it.
    """

    def cells(rows: pd.DataFrame) -> list[str]:
        low, high = (f"{value}_{end}" if f"{value}_{end}" in rows else end for end in ("low", "high"))
        numbers = rows[[value, low, high]].to_numpy(float)
        return [
            missing if missing and pd.isna(row).all() else with_interval(row[0], row[1], row[2], scale, digits)
            for row in numbers
        ]

    return Column(cells)


def projected(value: str = "latency_ms", missing: str = "no") -> Column:
    """A projected value with its columns low and high, as `spread_text` writes it; `missing` where it is NaN."""

    def cells(rows: pd.DataFrame) -> list[str]:
        numbers = rows[[value, "low", "high"]].to_numpy(float)
        return [missing if pd.isna(n[0]) else spread_text(*n) for n in numbers]

    return Column(cells)


def marked(column: Column, where: str, mark: str = "✓ ") -> Column:
    """The cells of a column, those of rows in which `where` holds with a mark before them."""
    return Column(lambda rows: [mark * bool(m) + c for m, c in zip(rows[where], column.cells(rows), strict=True)])


def number(column: str, form: str = "{:.1f}", scale: float = 1.0, missing: str = "") -> Column:
    """Numbers in a format such as "{:,.0f}", multiplied by `scale` first; `missing` for NaN."""
    return Column(lambda rows: [missing if pd.isna(value) else form.format(scale * value) for value in rows[column]])


def between(low: str, high: str, form: str = "{:.1f}") -> Column:
    """Two numbers of a row as a range: "1.2 to 3.4"."""
    return Column(lambda rows: [f"{form} to {form}".format(*ends) for ends in rows[[low, high]].to_numpy(float)])


def selected(rows: pd.DataFrame, columns: Mapping[str, str | Column]) -> tuple[pd.DataFrame, list[str]]:
    """Return (what a table shows: one column per title, titles of the columns whose texts are numbers).

    columns: title -> the column of `rows` to show as it is, or a `Column` that writes its cells.
    """
    shown, numeric = {}, []
    for title, column in columns.items():
        if isinstance(column, Column):
            shown[title] = list(column.cells(rows))
            numeric += [title] * column.numeric
        else:
            shown[title] = rows[column].to_numpy()
    return pd.DataFrame(shown), numeric


def cross(
    rows: pd.DataFrame,
    index: str,
    columns: str,
    cell: Column,
    title: str | None = None,
    name: Callable[[str], str] = label,
) -> pd.DataFrame:
    """Return a table of cells: a row per value of `index`, by its name under `title`, a column per one of `columns`.

    Both keep their order of appearance.
    """
    table = rows.assign(cell=list(cell.cells(rows))).pivot(index=index, columns=columns, values="cell")
    table = table.loc[list(dict.fromkeys(rows[index])), list(dict.fromkeys(rows[columns]))]
    table = table.rename(index=name, columns=label).rename_axis(index=title or index, columns=None)
    return table.reset_index()


def verdicts(
    family: Family,
    keys: Mapping[str, str | Column],
    unit: str = "points",
    scale: float = 100.0,
    digits: int = 1,
    pairs: Mapping[Key, Sequence] | None = None,
    counts: Mapping[str, Mapping[Key, int]] | None = None,
    **ways: str,
) -> tuple[pd.DataFrame, dict[str, str | Column]]:
    """Return a table of a family of tests and the columns to show: keys, difference, Holm's p, power, verdict.

    pairs: the outcomes that were compared, as `compare` takes them; the table then says how many of them differ, which
    are the answers that carry the effect. counts: title -> such numbers by key, where they were counted elsewhere.

    keys: title -> column of the parts of a key, by the names of the family. ways: what the family's verdicts `less` and
    `more` are called. The power is the difference that one such test, not corrected, finds four times in five.
    """
    rows = family.table("effect", "low", "high", "p_holm", "mde")
    rows = rows.assign(verdict=[family.verdict(key, **ways) for key in family])
    columns = dict(keys) | {f"Difference, {unit}": interval(scale=scale, digits=digits)}
    if pairs is not None:
        rows["differ"] = [int((np.asarray(pairs[key][0]) != np.asarray(pairs[key][1])).sum()) for key in family]
        columns |= {"Answers that differ": number("differ", "{:,.0f}")}
    for title, by_key in (counts or {}).items():
        rows[title] = [by_key[key] for key in family]
        columns |= {title: number(title, "{:,.0f}")}
    columns |= {"Holm p": number("p_holm", "{:.3f}"), "Verdict": "verdict"}
    return rows, columns | {f"One test finds, {unit}": number("mde", f"{{:.{digits}f}}", scale, missing="not defined")}


def moved_answers(rows: pd.DataFrame, reference: str, value: str = "correct") -> dict[str, dict[str, int]]:
    """Count the answers that carry a gap: {title: {config: how many differ from the reference's}}, clean and corrupted.

    The titles say of how many.

    rows: config, item, corruption, severity and `value`, one answer each.
    """
    keys = ["item", "corruption", "severity"]
    wide = rows.pivot(index=keys, columns="config", values=value)
    differ = wide.drop(columns=reference).ne(wide[reference], axis=0)
    clean = differ.index.get_level_values("severity") == 0
    sides = {"Clean answers that differ": differ[clean], "Corrupted answers that differ": differ[~clean]}
    return {f"{title}, of {len(side):,}": side.sum().astype(int).to_dict() for title, side in sides.items()}


def spread(rows: pd.DataFrame, across: str, value: str) -> pd.DataFrame:
    """Return the rows with one column of `value` per value of `across`, and its low and high: value_1, value_1_low, ...

    Rows keep their order of appearance; what else they hold must not differ between the rows that become one.
    """
    keys = [column for column in rows if column not in (across, value, "low", "high")]
    wide = rows.pivot(index=keys, columns=across, values=[value, "low", "high"])
    ends = {value: "", "low": "_low", "high": "_high"}
    wide.columns = [f"{value}_{at}{ends[part]}" for part, at in wide.columns]
    return rows[keys].drop_duplicates().merge(wide.reset_index(), on=keys)


def myst_table(
    frame: pd.DataFrame, caption: str, name: str, formats: Mapping[str, Callable[[object], str]] | None = None
) -> str:
    """Return a `:::{table}` with caption and label `name`; `formats` maps columns to functions of their values."""
    formats = formats or {}
    cells = [
        [formats.get(c, escaped)(v) for c, v in zip(frame.columns, row, strict=True)]
        for row in frame.itertuples(index=False)
    ]
    numeric = [pd.api.types.is_numeric_dtype(frame[c]) or c in formats for c in frame.columns]
    rule = ["---:" if n else ":---" for n in numeric]
    lines = [[escaped(c) for c in frame.columns], rule, *cells]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    caption = as_written(" ".join(caption.split()))  # a name in it ends no line
    return without_tags(f":::{{table}} {caption}\n:name: {name}\n\n{body}\n:::")
