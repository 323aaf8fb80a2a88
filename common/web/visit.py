"""What is asked and what is answered: a visit, and the document or other answer that comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from starlette.responses import RedirectResponse, Response

from common.pages.page import Section
from common.web.sessions import Session


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is in: the parts of the address, its query, and what a form said."""

    session: Session
    parts: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    form: Mapping[str, str] = field(default_factory=dict)

    def button(self, action: str, label: str, fields: Mapping[str, str] | None = None, *, kind: str = "") -> str:
        """Return a button that asks for an action, as HTML; `kind` is "grave" for what cannot be taken back."""
        return self.form_of(action, "", label, fields, kind=kind)

    def form_of(
        self, action: str, inner: str, label: str, fields: Mapping[str, str] | None = None, *, kind: str = ""
    ) -> str:
        """Return a form around the HTML `inner`, with this session's token, `fields` hidden, and one button."""
        hidden = "".join(
            f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">'
            for name, value in {"token": self.session.form_token, **(fields or {})}.items()
        )
        look = f' class="{kind}"' if kind else ""
        return (
            f'<form method="post" action="{escape(action)}">{hidden}{inner}'
            f"<button{look}>{escape(label)}</button></form>"
        )


@dataclass(frozen=True)
class Document:
    """A page; where it is `live` its sections come anew to whoever has it open.

    One that shows `records` has text in which what looks like the number of a refusal may be a code of a disease.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    live: bool = False
    records: bool = False


Answer = Document | Response


@dataclass(frozen=True)
class Place:
    """An address below the root and who answers there; an `action` is asked by a form alone.

    `answer` runs in a thread, may raise FedReasonError, and is called again and again while a live page is open. Where
    there is a `token`, a program that bears it (`Authorization: Bearer`) is answered, and nobody else.
    """

    path: str
    answer: Callable[[Visit], Answer]
    action: bool = False
    token: str = ""


def go(path: str) -> Response:
    """Return the answer to an action that has been done: look there."""
    return RedirectResponse(path, status_code=303, headers={"cache-control": "no-store"})


def whole(text: str, other: int, least: int, most: int) -> int:
    """Return the whole number that a form or an address says, within bounds; `other` where it says none."""
    said = text.strip()
    return min(max(int(said), least), most) if said.isdecimal() and len(said) < 10 else other
