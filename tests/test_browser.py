"""Where the page tests take their browser from: here, the system's packages, Selenium's manager, or nowhere."""

from __future__ import annotations

import subprocess
from types import SimpleNamespace

import browser
import conftest
import pytest
from selenium import webdriver
from selenium.common.exceptions import WebDriverException


@pytest.fixture
def path(tmp_path, monkeypatch):
    """An empty folder that alone is searched for programs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CHROMIUM", "CHROMEDRIVER"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def commands(monkeypatch):
    """The commands that would have been run; those that ask sudo fail."""
    asked = []

    def run(command, **_):
        asked.append(command)
        return subprocess.CompletedProcess(command, returncode=command[0] == "sudo", stderr="")

    monkeypatch.setattr(browser.subprocess, "run", run)
    return asked


def program(folder, name: str) -> str:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def test_a_browser_is_found_by_name_or_where_the_environment_says(path, monkeypatch):
    assert browser.found() == (None, None)
    chrome, driver = program(path, "google-chrome"), program(path, "chromedriver")
    assert browser.found() == (chrome, driver)
    monkeypatch.setenv("CHROMIUM", "/opt/mine")
    assert browser.found() == ("/opt/mine", driver)


@pytest.mark.parametrize("user", [0, 1000], ids=["root", "user"])
def test_it_is_installed_only_where_nobody_is_asked(path, commands, monkeypatch, user):
    monkeypatch.setattr(browser.os, "geteuid", lambda: user)
    browser.install()
    assert not commands  # no apt-get on the path
    program(path, "apt-get"), program(path, "sudo")
    browser.install()
    if user:
        assert commands == [["sudo", "-n", "true"]]
    else:
        assert [command[-1] for command in commands] == ["update", "chromium-driver"]
    program(path, "chromium"), program(path, "chromedriver")
    commands.clear()
    browser.install()
    assert not commands


def test_none_to_be_had_is_told_from_one_that_does_not_start(path, monkeypatch):
    def refuse(**_):
        raise WebDriverException("Unable to obtain driver; see the manual")

    monkeypatch.setattr(webdriver, "Chrome", refuse)
    with pytest.raises(LookupError, match="no Chromium: Unable to obtain driver$"):
        browser.start(path)
    program(path, "chromium"), program(path, "chromedriver")
    with pytest.raises(WebDriverException):
        browser.start(path)


def test_skipped_page_tests_are_named_in_one_line_at_the_end():
    lines, skips = [], [SimpleNamespace(longrepr=("file", 1, f"Skipped: {browser.MISSING}: none")) for _ in range(3)]
    skips.append(SimpleNamespace(longrepr=("file", 1, "Skipped: needs fork")))
    reporter = SimpleNamespace(stats={"skipped": skips}, write_line=lambda line, **_: lines.append(line))
    list(conftest.pytest_terminal_summary(reporter))
    assert lines == ["3 page tests were skipped: no Chromium: none"]
