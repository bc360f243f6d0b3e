"""A headless Chromium for the page tests: the one that is here, else one that can be had without asking anybody.

Run: python tests/browser.py installs Chromium from the system's packages where that needs no password.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = "no Chromium"
SWITCHES = """
headless=new no-sandbox disable-gpu disable-quic no-first-run disable-dev-shm-usage disable-sync hide-scrollbars
disable-background-networking disable-component-update
""".split()
# Refused or slow mirrors and another installation in progress end here, not in a wait without an end.
APT = "apt-get -o Acquire::Retries=1 -o Acquire::http::Timeout=30 -o DPkg::Lock::Timeout=300 -qq".split()


def found() -> tuple[str | None, str | None]:
    """Return the paths of Chromium and of its driver (CHROMIUM, CHROMEDRIVER, else on the path); None where absent."""
    binary = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    return binary, os.environ.get("CHROMEDRIVER") or shutil.which("chromedriver")


def install() -> None:
    """Install Debian's Chromium and driver if they are missing and root, or sudo without a password, is at hand."""
    if None not in found() or not shutil.which("apt-get"):
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    if root and (not shutil.which("sudo") or subprocess.run([*root, "true"], capture_output=True).returncode):
        return
    quiet = [*root, "env", "DEBIAN_FRONTEND=noninteractive", *APT]
    for step in (["update"], ["install", "-y", "--no-install-recommends", "chromium", "chromium-driver"]):
        done = subprocess.run([*quiet, *step], stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode:
            print(f"apt-get {step[0]} failed: {done.stderr.strip()[-300:]}", file=sys.stderr)


def start(profile: Path):
    """Return a selenium window of a Chromium that cannot reach a network, its profile in a folder.

    Where browser or driver are not on this machine, Selenium's own manager looks for both and downloads them if it can.
    Raises LookupError where there is none to be had; one that is here and does not start is an error of its own.
    """
    from selenium import webdriver
    from selenium.common.exceptions import WebDriverException
    from selenium.webdriver.chrome.service import Service

    binary, driver = found()
    options = webdriver.ChromeOptions()
    if binary:
        options.binary_location = binary
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    for switch in [*SWITCHES, f"user-data-dir={profile}", "host-resolver-rules=MAP * ~NOTFOUND"]:
        options.add_argument(f"--{switch}")
    os.environ.setdefault("SE_AVOID_STATS", "true")
    try:
        return webdriver.Chrome(options=options, service=Service(driver))
    except WebDriverException as error:
        if binary and driver:
            raise
        raise LookupError(f"{MISSING}: {str(error.msg).partition(';')[0].strip()}") from None


if __name__ == "__main__":
    install()
    if None in found():
        print("no Chromium can be installed here without a password; the page tests look for another way")
