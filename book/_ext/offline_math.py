"""Show math without a network: one MathJax file is copied beside the pages once they are written.

The file comes from the sphinx-mathjax-offline distribution. It is not put under _static in the sources,
because the book tool adds every script it finds there to every page.
"""

from __future__ import annotations

import shutil
from importlib.metadata import distribution
from pathlib import Path

SCRIPT = "tex-svg.js"


def copy_script(app, error) -> None:
    """Put MathJax's SVG build into the static folder of a finished HTML build."""
    if error is None and app.builder.format == "html":
        source = distribution("sphinx-mathjax-offline").locate_file(f"sphinx-mathjax-offline/static/mathjax/{SCRIPT}")
        shutil.copyfile(source, Path(app.outdir, "_static", SCRIPT))


def use_local_script(app, config) -> None:
    """Point pages with math at the copy."""
    config.mathjax_path = SCRIPT


def setup(app) -> dict:
    app.connect("config-inited", use_local_script)
    app.connect("build-finished", copy_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
