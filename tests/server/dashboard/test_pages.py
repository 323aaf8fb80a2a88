"""The coordinator's pages over a real socket: what they tell, who may do what, and that a name is only ever text."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from bench.stored import stored
from bench.waiting import until
from common.errors import Code
from server.dashboard.jobs import Job
from server.dashboard.metrics import TYPE
from server.dashboard.site import _answers
from server.provisioning.federation import Federation
from server.rounds.standing import FILE, StandingFile
from tests.common.web.served import visitor
from tests.federations import made, refused
from tests.paths import ROOT
from tests.server.dashboard.scene import TOKEN, Desk, opened, run_of
from tests.small import write_config

HOSTILE = "<script>alert(1)</script>"
MARKED = "<img src=x onerror=alert(1)>"
"""Name of a run's folder, which nobody but the coordinator can make."""


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """Three sites, of whom none was admitted yet; a run under way, one that stopped, one with a hostile site."""
    found = made(tmp_path, ["amc", "snubh", "smc"], name="fed").federation
    stored(found.runs / "trial", run_of("trial", private=True), ["amc", "snubh", "smc"], 12)
    for name, site in (("halted", "west"), ("hostile", HOSTILE)):
        (found.runs / name).mkdir()
        told = StandingFile(found.runs / name / FILE, 5)
        refused = {site: int(Code.BUDGET_SPENT)}
        told.tell(state="stopped", round=2, code=503, found=f"{site} refused.", fix="Ask it.", refused=refused)
    stored(found.runs / MARKED, run_of("marked"), [HOSTILE, "snubh", "smc"], 12)
    return found


@pytest.fixture
def desk(federation: Federation) -> Iterator[Desk]:
    with opened(federation) as found:
        yield found


def text_of(answer: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"</?a\b[^>]*>", "", answer.text)))


def form(client: httpx.Client, path: str = "/") -> str:
    found = re.search(r'name="token" value="([^"]+)"', client.get(path).text)
    assert found
    return found[1]


def test_the_first_page_tells_what_needs_somebody_who_is_there_and_how_each_run_stands(desk: Desk) -> None:
    text = text_of(visitor(desk.link).get("/"))
    assert "flower-superlink does not answer: python -m server up" in text
    assert "halted stopped in round 2: E503: west refused. Ask it." in text
    assert f"refused: west (E{int(Code.BUDGET_SPENT)} budget spent)" in text
    assert "not admitted" in text and "0 of 3 sites are there" in text
    assert re.search(r"CA certificate until \d{4}-\d\d-\d\d \(\d{4} days\)", text)
    assert re.search(r"trial running 13 of 3 ", text)


def test_a_run_s_page_tells_its_standing_each_answer_and_its_curves(desk: Desk) -> None:
    text = text_of(visitor(desk.link).get("/runs/trial"))
    for told in (
        "Round 13 of 3",
        "Quorum 2 of 3 sites",
        "Waits for amc, snubh, smc",
        "Mean reward",
        "Held-out accuracy",
        "Bytes and seconds by round",
        "Rounds that went on without a site",
        "E507 RUN_ABSENT",
        "Deadline of this exchange",
        "no process works on it now",
        "epsilon, gradients",
        "Seconds and bytes by stage",
    ):
        assert told in text, told


def test_a_run_s_page_tells_the_stages_of_its_last_rounds_and_leads_to_each_round(desk: Desk) -> None:
    client = visitor(desk.link)
    answer = client.get("/runs/trial")
    assert '<a href="/runs/trial/round?number=12">12</a>' in answer.text
    assert "train, slowest site evaluate, slowest site" in text_of(answer)
    row = r"10 10.3 s \((snubh|smc)\) 2.1 s \((snubh|smc)\)"
    assert re.search(row, text_of(answer)), "the site that was away was not the slowest"
    text = text_of(client.get("/runs/trial/round?number=10"))
    assert "train 13.0 1.500 kB 3.000 kB" not in text
    assert "no answer 0 B 0 B" in text and f"E{int(Code.RUN_ABSENT)} run absent" in text
    assert "Earlier: round 9 Later: round 11" in text


@pytest.mark.parametrize("number", ["", "0", "-1", "13", "9" * 30, "x", HOSTILE])
def test_a_round_that_is_not_there_is_the_nearest_that_is(desk: Desk, number: str) -> None:
    answer = visitor(desk.link).get("/runs/trial/round", params={"number": number})
    assert answer.status_code == 200
    assert re.search(r"<h1>Round (0|12) of trial</h1>", answer.text) and HOSTILE not in answer.text


