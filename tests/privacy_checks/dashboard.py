"""A site's pages: served to its own machine alone, no record on any that was not asked for it, nothing to the rest."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from client.dashboard import asked, site
from client.policy.policy import POLICY_FILE
from common.pages.page import Section
from common.web.sessions import Session
from common.web.visit import Document, Place, Visit
from tests.privacy_checks import Check, on_broken
from tests.sentinels import MARKER, NUMBERS, rows, site_of

Pages = Callable[[Path], list[Place]]
_SHOWN = (MARKER, *(f"{value:.6f}" for value in NUMBERS.values()))


@cache
def folder() -> Path:
    """Return a site folder whose records hold sentinels in every field."""
    return site_of(Path(_place().name) / "amc", rows("amc", 30), {"metrics": "none"})


@cache
def _place() -> TemporaryDirectory[str]:
    """Return a folder that is removed when this process ends."""
    return TemporaryDirectory()


def check_no_record_unasked(pages: Pages) -> bool:
    """No page that a link leads to, live or not, holds anything of a record; the one that a form asks for does."""
    assert (folder() / POLICY_FILE).exists()
    unasked = [said(place) for place in pages(folder()) if not place.action and "{" not in place.path]
    form = next((place for place in pages(folder()) if place.path == "/questions/shown" and place.action), None)
    return form is not None and holds(said(form)) and not any(map(holds, unasked))


def said(place: Place) -> str:
    """Return all that a page says to somebody who is in."""
    answer = place.answer(Visit(Session("you", 0.0), form={"count": "20"}))
    if not isinstance(answer, Document):
        return bytes(answer.body).decode(errors="replace")
    return "".join(f"{one.title}{one.body}" for one in answer.sections)


def holds(text: str) -> bool:
    """Whether anything of a record stands in a text."""
    return any(sentinel in text for sentinel in _SHOWN)


def check_never_live() -> bool:
    """A page with patient data does not come anew by itself."""
    places = {place.path: place for place in site.places(folder())}
    answer = places["/questions/shown"].answer(Visit(Session("you", 0.0), form={"count": "2"}))
    return isinstance(answer, Document) and not answer.live


def check_loopback() -> bool:
    """What serves the pages listens where this machine alone reaches it."""
    found = site.server(folder(), 0)
    try:
        return ipaddress.ip_address(found._socket.getsockname()[0]).is_loopback
    finally:
        found._socket.close()


def _shown_at_once(where: Path) -> list[Place]:
    """Show questions to whoever follows the link."""
    with patch.object(site, "questions", asked.shown):
        return site.places(where)


def _by_a_link(where: Path) -> list[Place]:
    places = site.places(where)
    return [*places, *(Place(place.path, place.answer) for place in places if place.path == "/questions/shown")]


def _on_the_first_page(where: Path) -> list[Place]:
    """Have the overview, which is live, show one question as a sample."""
    places = site.places(where)
    overview, shown = places[0].answer, partial(asked.shown, where)

    def both(visit: Visit) -> Document:
        first, more = overview(visit), shown(visit)
        assert isinstance(first, Document) and isinstance(more, Document)
        return Document(first.title, first.lead, [*first.sections, *more.sections], live=True)

    return [Place("/", both), *places[1:]]


def _live(where: Path, visit: Visit) -> Document:
    return Document("", "", [Section("", "")], live=True)


CHECKS = [
    Check(
        "no record on a page of a site that was not asked for it by a form",
        partial(check_no_record_unasked, site.places),
        {
            "questions are shown at once": partial(check_no_record_unasked, _shown_at_once),
            "what a form asks for is asked for by a link, too": partial(check_no_record_unasked, _by_a_link),
            "the first page shows a sample": partial(check_no_record_unasked, _on_the_first_page),
        },
    ),
    Check(
        "a page with patient data is not live",
        check_never_live,
        {"it is": partial(on_broken, check_never_live, "client.dashboard.site.shown", _live)},
    ),
    Check(
        "the pages of a site are served on its own machine alone",
        check_loopback,
        {
            "to every address": lambda: _served_at("0.0.0.0"),
            "to every address of IPv6": lambda: _served_at("::"),
        },
    ),
]


def _served_at(host: str) -> bool:
    with patch.object(site, "HOST", host):
        return check_loopback()
