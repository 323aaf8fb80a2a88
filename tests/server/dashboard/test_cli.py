"""`python -m server dashboard` as a process: accounts by hidden passwords, one door, and an end that leaves nothing."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from bench.waiting import PATIENCE
from server.provisioning.federation import Federation
from tests.common.web.served import visitor
from tests.federations import made
from tests.paths import ROOT
from tests.server.dashboard.scene import PASSWORD

pytestmark = pytest.mark.federation


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path, ["amc", "snubh"], name="fed").federation


def command(federation: Federation, *words: object) -> list[str]:
    return [sys.executable, "-m", "server", "dashboard", "--federation", str(federation.folder), *map(str, words)]


def refused(federation: Federation, *words: object) -> str:
    done = subprocess.run(command(federation, *words), cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode != 0 and "Traceback" not in done.stderr
    return done.stderr


def _until_asked(terminal: int) -> str:
    shown = b""
    while not shown.endswith(b": "):
        shown += os.read(terminal, 1024)
    return shown.decode()


def typed(federation: Federation, *answers: str) -> str:
    """Run `--add kim` at a terminal and type; returns what the terminal showed."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(federation, "--add", "kim"))
    shown = ""
    for answer in answers:
        shown += _until_asked(terminal)
        os.write(terminal, f"{answer}\n".encode())
    with suppress(OSError):  # as Linux says that the other side of a terminal has ended
        while more := os.read(terminal, 1024):
            shown += more.decode()
    os.waitpid(process, 0)
    return shown


def test_an_account_is_added_by_a_password_that_nobody_sees_and_taken_away(federation: Federation) -> None:
    shown = typed(federation, PASSWORD, PASSWORD)
    assert "kim may come in." in shown and PASSWORD not in shown
    path = federation.folder / "dashboard-accounts.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text())["kim"].startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    done = subprocess.run(command(federation, "--remove", "kim"), cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "kim is taken away.\n"
    assert "E932" in typed(federation, "short", "short")


def test_it_is_not_shown_beyond_this_machine_without_tls_and_an_account(federation: Federation, tmp_path: Path) -> None:
    tls = ("--certificate", federation.server_certificate, "--key", federation.server_key)
    assert "E931" in refused(federation, "--host", "0.0.0.0", "--port", 0)
    assert "E931" in refused(federation, "--host", "0.0.0.0", "--port", 0, *tls)
    assert "E931" in refused(federation, "--certificate", federation.server_certificate)
    assert "E901" in refused(Federation(tmp_path, federation.config), "--port", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "E902" in refused(federation, "--port", taken.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_serves_by_its_link_until_it_is_stopped_and_leaves_its_token_alone(
    federation: Federation, number: signal.Signals
) -> None:
    process = subprocess.Popen(command(federation, "--port", 0), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    link = process.stderr.readline().split()[-1]
    until = time.monotonic() + PATIENCE
    while True:
        try:
            client = visitor(link)
            break
        except httpx.TransportError:
            assert time.monotonic() < until
    assert "Federation fed" in client.get("/").text
    token = federation.folder / "dashboard-token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    bearer = {"authorization": f"Bearer {token.read_text()}"}
    assert client.get("/metrics", headers=bearer).status_code == 200
    before = {path.name for path in federation.folder.rglob("*")}
    process.send_signal(number)
    process.wait(PATIENCE)
    assert {path.name for path in federation.folder.rglob("*")} == before
    assert {"dashboard-token", "federation.toml"} <= before
    assert not any("dashboard" in name for name in before - {"dashboard-token"})