def test_a_run_of_a_version_that_kept_no_stages_is_shown_without_them(desk: Desk, federation: Federation) -> None:
    with closing(sqlite3.connect(federation.runs / "trial" / "rounds.sqlite")) as link, link:
        link.execute("drop table stages")
    client = visitor(desk.link)
    assert "Nothing is known of this round's stages" in text_of(client.get("/runs/trial")).replace("&#x27;", "'")
    assert client.get("/runs/trial/round?number=3").status_code == 200


def test_each_number_leads_to_what_it_means(desk: Desk) -> None:
    client = visitor(desk.link)
    number = int(Code.BUDGET_SPENT)
    assert f'<a href="/errors/{number}">E{number}</a>' in client.get("/runs/halted").text
    assert "LEDGER" not in client.get(f"/errors/{number}").text and "cap" in client.get(f"/errors/{number}").text


def test_a_refusal_is_told_with_its_number_and_with_what_the_coordinator_can_do(desk: Desk) -> None:
    text = text_of(visitor(desk.link).get("/runs/halted"))
    assert f"west refused: E{int(Code.BUDGET_SPENT)} budget spent (its privacy budget does not cover" in text


def test_a_hostile_name_is_text_on_every_page(desk: Desk) -> None:
    client = visitor(desk.link)
    for path in (
        "/",
        "/runs/hostile",
        "/runs/hostile/abort",
        f"/runs/{quote(MARKED)}",
        f"/runs/{quote(MARKED)}/abort",
        f"/runs/{quote(MARKED)}/round",
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert HOSTILE not in answer.text and MARKED not in answer.text
        assert set(re.findall(r"<script[^>]*>", answer.text)) <= {'<script src="/live.js" defer>'}
    assert "&lt;script&gt;" in client.get("/runs/hostile").text
    metrics = client.get("/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    assert f'site="{HOSTILE}"' in metrics


@pytest.mark.parametrize("path", ["/runs/none", "/runs/%252e%252e", "/actions/7", "/runs/none/abort", "/up"])
def test_what_is_not_there_is_refused_by_number(desk: Desk, path: str) -> None:
    answer = visitor(desk.link).get(path)
    assert answer.status_code in (404, 409)
    assert answer.status_code == 404 or "E911" in answer.text


@pytest.mark.parametrize("path", ["/start", "/ask", "/abort", "/stop-services", "/take-back"])
def test_nothing_is_done_for_who_is_not_in_or_by_a_form_of_another_place(desk: Desk, path: str) -> None:
    data = {"file": "trial.toml", "run": "trial", "number": "1"}
    assert httpx.post(f"{desk.base}{path}", data=data).status_code == 403
    client = visitor(desk.link)
    assert client.post(path, data=data).status_code == 403
    evil = {"origin": "https://evil.example"}
    assert client.post(path, data=data | {"token": form(client)}, headers=evil).status_code == 403
    assert client.get(path).status_code in (404, 405)
    assert desk.site.jobs.all == [] and desk.told == []


def test_a_run_is_started_and_asked_about_by_the_files_of_one_folder_alone(
    desk: Desk, federation: Federation, tmp_path: Path
) -> None:
    client = visitor(desk.link)
    assert "There is no run configuration in" in text_of(client.get("/"))
    configs = federation.folder / "configs"
    configs.mkdir()
    path = write_config(tmp_path, Path("none"), name="fresh", federation={"name": "fed"})
    shutil.copy(path, configs / "fresh.toml")
    (configs / "broken.toml").write_text("name =")
    token = form(client)
    for name in ("../federation.toml", str(path), "", "none.toml", "fresh.toml\0"):
        answer = client.post("/ask", data={"file": name, "token": token})
        assert (answer.status_code, "E1" in answer.text) == (409, True), name
    assert client.post("/start", data={"file": "broken.toml", "token": token}).status_code == 409
    assert desk.site.jobs.all == []
    answer = client.post("/ask", data={"file": "fresh.toml", "token": token})
    assert re.search("/actions/1$", str(answer.url))
    until(lambda: desk.site.jobs.find("1").ended)
    text = text_of(client.get("/actions/1"))
    assert "exit status 1" in text and "E903" in text
    assert desk.told == ["you: ask fresh", "ask fresh: exit status 1"]
    assert "ask fresh" in text_of(client.get("/"))


def test_an_abort_is_confirmed_first_and_its_outcome_is_told(desk: Desk) -> None:
    client = visitor(desk.link)
    page = client.get("/runs/trial/abort")
    assert "What was done is kept" in page.text and desk.site.jobs.all == []
    client.post("/abort", data={"run": "trial", "token": form(client, "/runs/trial/abort")})
    until(lambda: desk.site.jobs.find("1").ended)
    assert "E903" in text_of(client.get("/actions/1"))
    again = client.post("/abort", data={"run": "none", "token": form(client)})
    assert again.status_code == 409 and "E911" in again.text


def test_the_same_is_not_begun_twice_and_not_too_much_at_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.dashboard.jobs.COMMAND", ("sh", "-c", "exec sleep 600"))
    jobs = desk.site.jobs
    for about in ("a", "b", "c", "d"):
        jobs.begin("ask", about, "kim", ["ask"])
    for about in ("a", "e"):
        refused(Code.RUN_LOCKED, lambda about=about: jobs.begin("ask", about, "kim", ["ask"]))  # type: ignore[misc]
    jobs.take_back("1")
    until(lambda: jobs.find("1").ended)
    assert jobs.find("1").outcome == "taken back"
    jobs.end()
    until(lambda: all(job.ended for job in jobs.all))


def test_answers_to_a_question_are_shown_with_what_can_be_done() -> None:
    sites = [
        {"site": "amc", "code": None, "takes_part": True, "answer": "takes part", "seconds_per_round": 60.0,
         "bytes_up": 4000, "bytes_down": 2000},
        {"site": HOSTILE, "code": 832, "takes_part": False, "answer": "refused", "seconds_per_round": None},
    ]  # fmt: skip
    job = Job(1, "ask", "trial", "kim", datetime.now(UTC), None)  # type: ignore[arg-type]
    job.ended, job.answer = datetime.now(UTC), json.dumps({"quorum": 2, "sites": sites})
    shown = _answers(job)
    assert "1 of 2 sites would take part; the quorum is 2." in shown
    assert "E832 policy refused" in shown and HOSTILE not in shown
    job.answer = "not what was expected"
    assert _answers(job) == ""


def test_metrics_are_told_to_who_bears_the_token_alone(desk: Desk) -> None:
    url = f"{desk.base}/metrics"
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        assert httpx.get(url, headers=header).status_code == 401
    assert visitor(desk.link).get("/metrics").status_code == 401
    answer = httpx.get(url, headers={"authorization": f"Bearer {TOKEN}"})
    assert answer.headers["content-type"] == TYPE
    lines = answer.text.splitlines()
    assert 'fedreason_run_finished_rounds{run="trial"} 12.0' in lines
    assert 'fedreason_site_online{site="amc"} 0.0' in lines
    assert 'fedreason_run_state{run="halted",state="stopped"} 1.0' in lines
    assert any(line.startswith('fedreason_certificate_expiry_timestamp_seconds{certificate="CA"} ') for line in lines)
    sample = re.compile(r'[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? -?[0-9.e+]+')
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names))
    assert [line for line in lines if not line.startswith("#") and not sample.fullmatch(line)] == []


