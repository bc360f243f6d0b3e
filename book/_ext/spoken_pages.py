"""What pages say to those who hear them: roles that screen readers know, names of what they announce."""

from __future__ import annotations

# A list whose entries are no list items is announced as an empty one.
ROLES = {'role="doc-biblioentry"': 'role="listitem"'}


def speak(app, page, template, context, doctree) -> None:
    """Replace roles that assistive technology no longer takes."""
    for old, new in ROLES.items():
        if old in context.get("body", ""):
            context["body"] = context["body"].replace(old, new)


def setup(app) -> dict:
    app.connect("html-page-context", speak)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
