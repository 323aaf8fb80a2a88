"""Served pages over a real socket: nobody gets in without link or password, no form of another place is heard."""

from __future__ import annotations

import errno
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from common.errors import Code, FedReasonError
from common.pages.page import Section, paragraph
from common.web.accounts import Accounts
from common.web.app import HEADERS, Pages
from common.web.serve import Server, is_loopback, require_guarded, tls_of
from common.web.sessions import Throttle
from common.web.visit import Answer, Document, Place, Visit, go
from tests.common.web.served import served, visitor

HOSTILE = "<script>alert(1)</script>"
PASSWORD = "four plain random words"
TOKEN = "what a program bears"


class Desk:
    """A page with one number, and a button that counts."""

    def __init__(self) -> None:
        self.count, self.full = 0, False

    def shown(self, visit: Visit) -> Answer:
        body = paragraph(f"{HOSTILE} {self.count}") + visit.button("/count", HOSTILE, {"by": HOSTILE})
        return Document(HOSTILE, HOSTILE, [Section("Now", body)], live=True)

    def counted(self, visit: Visit) -> Answer:
        if self.full:
            raise OSError(errno.ENOSPC, "no space", "accounts")
        self.count += 1
        visit.session.notice = f"Counted {visit.form['by']}."
        return go("/")

    def refused(self, visit: Visit) -> Answer:
        raise FedReasonError(Code.RUN_UNKNOWN, "There is no such run.", "Say another.")

    def broken(self, visit: Visit) -> Answer:
        raise ValueError("the record of patient 4711")


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
def link(desk: Desk, tmp_path: Path) -> Iterator[str]:
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add("kim", PASSWORD)
    places = [
        Place("/", desk.shown),
        Place("/count", desk.counted, action=True),
        Place("/refused", desk.refused),
        Place("/broken", desk.broken),
        Place("/told", desk.shown, token=TOKEN),
    ]
    with served(Pages("Desk", places, menu=[("First", "/")], accounts=accounts)) as found:
        yield found


def token(client: httpx.Client) -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


def test_whoever_has_not_come_in_sees_and_does_nothing(desk: Desk, link: str) -> None:
    base = link.partition("/enter")[0]
    outside = httpx.Client(base_url=base)
    assert outside.get("/").headers["location"] == "/enter"
    assert outside.get("/", headers={"accept": "text/event-stream"}).status_code == 303
    assert outside.post("/count", data={"by": "x"}).status_code == 403
    assert outside.get("/enter", params={"key": "wrong"}).status_code == 403
    assert "0" not in re.sub(r"<[^>]+>", "", outside.get("/enter").text)
    assert desk.count == 0


def test_the_link_and_a_password_each_let_in(link: str) -> None:
    assert "Now" in visitor(link).get("/").text
    base = link.partition("/enter")[0]
    client = httpx.Client(base_url=base, follow_redirects=True)
    entered = client.post("/enter", data={"name": "kim", "password": PASSWORD})
    assert "Now" in entered.text
    cookie = entered.history[0].headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie


def test_an_action_is_done_once_for_the_form_of_this_stay_and_for_no_other(desk: Desk, link: str) -> None:
    client, other = visitor(link), visitor(link)
    base = str(client.base_url)
    own = token(client)
    for data, headers, status in [
        ({"by": "x"}, {}, 403),
        ({"by": "x", "token": ""}, {}, 403),
        ({"by": "x", "token": token(other)}, {}, 403),
        ({"by": "x", "token": own}, {"origin": "https://evil.example"}, 403),
        ({"by": "x", "token": own}, {"origin": "null"}, 403),
        ({"by": "x", "token": own}, {"origin": "http://["}, 403),
        ({"by": "x" * 70_000, "token": own}, {}, 413),
    ]:
        assert client.post("/count", data=data, headers=headers).status_code == status, (data, headers)
    assert client.post("/count", json={"by": "x", "token": own}).status_code == 413
    assert client.get("/count").status_code == 404
    assert desk.count == 0
    told = client.post("/count", data={"by": HOSTILE, "token": own}, headers={"origin": base.rstrip("/")})
    assert desk.count == 1
    assert "Counted &lt;script&gt;" in told.text
    assert "Counted" not in client.get("/").text


def test_what_a_page_is_made_of_is_text(link: str) -> None:
    text = visitor(link).get("/").text
    assert HOSTILE not in text
    assert re.findall(r"<script[^>]*>", text) == ['<script src="/live.js" defer>']


def test_every_answer_carries_the_headers_and_no_name_of_a_server(link: str) -> None:
    client = visitor(link)
    for path in (
        "/",
        "/enter",
        "/style.css",
        "/live.js",
        "/refused",
        "/broken",
        "/nowhere",
        "/count",
        "/told/",
        "/told",
    ):
        answer = client.get(path, follow_redirects=False)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS, path
        assert "server" not in answer.headers


