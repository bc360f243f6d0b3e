"""What a chapter does beside its subject: set-up (figure style, deterministic SVG, a folder for results), then showing
tables, saying sentences, handing its answer to the pages that quote it, and telling where its numbers come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from edgelib.errors import EdgelibError
from edgelib.ground.paths import find_root
from edgelib.ground.quiet import quiet_libraries
from edgelib.report.claims.openings import Opening
from edgelib.report.claims.text import Sentence, as_written, bullets, without_tags
from edgelib.report.figures.narrow import narrow
from edgelib.report.provenance import provenance_html
from edgelib.report.tables import Column, myst_table, selected

STYLE = Path(__file__).with_name("edgelib.mplstyle")
NARROW = "application/vnd.edgelib.narrow+xml"  # the kind of output that book/_ext/narrow_figures.py looks for


@dataclass(frozen=True)
class Workspace:
    """Where a chapter reads and writes.

    root is the checkout, or the current folder where edgelib is installed without one. results holds the store
    of finished grid cells, shared by all chapters. folder, below it, holds this chapter's tables and figures.
    """

    chapter: str
    root: Path
    results: Path
    folder: Path

    def save(self, name: str, frame: pd.DataFrame) -> pd.DataFrame:
        """Write a frame as folder/<name>.csv and return it as it was; floats keep 6 significant digits in the file."""
        frame.to_csv(self.folder / f"{name}.csv", index=False, float_format="%.6g", lineterminator="\n")
        return frame

    def save_figure(self, name: str, figure) -> None:
        """Write a matplotlib figure as folder/<name>.svg, the same bytes for the same drawing."""
        figure.savefig(self.folder / f"{name}.svg", metadata={"Date": None, "Creator": None})


def setup(chapter: str, results: str | Path = "results") -> Workspace:
    """Prepare a chapter and return its workspace.

    Figures become SVG whose bytes depend on the drawing only, in the house style, each beside a narrow drawing of
    itself that pages show on a phone. Progress bars and advice of the
    model libraries are silenced, because they would differ from run to run. A relative `results` lies under the
    checkout whatever the working directory, and ~ is the user's home. Raises EdgelibError when the folder cannot be
    written.
    """
    quiet_libraries()
    _draw_svg()
    root = find_root()
    base = root / os.path.expanduser(results)
    folder = base / chapter
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise EdgelibError(
            f"cannot write results under {folder}: {error.strerror}; set 'results' to a folder you may write"
        ) from None
    return Workspace(chapter=chapter, root=root, results=base, folder=folder)


def say(claims: str | Iterable[str], otherwise: str = "") -> None:
    """Show a paragraph, or a list of sentences; `otherwise` is the one sentence said in place of an empty list."""
    from IPython.display import Markdown, display

    if isinstance(claims, str):
        text = as_written(claims)
    else:
        text = bullets(claims) or (bullets([otherwise]) if otherwise else "")
    if text:
        display(Markdown(text))


def show(
    rows: pd.DataFrame,
    caption: str,
    name: str,
    columns: Mapping[str, str | Column] | None = None,
    numeric: Sequence[str] = (),
    fold: str = "",
) -> None:
    """Show a numbered table with its caption; a page refers to it by its name.

    columns: title -> column of `rows` or a `Column` that writes its cells; None: all as they are. numeric: titles of
    further columns whose texts are numbers. fold: the line that a reader opens it by; "" shows it at once. Raises
    KeyError for a column that the rows lack.
    """
    from IPython.display import Markdown, display

    frame, written = (rows, []) if columns is None else selected(rows, columns)
    table = myst_table(frame, caption, name, dict.fromkeys([*written, *numeric], str))
    display(Markdown(f"::::{{dropdown}} {fold}\n{table}\n::::" if fold else table))


def facts(title: str, values: Mapping[str, object] | None = None, **named: object) -> pd.DataFrame:
    """Return counts and other facts as a small table of one column, one line each, for the end of a cell.

    named: facts whose names are words joined by underscores.
    """
    lines = dict(values or {}) | {name.replace("_", " "): value for name, value in named.items()}
    return pd.Series(lines).to_frame(title)


def conclude(opening: Opening, scope: str) -> None:
    """Hand a chapter's opening to its own first lines and to the pages that quote it: answer, number, advice, scope.

    scope: whose numbers they are, as `scope_claim` says it.
    """
    from myst_nb import glue

    said = {"answer": opening.answer, "number": opening.number, "advice": opening.advice, "scope": Sentence(scope)}
    for name, text in said.items():
        glue(name, Sentence(without_tags(text.rstrip(".") + ".")), display=False)


def foot(provenance: Mapping[str, Any]) -> None:
    """Close a page with one folded line: what its numbers were made from, as `Parameters.provenance` tells."""
    from IPython.display import HTML, display

    display(HTML(provenance_html(provenance)))


def _draw_svg() -> None:
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure

    plt.style.use(STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if (shell := get_ipython()) is not None:
        set_matplotlib_formats()  # none of its own
        shell.display_formatter.mimebundle_formatter.for_type(Figure, drawn)


def drawn(figure) -> dict[str, str]:
    """Return a figure as SVG, as it is and for a phone: {kind of output: text}. The figure is the narrow one then."""
    from IPython.core.pylabtools import print_figure

    plain = {"fmt": "svg", "metadata": {"Date": None, "Creator": None}}
    return {"image/svg+xml": print_figure(figure, **plain), NARROW: print_figure(narrow(figure), **plain)}
