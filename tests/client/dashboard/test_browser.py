"""The pages of a site in a real browser: no barrier at any size, by keyboard, live, paused and let go, printed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.dashboard.site import MENU, pages
from client.node.hours import paused
from client.training.log import log_folder
from tests.browsing import DESK, PHONE, TWICE, barriers, beyond_the_screen, browser, needs_browser, told_by
from tests.client.dashboard.scene import HOSTILE, at_work, hospital, plan_file
from tests.common.web.served import served

__all__ = ["browser"]
pytestmark = needs_browser


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hospital")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREASON_STATE", str(folder / "machine"))
        made = hospital(folder / "federation")
        log = log_folder(made) / "trial.jsonl"
        log.rename(log.with_name(f"{HOSTILE.replace('/', '')}.jsonl"))
        hostile_feature(made)
        yield made.rename(made.with_name(HOSTILE.replace("/", "")))


@pytest.fixture(scope="module")
def link(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with served(pages(site, [plan_file(tmp_path_factory.mktemp("plans"))])) as found:
        yield found


def hostile_feature(site: Path) -> None:
    """Have the site's own codebook call a feature by a script."""
    path = site / "codebook.toml"
    text = path.read_text()
    assert text.count('label = "Clinical frailty scale"') == 1
    path.write_text(text.replace('label = "Clinical frailty scale"', f'label = "{HOSTILE}"'))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK, TWICE], ids=["phone", "desk", "twice as large"])
def test_no_page_has_a_barrier_and_each_fits_the_screen(
    browser: Any, site: Path, link: str, size: dict[str, int], scheme: str
) -> None:
    at_work(site, HOSTILE)
    context = browser.new_context(viewport=size, color_scheme=scheme, bypass_csp=True)
    view = context.new_page()
    told = told_by(view)
    view.goto(link)
    for title, _ in MENU:
        view.get_by_role("navigation", name="Pages").get_by_role("link", name=title).click()
        view.get_by_role("heading", level=1).wait_for()
        assert (title, barriers(view), beyond_the_screen(view)) == (title, [], 0)
    for place, button, shown in (
        ("/ledger", "Say what it would add", "Whether it would be accepted"),
        ("/questions", "Show patient data", "1 of 10"),
    ):
        view.goto(link.partition("/enter")[0] + place)
        view.get_by_role("button", name=button).click()
        view.get_by_role("heading", name=shown).first.wait_for()
        assert (place, barriers(view), beyond_the_screen(view)) == (place, [], 0)
    assert told == []
    context.close()


def test_the_status_is_followed_as_it_changes(browser: Any, site: Path, link: str) -> None:
    status = at_work(site, "round 3")
    view = browser.new_page(viewport=DESK)
    told = told_by(view)
    view.goto(link)
    view.get_by_text("Live").wait_for()
    view.get_by_text("Well: working.").wait_for()
    status.tell("connected", f"ready {HOSTILE}")
    view.get_by_text(f"ready {HOSTILE}").wait_for()
    status.tell("refused", "no", code=712)
    view.get_by_text("Not well: refused (E712).").wait_for()
    assert told == []
    view.close()


def test_a_site_is_paused_and_let_go_by_the_keyboard(browser: Any, site: Path, link: str) -> None:
    at_work(site)
    view = browser.new_page(viewport=PHONE)
    told = told_by(view)
    view.goto(link)
    view.get_by_text("Live").wait_for()
    view.get_by_label("Reason").focus()
    view.keyboard.type(HOSTILE)
    view.keyboard.press("Enter")
    view.get_by_text(f"Paused by hand: {HOSTILE}.").wait_for()
    assert paused(site) == HOSTILE
    view.get_by_role("button", name="Resume").focus()
    view.keyboard.press("Enter")
    view.get_by_text("Resumed.").wait_for()
    assert paused(site) is None
    assert told == []
    view.close()


def test_patient_data_is_shown_by_a_click_and_gone_after_the_next(browser: Any, link: str) -> None:
    view = browser.new_page(viewport=DESK)
    view.goto(link)
    view.get_by_role("link", name="Questions").click()
    view.get_by_text("This is patient data.").wait_for()
    assert view.get_by_text("(the truth)").count() == 0
    view.get_by_label("Feature or task").select_option("lactate")
    view.get_by_label("How many").fill("3")
    view.get_by_role("button", name="Show patient data").click()
    view.get_by_role("heading", name="3 of 3: lactate").wait_for()
    assert view.get_by_text("(the truth)").count() == 3
    assert view.get_by_text(HOSTILE).count() >= 1
    view.get_by_role("link", name="Overview").click()
    view.get_by_text("Live").wait_for()
    assert view.get_by_text("(the truth)").count() == 0
    view.close()


def test_the_page_to_sign_prints_light_and_without_what_leads_elsewhere(browser: Any, link: str) -> None:
    context = browser.new_context(viewport=DESK, color_scheme="dark")
    view = context.new_page()
    view.goto(link)
    view.get_by_role("link", name="For signature").click()
    view.get_by_role("heading", name="Seen and approved").wait_for()
    dark = view.evaluate("getComputedStyle(document.body).backgroundColor")
    view.emulate_media(media="print")
    assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)" != dark
    hidden = "[...document.querySelectorAll('nav, form, .bar')].every(one => one.getClientRects().length === 0)"
    assert view.evaluate(hidden)
    view.set_viewport_size({"width": 720, "height": 1000})
    assert beyond_the_screen(view) == 0
    line = view.locator(".sign tr").last.bounding_box()
    assert line["height"] >= 40 and line["width"] >= 400
    assert len(view.pdf(format="A4")) > 10_000
    context.close()
