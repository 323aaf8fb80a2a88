"""What a run tells: its standing, its end by number, one line in Flower's log, and answers before it starts."""

from __future__ import annotations

import logging
import os
import tomllib
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, RecordDict

from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from common.messages.kinds import Refusal
from server import app as server_app
from server.provisioning.federation import Federation
from server.rounds.estimates import ask_sites
from server.rounds.grid import GridExchange
from server.rounds.loop import Progress, run_rounds
from server.rounds.runs import record_of, start
from server.rounds.standing import FILE, Standing, StandingFile, read_standing
from server.rounds.store import RunStore
from server.services import control
from tests.clock import Clock
from tests.paths import ROOT
from tests.scripted_grid import SIZE, ScriptedGrid, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, nodes, standing

# --- Evaluation and the question before a run ---


def test_an_evaluation_ends_when_those_online_have_answered(
    config: RunConfig, federation: Federation, tmp_path: Path, clock: Clock
) -> None:
    north, south, west = nodes()
    west.but("evaluate", None, number=ROUNDS)
    south.but("evaluate", Refusal("south", int(Code.SITE_PAUSED)), number=ROUNDS)
    grid = ScriptedGrid(north, south, west, script=lambda step: west.die() if west.times("evaluate", ROUNDS) else None)
    run(config, grid, tmp_path / "run", federation)
    assert clock.monotonic() < config.federation.deadline
    with RunStore.opened(tmp_path / "run", config) as store:
        assert {(row.round, row.site) for row in store.evaluations()} == {
            *((0, site) for site in SITES),
            (ROUNDS, "north"),
        }


def test_a_run_that_another_version_handed_over_is_refused_by_number_and_without_its_values(tmp_path: Path) -> None:
    context = context_of(tmp_path / "run.toml", tmp_path / "runs", "", ask=False)
    context.run_config["stated"] = '{"name": "later", "of_a_later_version": "told to nobody"}'
    with pytest.raises(FedReasonError) as refusal:
        server_app.as_started(context)
    assert refusal.value.code == Code.RUN_OTHER_CONFIG and "told to nobody" not in str(refusal.value)


def test_the_question_before_a_run_is_answered_by_each_site_and_disturbs_no_run(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    north, south, west = nodes()
    south.but("query.ask", Refusal("south", int(Code.POLICY_REFUSED)))
    west.online = False
    path = tmp_path / "ask.json"
    with StandingFile(path) as told:
        ask_sites(config, GridExchange(ScriptedGrid(north, south, west), config, federation, told), told)
    found = read_standing(path)
    assert found is not None
    assert (found.state, found.exchange) == ("finished", None)
    assert [entry.model_dump(exclude_none=True) for entry in found.estimates] == [
        {"site": "north", "seconds_per_group": 0.5, "size": SIZE},
        {"site": "south", "code": 832},
        {"site": "west", "code": 507},
    ]
    assert {kind for site in (north, south) for kind, _ in site.asked} == {"query.ask"}


# --- How it is told ---


def test_the_standing_tells_each_round_and_its_cost(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    seen: list[Standing] = []
    grid = ScriptedGrid(*nodes())
    with RunStore.opened(tmp_path / "run", config) as store, StandingFile(tmp_path / FILE, ROUNDS) as told:

        def report(progress: Progress) -> None:
            told.tell(seconds=progress.seconds, bytes_up=progress.bytes_up, bytes_down=progress.bytes_down)
            seen.append(Standing.model_validate_json((tmp_path / FILE).read_text()))

        run_rounds(config, GridExchange(grid, config, federation, told), store, report)
        rows = store.rounds()
    assert [now.round for now in seen] == [1, 2, 3, 4]
    assert [(now.bytes_up, now.bytes_down) for now in seen] == [(row.bytes_up, row.bytes_down) for row in rows]
    assert rows[0].bytes_up >= 3 * 8 * SIZE and rows[0].bytes_down >= 3 * 4 * SIZE
    assert all(set(now.contact) == set(SITES) for now in seen)


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (FedReasonError(Code.RUN_QUORUM, "found", "fix"), "stopped", 503),
        (ValueError("SENTINEL"), "stopped", 506),
        (OSError(28, "No space left on device", "/runs/x"), "stopped", 821),
        (SystemExit(0), "aborted", 912),
        (KeyboardInterrupt(), "aborted", 912),
    ],
)
def test_the_standing_tells_how_a_run_ended(tmp_path: Path, error: BaseException, state: str, code: int) -> None:
    with pytest.raises((type(error), FedReasonError)), StandingFile(tmp_path / FILE, 3):
        raise error
    text = (tmp_path / FILE).read_text()
    now = Standing.model_validate_json(text)
    assert (now.state, now.code) == (state, code)
    assert now.found and now.fix
    assert "SENTINEL" not in text


