"""What a chapter does in its set-up cell: figure style, deterministic SVG, a folder for results."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from pathlib import Path

from edgelib.errors import EdgelibError
from edgelib.ground.paths import find_root

STYLE = Path(__file__).with_name("edgelib.mplstyle")


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

    def save_table(self, name: str, frame) -> Path:
        """Write a pandas frame as folder/<name>.csv and return the path; floats keep 6 significant digits."""
        path = self.folder / f"{name}.csv"
        frame.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        return path

    def save_figure(self, name: str, figure) -> Path:
        """Write a matplotlib figure as folder/<name>.svg, the same bytes for the same drawing, and return the path."""
        path = self.folder / f"{name}.svg"
        figure.savefig(path, metadata={"Date": None, "Creator": None})
        return path


def setup(chapter: str, results: str | Path = "results") -> Workspace:
    """Prepare a chapter and return its workspace.

    Figures become SVG whose bytes depend on the drawing only, in the house style. Progress bars and advice of the
    model libraries are silenced, because they would differ from run to run. A relative `results` lies under the
    checkout whatever the working directory, and ~ is the user's home. Raises EdgelibError when the folder cannot be
    written.
    """
    _quiet_libraries()
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


def _quiet_libraries() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    # tqdm's notebook bar advises to install ipywidgets; edgelib's own bars show on a terminal only.
    warnings.filterwarnings("ignore", message="IProgress not found")


def _draw_svg() -> None:
    import matplotlib.pyplot as plt

    plt.style.use(STYLE)
    try:
        from IPython import get_ipython
        from matplotlib_inline.backend_inline import set_matplotlib_formats
    except ImportError:
        return
    if get_ipython() is not None:
        set_matplotlib_formats("svg", metadata={"Date": None, "Creator": None})
