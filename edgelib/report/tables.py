"""Tables: a frame -> a numbered MyST table, ready for display in a chapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pandas as pd


def with_interval(value: float, low: float, high: float, scale: float = 100.0, digits: int = 1) -> str:
    """ "93.1 (92.0 to 94.1)" from fractions; "not defined" for NaN."""
    if pd.isna(value):
        return "not defined"
    return f"{scale * value:.{digits}f} ({scale * low:.{digits}f} to {scale * high:.{digits}f})"


def escaped(text: object) -> str:
    """Text as table-cell content: markup and column separators of Markdown and HTML are neutralised."""
    out = str(text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_{}[]|$" else c for c in out).replace("\n", " ")


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
    return f":::{{table}} {caption}\n:name: {name}\n\n{body}\n:::"
