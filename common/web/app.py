"""The application: who may ask, what every answer carries, and that no word of an unforeseen error is shown."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import math
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from html import escape
from importlib.resources import files
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, Response, StreamingResponse
from starlette.routing import Route

from common.cli import unexpected
from common.errors import Code, FedReasonError
from common.logs import logger, place_of
from common.pages.page import Section, framed, named, paragraph, style
from common.web import explained
from common.web.accounts import Accounts
from common.web.sessions import STARTER, Session, Sessions, Throttle
from common.web.visit import Answer, Document, Place, Visit, go

_log = logger("pages")
_POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "connect-src", "img-src", "form-action")),
        *(f"{kind} 'none'" for kind in ("base-uri", "frame-ancestors")),
    ]
)
HEADERS = {
    "content-security-policy": _POLICY,
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""What every answer carries. Forms say where they come from (`origin`), nothing else learns it."""
_MOST_BYTES, _MOST_STREAMS = 64_000, 32
_LOOK_SECONDS, _HEARTBEATS = 1.0, 15
_ASSETS = {"style.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}
_HEAD = '<link rel="icon" href="/icon.svg">\n<link rel="stylesheet" href="/style.css">'
_LIVE = _HEAD + '\n<script src="/live.js" defer></script>'


class Pages:
    """Pages behind a login, as an ASGI application.

    Parameters
    ----------
    name
        What it is called above every page.
    places
        Addresses and who answers there.
    menu
        Titles and addresses that stand above every page.
    accounts
        Who may come in by a password; None where only the link does.

    Attributes
    ----------
    key
        What the link of whoever started this bears: another one as soon as somebody who came in by it leaves.
    renewed
        Called when there is another key.
    hosts
        Names that a browser may have asked for (another site's name that leads here is refused); None under TLS, where
        the certificate says so.
    over
        Whether the server is about to end: live pages then end, too.
    """

    def __init__(
        self,
        name: str,
        places: Iterable[Place],
        *,
        menu: Sequence[tuple[str, str]] = (),
        accounts: Accounts | None = None,
    ) -> None:
        self._name, self._menu, self._accounts = name, menu, accounts
        self.hosts: frozenset[str] | None = frozenset()
        self.over: Callable[[], bool] = lambda: False
        self._sessions, self._throttle, self._streams = Sessions(), Throttle(), 0
        self.key = secrets.token_urlsafe(24)
        self.renewed: Callable[[], None] = lambda: None
        self._cookie = f"fedreason-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}"
        routes = [
            Route("/enter", self._guarded(self._enter), methods=["GET", "POST"]),
            Route("/leave", self._guarded(self._leave), methods=["POST"]),
            *(Route(f"/{name}", self._guarded(_asset(name, kind))) for name, kind in _ASSETS.items()),
            *(
                Route(one.path, self._guarded(self._answered(one)), methods=_methods(one))
                for one in [*places, *explained.places()]
            ),
        ]
        self.app = Starlette(routes=routes, exception_handlers={404: self._missing, 405: self._missing})
        self.app.router.redirect_slashes = False  # what it answers by itself would bear none of the headers

    def link(self, base: str) -> str:
        """Return the address by which whoever started this comes in without a password."""
        return f"{base}/enter?key={self.key}"

    def _guarded(self, answer: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def guarded(request: Request) -> Response:
            if self.hosts is not None and request.headers.get("host", "") not in self.hosts:
                response: Response = Response("This is not the name of this machine.", 421, media_type="text/plain")
            else:
                try:
                    response = await answer(request)
                except ClientDisconnect:
                    response = Response(status_code=400)
                except FedReasonError as error:
                    response = self._refused(request, error)
                except Exception as error:
                    response = self._unforeseen(request, error)
            response.headers.update({name: value for name, value in HEADERS.items() if name not in response.headers})
            return response

        return guarded

    # --- Coming in ---

    def _session(self, request: Request) -> Session | None:
        """Return the stay of whoever asks; it ends with the account that it is of, or its password."""
        secret = request.cookies.get(self._cookie, "")
        found = self._sessions.find(secret)
        if found is None or found.user == STARTER:
            return found
        if self._accounts is None or found.account is None or self._accounts.of(found.user) != found.account:
            self._sessions.end(secret)
            return None
        return found

    async def _enter(self, request: Request) -> Response:
        if request.method == "POST":
            return await self._by_password(request)
        key = request.query_params.get("key")
        if key is None:
            return self._door("")
        if not hmac.compare_digest(key.encode(), self.key.encode()):
            return self._door("This link lets in nobody any more: the newest is printed by the command.", 403)
        return self._entered(request, STARTER)

    async def _by_password(self, request: Request) -> Response:
        """Let in whoever knows a password. Too many attempts wait; the link does not, which nobody can guess."""
        address = request.client.host if request.client else ""
        if (seconds := self._throttle.wait(address)) > 0:
            response = self._door(f"Too many attempts: wait {math.ceil(seconds)} seconds.", 429)
            response.headers["retry-after"] = str(math.ceil(seconds))
            return response
        self._throttle.attempt(address)
        form = await _form(request)
        if form is None or self._accounts is None or not _from_here(request):
            return self._door("That is not right.", 403)
        name = form.get("name", "")
        account = self._accounts.of(name)
        if not await run_in_threadpool(self._accounts.holds, name, form.get("password", "")):
            return self._door("That is not right.", 403)
        self._throttle.forgive(address)
        return self._entered(request, name, account)

    def _entered(self, request: Request, user: str, account: str | None = None) -> Response:
        response = go("/")
        secret, secure = self._sessions.begin(user, account), request.url.scheme == "https"
        response.set_cookie(self._cookie, secret, httponly=True, samesite="strict", secure=secure)
        return response

    def _door(self, told: str, status: int = 200) -> Response:
        note = f'<p class="warn" role="alert">{escape(told)}</p>' if told else ""
        if self._accounts is None or not self._accounts.names():
            body = note + paragraph("Open the newest link that the command has printed.")
        else:
            body = note + (
                '<form method="post" action="/enter" class="stacked"><label>Name '
                '<input name="name" autocomplete="username" required></label><label>Password '
                '<input name="password" type="password" autocomplete="current-password" required></label>'
                "<button>Come in</button></form>"
            )
        return HTMLResponse(framed(self._name, "", [Section("Come in", body)], head=_HEAD), status)

    async def _leave(self, request: Request) -> Response:
        session, form = self._session(request), await _form(request)
        if session is None or form is None or not session.allows(form.get("token", "")) or not _from_here(request):
            return self._door("This form is not of your stay here: come in again.", 403)
        self._sessions.end(request.cookies.get(self._cookie, ""))
        if session.user == STARTER:  # whose browser remembers the address
            self.key = secrets.token_urlsafe(24)
            self.renewed()
        return go("/enter")

    # --- Answering ---

    def _answered(self, place: Place) -> Callable[[Request], Awaitable[Response]]:
        async def told(request: Request) -> Response:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.encode(), place.token.encode()):
                return Response("Bear the token.", 401, {"www-authenticate": "Bearer"}, "text/plain")
            visit = Visit(Session("a program", 0.0), dict(request.path_params), dict(request.query_params))
            return self._shown(visit, await run_in_threadpool(place.answer, visit))

        async def answered(request: Request) -> Response:
            session = self._session(request)
            if session is None:
                return go("/enter") if not place.action else self._door("Come in first.", 403)
            form: dict[str, str] = {}
            if place.action:
                sent = await _form(request)
                if sent is None:
                    return self._door("This form is too long, or none.", 413)
                if not session.allows(sent.pop("token", "")) or not _from_here(request):
                    return self._door("This form is not of your stay here: come in again.", 403)
                form = sent
            visit = Visit(session, dict(request.path_params), dict(request.query_params), form)
            if not place.action and "text/event-stream" in request.headers.get("accept", ""):
                return self._stream(request, place, visit)
            return self._shown(visit, await run_in_threadpool(place.answer, visit))

        return told if place.token else answered

    def _shown(self, visit: Visit, answer: Answer, status: int = 200) -> Response:
        if isinstance(answer, Response):
            return answer
        head = _LIVE if answer.live else _HEAD
        above, sections = self._above(visit, answer.live), _linked(answer)
        shown = framed(answer.title, answer.lead, sections, head=head, above=above)
        visit.session.notice = ""
        return HTMLResponse(shown, status)

    def _above(self, visit: Visit, live: bool) -> str:
        links = "".join(f'<li><a href="{escape(path)}">{escape(title)}</a></li>' for title, path in self._menu)
        state = '<p id="live" class="note" role="status"></p>' if live else ""
        notice = visit.session.notice
        told = f'<p class="told" role="status">{escape(notice)}</p>' if notice else ""
        leave = visit.button("/leave", "Leave")
        return (
            f'<div class="bar"><strong>{escape(self._name)}</strong>'
            f'<nav aria-label="Pages"><ul>{links}</ul></nav>{state}{leave}</div>\n{told}'
        )

    def _refused(self, request: Request, error: FedReasonError, status: int = 409) -> Response:
        try:
            session = self._session(request)
        except FedReasonError:  # the accounts cannot be read, which may be just what is told
            session = None
        section = Section("This was not done", f'<p class="warn" role="alert">{escape(str(error))}</p>')
        if session is None:
            return HTMLResponse(framed(self._name, "", [section], head=_HEAD), status)
        return self._shown(Visit(session), Document(self._name, "", [section]), status)

    def _unforeseen(self, request: Request, error: Exception) -> Response:
        refusal = unexpected(error)
        if refusal.code is not Code.RUN_FAILED:
            return self._refused(request, refusal)
        _log.error("unexpected %s", place_of(error))
        return self._refused(request, refusal, 500)

    async def _missing(self, request: Request, _: Exception) -> Response:
        async def missing(request: Request) -> Response:
            section = Section("There is no such page", paragraph("Go back, or begin at the first page."))
            return HTMLResponse(framed(self._name, "", [section], head=_HEAD), 404)

        return await self._guarded(missing)(request)

    # --- What changes, as it changes ---

    def _stream(self, request: Request, place: Place, visit: Visit) -> Response:
        if self._streams >= _MOST_STREAMS:
            return Response("Too many live pages are open.", 503, media_type="text/plain")
        return StreamingResponse(self._changes(request, place, visit), media_type="text/event-stream")

    async def _changes(self, request: Request, place: Place, visit: Visit) -> AsyncIterator[str]:
        self._streams += 1
        try:
            sent: dict[str, str] = {}
            quiet = 0
            while not self.over() and not await request.is_disconnected():
                try:
                    if self._session(request) is not visit.session:
                        yield "event: end\ndata:\n\n"
                        return
                    answer = await run_in_threadpool(place.answer, visit)
                except FedReasonError:
                    answer = None
                except Exception as error:
                    _log.error("unexpected %s", place_of(error))
                    return
                if isinstance(answer, Document):
                    shown = named(_linked(answer))
                    if sent and sent.keys() != shown.keys():
                        yield "event: other\ndata:\n\n"
                        return
                    for name, one in shown.items():
                        digest = hashlib.sha256(one.body.encode()).hexdigest()
                        if sent.get(name) != digest:
                            sent[name], quiet = digest, 0
                            yield f"event: section\ndata: {json.dumps({'id': name, 'html': one.body})}\n\n"
                quiet += 1
                if quiet % _HEARTBEATS == 0:
                    yield ": still here\n\n"
                await asyncio.sleep(_LOOK_SECONDS)
        finally:
            self._streams -= 1


def _linked(document: Document) -> Sequence[Section]:
    return document.sections if document.records else explained.with_links(document.sections)


def _methods(place: Place) -> list[str]:
    return ["POST"] if place.action else ["GET"]


async def _form(request: Request) -> dict[str, str] | None:
    """Return what a form says, None where it is too long or no form; of a name that comes twice the last."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        return None
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _MOST_BYTES:
            return None
    try:
        return dict(parse_qsl(content.decode(), keep_blank_values=True, max_num_fields=200, errors="strict"))
    except ValueError:
        return None


def _from_here(request: Request) -> bool:
    """Whether a browser that says where a form comes from names this very place."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


def _asset(name: str, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def asset(_: Request) -> Response:
        text = style() if name == "style.css" else (files("common") / "web" / "assets" / name).read_text("utf-8")
        return Response(text, media_type=media_type)

    return asset
