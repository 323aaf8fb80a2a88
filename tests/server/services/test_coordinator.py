"""The coordinator without its services: what it refuses at once, what it writes, how it reads a run's standing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import yaml
from filelock import FileLock
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from common.arrays import adapter_sha256
from common.config import ModelConfig, load_config
from common.errors import Code
from common.model.adapter import save_peft
from common.model.base import add_lora, load_base
from common.tiny import Embedded
from common.tiny.network import network_shape
from server.provisioning.certificates import new_ca, new_server_certificate
from server.provisioning.deploy import TEMPLATES, render
from server.provisioning.federation import Federation
from server.reports.export import export_adapter
from server.reports.forecast import forecast
from server.reports.status import status_of
from server.rounds.following import describe, ended
from server.rounds.pace import groups_per_round
from server.rounds.refusals import meaning
from server.rounds.runs import RunRecord, find_run, reason, served, start
from server.rounds.standing import FILE, SiteEstimate, Standing
from server.rounds.store import Checkpoint, RunStore
from server.services import coordinator, flower
from server.services.coordinator import compact, up
from server.services.supervision import Service, plain_commands, prepare
from tests.federations import ROOT, SUPPORT2, command, free_port, joined, made, refused, require_private
from tests.small import make_small_tokenizer, small_config

NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
NOW = datetime.now(UTC)
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path, hosts=["localhost"], port=free_port()).federation


def silent(line: str) -> None:
    """Take a line that nobody reads."""


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.05)


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
    assert services["coordinator"]["ports"] == [f"{port}:{port}"]
    assert "ports" not in services["proxy"] and "ports" not in site
    for service in (*services.values(), site):
        assert service["cap_drop"] == ["ALL"] and service["read_only"]
    assert not any("ca.key" in volume for volume in services["proxy"]["volumes"])


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


# --- one service ---


def service(script: str, log: Path = Path(os.devnull)) -> Service:
    return Service("The thing", ["/bin/sh", "-c", script], dict(os.environ), log)


def test_what_keeps_dying_is_given_up_with_its_last_words(tmp_path: Path) -> None:
    thing = service("echo starting; echo 'ERROR: the disk is on fire'; echo bye; exit 3")
    thing.start(tmp_path)
    eventually(lambda: not thing.alive)
    time.sleep(0.2)
    pauses = [thing.died(float(second)) for second in range(4)]
    assert pauses == [0.5, 1.0, 2.0, 4.0]
    assert "the disk is on fire" in refused(Code.SERVICE_FAILED, lambda: thing.died(4.0)).found


def test_deaths_far_apart_are_forgiven(tmp_path: Path) -> None:
    thing = service("exit 0")
    assert [thing.died(100.0 * number) for number in range(9)] == [0.5] * 9


def test_stopping_a_service_ends_what_it_started_and_what_ignores_sigterm(tmp_path: Path) -> None:
    thing = service("trap '' TERM; (trap '' TERM; sleep 600) & echo $! > child; while true; do sleep 1; done")
    thing.start(tmp_path)
    eventually(lambda: (tmp_path / "child").exists() and (tmp_path / "child").read_text())
    child = int((tmp_path / "child").read_text())
    coordinator_patience = 0.5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("server.services.supervision._STOP_SECONDS", coordinator_patience)
        thing.stop()
    assert not thing.alive
    eventually(lambda: not Path(f"/proc/{child}/cmdline").exists() or not Path(f"/proc/{child}/cmdline").read_bytes())


def test_requests_that_went_well_leave_no_line_in_a_services_log(tmp_path: Path) -> None:
    line = '2026-01-02T03:04:05.678Z INFO [uvicorn.access] 127.0.0.1:1 - "POST /v1/control/get-run HTTP/1.1"'
    thing = service(f"echo '{line} 200'; echo '{line} 401'; echo started", tmp_path / "log")
    thing.start(tmp_path)
    eventually(lambda: (tmp_path / "log").exists() and "started" in (tmp_path / "log").read_text())
    assert len((tmp_path / "log").read_text().splitlines()) == 2 and "401" in (tmp_path / "log").read_text()


def test_a_services_log_stays_small_and_plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.services.supervision._LOG_BYTES", 10_000)
    log = tmp_path / "thing.log"
    thing = service("for i in $(seq 2000); do printf '\\033[92mline %s\\033[0m\\n' $i; done", log)
    thing.start(tmp_path)
    eventually(lambda: not thing.alive and "line 2000" in thing.last_words())
    eventually(lambda: log.exists() and "line 2000" in log.read_text())
    assert "\x1b" not in log.read_text()
    assert sum(path.stat().st_size for path in tmp_path.glob("thing.log*")) < 50_000


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


def test_a_run_that_lost_its_services_has_not_ended() -> None:
    assert ended(standing("finished")) and ended(standing("aborted")) and ended(standing("stopped", code=503))
    assert not ended(standing("stopped", code=int(Code.COORDINATOR_DOWN))) and not ended(standing("paused"))


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
        eventually(lambda: served(tmp_path))
    finally:
        process.kill()
        process.wait()
    assert not served(tmp_path)


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


def test_a_forecast_uses_public_constants_alone() -> None:
    config = small_config(Path("none"), federation={"population": 300, "sampling_rate": 0.1, "sites": 3})
    assert groups_per_round(config) == pytest.approx(300 / 3 * 0.1 * 2)
    one = forecast(SiteEstimate(site="amc", seconds_per_group=0.5, size=1000), config)
    assert (one.seconds_per_round, one.bytes_up, one.bytes_down) == (pytest.approx(10.0), 8000, 4000)
    assert forecast(SiteEstimate(site="amc", code=832), config).code == 832


# --- export ---


def test_an_exported_adapter_is_the_checkpoints_bit_for_bit(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    base, _ = load_base(config.model)
    model = add_lora(base, config.adapter, config.seed)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, vector, {}))
    only_shape = tmp_path / "shape"
    only_shape.mkdir()
    shutil.copy(small_model / "config.json", only_shape)
    out = export_adapter(tmp_path / "run", tmp_path / "out", base=str(only_shape))
    save_peft(model, vector, tmp_path / "expected")
    loaded = [
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), folder).state_dict()
        for folder in (out, tmp_path / "expected")
    ]
    assert loaded[0].keys() == loaded[1].keys()
    assert all(loaded[0][name].equal(loaded[1][name]) for name in loaded[0])
    description = json.loads((out / "fedreason.json").read_text())
    assert (description["round"], description["adapter_sha256"]) == (2, adapter_sha256(vector))
    refused(Code.KIT_EXISTS, lambda: export_adapter(tmp_path / "run", out))


@pytest.mark.parametrize("codebook", ["synthetic", "others.toml"])
def test_the_adapter_of_an_embedded_model_is_exported_without_making_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codebook: str
) -> None:
    """Of any codebook: its own decides the size of the embeddings alone."""
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path / "cache"))
    tokenizer = make_small_tokenizer()
    model = LlamaForCausalLM(network_shape(len(tokenizer)))
    config = small_config(Path("none"), questions={"codebook": codebook})
    config = config.model_copy(update={"model": ModelConfig(base="tiny")})
    adapted = add_lora(model, config.adapter, config.seed)
    size = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    vector = np.random.default_rng(1).normal(size=size).astype(np.float32)
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(2, vector, {}))
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    assert not (tmp_path / "cache").exists()
    save_peft(adapted, vector, tmp_path / "expected")
    names = ("adapter_model.safetensors",)
    loaded = [load_file(folder / name) for folder in (out, tmp_path / "expected") for name in names]
    assert loaded[0].keys() == loaded[1].keys()
    assert all(loaded[0][name].equal(loaded[1][name]) for name in loaded[0])
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == (str(Embedded.of().folder) if codebook == "synthetic" else "tiny")


def test_an_exported_adapter_names_the_model_that_was_made_for_the_runs_codebook(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path / "cache"))
    table = {"name": "own", "model": {"base": "tiny"}, "questions": {"codebook": str(SUPPORT2), "view": "full"},
             "federation": {"name": "f", "rounds": 1, "sites": 1, "population": 9, "sampling_rate": 0.5},
             "optimizer": {"learning_rate": 1e-2}}  # fmt: skip
    (tmp_path / "run.toml").write_text(tomli_w.dumps(table))
    config, codebook = load_config(tmp_path / "run.toml")
    size = sum(
        p.numel()
        for p in add_lora(LlamaForCausalLM(network_shape(9)), config.adapter, 0).parameters()
        if p.requires_grad
    )
    with RunStore.opened(tmp_path / "run", config) as store:
        store.save(Checkpoint(1, np.zeros(size, dtype=np.float32), {}))
    record = RunRecord(run_id=1, config=tmp_path / "run.toml", submitted=NOW)
    (tmp_path / "run" / "run.json").write_text(record.model_dump_json())
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    base = json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"]
    assert base == str(Embedded.of(codebook, "full").folder) and not Path(base).exists()


def test_an_adapter_is_not_exported_for_another_model(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    with RunStore.opened(tmp_path / "run", config) as store:
        refused(Code.RUN_CHECKPOINT, lambda: export_adapter(tmp_path / "run", tmp_path / "out"))
        store.save(Checkpoint(1, np.zeros(7, dtype=np.float32), {}))
    refused(Code.MODEL_ADAPTER, lambda: export_adapter(tmp_path / "run", tmp_path / "out"))
    refused(Code.MODEL_MISSING, lambda: export_adapter(tmp_path / "run", tmp_path / "out", base=str(tmp_path)))


def test_export_takes_a_run_by_name(federation: Federation, small_model: Path, tmp_path: Path) -> None:
    done = command("server", "export", "none", "--out", tmp_path / "out", "--federation", federation.folder)
    assert (done.returncode, done.stderr[:4]) == (1, "E911")
