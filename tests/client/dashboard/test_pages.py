"""The pages of a site say what its commands say, change nothing but a pause, and one damaged file hides no other."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from html import unescape
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.dashboard.left import ON_A_PAGE
from client.dashboard.site import MENU, pages
from client.node.hours import paused
from client.node.outbox import LOG, Outbox
from client.policy.policy import POLICY_FILE
from client.privacy.chain import LEDGER, ledger_folder
from client.training.log import log_folder
from client.training.states import FILE, Attempt, Attempts, State, read_attempts
from tests.client.dashboard.scene import HOSTILE, at_work, hospital, plan_file
from tests.common.web.served import served, visitor


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEDREASON_STATE", str(tmp_path / "machine"))
    return hospital(tmp_path / "federation")


@pytest.fixture
def visit(site: Path, tmp_path: Path) -> Iterator[httpx.Client]:
    with served(pages(site, [plan_file(tmp_path)])) as link, closing(visitor(link)) as client:
        client.timeout = httpx.Timeout(120)
        yield client


def text(response: httpx.Response) -> str:
    """Return what a page says, without its markup."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", response.text)).split())


def post(visit: httpx.Client, path: str, **form: str) -> httpx.Response:
    found = re.search(r'name="token" value="([^"]+)"', visit.get("/").text)
    assert found
    return visit.post(path, data={"token": found[1], **form})


def told(site: Path, command: str, *more: str) -> Any:
    return json.loads(CliRunner().invoke(app, [command, "--site", str(site), "--json", *more]).stdout)


def files(site: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in site.rglob("*") if path.is_file()}


def test_the_page_to_sign_says_the_numbers_of_the_commands(site: Path, visit: httpx.Client) -> None:
    status = at_work(site)
    page = text(visit.get("/signature"))
    spent, left = told(site, "ledger"), told(site, "outbox")
    assert f"epsilon spent {spent['epsilon']:.4g} delta {spent['delta']:g} cap {spent['cap']:g} left" in page
    assert f"left {spent['left']:.4g} releases {spent['releases']}" in page
    assert f"head of the ledger {spent['head']['sequence']} {spent['head']['sha256']}" in page
    assert [run["run"] for run in spent["runs"]] == ["trial"]
    size = sum(entry["bytes"] for entry in left)
    assert f"messages {len(left)} bytes {size} arrival not known {sum(e['sent'] is None for e in left)}" in page
    contributions = [entry["bytes"] for entry in left if entry["kind"] == "contribution"]
    assert f"contribution {len(contributions)} {sum(contributions)}" in page
    assert f"state {status.state} coordinator last heard {told(site, 'status')['contact'][:10]}" in page
    shown = CliRunner().invoke(app, ["policy", "verify", "--site", str(site)]).stdout
    assert re.findall(r"sha256 +(\S+)", shown)[0] in page and re.findall(r"by (SHA256:\S+)", shown)[0] in page
    roster = CliRunner().invoke(app, ["roster", "show", "--site", str(site)]).stdout
    prints = re.findall(r"SHA256:\S+", roster)
    assert len(prints) == 4 and all(fingerprint in page for fingerprint in prints)
    assert "lines of excluded.txt fewer than 10" in page and "Not complete" not in page


def test_looking_at_every_page_changes_no_file(site: Path, visit: httpx.Client) -> None:
    before = files(site)
    for _, path in MENU:
        assert visit.get(path).status_code == 200, path
    for path, form in (("/questions/shown", {"count": "2"}), ("/ledger/verify", {}), ("/ledger/plan", {"plan": "0"})):
        assert post(visit, path, **form).status_code == 200, path
    assert visit.get("/outbox/6").content == b"\x07" * 106
    assert files(site) == before


