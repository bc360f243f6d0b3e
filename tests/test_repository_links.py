"""Pages link to a repository, its issues and a machine that runs a chapter where one line names it, else to nothing."""

from __future__ import annotations

import importlib.util
from types import SimpleNamespace

import pytest
import yaml
from helpers import ROOT


@pytest.fixture(scope="module")
def repository():
    spec = importlib.util.spec_from_file_location("repository", ROOT / "book" / "_ext" / "repository.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


class Config(SimpleNamespace):
    def __getitem__(self, name):
        return getattr(self, name)


@pytest.mark.parametrize("url", ["", "https://github.com/me/mine/"])
def test_one_line_decides_all_links(repository, url):
    config = Config(html_theme_options={"kept": 1, "repository_url": "https://else"}, book_repository=url)
    repository.link(None, config)
    theme = config.html_theme_options
    assert theme["kept"] == 1 and theme["repository_url"] == url.rstrip("/")
    assert theme["use_repository_button"] == theme["use_issues_button"] == bool(theme["launch_buttons"]) == bool(url)


def test_the_front_page_says_whether_there_is_one():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))["sphinx"]["config"]
    page = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    assert ("names no repository" in page) == (not settings["book_repository"])
