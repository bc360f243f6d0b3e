"""Draw interactive charts without a network: the Vega libraries are written beside the pages once, when they are built.

The file comes from the vl-convert-python distribution. It is not put under _static in the sources, because the book
tool adds every script it finds there to every page.
"""

from __future__ import annotations

from pathlib import Path

SCRIPT = "vega.js"


def write_script(app, error) -> None:
    """Put vega, vega-lite and vega-embed into the static folder of a finished HTML build."""
    if error is None and app.builder.format == "html":
        import vl_convert

        # Its top-level names would clash with those of other scripts of a page.
        bundle = "(()=>{" + vl_convert.javascript_bundle() + "})();"
        Path(app.outdir, "_static", SCRIPT).write_text(bundle, encoding="utf-8")


def setup(app) -> dict:
    app.connect("build-finished", write_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
