"""A review over a real socket: blinded, each rater's own, saved at once, and text is text."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy.event import listens_for

from client.review.order import turns
from client.review.scale import AXES, LONGEST_COMMENT
from client.review.store import ReviewStore
from tests.reviewed import HOSTILE, PASSWORD, SECRET, open_desk, ready, site_of

CASES = 6


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = site_of(tmp_path / "amc", patients=1)
    ready(folder, CASES)
    return folder


@pytest.fixture
def desk(site: Path) -> Iterator[tuple[str, ReviewStore]]:
    with open_desk(site) as opened:
        yield opened


def come_in(link: str, rater: str) -> httpx.Client:
    client = httpx.Client(base_url=link.partition("/enter")[0], follow_redirects=True)
    assert "Your cases" in client.post("/enter", data={"name": rater, "password": PASSWORD}).text
    return client


def send(client: httpx.Client, address: str, **form: object) -> httpx.Response:
    found = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert found
    return client.post(address, data={"token": found[1], **form})


def without_token(text: str) -> str:
    return re.sub(r'name="token" value="[^"]+"', "", text)


def test_pages_of_exchanged_models_differ_by_the_answers_alone(tmp_path: Path) -> None:
    """Same secret, same rater: what is served is the same bytes once the answers are exchanged."""
    pages = []
    for swapped in (False, True):
        folder = site_of(tmp_path / f"site{swapped}", patients=1)
        ready(folder, CASES, swapped=swapped)
        with open_desk(folder, raters=["kim"]) as (link, _):
            client = come_in(link, "kim")
            pages.append([without_token(client.get(path).text) for path in ("/", *(f"/case/{n}" for n in range(1, 7)))])
    for one, other in zip(*pages, strict=True):
        exchanged = one.replace("by answer Z", "by answer ?").replace("by answer M", "by answer Z")
        assert exchanged.replace("by answer ?", "by answer M") == other
        assert "ZEPHYR" not in one and "MISTRAL" not in one
        assert "first" not in re.sub(r"first page", "", one) and "second" not in one
    assert pages[0] != pages[1]


def test_a_rater_sees_their_own_order_and_sides(desk: tuple[str, ReviewStore]) -> None:
    link, _ = desk
    for rater in ("kim", "lee"):
        client = come_in(link, rater)
        for place, turn in enumerate(turns(SECRET, rater, range(1, CASES + 1)), start=1):
            shown = re.findall(r"Because\. (\d+) by answer ([ZM])", client.get(f"/case/{place}").text)
            left, right = ("Z", "M") if turn.left == "first" else ("M", "Z")
            assert shown == [(str(turn.case), left), (str(turn.case), right)]


def test_what_was_sent_is_on_disk_before_the_answer_comes(desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    client = come_in(link, "kim")
    answer = send(client, "/case/2/rate", overall="-1", harm="2", therapy="", comment="line\r\nline")
    assert "Case 2 is saved." in answer.text and "<h1>Case 3</h1>" in answer.text
    (row,) = sqlite3.connect(store.path).execute("select rater, answers, comment, skipped from ratings")
    assert row == ("kim", '{"harm": 2, "overall": -1}', "line\nline", 0)
    again = client.get("/case/2").text
    checked = re.findall(r'name="(\w+)" value="(-?\d*)" checked', again)
    assert checked == [("reasoning", ""), ("evidence", ""), ("therapy", ""), ("harm", "2"), ("overall", "-1")]
    send(client, "/case/2/rate", overall="1", comment="")
    (changed,) = store.ratings()
    assert (changed.answers, changed.comment) == ({"overall": 1}, "")


def test_an_unfinished_rating_is_kept_and_asked_for_again(desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    client = come_in(link, "kim")
    answer = send(client, "/case/1/rate", reasoning="1", comment="half")
    assert "overall preference is still missing" in answer.text and "<h1>Case 1</h1>" in answer.text
    assert store.ratings()[0].answers == {"reasoning": 1}
    assert "0 of 6 cases are rated" in client.get("/").text


def test_a_skipped_case_keeps_what_was_said_and_the_last_leads_to_the_overview(desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    client = come_in(link, "kim")
    send(client, "/case/1/rate", overall="1", comment="mine")
    send(client, "/case/1/skip")
    (row,) = store.ratings()
    assert (row.skipped, row.answers, row.comment) == (True, {"overall": 1}, "mine")
    for place in range(2, CASES + 1):
        answer = send(client, f"/case/{place}/rate", overall="0")
    assert "5 of 6 cases are rated, 1 skipped" in answer.text and "Thank you" in answer.text
    send(client, "/case/1/rate", overall="1")
    assert "6 of 6 cases are rated, 0 skipped" in client.get("/").text


def test_nobody_reads_or_changes_what_another_said(desk: tuple[str, ReviewStore]) -> None:
    """There is no address of another's rating, and a form that names somebody is not heard."""
    link, store = desk
    kim, lee = come_in(link, "kim"), come_in(link, "lee")
    for place in range(1, CASES + 1):
        send(kim, f"/case/{place}/rate", overall="2", comment="only mine 4711")
    assert all("4711" not in lee.get(path).text for path in ("/", *(f"/case/{n}" for n in range(1, CASES + 1))))
    assert all("checked" not in lee.get(f"/case/{place}").text for place in range(1, CASES + 1))
    send(lee, "/case/1/rate", overall="-2", rater="kim", user="kim", name="kim", case="3", left="first")
    theirs = {row.rater: row for row in store.ratings() if row.rater == "lee"}
    assert len(theirs) == 1 and all(row.answers == {"overall": 2} for row in store.ratings("kim"))
    assert theirs["lee"].case == turns(SECRET, "lee", range(1, CASES + 1))[0].case


