"""Raters in a real browser: twenty cases each, one rater by the keyboard alone, and no barrier on any page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.preview.text import visible
from client.review.figures import figures
from client.review.make import Plan, make_review
from client.review.order import turns
from client.review.report import report_page
from client.review.scale import AXES, SCALE
from client.review.store import ReviewStore
from tests.browsing import DESK, PHONE, barriers, beyond_the_screen, browser, needs_browser, told_by
from tests.reviewed import HOSTILE, PASSWORD, SECRET, exported, open_desk, ready, site_of

__all__ = ["browser"]
pytestmark = needs_browser
CASES = 20
DOWN_FROM_FIRST = {value: place for place, value in enumerate(SCALE)}
"""How often the arrow is pressed from the first button of a group to one of the scale."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = site_of(tmp_path / "amc", patients=1)
    ready(folder, CASES)
    return folder


@pytest.fixture
def desk(site: Path) -> Iterator[tuple[str, ReviewStore]]:
    with open_desk(site) as opened:
        yield opened


def come_in(view: Any, link: str, rater: str) -> None:
    view.goto(link.partition("?")[0])
    view.get_by_label("Name").fill(rater)
    view.get_by_label("Password").fill(PASSWORD)
    view.get_by_role("button", name="Come in").click()
    view.get_by_role("heading", name="Your cases").wait_for()


def prefer(view: Any, axis: str, value: int) -> None:
    view.get_by_role("group", name=AXES[axis]).get_by_label(SCALE[value], exact=True).check()


def wanted(rater: str, case: int) -> int:
    """How much better a rater finds the first model's answer to a case, below 0 the second's."""
    return (case + (rater == "lee")) % 5 - 2


def shown_value(view: Any, rater: str, texts: dict[tuple[int, str], str], place: int, secret: str) -> int:
    """What a rater chooses between answers 1 and 2, which are told from the page by what each model said."""
    turn = turns(secret, rater, range(1, CASES + 1))[place - 1]
    pair = view.locator(".pair pre").all_inner_texts()
    said = ["\n".join(map(visible, texts[turn.case, side].splitlines())) for side in (turn.left, turn.right)]
    assert [text.split() for text in pair] == [text.split() for text in said]
    value = wanted(rater, turn.case)
    return -value if turn.left == "first" else value


def test_two_raters_rate_twenty_cases_of_the_demo_and_the_report_is_what_they_said(
    browser: Any, small_model: Path, tmp_path: Path
) -> None:
    """One clicks, one has a keyboard alone; the figures are counted by hand from what each was told to want."""
    site = site_of(tmp_path / "amc", patients=150)
    adapters = [str(exported(tmp_path, small_model, number)) for number in (1, 2)]
    assert make_review(site, "review", adapters, Plan(CASES, 0, None), lambda *_: None) == CASES
    with open_desk(site) as (link, store):
        assert len({case.patient for case in store.cases().values()}) == CASES
        _rate_all(browser, link, store)
        found = figures(store)
    values = {rater: [wanted(rater, case) for case in range(1, CASES + 1)] for rater in ("kim", "lee")}
    both = values["kim"] + values["lee"]
    overall, reasoning = found.axes["overall"], found.axes["reasoning"]
    assert overall is not None and reasoning is not None
    assert overall.better == sum(value > 0 for value in both)
    assert overall.alike == sum(value == 0 for value in both)
    assert overall.worse == sum(value < 0 for value in both)
    sums = [one + other for one, other in zip(values["kim"], values["lee"], strict=True)]
    assert (overall.first, overall.second) == (sum(total > 0 for total in sums), sum(total < 0 for total in sums))
    assert overall.mean == pytest.approx(sum(both) / 40)
    assert reasoning.ratings == CASES and found.left == 0


