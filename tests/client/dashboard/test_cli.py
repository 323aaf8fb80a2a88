"""`python -m client dashboard` as a process: it listens on this machine alone, says no record, and may be killed."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from bench.waiting import PATIENCE
from client.__main__ import app
from client.dashboard.site import MENU
from common.errors import Code, FedReasonError
from tests.client.dashboard.scene import hospital, plan_file
from tests.common.web.served import visitor
from tests.paths import ROOT

pytestmark = pytest.mark.federation


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("hospital")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDREASON_STATE", str(folder / "machine"))
        yield hospital(folder / "federation")


@contextmanager
def started(site: Path, *more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    words = [sys.executable, "-m", "client", "dashboard", "--site", str(site), "--port", "0", *more]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert line.startswith("Open http://127.0.0.1:"), line + process.stderr.read()
        yield process, line.split()[1]
    finally:
        process.kill()
        process.communicate()


def listeners(pid: int) -> set[str]:
    """Return the addresses at which a process listens, as Linux lists them."""
    links = [os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir() if path.is_symlink()]
    inodes = {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}
    rows = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()
    ]
    return {row[1].partition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def test_it_listens_on_this_machine_alone_and_ends_when_told(site: Path) -> None:
    with started(site) as (process, link):
        assert visitor(link).get("/").status_code == 200
        assert listeners(process.pid) == {"0100007F"}
        assert httpx.get(link.partition("/enter")[0] + "/questions").status_code in (303, 401, 403)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) in (0, -signal.SIGTERM)


def test_what_it_says_holds_no_record_and_no_link_but_its_own(site: Path, tmp_path: Path) -> None:
    with started(site, "--plan", str(plan_file(tmp_path))) as (process, link):
        client = visitor(link)
        client.timeout = httpx.Timeout(120)
        for _, path in MENU:
            client.get(path)
        token = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
        assert token
        shown = client.post("/questions/shown", data={"token": token[1], "count": "3"})
        assert shown.text.count("(the truth)") == 3 and shown.headers["cache-control"] == "no-store"
        process.terminate()
        out, told = process.communicate(timeout=PATIENCE)
    assert out == told == ""


def test_a_dashboard_that_is_killed_leaves_nothing_and_starts_again(site: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in site.rglob("*")}
    for _ in range(2):
        with started(site) as (process, link):
            visitor(link).get("/signature")
            process.kill()
    assert {path: path.stat().st_mtime_ns for path in site.rglob("*")} == before


def test_there_is_no_way_to_serve_other_machines(site: Path) -> None:
    done = CliRunner().invoke(app, ["dashboard", "--site", str(site), "--host", "0.0.0.0"])
    assert done.exit_code == 2


@pytest.mark.parametrize(("content", "code"), [(None, Code.CONFIG_MISSING), ("name = <", Code.CONFIG_SYNTAX)])
def test_a_plan_that_is_none_is_refused_at_the_start(
    site: Path, tmp_path: Path, content: str | None, code: Code
) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_text(content)
    done = CliRunner().invoke(app, ["dashboard", "--site", str(site), "--plan", str(path)])
    assert isinstance(done.exception, FedReasonError) and done.exception.code is code
