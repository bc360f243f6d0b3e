"""What the benchmarks share: settings, rows that are printed as they are measured, goals, and the table at the end.

A script gives its `main` to `script`: `--quick` chooses small sizes, `key=value` sets an argument of main.
"""

from __future__ import annotations

import inspect
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

FILE = "EDGELIB_GOALS"  # names the file to which a script adds its goals when `run.py` runs it
_GOALS: list[Goal] = []


@dataclass(frozen=True)
class Goal:
    """A number that was measured, and what it should be: at least or at most a limit, in a unit ("x" is a ratio)."""

    script: str
    what: str
    value: float
    sign: str
    limit: float
    unit: str

    @property
    def reached(self) -> bool:
        """Whether the value keeps the limit; NaN never does."""
        return self.value >= self.limit if self.sign == ">=" else self.value <= self.limit


def goal(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None, unit: str = "x"):
    """Note a measured value beside what it should be."""
    sign, limit = (">=", at_least) if at_least is not None else ("<=", at_most)
    _GOALS.append(Goal(Path(sys.argv[0]).stem, what, float(value), sign, limit, unit))


class Table:
    """Columns of fixed width: text to the left, numbers by their format to the right; each row appears at once."""

    def __init__(self, *columns: tuple[str, int, str]):
        """Print the heads. A column is its head, its width and the format of its numbers, "" for text."""
        self.columns = columns
        heads = (f"{head:<{width}}" if not form else f"{head:>{width}}" for head, width, form in columns)
        print("".join(heads), flush=True)

    def row(self, *values: object) -> None:
        """Print a row; None leaves a gap, and values that are missing at the end are left out."""
        cells = []
        for value, (_, width, form) in zip(values, self.columns, strict=False):
            text = "" if value is None else f"{value:{form}}"
            cells.append(f"{text:<{width}}" if not form else f"{text:>{width}}")
        print("".join(cells).rstrip(), flush=True)


def machine() -> str:
    """The processor, threads and torch of this run."""
    return f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def verdicts(goals: Iterable[Goal], quick: bool = False) -> None:
    """Print one row per goal: what was measured, what it should be, and whether it is."""
    print("goals" + (", at quick sizes: they show that it runs, not how fast" if quick else ""))
    table = Table(
        ("script", 19, ""), ("goal", 46, ""), ("measured", 12, ">"), ("should be", 14, ">"), ("verdict", 10, ">")
    )
    for one in goals:
        value, limit = (f"{number:.4g} {one.unit}" for number in (one.value, one.limit))
        table.row(one.script, one.what, value, f"{one.sign} {limit}", "reached" if one.reached else "missed")


def script(main: Callable[..., None], **quick: object) -> None:
    """Run main with its defaults, the quick values for --quick, and what the command line sets; then its verdicts."""
    settings = {name: argument.default for name, argument in inspect.signature(main).parameters.items()}
    words = [word for word in sys.argv[1:] if word != "--quick"]
    hurried = "--quick" in sys.argv
    settings |= quick if hurried else {}
    for key, _, value in (word.partition("=") for word in words):
        if key not in settings or not value:
            sys.exit(f"no setting {key!r}; give --quick or any of {', '.join(f'{k}={v}' for k, v in settings.items())}")
        settings[key] = type(settings[key])(value)
    main(**settings)
    if FILE in os.environ:
        with open(os.environ[FILE], "a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in _GOALS)
    elif _GOALS:
        print()
        verdicts(_GOALS, hurried)
