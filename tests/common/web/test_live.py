"""A live page in a real browser: it follows what changes, keeps what one has open, and shows no barrier."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.pages.page import Section, details, facts, html_table, paragraph
from common.web.accounts import Accounts
from common.web.app import Pages
from common.web.visit import Answer, Document, Place, Visit, go
from tests.browsing import DESK, PHONE, TWICE, barriers, beyond_the_screen, browser, needs_browser, told_by, viewed
from tests.common.web.served import served

__all__ = ["browser"]
pytestmark = needs_browser
HOSTILE = "<img src=x onerror=alert(1)>"
LONG = "W" * 200


class Counter:
    """A page of a number, a table of its past and a field to write in."""

    count, extra = 0, False

    def shown(self, visit: Visit) -> Answer:
        table = html_table(["at", "name"], [(number, HOSTILE) for number in range(self.count)])
        field = visit.form_of("/count", f'<label>Comment <input name="text" value="{self.count}"></label>', "Count")
        sections = [
            Section("Number", paragraph(f"The number is {self.count}.") + details("Past", table)),
            Section("Write", field),
            Section("More", "<p>More.</p>" if self.extra else ""),
            Section("Long", facts({LONG: LONG}) + visit.button("/count", LONG) + f"<ul><li>{LONG}</li></ul>"),
        ]
        return Document("Counter", HOSTILE, sections, live=True)

    def counted(self, visit: Visit) -> Answer:
        self.count += 1
        visit.session.notice = f"Counted {visit.form['text']}"
        return go("/")


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def link(counter: Counter, tmp_path: Path) -> Iterator[str]:
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add("kim", "four plain random words")
    places = [Place("/", counter.shown), Place("/count", counter.counted, action=True)]
    with served(Pages(f"Desk {LONG}", places, menu=[("Counter", "/"), (LONG, "/")], accounts=accounts)) as found:
        yield found


def test_a_page_follows_what_changes_and_keeps_what_one_has_open(browser: Any, counter: Counter, link: str) -> None:
    view = browser.new_page(viewport=DESK)
    told = told_by(view)
    view.goto(link)
    view.get_by_text("Live").wait_for()
    view.get_by_text("Past").click()
    counter.count = 3
    view.get_by_text("The number is 3.").wait_for()
    assert view.locator("details").evaluate("one => one.open")
    assert view.locator("details tbody tr").count() == 3
    counter.extra = True
    view.get_by_role("heading", name="More").wait_for()
    assert told == []
    view.close()


def test_a_field_that_somebody_writes_in_is_left_alone_until_they_are_done(
    browser: Any, counter: Counter, link: str
) -> None:
    view = browser.new_page(viewport=DESK)
    view.goto(link)
    view.get_by_text("Live").wait_for()
    view.get_by_label("Comment").fill("half a sen")
    counter.count = 7
    view.get_by_text("The number is 7.").wait_for()
    assert view.get_by_label("Comment").input_value() == "half a sen"
    view.get_by_text("Past").focus()
    view.wait_for_function("document.querySelector('input[name=text]').value === '7'")
    view.close()


def test_a_form_is_sent_and_its_outcome_told_once(browser: Any, counter: Counter, link: str) -> None:
    view = browser.new_page(viewport=PHONE)
    told = told_by(view)
    view.goto(link)
    view.get_by_label("Comment").fill(HOSTILE)
    view.get_by_role("button", name="Count").click()
    view.get_by_text(f"Counted {HOSTILE}").wait_for()
    assert counter.count == 1
    view.reload()
    assert view.get_by_text("Counted").count() == 0
    assert told == []
    view.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, TWICE], ids=["phone", "desk", "twice as large"])
def test_door_and_page_have_no_barrier_and_fit_the_screen(
    browser: Any, counter: Counter, link: str, size: dict[str, int], scheme: str
) -> None:
    counter.count = 2
    with viewed(browser, size, scheme) as view:
        for address in (link.partition("?")[0], link):
            view.goto(address)
            assert (barriers(view), beyond_the_screen(view)) == ([], 0)


def test_one_comes_in_and_leaves_by_the_keyboard(browser: Any, link: str) -> None:
    view = browser.new_page(viewport=DESK)
    view.goto(link.partition("?")[0])
    view.get_by_label("Name").focus()
    view.keyboard.type("kim")
    view.keyboard.press("Tab")
    view.keyboard.type("four plain random words")
    view.keyboard.press("Enter")
    view.get_by_role("heading", name="Number").wait_for()
    view.get_by_role("button", name="Leave").focus()
    view.keyboard.press("Enter")
    view.get_by_label("Password").wait_for()
    assert re.search("/enter$", view.url)
    view.close()