def test_what_the_grafana_dashboard_asks_for_is_told(desk: Desk) -> None:
    """Of a run with `[privacy]` and one that sites are left out of now, all figures are there."""
    document = json.loads((ROOT / "docs" / "grafana.json").read_text())
    asked = {name for panel in document["panels"] for name in re.findall(r"fedreason_\w+", panel["targets"][0]["expr"])}
    told = httpx.get(f"{desk.base}/metrics", headers={"authorization": f"Bearer {TOKEN}"}).text
    names = set(re.findall(r"^# TYPE (\S+)", told, re.MULTILINE))
    assert len(asked) > 10 and asked <= names


@pytest.mark.parametrize("broken", ["damaged", "journal"])
def test_a_database_that_cannot_be_read_is_said_so_and_the_rest_is_told(
    desk: Desk, federation: Federation, broken: str
) -> None:
    folder = federation.runs / "trial"
    if broken == "damaged":
        (folder / "rounds.sqlite").write_bytes(b"x" * 5000)
    else:
        (folder / "rounds.sqlite-journal").write_bytes(b"left by a process that was killed")
    text = text_of(visitor(desk.link).get("/runs/trial"))
    assert "rounds.sqlite cannot be read" in text and "Waits for amc, snubh, smc" in text
    answer = httpx.get(f"{desk.base}/metrics", headers={"authorization": f"Bearer {TOKEN}"})
    assert 'fedreason_run_round{run="trial"} 13.0' in answer.text.splitlines()
