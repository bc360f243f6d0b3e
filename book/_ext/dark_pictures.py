"""Pictures on a dark page: their letters turn light, their colours stay, and no white plate lies under them.

Drawings without photographs are turned round by the style sheet. A picture cannot be: it is shown twice, once a theme,
from one file that draws its letters light where it is asked for as `#dark`.
"""

from __future__ import annotations

import re
from pathlib import Path

INK = "#ced6dd"  # what the theme writes with on dark ground
PHOTO = re.compile(
    r'(?:<picture>(?:(?!</picture>).)*?)?<img\b(?=[^>]*\bclass="photo")(?=[^>]*\bsrc="[^"]*\.svg")[^>]*>(?:</picture>)?',
    re.DOTALL,
)
NAME = re.compile(r'([0-9a-f]{64}(?:-narrow)?)\.svg"')


def both_themes(body: str) -> tuple[str, set[str]]:
    """Return (a page in which each picture stands once a theme, the names of their drawings)."""
    names: set[str] = set()

    def twice(found: re.Match) -> str:
        names.update(NAME.findall(found[0]))
        light = found[0].replace('class="photo"', 'class="photo only-light"')
        dark = found[0].replace('class="photo"', 'class="photo only-dark"')
        return light + NAME.sub(r'\1.svg#dark"', dark)

    return PHOTO.sub(twice, body), names


def with_dark_ink(drawing: str) -> str:
    """Return a drawing whose letters are light where it is shown as `#dark`."""
    if 'id="dark"' in drawing:
        return drawing
    return re.sub(r"(<svg\b)([^>]*>)", rf'\1 id="dark"\2<style>svg:target{{fill:{INK}}}</style>', drawing, count=1)


def show(app, page, template, context, doctree) -> None:
    if app.builder.format == "html" and "body" in context:
        context["body"], names = both_themes(context["body"])
        app.edgelib_pictures = getattr(app, "edgelib_pictures", set()) | names


def write(app, failure) -> None:
    for name in () if failure else getattr(app, "edgelib_pictures", ()):
        path = Path(app.outdir, app.builder.imagedir, f"{name}.svg")
        path.write_text(with_dark_ink(path.read_text(encoding="utf-8")), encoding="utf-8")


def setup(app) -> dict:
    app.connect("html-page-context", show, priority=900)
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