def test_services_that_go_down_are_told_apart_from_a_run_that_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit), StandingFile(tmp_path / FILE, 3):
        monkeypatch.setattr(os, "getppid", lambda: 1)
        raise SystemExit(0)
    assert standing(tmp_path).code == Code.COORDINATOR_DOWN


def test_a_run_that_is_refused_its_folder_leaves_the_standing_of_the_run_in_it(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    before = (tmp_path / "run" / FILE).read_bytes()
    with pytest.raises(FedReasonError):
        run(config.model_copy(update={"seed": 9}), ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert (tmp_path / "run" / FILE).read_bytes() == before


def context_of(config: Path, runs: Path, sha256: str = "", *, ask: bool = False) -> Context:
    values = {"config": str(config), "runs": str(runs), "federation": "", "sha256": sha256, "ask": ask}
    return Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=values)  # type: ignore[arg-type]


@pytest.mark.parametrize("ask", [False, True])
def test_a_file_that_was_edited_into_another_run_starts_none_in_the_place_of_the_one_that_was_started(
    tmp_path: Path, ask: bool
) -> None:
    """A coordinator hands a run that a version before started over anew by its file, after whatever happened."""
    path, runs = tmp_path / "run.toml", tmp_path / "runs"
    path.write_text((ROOT / "configs" / "demo.toml").read_text())
    started, _ = load_config(path)
    path.write_text(path.read_text().replace(f'name = "{started.name}"', 'name = "next"'))
    assert load_config(path)[0].name == "next"
    with pytest.raises(FedReasonError) as refusal:
        server_app.app(ScriptedGrid(), context_of(path, runs, started.sha256, ask=ask))
    assert refusal.value.code == Code.RUN_OTHER_CONFIG and str(path) in refusal.value.found
    assert not runs.exists()


@pytest.mark.parametrize("name", ["demo.toml", "support2.toml", "qwen.toml", "demo-secagg.toml"])
def test_a_run_is_handed_over_whole_from_wherever_its_file_lies(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A service need not see the file: a home and /tmp are hidden from it, and an editor may have it open."""
    handed: list[dict[str, Any]] = []

    def flwr(_: Federation, *words: str) -> dict[str, Any]:
        handed.append(tomllib.loads(Path(words[words.index("--run-config") + 1]).read_text()))
        return {"run-id": 7}

    monkeypatch.setattr(control, "flwr", flwr)
    config, _ = load_config(ROOT / "configs" / name)
    assert start(federation, tmp_path / "seen-by-nobody.toml", config)
    record = record_of(federation.runs / config.name)
    assert record is not None
    control.submit(federation, record.config, record.sha256, record.stated)  # as when its ServerApp has vanished
    for values in handed:
        context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=values)
        assert server_app.as_started(context) == config
        assert server_app.as_started(context).sha256 == config.sha256
    assert len(handed) == 2


def test_flower_logs_a_refusal_of_the_serverapp_as_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    context = context_of(tmp_path / "none.toml", tmp_path)
    with pytest.raises(FedReasonError) as refusal:
        server_app.app(ScriptedGrid(), context)
    assert refusal.value.code == Code.CONFIG_MISSING
    flower = logging.getLogger("flwr")
    try:
        flower.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=refusal.value)
        flower.log(logging.ERROR, "%s raised an exception", "ServerApp", exc_info=ValueError("other"))
    finally:
        flower.removeFilter(server_app.in_one_line)
    assert caplog.messages == [str(refusal.value), "ServerApp raised an exception"]
    assert [record.exc_info is None for record in caplog.records] == [True, False]
