"""The coordinator without its services: what it refuses at once, what it writes, how it reads a run's standing."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

from bench.waiting import until
from common.errors import Code
from server.provisioning.certificates import new_ca, new_server_certificate
from server.provisioning.deploy import TEMPLATES, render
from server.provisioning.federation import Federation
from server.reports.forecast import Forecasts, document, forecast
from server.reports.status import status_of
from server.rounds.following import describe, rests
from server.rounds.pace import groups_per_round
from server.rounds.refusals import meaning
from server.rounds.runs import find_run, reason, served, start
from server.rounds.standing import FILE, SiteEstimate, Standing
from server.services import coordinator, flower
from server.services.coordinator import compact, up
from server.services.supervision import plain_commands, prepare
from tests.federations import command, joined, made, refused, require_private
from tests.paths import ROOT
from tests.small import small_config

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NOW = datetime.now(UTC)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def silent(line: str) -> None:
    """Take a line that nobody reads."""


# --- `up` refuses at once ---


def test_up_refuses_an_expired_certificate(federation: Federation) -> None:
    ca = new_ca("old", now=NOW - timedelta(days=500))
    ca.save(federation.ca_certificate, federation.ca_key)
    old = new_server_certificate(ca, ["localhost"], now=NOW - timedelta(days=499))
    old.save(federation.server_certificate, federation.server_key)
    assert "Renew" in refused(Code.CERTIFICATE_EXPIRED, lambda: up(federation, silent, lambda: None)).fix


def test_up_refuses_a_port_in_use_and_names_it(federation: Federation) -> None:
    port = federation.config.superlink_port
    with closing(socket.create_server(("127.0.0.1", port))):
        assert str(port) in refused(Code.PORT_IN_USE, lambda: up(federation, silent, lambda: None)).found


def test_a_second_coordinator_of_a_federation_is_refused_with_the_first_ones_number(federation: Federation) -> None:
    prepare(federation)
    (federation.superlink / "up.json").write_text(json.dumps({"pid": 4711}))
    with FileLock(federation.superlink / "up.lock"):
        assert "4711" in refused(Code.SERVICE_FAILED, lambda: up(federation, silent, lambda: None)).found


def test_there_is_no_insecure_coordinator(federation: Federation) -> None:
    done = command("server", "up", "--insecure", "--federation", federation.folder)
    assert (done.returncode, done.stderr[:4]) == (1, "E803")
    assert not any("--insecure" in line for line in plain_commands(federation))


@pytest.mark.parametrize("words", [["run", "configs/demo.toml"], ["ask", "configs/demo.toml"]])
def test_without_services_a_command_says_how_to_start_them(federation: Federation, words: list[str]) -> None:
    done = command("server", *words, "--federation", federation.folder)
    assert done.returncode == 1
    assert done.stderr.startswith("E903") and "python -m server up" in done.stderr


def test_a_command_outside_of_the_container_that_the_services_run_in_is_sent_there(federation: Federation) -> None:
    prepare(federation)
    with FileLock(federation.superlink / "up.lock"):
        told = refused(Code.COORDINATOR_DOWN, lambda: flower.require_superlink(federation))
    assert "docker compose exec" in told.fix and "server up" not in told.fix


def test_health_is_one_line_and_an_exit_status(federation: Federation) -> None:
    done = command("server", "health", "--federation", federation.folder)
    assert (done.returncode, done.stdout) == (1, "flower-superlink DOWN, flower-superexec DOWN\n")


def test_stopping_what_does_not_run_is_no_error(federation: Federation) -> None:
    done = command("server", "stop", "--federation", federation.folder)
    assert (done.returncode, done.stdout) == (0, "No coordinator runs.\n")


# --- what it writes ---


def test_the_printed_commands_bind_to_loopback_with_tls_authentication_and_a_secret(federation: Federation) -> None:
    done = command("server", "up", "--print", "--federation", federation.folder)
    assert done.returncode == 0, done.stderr
    superlink = next(line for line in done.stdout.splitlines() if "flower-superlink --" in line)
    for words in ("--host 127.0.0.1", "--enable-supernode-auth", "--isolation process", "--superexec-auth-secret-file"):
        assert words in superlink
    assert "--disable-runtime-dependency-installation" in superlink
    assert "FLWR_TELEMETRY_ENABLED=0" in done.stdout
    require_private(federation.superlink)
    assert len((federation.superlink / "secret.bin").read_bytes()) == 32


def test_the_secret_is_made_once(federation: Federation) -> None:
    prepare(federation)
    secret = (federation.superlink / "secret.bin").read_bytes()
    prepare(federation)
    assert (federation.superlink / "secret.bin").read_bytes() == secret


def test_a_proxy_of_the_machine_is_not_used_on_the_way_to_loopback(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setenv("no_proxy", "intranet.example")
    assert flower.environment(federation)["no_proxy"] == "intranet.example,127.0.0.1,localhost"


def test_the_bundle_holds_no_code(federation: Federation) -> None:
    flower.prepare(federation)
    assert [path.name for path in flower.app_folder(federation).iterdir()] == ["pyproject.toml"]


def test_deployment_files_are_filled_in_and_private(federation: Federation) -> None:
    folder = render(federation)
    texts = {name: (folder / name).read_text() for name in TEMPLATES}
    assert not [name for name, text in texts.items() if "@{" in text or "@folder" in text]
    assert all(str(federation.folder) in text for name, text in texts.items() if name != "Dockerfile")
    require_private(folder)


@needs_nginx
def test_nginx_takes_its_configuration_as_written(federation: Federation) -> None:
    folder = render(federation)
    words = [NGINX, "-t", "-p", folder, "-c", "nginx.conf", "-e", "nginx/error.log"]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    assert done.returncode == 0 and "warn" not in done.stderr, done.stderr


@needs_systemd
def test_systemd_takes_the_units_as_written(federation: Federation, tmp_path: Path) -> None:
    render(federation)
    units = list((federation.deploy / "systemd").glob("*.service"))
    site = (ROOT / "client" / "templates" / "systemd" / "fedreason-site@.service").read_text()
    python = tmp_path / "python"
    python.symlink_to(sys.executable)
    units.append(tmp_path / "fedreason-site@amc.service")
    units[-1].write_text(site.replace("/opt/fedreason/bin/python", str(python)).replace("=fedreason\n", "=root\n"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", *units], capture_output=True, text=True)
    about_us = [line for line in done.stderr.splitlines() if "fedreason" in line]
    assert len(units) == 3 and not about_us, done.stderr


def test_containers_open_the_public_port_alone_and_drop_every_capability(federation: Federation) -> None:
    services = yaml.safe_load((render(federation) / "compose.yaml").read_text())["services"]
    site = yaml.safe_load((ROOT / "client" / "templates" / "compose.yaml").read_text())["services"]["site"]
    port = federation.config.port
    assert services["network"]["ports"] == [f"{port}:{port}"]
    assert not any("ports" in service for service in (services["coordinator"], services["proxy"], site))
    kept = [place.rpartition(":")[2] for place in site["volumes"] if not place.endswith(":ro")]
    assert kept == ["/record", "${SITES_FOLDER}/${SITE}"]
    assert all(site["environment"][name].startswith("/record/") for name in ("FEDREASON_STATE", "FEDREASON_CACHE"))
    for service in (*services.values(), site):
        assert service["cap_drop"] == ["ALL"] and service["read_only"]
    assert not any("ca.key" in volume for volume in services["proxy"]["volumes"])


def test_commands_of_a_container_find_the_federation_and_either_service_may_come_back_alone(
    federation: Federation,
) -> None:
    services = yaml.safe_load((render(federation) / "compose.yaml").read_text())["services"]
    coordinator, folder = services["coordinator"], str(federation.folder)
    assert coordinator["environment"]["FEDREASON_FEDERATION"] == coordinator["working_dir"] == folder
    assert f"{folder}:{folder}" in coordinator["volumes"]
    assert {name for name, service in services.items() if "network_mode" not in service} == {"network"}
    for name in ("coordinator", "proxy"):  # a network dies with the container that holds it
        assert services[name]["network_mode"] == "service:network"
    assert services["network"]["command"] == ["sleep", "infinity"] and "volumes" not in services["network"]


def test_an_image_is_built_of_all_that_the_packages_hold(tmp_path: Path) -> None:
    """Of what the Dockerfile copies: a file that leads out of it would be missing from what is installed."""
    for line in (ROOT / "server" / "templates" / "deploy" / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            *sources, place = line.split()[1:]
            for source in sources:
                to = tmp_path / place / source if place == "./" else tmp_path / place
                to.parent.mkdir(parents=True, exist_ok=True)
                if (ROOT / source).is_dir():
                    shutil.copytree(ROOT / source, to, symlinks=True)
                else:
                    shutil.copy(ROOT / source, to)
    assert (tmp_path / "pyproject.toml").exists() and (tmp_path / "server" / "__main__.py").exists()
    assert [path for path in tmp_path.rglob("*") if not path.exists()] == []


def test_a_folder_that_nginx_cannot_be_told_is_refused(tmp_path: Path) -> None:
    federation = made(tmp_path / "100%").federation
    refused(Code.CONFIG_VALUE, lambda: render(federation))


def test_a_large_database_is_compacted_and_a_damaged_one_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, told = tmp_path / "state.db", list[str]()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE objects (content BLOB)")
        connection.executemany("INSERT INTO objects VALUES (zeroblob(100000))", [()] * 50)
        connection.commit()
        connection.execute("DELETE FROM objects")
        connection.commit()
    before = path.stat().st_size
    compact(path, told.append)
    assert path.stat().st_size == before and not told
    monkeypatch.setattr(coordinator, "_COMPACT_BYTES", 1_000_000)
    compact(path, told.append)
    assert path.stat().st_size < before / 100 and "compacted" in told[0]
    path.write_bytes(b"not a database" * 100_000)
    refused(Code.SERVICE_FAILED, lambda: compact(path, silent))


# --- runs ---


def standing(state: str = "running", **values: object) -> Standing:
    return Standing.model_validate({"state": state, "since": NOW, "rounds": 9, **values})


def put(folder: Path, text: Standing) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE).write_text(text.model_dump_json())
    return folder


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"state": "waiting"}, "starting"),
        ({"state": "waiting", "waiting_for": ("amc",)}, "not everyone is online, waiting for amc"),
        ({"exchange": "train", "waiting_for": ("amc", "snubh")}, "training, waiting for amc, snubh"),
        ({"state": "paused", "waiting_for": ("amc",)}, "paused, waiting for amc"),
        ({"exchange": "train", "refused": {"amc": 832}}, "training; refused: amc (E832 policy refused)"),
        ({"state": "stopped", "code": 503, "waiting_for": ("amc",)}, "stopped (E503)"),
        ({"state": "finished"}, "finished"),
    ],
)
def test_a_standing_is_told_on_one_line(values: dict[str, object], told: str) -> None:
    assert describe(standing(**{"state": "running", **values})) == told  # type: ignore[arg-type]


def test_a_run_that_lost_its_services_does_not_rest() -> None:
    assert rests(standing("finished")) and rests(standing("aborted")) and rests(standing("stopped", code=503))
    assert not rests(standing("stopped", code=int(Code.COORDINATOR_DOWN))) and not rests(standing("paused"))


def test_an_unknown_number_is_told_as_it_is() -> None:
    assert (meaning(831), meaning(12)) == ("E831 policy missing", "E12")


def test_an_unknown_run_is_refused_with_the_names_of_the_known(federation: Federation) -> None:
    put(federation.runs / "first", standing())
    assert "first" in refused(Code.RUN_UNKNOWN, lambda: find_run(federation, "second")).fix
    assert find_run(federation, "first") == federation.runs / "first"


def test_a_run_folder_of_another_configuration_is_refused_before_flower_is_asked(federation: Federation) -> None:
    config = small_config(Path("none"))
    folder = put(federation.runs / config.name, standing())
    (folder / "config.json").write_text(json.dumps({"sha256": "0" * 64}))
    refused(Code.RUN_OTHER_CONFIG, lambda: start(federation, Path("run.toml"), config))


def test_a_run_is_served_while_another_process_holds_its_lock(tmp_path: Path) -> None:
    assert not served(tmp_path)
    lock = str(tmp_path / ".lock")
    hold = f"import time, filelock; lock = filelock.FileLock({lock!r}); lock.acquire(); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", hold])
    try:
        until(lambda: served(tmp_path))
    finally:
        process.kill()
        process.wait()
    with (tmp_path / ".lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert not served(tmp_path), "somebody else looks"


def test_a_serverapp_that_failed_early_is_told_by_its_own_number() -> None:
    told = "ServerApp failed with exception: E501: a.b holds another run (1, now 2). Move it away."
    assert reason(told) == (501, "a.b holds another run (1, now 2).", "Move it away.")
    assert reason("ServerApp failed with exception: 'x'")[0] == Code.RUN_FAILED


def test_status_says_who_is_missing_and_how_runs_stand(federation: Federation) -> None:
    joined(federation, "amc")
    put(federation.runs / "first", standing(contact={"amc": NOW}))
    found = status_of(federation)
    assert [(site.site, site.presence) for site in found.sites] == [("amc", "unknown"), ("snubh", "not admitted")]
    assert found.sites[0].contact == NOW
    assert found.runs[0].standing == standing(contact={"amc": NOW})
    assert json.loads(json.dumps(found.document()))["roster_version"] == 1
    done = command("server", "status", "--federation", federation.folder)
    assert done.returncode == 0 and "not admitted" in done.stdout


def test_status_tells_what_cannot_be_read_and_all_the_rest(federation: Federation) -> None:
    joined(federation, "amc")
    for name in ("first", "second"):
        put(federation.runs / name, standing(found="a [/x] of [privacy]"))
    (federation.runs / "first" / ".lock").mkdir()
    federation.roster_file.write_bytes(b"")
    found = status_of(federation)
    assert [(run.name, run.served) for run in found.runs] == [("first", False), ("second", False)]
    assert [(site.site, site.presence) for site in found.sites] == [("amc", "unknown"), ("snubh", "unknown")]
    assert any(f"E{int(Code.ROSTER_SIGNATURE)}" in warning for warning in found.warnings)
    done = command("server", "status", "--federation", federation.folder)
    assert done.returncode == 0 and done.stdout.count("a [/x] of [privacy]") == 2


def test_a_forecast_uses_public_constants_alone() -> None:
    config = small_config(Path("none"), federation={"population": 300, "sampling_rate": 0.1, "sites": 3})
    assert groups_per_round(config) == pytest.approx(300 / 3 * 0.1 * 2)
    one = forecast(SiteEstimate(site="amc", seconds_per_group=0.5, size=1000), config)
    assert (one.seconds_per_round, one.bytes_up, one.bytes_down) == (pytest.approx(10.0), 8000, 4000)
    assert forecast(SiteEstimate(site="amc", code=832), config).code == 832
    lattice = {"bits": 20, "clip_norm": 1.0}
    secure = small_config(Path("none"), federation={"sites": 3, "aggregation": "secure"}, lattice=lattice)
    masked = forecast(SiteEstimate(site="amc", seconds_per_group=0.5, size=1000), secure)
    assert (masked.bytes_up, masked.bytes_down) == (4000, 4000)
    told = document(Forecasts((masked,), None), secure)["privacy"]
    assert isinstance(told, dict) and told["opening"]["threshold"] == 3 and told["noise"][0]["kind"] == "none"
