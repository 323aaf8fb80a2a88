"""The commands of a review as people type them: refused by number, killed without loss, and open to nobody else."""

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from bench.waiting import PATIENCE
from client.review.cli import accounts_of
from tests.federations import command
from tests.paths import ROOT
from tests.reviewed import PASSWORD, ready, site_of

pytestmark = pytest.mark.federation


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return reviewing(tmp_path)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reviewing(tmp_path_factory.mktemp("site"))


def reviewing(folder: Path) -> Path:
    site = site_of(folder / "amc", patients=1)
    ready(site, 12)
    return site


def review(site: Path, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return command("client", "review", *words, "--site", site, **options)


@contextmanager
def serving(site: Path, *more: object) -> Iterator[tuple[subprocess.Popen[str], str]]:
    line = [sys.executable, "-m", "client", "review", "serve", "--site", str(site), "--port", "0", *map(str, more)]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        told = "".join(next(process.stderr) for _ in range(2))
        found = re.search(r"You see how far they are at (\S+)", told)
        assert found, told
        yield process, found[1]
    finally:
        process.kill()
        process.wait(PATIENCE)
        process.stderr.close()


def rated(link: str, places: Iterable[int], **form: str) -> list[str]:
    """Come in as a rater and say the same of cases; returns the pages that answer."""
    client = httpx.Client(base_url=link.partition("/enter")[0], follow_redirects=True, timeout=PATIENCE, verify=False)
    client.post("/enter", data={"name": "kim", "password": PASSWORD})
    token = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert token
    return [client.post(f"/case/{place}/rate", data={"token": token[1], **form}).text for place in places]


def test_a_killed_server_loses_no_rating_that_was_sent_and_the_report_tells_them(site: Path) -> None:
    assert "E932" in review(site, "serve").stderr
    assert review(site, "account", "add", "kim", input=f"{PASSWORD}\n").returncode == 0
    for half in (range(1, 7), range(7, 13)):
        with serving(site) as (process, link):
            assert all("is saved" in page for page in rated(link, half, overall="0", comment="mine"))
            process.kill()
    told = review(site, "report")
    assert "A is ZEPHYR, B is MISTRAL; 12 of 12 cases are rated." in told.stdout
    assert "Overall preference: A better 0, alike 12, B better 0; no patient is decided" in told.stdout
    page = Path(told.stdout.splitlines()[-1])
    assert page == site / "state" / "review" / "review.html" and stat.S_IMODE(page.stat().st_mode) == 0o600
    done = review(site, "export", "--summary", site / "s.json", "--csv", site / "r.csv")
    assert done.stdout.split() == [str(site / "r.csv"), str(site / "s.json")]
    assert json.loads((site / "s.json").read_text())["axes"]["overall"]["patients"] == 12
    assert (site / "r.csv").read_text().count("mine") == 12


def test_accounts_are_added_listed_and_removed_and_no_password_is_repeated(site: Path) -> None:
    assert "E932" in review(site, "account", "add", "kim", input="short\n").stderr
    assert "E932" in review(site, "account", "add", "you", input=f"{PASSWORD}\n").stderr
    done = review(site, "account", "add", "kim", input=f"{PASSWORD}\n")
    assert done.returncode == 0 and PASSWORD not in done.stdout + done.stderr
    assert review(site, "account", "list").stdout == "kim\n"
    assert review(site, "account", "remove", "kim").returncode == 0
    assert review(site, "account", "remove", "kim").returncode == 1
    assert review(site, "account", "list").stdout == ""


def test_pages_reach_other_machines_by_tls_alone(site: Path) -> None:
    accounts_of(site).add("kim", PASSWORD)
    assert "E931" in review(site, "serve", "--host", "0.0.0.0").stderr
    assert "E931" in review(site, "serve", "--certificate", "x.pem").stderr
    assert "E931" in review(site, "serve", "--certificate", "x.pem", "--key", "x.key").stderr


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ((), 2, "--adapter A --adapter B"),
        (("--adapter", "base"), 1, "E894"),
        (("--adapter", "none", "--adapter", "base"), 1, "E404"),
        (("serve", "--name", "other"), 1, "E932"),
        (("report", "--name", "other"), 1, "E891"),
        (("report", "--name", "../x"), 1, "E891"),
        (("export",), 2, "--summary FILE"),
        (("export", "--summary", "s.json"), 1, "E896"),
    ],
)
def test_what_makes_no_sense_is_refused(unchanged: Path, words: tuple[str, ...], status: int, told: str) -> None:
    done = review(unchanged, *words)
    assert done.returncode == status
    assert told in re.sub(r"[│\s]+", " ", done.stderr)
    assert "Traceback" not in done.stderr
