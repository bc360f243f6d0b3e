"""Links to where the book is kept: one line of _config.yml names the repository, and every page gets the links.

Without it no page has any, because a link to a place that does not exist is worse than none.
"""

from __future__ import annotations

URL = "book_repository"  # the setting
LAUNCH = {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"}


def options(url: str) -> dict:
    """Return what the theme needs for links to a repository, its issues, and a machine that runs a chapter."""
    if not url:
        return {"repository_url": "", "use_repository_button": False, "use_issues_button": False, "launch_buttons": {}}
    where = {"repository_url": url.rstrip("/"), "repository_branch": "main", "path_to_docs": "book"}
    return where | {"use_repository_button": True, "use_issues_button": True, "launch_buttons": LAUNCH}


def link(app, config) -> None:
    """Put the links, or none, into the options of the theme."""
    config.html_theme_options = {**config.html_theme_options, **options(config[URL])}


def setup(app) -> dict:
    app.add_config_value(URL, "", "html")
    app.connect("config-inited", link, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
