"""A real headless Chromium for pages: opened once a module, what it tells, and the barriers that axe finds."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESK = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
TWICE = {"width": 640, "height": 450}
"""The desk at a zoom of 200 %."""
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A started Chromium; a module of tests imports this fixture by its name."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def viewed(browser: Any, size: dict[str, int], scheme: str) -> Iterator[Any]:
    """A page for readers of one screen, in light or dark; the console has nothing to tell of what is done with it."""
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    view = context.new_page()
    told = told_by(view)
    yield view
    assert told == []
    context.close()


def barriers(view: Any) -> list[tuple[str, list[str]]]:
    """Return what axe finds wrong with a page, every `details` open; its context must bypass the CSP."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    view.eval_on_selector_all("details", "all => all.forEach(one => one.open = true)")
    found = axe.Axe().run(view).response["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in found]


def beyond_the_screen(view: Any) -> int:
    """Return by how many pixels a page is wider than the screen."""
    return int(view.evaluate("document.documentElement.scrollWidth - innerWidth"))


def told_by(view: Any) -> list[str]:
    """Return a list that grows with every message of the console and every error of a page."""
    told: list[str] = []
    view.on("console", lambda message: told.append(message.text))
    view.on("pageerror", lambda error: told.append(str(error)))
    return told
