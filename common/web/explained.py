"""What each number of a refusal means, as pages beside those that tell it: `docs/errors.md`, which the package carries.

A number on a page leads to its own section. In a document that shows records none does: "E872" may be a diagnosis.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markdown_it import MarkdownIt

from common.errors import Code
from common.pages.page import Link, Section, html_table, paragraph
from common.web.visit import Answer, Document, Place, Visit

_HEADING = re.compile(r"^## E(\d{3}) ([A-Z0-9_]+)\n", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.-])E(\d{3})(?![\w-]|\.\d)")
_TAG = re.compile(r"(<[^>]*>)")
_LEFT_ALONE = frozenset({"a", "button", "option", "select", "summary", "svg", "textarea", "title"})
"""What a link cannot stand in, or what is one."""
_KNOWN = frozenset(int(code) for code in Code)


@dataclass(frozen=True)
class Explained:
    """The section of a number: its name and, as HTML, what it means and what to do."""

    name: str
    body: str


@cache
def explained() -> dict[int, Explained]:
    """Return every section by its number."""
    _, *parts = _HEADING.split(_text())
    sections = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return {int(number): Explained(name, _html(body)) for number, name, body in sections}


@cache
def _text() -> str:
    return (files("common") / "web" / "assets" / "errors.md").read_text(encoding="utf-8")


def _html(text: str) -> str:
    """Return Markdown as HTML, without its links: they lead to guides that are not served here."""
    reader = MarkdownIt("commonmark", {"html": False}).disable(["link", "autolink", "image"])
    return str(reader.render(re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)))


def places() -> list[Place]:
    """Return the list of all numbers, and the page of each."""
    return [Place("/errors", _all), Place("/errors/{number}", _one)]


def _all(visit: Visit) -> Answer:
    about = _html(_HEADING.split(_text())[0].partition("\n")[2])
    rows = [(Link(f"E{number}", f"/errors/{number}"), _words(one.name)) for number, one in explained().items()]
    sections = [Section("About the numbers", about), Section("All of them", html_table(["number", "name"], rows))]
    return Document("Refusals by number", "Every refusal has a number, and a way out.", sections)


def _one(visit: Visit) -> Answer:
    text = visit.parts["number"].removeprefix("E")
    found = explained().get(int(text)) if re.fullmatch("[0-9]{3}", text) else None
    others = Section("Others", '<p><a href="/errors">All refusals by number</a></p>')
    if found is None:
        told = Section("Not known", paragraph("This version of fedreason knows no refusal of that number."))
        return Document("No such number", "", [told, others])
    body = Section("What it means, and what to do", found.body)
    return Document(f"E{text}: {_words(found.name)}", "", [body, others])


def _words(name: str) -> str:
    return name.lower().replace("_", " ")


def with_links(sections: Sequence[Section]) -> list[Section]:
    """Return the sections with each known number in their text as a link to what it means."""
    return [Section(one.title, linked(one.body)) for one in sections]


def linked(html: str) -> str:
    """Return HTML of these pages (no `>` stands in an attribute) with each known number in its text as a link."""
    if not _NUMBER.search(html):
        return html
    parts, within = _TAG.split(html), 0
    for place, part in enumerate(parts):
        if place % 2:
            name = part.strip("</>").partition(" ")[0].lower()
            if name in _LEFT_ALONE:
                within += -1 if part.startswith("</") else 1
        elif not within:
            parts[place] = _NUMBER.sub(_link, part)
    return "".join(parts)


def _link(found: re.Match[str]) -> str:
    number = int(found[1])
    return f'<a href="/errors/{number}">{found[0]}</a>' if number in _KNOWN else found[0]
