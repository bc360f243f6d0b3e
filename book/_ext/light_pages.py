"""Pages load what they use: formulas only where there are some, only icons that are drawn, a search of what is seen.

The theme ships a script of 1.5 MB with 2,000 icons, of which the pages use a dozen: it is replaced by one that holds
those, read from the theme's own file.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes

ICONS = Path("_static", "scripts", "fontawesome.js")
ICON = re.compile(r'"?([\w-]+)"?:\[(\d+),(\d+),\[[^\]]*\],"[0-9a-f]+","([^"]+)"\]')
USED = re.compile(r"\bfa-([a-z][a-z0-9-]*)")
DRAW = """(() => {
  const icons = %s;
  const style = document.createElement("style");
  style.textContent = ".svg-inline--fa{display:inline-block;height:1em;overflow:visible;vertical-align:-.125em}" +
    ".svg-inline--fa.fa-lg{font-size:1.25em;vertical-align:-.2em}";
  document.head.append(style);
  for (const tag of document.querySelectorAll("i[class*='fa-']")) {
    const name = [...tag.classList].map(c => c.slice(3)).find(c => icons[c]);
    if (!name) continue;
    const [width, height, path] = icons[name];
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const {name: key, value} of tag.attributes) svg.setAttribute(key, value);
    svg.classList.add("svg-inline--fa");
    svg.setAttribute("aria-hidden", "true");
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("fill", "currentColor");
    shape.setAttribute("d", path);
    svg.append(shape);
    tag.replaceWith(svg);
  }
})();
"""


def drop_formulas(app, page, template, context, doctree) -> None:
    """Leave MathJax out of a page without a formula of its own; Sphinx adds it where a page below has one."""
    if doctree is None or not any(doctree.findall(lambda node: isinstance(node, nodes.math | nodes.math_block))):
        script = app.config.mathjax_path
        context["script_files"] = [file for file in context["script_files"] if script not in str(file)]


def seen(doctree: nodes.document) -> nodes.document:
    """A copy of a page without the code of its cells and without scripts."""
    copy = doctree.deepcopy()
    for node in list(copy.findall(nodes.Element)):
        code = node.get("nb_element") == "cell_code_source"
        if (code or isinstance(node, nodes.raw)) and node.parent is not None:
            node.parent.remove(node)
    return copy


def search_what_is_seen(app) -> None:
    """Let the index of the search leave out what `seen` leaves out."""
    index = getattr(app.builder, "index_page", None)
    if index is not None:
        app.builder.index_page = lambda page, doctree, title: index(page, seen(doctree), title)


def keep_used_icons(app, error) -> None:
    """Write the theme's icon script anew, with the icons that the built pages name."""
    script = Path(app.outdir, ICONS)
    if error is not None or app.builder.format != "html" or not script.is_file():
        return
    used = {
        name for page in Path(app.outdir).rglob("*.html") for name in USED.findall(page.read_text(encoding="utf-8"))
    }
    drawn = ICON.findall(script.read_text(encoding="utf-8"))
    icons = {name: [int(width), int(height), path] for name, width, height, path in drawn if name in used}
    if icons:  # none in a script that has been written anew already
        script.write_text(DRAW % json.dumps(icons, sort_keys=True), encoding="utf-8")
        script.with_suffix(".js.map").unlink(missing_ok=True)


def setup(app) -> dict:
    app.connect("html-page-context", drop_formulas, priority=900)
    app.connect("builder-inited", search_what_is_seen)
    app.connect("build-finished", keep_used_icons)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
