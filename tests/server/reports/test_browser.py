"""The pages in a real browser: on a phone and a desk, light and dark, no barrier that axe knows, an empty console."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from server.reports.report import write_run_report
from simulation.report import write_report
from tests.browsing import DESK, PHONE, barriers, beyond_the_screen, browser, needs_browser, viewed
from tests.server.reports.pages import full_run, summary

__all__ = ["browser"]
pytestmark = needs_browser


@pytest.fixture(scope="module", params=["run", "simulation"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = full_run(tmp_path_factory.mktemp(request.param))
    return write_run_report(folder) if request.param == "run" else write_report(folder, summary())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_page_has_no_barrier_no_message_and_nothing_beyond_the_screen(
    browser: Any, page: Path, size: dict[str, int], scheme: str
) -> None:
    with viewed(browser, size, scheme) as view:
        asked: list[str] = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto(page.as_uri())
        assert beyond_the_screen(view) <= 0
        light = view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert light == (scheme == "light")
        assert barriers(view) == []
        assert set(asked) == {page.as_uri()}


def test_by_the_keyboard_every_link_summary_and_wide_table_is_reached(browser: Any, page: Path) -> None:
    view = browser.new_page(viewport=PHONE)
    view.goto(page.as_uri())
    wanted = view.evaluate("document.querySelectorAll('a, summary, [tabindex=\"0\"]').length")
    reached = set()
    for _ in range(2 * wanted):
        view.keyboard.press("Tab")
        reached.add(view.evaluate("document.activeElement.outerHTML.slice(0, 300)"))
        if view.evaluate("document.activeElement.tagName") == "SUMMARY":
            assert view.evaluate("document.activeElement.parentElement.open") is False
            view.keyboard.press("Enter")
            assert view.evaluate("document.activeElement.parentElement.open") is True
            view.keyboard.press("Enter")
    shut = view.evaluate("document.querySelectorAll('details [tabindex=\"0\"]').length")
    assert len(reached - {"<body>"}) >= wanted - shut > 10
    view.close()


def test_in_print_the_numbers_are_there_and_the_links_are_not(browser: Any, page: Path) -> None:
    view = browser.new_page()
    view.goto(page.as_uri())
    view.emulate_media(media="print")
    assert not view.locator("nav").is_visible()
    assert all(each.is_visible() for each in view.locator("details table").all())
    view.close()
