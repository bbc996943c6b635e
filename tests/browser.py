"""A real Chromium for tests of pages: the machine's own, or the one that playwright has installed.

CI installs one where it can. Where there is none the tests that need it are left out, and a line at the end says so.
"""

import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.left_out import leave_out

if TYPE_CHECKING:
    from playwright.sync_api import Browser

FIXTURE = "chromium"
_NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
_LEFT_OUT = pytest.StashKey[int]()


@cache
def executable() -> str | None:
    """Where a Chromium is."""
    for name in _NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    from playwright.sync_api import sync_playwright  # not for tests of anything else

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    leave_out(config, items, _LEFT_OUT, [FIXTURE], lambda _: executable() is not None)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(
            f"{count} browser tests were left out: there is no Chromium. scripts/browser.sh installs one where it can."
        )


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    """One for all tests of a module, none of which is ``async``: playwright's own event loop is running meanwhile."""
    found = executable()
    assert found is not None, "there is no Chromium here: scripts/browser.sh installs one where it can"
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # Root, as on CI, has no sandbox; a container's /dev/shm may be small.
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield browser
        browser.close()
