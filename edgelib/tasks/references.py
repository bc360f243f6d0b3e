"""Right answers as the tables of benchmarks hold them, read and checked; (column, where) -> one reference per row."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from edgelib.errors import EdgelibError


def texts(column: pd.Series, where: str) -> list[str]:
    """Return a column of texts. Raises EdgelibError naming the first value that is none."""
    for row, value in enumerate(column):
        if not isinstance(value, str):
            raise EdgelibError(
                f"column {column.name!r} of {where} must hold texts, got {value!r} in row {row}; mend it first"
            )
    return column.tolist()


def yes_or_no(column: pd.Series, where: str) -> list[str]:
    """Return a column of texts that all say yes or no, in any case. Raises EdgelibError naming the first other one."""
    said = texts(column, where)
    wrong = [(row, text) for row, text in enumerate(said) if text.strip().lower() not in ("yes", "no")]
    if wrong:
        row, text = wrong[0]
        raise EdgelibError(
            f"column {column.name!r} of {where} must say yes or no, got {text!r} in row {row} ({len(wrong)} such rows)"
        )
    return said


def annotators(column: pd.Series, where: str) -> list[list[str]]:
    """Return the texts of each question's annotators, who may stand in records {"answer": text}.

    Raises EdgelibError naming the first row with anything else, or with nobody.
    """
    return [_annotators(value, row, column.name, where) for row, value in enumerate(column)]


def _annotators(value: object, row: int, name: object, where: str) -> list[str]:
    entries = value.tolist() if isinstance(value, np.ndarray) else value
    entries = entries if isinstance(entries, list) else [entries]
    given = [entry.get("answer") if isinstance(entry, Mapping) else entry for entry in entries]
    said = [text for text in given if isinstance(text, str)]
    if not said or len(said) < len(given):
        raise EdgelibError(
            f"column {name!r} of {where} must hold the annotators' texts, or records {{'answer': text}}, got "
            f"{value!r} in row {row}; a split without answers, as many test splits are, cannot be scored: take another"
        )
    return said
