"""A headless Chromium of this machine, driven by Playwright, where there is one.

``OPENJANUS_REQUIRE_BROWSER=1`` makes a failure of the skip.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
TIMEOUT_MS = 20_000


def missing(reason: str) -> NoReturn:
    if os.environ.get("OPENJANUS_REQUIRE_BROWSER") == "1":
        pytest.fail(f"{reason} (OPENJANUS_REQUIRE_BROWSER is 1)")
    pytest.skip(reason)


@pytest.fixture(scope="module")  # Playwright's event loop must have ended for other tests' own
def browser() -> Iterator[Browser]:
    """A Chromium, for the tests of a file."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("no Playwright here: pip install 'openjanus[dev]'")
    program = next((found for name in NAMES if (found := shutil.which(name))), None)
    if program is None:
        missing("no Chromium here: apt-get install chromium")
    options = ["--no-proxy-server", "--disable-dev-shm-usage"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        options.append("--no-sandbox")  # it has none for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=options)
        try:
            yield browser
        finally:
            browser.close()


@pytest.fixture
def new_context(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """``new_context(viewport=..., ...)``: a browser without memory, closed after the test.

    What a page asks of another machine, and what a script does not catch, fails the test.
    """
    wrong: list[str] = []
    contexts: list[BrowserContext] = []

    def watch(url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != "127.0.0.1":
            wrong.append(f"a request to {url}")

    def make(**options: Any) -> BrowserContext:
        context = browser.new_context(**options)
        context.set_default_timeout(TIMEOUT_MS)
        context.on("request", lambda request: watch(request.url))
        context.on("weberror", lambda error: wrong.append(f"in a script: {error.error}"))
        contexts.append(context)
        return context

    yield make
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture
def page(new_context: Callable[..., BrowserContext]) -> Page:
    """An empty page of a desktop's size."""
    return new_context(viewport={"width": 1200, "height": 850}).new_page()