def damaged_file(site: Path, name: str) -> tuple[Path, bytes]:
    """Return a file and what it is damaged by."""
    return {
        "ledger": (ledger_folder(site) / LEDGER, b"no line\n" * 3),
        "policy": (site / POLICY_FILE, b"metrics = 3\n"),
        "outbox": (site / "state" / "outbox" / LOG, b'{"state":"sending","number":1,"time":3}\n' + b"[" * 9999 + b"\n"),
        "attempts": (site / "state" / FILE, b"{}\n"),
        "site.toml": (site / "site.toml", b"name = <"),
        "log": (log_folder(site) / "trial.jsonl", b'{"round": "x"}\n\xff\n'),
        "roster": (site / "roster.json", b"{}"),
    }[name]


BROKEN = {
    "ledger": {"/ledger": "E843", "/signature": "E843"},
    "policy": {"/policy": "E833", "/ledger": "E833", "/signature": "E833"},
    "outbox": {"/outbox": "E865", "/signature": "E865"},
    "attempts": {"/": "E843"},
    "site.toml": {"/": "E102", "/ledger": "E102", "/questions": "E102", "/signature": "E102"},
    "log": {},
    "roster": {"/signature": "E713"},
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_damaged_is_told_by_its_number_where_it_is_shown_and_nowhere_else(
    site: Path, visit: httpx.Client, name: str
) -> None:
    path, content = damaged_file(site, name)
    path.write_bytes(content)
    for _, place in MENU:
        response = visit.get(place)
        found = set(re.findall(r'class="warn">(?:<a href="[^"]*">)?(E\d+)', response.text))
        assert response.status_code == 200
        assert found == ({BROKEN[name][place]} if place in BROKEN[name] else set()), place
    page = text(visit.get("/signature"))
    assert ("not to be signed" in page) == ("/signature" in BROKEN[name])


MESSAGE = {"state": "sending", "number": 8, "time": "2026-11-27T00:00:00+00:00", "kind": "contribution", "run": "trial"}
MESSAGE |= {"round": 8, "bytes": 9, "sha256": "ab"}
ODD: list[Any] = [
    {"state": "sent", "number": math.inf, "time": "x"},
    3,
    "resumed",
    {"state": "sending"},
    {"state": "sent", "number": 1},
]
ODD += [MESSAGE | wrong for wrong in ({"bytes": "9"}, {"time": "today"}, {"kind": None}, {"round": 1.5}, {"more": 1})]


@pytest.mark.parametrize("line", [json.dumps(odd).encode() for odd in ODD])
def test_any_line_that_says_nothing_of_a_message_is_told(site: Path, visit: httpx.Client, line: bytes) -> None:
    with (site / "state" / "outbox" / LOG).open("ab") as log:
        log.write(line + b"\n")
    page = text(visit.get("/outbox"))
    assert "E865" in page and "1 lines" in page and "messages 7 " in page


def test_a_log_of_training_that_cannot_be_read_takes_the_list_of_runs_not_with_it(
    site: Path, visit: httpx.Client
) -> None:
    (log_folder(site) / "gone.jsonl").symlink_to(site / "nowhere")
    (log_folder(site) / "trial.jsonl").unlink()
    (log_folder(site) / "trial.jsonl").mkdir()
    page = text(visit.get("/training"))
    assert "trial" in page and page.count("E506") == 2 and "gone" not in page


def test_a_site_whose_attempts_cannot_be_read_stays_paused_and_can_be_paused(site: Path, visit: httpx.Client) -> None:
    post(visit, "/pause", reason="kept")
    (site / "state" / FILE).write_bytes(b"{}\n")
    assert "E843" in text(post(visit, "/resume")) and paused(site) == "kept"
    (site / "state" / FILE).unlink()
    (site / "state" / FILE).mkdir()
    assert "Resume" in text(visit.get("/")) and paused(site) == "kept"


def test_a_pause_and_its_end_are_those_of_the_commands(site: Path, visit: httpx.Client) -> None:
    assert paused(site) is None
    assert HOSTILE not in post(visit, "/pause", reason=f"{HOSTILE} of\nthe ward").text
    assert paused(site) == f"{HOSTILE} of the ward"
    assert visit.get("/pause").status_code == visit.get("/resume").status_code == 404
    assert visit.post("/resume", data={"token": "another"}).status_code == 403
    assert paused(site) is not None
    assert "Resumed." in text(post(visit, "/resume"))
    assert paused(site) is None
    post(visit, "/pause", reason="r" * 60_000)
    assert paused(site) == "r" * 200, "no longer than the field on the page takes"


def test_what_ended_in_silence_is_shown_until_a_person_has_looked(site: Path, visit: httpx.Client) -> None:
    attempts = Attempts(site)
    for number in range(2):
        attempts.enter(Attempt(HOSTILE, number, 0, "fedsgd-local"), State.SILENT)
    page = visit.get("/")
    assert "E817" in page.text and HOSTILE not in page.text and f"{HOSTILE} 0 2 0 2" in text(page)
    post(visit, "/resume")
    assert read_attempts(site).deaths == {}
    assert f"{HOSTILE} 0 2 0 0" in text(visit.get("/"))


def test_messages_are_shown_page_by_page_and_a_day_says_its_whole_total(site: Path, visit: httpx.Client) -> None:
    outbox = Outbox(site / "state" / "outbox", keep=1)
    for number in range(ON_A_PAGE):
        outbox.sent(outbox.record(HOSTILE, "trial", number, b"x"))
    first, last = visit.get("/outbox"), visit.get("/outbox?page=2")
    assert "Page 1 of 2. Earlier messages" in text(first) and "Page 2 of 2. Later messages" in text(last)
    assert HOSTILE not in first.text
    rows = [len(re.findall(r'<tr class="sub">', page.text)) for page in (first, last)]
    assert rows == [ON_A_PAGE, 7]
    for page in (first, last):
        assert "107 in all 723" in text(page)
    for odd in ("0", "-1", "9", "x", "²", "9" * 40):
        assert visit.get("/outbox", params={"page": odd}).status_code == 200


def test_a_log_that_was_moved_to_an_archive_is_missed_on_the_page_to_sign(site: Path, visit: httpx.Client) -> None:
    assert "archived" not in text(visit.get("/signature")) + text(visit.get("/outbox"))
    log = site / "state" / "outbox" / LOG
    log.write_text("".join(log.read_text().splitlines(keepends=True)[4:]))
    for path in ("/outbox", "/signature"):
        page = text(visit.get(path))
        assert "messages 5 " in page and "Not here: 2 messages" in page and "all before number 3;" in page


@pytest.mark.parametrize("number", ["1", "99", "../../../keys/signing", "x", "٣"])
def test_no_file_but_a_message_that_is_kept_is_given(site: Path, visit: httpx.Client, number: str) -> None:
    assert visit.get(f"/outbox/{number}").headers["content-type"].startswith("text/html")


def test_only_plans_that_the_command_line_named_are_told(site: Path, visit: httpx.Client) -> None:
    planned = text(post(visit, "/ledger/plan", plan="0"))
    assert "run: planned: 20 rounds of fedsgd" in planned and "The policy allows it" in planned
    for odd in ("7", "/etc/passwd", "", "-1"):
        assert "run: planned" in text(post(visit, "/ledger/plan", plan=odd))


def test_every_line_is_checked_when_asked_and_what_was_added_since_is_not_said_to_be(
    site: Path, visit: httpx.Client
) -> None:
    from client.privacy.ledger import Ledger
    from tests.privacy_checks.ledger import release

    held = "Every signature and cost held"
    assert held not in text(visit.get("/signature"))
    post(visit, "/ledger/verify")
    assert held in text(visit.get("/signature"))
    Ledger.opened(site).charge(release(9), cap=100.0)
    assert held not in text(visit.get("/signature"))


def test_a_site_that_never_ran_has_its_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.hospitals import federation_of

    monkeypatch.setenv("FEDREASON_STATE", str(tmp_path / "machine"))
    new, _ = federation_of(tmp_path / "federation", "amc", "snubh")
    with served(pages(new)) as link, closing(visitor(link)) as client:
        for _, path in MENU:
            response = client.get(path)
            assert response.status_code == 200 and not re.search(r'class="warn">E', response.text), path