def _rate_all(browser: Any, link: str, store: ReviewStore) -> None:
    review, texts = store.review(), store.completions()
    assert review is not None
    for rater in ("kim", "lee"):
        context = browser.new_context(viewport=DESK)
        view = context.new_page()
        told = told_by(view)
        come_in(view, link, rater)
        view.get_by_role("link", name="Go to case 1", exact=True).click()
        for place in range(1, CASES + 1):
            view.get_by_role("heading", name=f"Case {place}", exact=True).wait_for()
            value = shown_value(view, rater, texts, place, review.secret)
            if rater == "kim":
                prefer(view, "overall", value)
                prefer(view, "reasoning", value)
                view.get_by_label("Comment").fill(HOSTILE)
                view.get_by_role("button", name="Save and go on").click()
            else:
                by_keyboard(view, value)
        view.get_by_text(f"{CASES} of {CASES} cases are rated").wait_for()
        assert told == []
        context.close()


def by_keyboard(view: Any, value: int) -> None:
    """Choose the overall preference and save, from the top of the page, by the keyboard alone."""
    group = view.get_by_role("group", name=AXES["overall"])
    for _ in range(60):
        view.keyboard.press("Tab")
        if group.evaluate("one => one.contains(document.activeElement)"):
            break
    view.keyboard.press("Space")
    for _ in range(DOWN_FROM_FIRST[value]):
        view.keyboard.press("ArrowDown")
    view.keyboard.press("Tab")
    view.keyboard.type("by hand")
    view.keyboard.press("Tab")
    view.keyboard.press("Enter")


def test_a_closed_tab_loses_nothing_that_was_sent(browser: Any, desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    context = browser.new_context(viewport=DESK)
    view = context.new_page()
    come_in(view, link, "kim")
    view.goto(f"{link.partition('/enter')[0]}/case/4")
    prefer(view, "overall", 1)
    view.get_by_label("Comment").fill("kept")
    view.get_by_role("button", name="Save and go on").click(no_wait_after=True)
    view.wait_for_url("**/case/5")
    prefer(view, "overall", -1)
    view.close()
    again = context.new_page()
    again.goto(f"{link.partition('/enter')[0]}/case/4")
    group = again.get_by_role("group", name=AXES["overall"])
    assert group.get_by_label(SCALE[1], exact=True).is_checked()
    assert again.get_by_label("Comment").input_value() == "kept"
    again.goto(f"{link.partition('/enter')[0]}/")
    assert again.get_by_text("1 of 20 cases are rated").count() == 1
    assert [row.comment for row in store.ratings()] == ["kept"]
    context.close()


def test_a_comment_with_markup_does_nothing(browser: Any, desk: tuple[str, ReviewStore]) -> None:
    link, _ = desk
    view = browser.new_page(viewport=PHONE)
    told = told_by(view)
    come_in(view, link, "kim")
    view.goto(f"{link.partition('/enter')[0]}/case/1")
    text = f"</textarea></form><img src=x onerror=alert(1)>{HOSTILE}"
    view.get_by_label("Comment").fill(text)
    prefer(view, "overall", 0)
    view.get_by_role("button", name="Save and go on").click()
    view.goto(f"{link.partition('/enter')[0]}/case/1")
    assert view.get_by_label("Comment").input_value() == text
    assert view.locator("main img, main script, main b").count() == 0
    assert told == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, {"width": 640, "height": 450}], ids=["phone", "desk", "twice as large"])
def test_no_page_has_a_barrier_and_each_fits_the_screen(
    browser: Any, desk: tuple[str, ReviewStore], tmp_path: Path, size: dict[str, int], scheme: str
) -> None:
    link, store = desk
    store.rate(turns(SECRET, "kim", range(1, CASES + 1))[1].case, "kim", "first", {"overall": 1, "harm": -2}, HOSTILE)
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    view = context.new_page()
    told = told_by(view)
    base = link.partition("/enter")[0]
    come_in(view, link, "kim")
    for path in ("/", "/case/1", "/case/2"):
        view.goto(base + path)
        assert (path, barriers(view), beyond_the_screen(view)) == (path, [], 0)
    view.goto(base + "/case/99", wait_until="load")
    assert (barriers(view), beyond_the_screen(view)) == ([], 0)
    context.clear_cookies()
    view.goto(link)
    assert (barriers(view), beyond_the_screen(view)) == ([], 0)
    page = tmp_path / "report.html"
    page.write_text(report_page(figures(store), store, "review"))
    view.goto(page.as_uri())
    assert (barriers(view), beyond_the_screen(view)) == ([], 0)
    assert [line for line in told if "409" not in line] == []
    context.close()