def test_a_refusal_is_told_by_its_number_and_an_unforeseen_error_by_its_place(link: str) -> None:
    client = visitor(link)
    refused, broken = client.get("/refused"), client.get("/broken")
    assert (refused.status_code, broken.status_code) == (409, 500)
    assert "E911" in refused.text
    assert "test_app.py" in broken.text and "4711" not in broken.text


def test_what_is_for_a_program_is_told_to_who_bears_its_token_alone(link: str) -> None:
    client, program = visitor(link), httpx.Client(base_url=link.partition("/enter")[0])
    assert client.get("/told").status_code == 401
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer \u00e4".encode()):
        assert program.get("/told", headers=[("authorization", given)]).status_code == 401
    assert "Now" in program.get("/told", headers={"authorization": f"Bearer {TOKEN}"}).text
    assert program.get("/", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 303


def test_a_page_asked_for_by_another_name_is_not_shown(link: str) -> None:
    client = visitor(link)
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": f"evil.example:{client.base_url.port}"}).status_code == 421
    assert client.get("/", headers={"host": f"localhost:{client.base_url.port}"}).status_code == 200


def test_whoever_fails_five_times_is_not_heard_for_a_minute(link: str) -> None:
    base = link.partition("/enter")[0]
    client = httpx.Client(base_url=base)
    inside = visitor(link)
    wrong = {"name": "kim", "password": "not the password"}
    assert [client.post("/enter", data=wrong).status_code for _ in range(7)] == [403] * 5 + [429] * 2
    late = client.post("/enter", data={"name": "kim", "password": PASSWORD})
    assert late.status_code == 429
    assert 0 < int(late.headers["retry-after"]) <= 60
    assert client.get(link).status_code == 303, "who has the link is not kept out by others' attempts"
    assert inside.get("/").status_code == 200


def test_an_address_that_one_only_claims_to_be_at_is_no_other_one(link: str) -> None:
    client = httpx.Client(base_url=link.partition("/enter")[0])
    wrong = {"name": "kim", "password": "not the password"}
    claims = [{"x-forwarded-for": f"10.0.0.{number}", "x-forwarded-proto": "https"} for number in range(6)]
    assert [client.post("/enter", data=wrong, headers=one).status_code for one in claims] == [403] * 5 + [429]


def test_whoever_comes_in_by_their_own_account_has_no_more_guesses_at_another(link: str, tmp_path: Path) -> None:
    Accounts(tmp_path / "accounts.json").add("lee", PASSWORD)
    client = httpx.Client(base_url=link.partition("/enter")[0])
    wrong, right = ({"name": name, "password": word} for name, word in (("kim", "not the password"), ("lee", PASSWORD)))
    assert [client.post("/enter", data=each).status_code for each in (*[wrong] * 4, right, wrong, wrong)] == [
        *[403] * 4, 303, 403, 429
    ]  # fmt: skip


def test_what_was_tried_is_forgotten_in_time_and_bounded() -> None:
    throttle = Throttle()
    for number in range(3 * Throttle._KEPT):
        throttle.attempt(str(number))
    assert len(throttle._tried) == Throttle._KEPT


def test_whoever_leaves_is_out(link: str) -> None:
    client = visitor(link)
    assert client.post("/leave", data={"token": "wrong"}).status_code == 403
    assert client.get("/", follow_redirects=False).status_code == 200
    client.post("/leave", data={"token": token(client)})
    assert client.get("/", follow_redirects=False).status_code == 303


def test_the_link_of_whoever_leaves_lets_in_nobody_any_more_and_the_new_one_is_told(
    link: str, capfd: pytest.CaptureFixture[str]
) -> None:
    client, other = visitor(link), visitor(link)
    client.post("/leave", data={"token": "wrong"})
    assert "Open http" not in capfd.readouterr().err and visitor(link).get("/").status_code == 200
    client.post("/leave", data={"token": token(client)})
    again = client.get(link)
    assert again.status_code == 403 and "newest is printed" in again.text
    assert client.get("/", follow_redirects=False).status_code == 303
    assert other.get("/", follow_redirects=False).status_code == 200
    new = capfd.readouterr().err.split()[-1]
    assert new.startswith(link.partition("=")[0]) and new != link
    assert "Now" in visitor(new).get("/").text


def test_the_link_stays_as_it_is_where_somebody_leaves_who_came_by_a_password(link: str) -> None:
    kim = httpx.Client(base_url=link.partition("/enter")[0], follow_redirects=True)
    kim.post("/enter", data={"name": "kim", "password": PASSWORD})
    kim.post("/leave", data={"token": token(kim)})
    assert kim.get("/", follow_redirects=False).status_code == 303
    assert "Now" in visitor(link).get("/").text


def test_a_stay_ends_with_the_account_that_it_is_of(link: str, tmp_path: Path) -> None:
    kim, starter = httpx.Client(base_url=link.partition("/enter")[0]), visitor(link)
    kim.post("/enter", data={"name": "kim", "password": PASSWORD})
    assert kim.get("/").status_code == 200
    Accounts(tmp_path / "accounts.json").remove("kim")
    assert kim.get("/").status_code == 303
    assert starter.get("/", follow_redirects=False).status_code == 200


def test_another_password_ends_every_stay_by_the_old_one(link: str, tmp_path: Path) -> None:
    kim, again = (httpx.Client(base_url=link.partition("/enter")[0]) for _ in range(2))
    kim.post("/enter", data={"name": "kim", "password": PASSWORD})
    assert kim.get("/").status_code == 200
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add("kim", f"another {PASSWORD}")
    assert kim.get("/").status_code == 303
    again.post("/enter", data={"name": "kim", "password": f"another {PASSWORD}"})
    accounts.add("lee", PASSWORD)
    assert again.get("/").status_code == 200


def test_accounts_that_cannot_be_read_are_told_by_their_number_to_who_is_in_too(link: str, tmp_path: Path) -> None:
    kim = httpx.Client(base_url=link.partition("/enter")[0])
    kim.post("/enter", data={"name": "kim", "password": PASSWORD})
    (tmp_path / "accounts.json").write_text("torn")
    for answer in (kim.get("/"), kim.post("/count"), kim.get("/enter")):
        assert (answer.status_code, "E932" in answer.text) == (409, True)
        assert answer.headers["x-frame-options"] == "DENY" and "Now" not in answer.text


def test_a_live_page_that_breaks_ends_and_tells_the_place_alone(link: str, caplog: pytest.LogCaptureFixture) -> None:
    client = visitor(link)
    with client.stream("GET", "/broken", headers={"accept": "text/event-stream"}) as stream:
        assert list(stream.iter_lines()) == []
    assert "test_app.py" in caplog.text and "4711" not in caplog.text and "Traceback" not in caplog.text


def test_an_action_that_finds_no_space_is_told_by_its_number(desk: Desk, link: str) -> None:
    client = visitor(link)
    own = token(client)
    desk.full = True
    told = client.post("/count", data={"by": "x", "token": own})
    assert (told.status_code, "E821" in told.text) == (409, True)


def test_a_live_page_sends_what_changed_and_ends_with_the_stay(desk: Desk, link: str) -> None:
    client = visitor(link)
    own = token(client)
    with client.stream("GET", "/", headers={"accept": "text/event-stream"}) as stream:
        lines = (line for line in stream.iter_lines() if line.startswith(("event", "data")))
        assert next(lines) == "event: section"
        assert '"id": "section-now"' in next(lines)
        client.post("/count", data={"by": "x", "token": own})
        assert next(lines) == "event: section"
        assert " 1</p>" in next(lines)
        client.post("/leave", data={"token": own})
        assert next(lines) == "event: end"


def test_pages_go_beyond_this_machine_by_tls_and_with_accounts_alone(tmp_path: Path) -> None:
    tls = (tmp_path / "certificate.pem", tmp_path / "key.pem")
    require_guarded("127.0.0.1", None, ())
    require_guarded("0.0.0.0", tls, ("kim",))
    for host, given, names in [("0.0.0.0", None, ("kim",)), ("0.0.0.0", tls, ()), ("dash.example", None, ())]:
        with pytest.raises(FedReasonError) as refused:
            require_guarded(host, given, names)
        assert refused.value.code is Code.PAGES_EXPOSED
    assert [is_loopback(name) for name in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1")] == [True] * 3 + [
        False
    ] * 2


def test_a_port_in_use_and_a_missing_certificate_are_refused_by_number(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(FedReasonError) as refused:
            Server(Pages("Desk", []), "127.0.0.1", taken.getsockname()[1])
        assert refused.value.code is Code.PORT_IN_USE
    assert tls_of(None, None) is None and tls_of(Path("a"), Path("b")) == (Path("a"), Path("b"))
    for pair in ((Path("a"), None), (None, Path("b"))):
        with pytest.raises(FedReasonError) as refused:
            tls_of(*pair)
        assert refused.value.code is Code.PAGES_EXPOSED
    with pytest.raises(FedReasonError) as refused:
        Server(Pages("Desk", []), "127.0.0.1", 0, (tmp_path / "none.pem", tmp_path / "none.key"))
    assert refused.value.code is Code.PAGES_EXPOSED


def test_a_port_is_taken_before_anything_is_served_there() -> None:
    first = Server(Pages("Desk", []), "127.0.0.1", 0)
    try:
        with pytest.raises(FedReasonError) as refused:
            Server(Pages("Desk", []), "127.0.0.1", int(first.link.split(":")[2].partition("/")[0]))
        assert refused.value.code is Code.PORT_IN_USE
    finally:
        first._socket.close()