@pytest.mark.parametrize("place", ["0", "7", "-1", "01x", "1e0", "\u0661", "9" * 40, "1'--"])
def test_a_case_outside_is_refused_by_number(desk: tuple[str, ReviewStore], place: str) -> None:
    link, store = desk
    client = come_in(link, "kim")
    assert "E895" in client.get(f"/case/{place}").text
    assert send(client, f"/case/{place}/rate", overall="1").status_code == 409
    assert store.ratings() == []


@pytest.mark.parametrize(
    "form",
    [
        {"overall": "3"},
        {"overall": "1.0"},
        {"overall": "\u0661"},
        {"harm": "<b>", "overall": "1"},
        {"overall": "1", "comment": "x" * (LONGEST_COMMENT + 1)},
    ],
)
def test_what_no_button_says_is_refused_and_changes_nothing(
    desk: tuple[str, ReviewStore], form: dict[str, str]
) -> None:
    link, store = desk
    client = come_in(link, "kim")
    send(client, "/case/1/rate", overall="1", comment="before")
    answer = send(client, "/case/1/rate", **form)
    assert (answer.status_code, "E895" in answer.text) == (409, True)
    assert [(row.answers, row.comment) for row in store.ratings()] == [({"overall": 1}, "before")]


def test_the_longest_comment_of_any_script_is_taken(desk: tuple[str, ReviewStore]) -> None:
    """A line break is one character of the field and two of the form; nothing here may be too long for the form."""
    link, store = desk
    client = come_in(link, "kim")
    for text in ("환" * LONGEST_COMMENT, "x\r\n" * 1999 + "x", "\U0001f9ea" * (LONGEST_COMMENT // 2)):
        assert "is saved" in send(client, "/case/1/rate", overall="1", comment=text).text
        assert store.ratings()[0].comment == text.replace("\r\n", "\n")


def test_records_answers_and_comments_are_text(desk: tuple[str, ReviewStore]) -> None:
    link, _ = desk
    client = come_in(link, "kim")
    send(client, "/case/1/rate", overall="1", comment=f"</textarea>{HOSTILE}")
    text = client.get("/case/1").text
    assert "<script" not in text and "<b>bold" not in text
    assert "&lt;/textarea&gt;&lt;script&gt;" in text


def test_whoever_started_it_sees_how_far_raters_are_and_rates_nothing(desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    send(come_in(link, "kim"), "/case/1/rate", overall="1", comment="secret 4711")
    starter = httpx.Client(base_url=link.partition("/enter")[0], follow_redirects=True)
    overview = starter.get(link).text
    assert re.search(r'<th scope="row">kim</th><td>1</td><td>0</td><td>6</td>', overview)
    assert re.search(r'<th scope="row">lee</th><td>0</td>', overview) and "4711" not in overview
    assert "E895" in starter.get("/case/1").text
    assert send(starter, "/case/1/rate", overall="1").status_code == 409
    assert len(store.ratings()) == 1


def test_raters_who_save_at_the_same_time_are_all_heard(desk: tuple[str, ReviewStore]) -> None:
    link, store = desk
    clients = [come_in(link, rater) for rater in ("kim", "lee")]

    def rate_all(client: httpx.Client) -> None:
        for place in range(1, CASES + 1):
            assert "is saved" in send(client, f"/case/{place}/rate", overall="1").text

    with ThreadPoolExecutor() as together:
        list(together.map(rate_all, clients))
    assert len(store.ratings()) == 2 * CASES


def test_a_case_that_is_withdrawn_while_pages_are_shown_is_gone_from_them(
    site: Path, desk: tuple[str, ReviewStore]
) -> None:
    link, store = desk
    client, order = come_in(link, "kim"), turns(SECRET, "kim", range(1, CASES + 1))
    gone = order[1].case
    assert "Record and question" in client.get("/case/2").text
    (site / "excluded.txt").write_text(f"P{gone}\n")
    assert "Case 2<" not in client.get("/").text and "Cases taken out since: 1." in client.get("/").text
    assert "E895" in client.get("/case/2").text
    assert "E895" in send(client, "/case/2/rate", overall="1").text
    store.rate(gone, "kim", "first", {"overall": 1}, "sent at the same time")
    with ReviewStore.opened(site, "review", required=False):
        assert store.ratings() == []


def test_a_full_disk_is_told_by_its_number_and_nothing_that_was_saved_is_lost(
    desk: tuple[str, ReviewStore],
) -> None:
    """SQLite is given no more pages than it has, and refuses as on a disk that is full."""
    link, store = desk
    client = come_in(link, "kim")
    send(client, "/case/1/rate", overall="1", comment="before")

    def full(connection: sqlite3.Connection, _: object) -> None:
        connection.execute("PRAGMA max_page_count=1")

    store._engine.dispose()
    listens_for(store._engine, "connect")(full)
    answer = send(client, "/case/2/rate", overall="1", comment="x" * 4000)
    for place in range(3, CASES + 1):
        answer = send(client, f"/case/{place}/rate", overall="1", comment="x" * 4000)
    assert "E821" in answer.text and answer.status_code == 409
    assert store.ratings()[0].comment == "before"


def test_all_axes_are_asked_of_every_case(desk: tuple[str, ReviewStore]) -> None:
    link, _ = desk
    text = come_in(link, "kim").get("/case/1").text
    assert re.findall(r"<legend>([^<]+)</legend>", text) == list(AXES.values())
    assert text.count('type="radio"') == 6 * (len(AXES) - 1) + 5
