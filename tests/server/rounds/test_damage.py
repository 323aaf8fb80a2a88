"""A damaged file of a run's folder is told by its name and what to do, and stays as it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.config import RunConfig
from common.errors import Code
from server.provisioning.federation import Federation
from server.reports.report import repeats_section
from server.rounds.runs import start
from server.rounds.store import EvaluationRow, RunStore
from tests.federations import refused
from tests.small import small_config

GARBAGE = b"not a database, but long enough to look at" * 200


@pytest.fixture
def config() -> RunConfig:
    return small_config(Path("none"))


def opened(folder: Path, config: RunConfig) -> None:
    with RunStore.opened(folder, config):
        pass


def test_a_database_that_is_none_is_refused_by_its_name(tmp_path: Path, config: RunConfig) -> None:
    opened(tmp_path, config)
    (tmp_path / "rounds.sqlite").write_bytes(GARBAGE)
    error = refused(Code.RUN_CHECKPOINT, lambda: opened(tmp_path, config))
    assert str(tmp_path / "rounds.sqlite") in error.found and "backup" in error.fix
    assert (tmp_path / "rounds.sqlite").read_bytes() == GARBAGE


def test_so_is_one_that_breaks_while_the_run_goes_on(tmp_path: Path, config: RunConfig) -> None:
    with RunStore.opened(tmp_path, config) as store:
        (tmp_path / "rounds.sqlite").write_bytes(GARBAGE)
        row = EvaluationRow(round=0, site="amc", counts={})
        for act in (lambda: store.record(row), store.rounds, store.evaluations, store.looks):
            refused(Code.RUN_CHECKPOINT, act)


@pytest.mark.parametrize("content", [b"", b'{"sha256": "0', b"[]", b"null", b"{}", b"\xff\xfe", b'{"sha256": 3}'])
def test_a_configuration_that_cannot_be_read_is_not_called_another_one(
    tmp_path: Path, federation: Federation, config: RunConfig, content: bytes
) -> None:
    folder = federation.runs / config.name
    opened(folder, config)
    (folder / "config.json").write_bytes(content)
    for act in (lambda: start(federation, Path("run.toml"), config), lambda: opened(folder, config)):
        assert str(folder / "config.json") in refused(Code.RUN_CHECKPOINT, act).found


@pytest.mark.parametrize(
    "content",
    ["", "{", "[]", "3", '"round"', "null", '{"1": "0"}', '{"1": true}', '{"1": -1}', '{"a": 0}', '{"round": 1}'],
)
def test_attempts_that_cannot_be_read_are_not_begun_again_from_nought(
    tmp_path: Path, config: RunConfig, content: str
) -> None:
    path = tmp_path / "attempt.json"
    with RunStore.opened(tmp_path, config) as store:
        assert [store.begin_attempt(number) for number in (1, 1, 2)] == [0, 1, 0]
        path.write_text(content)
        error = refused(Code.RUN_CHECKPOINT, lambda: store.begin_attempt(1))
        assert str(path) in error.found and "another name" in error.fix
        assert path.read_text() == content
    assert "begun anew" not in repeats_section(tmp_path)


def test_attempts_as_a_version_before_wrote_them_count_on(tmp_path: Path, config: RunConfig) -> None:
    (tmp_path / "attempt.json").write_text('{"round": 3, "attempt": 4}')
    with RunStore.opened(tmp_path, config) as store:
        assert store.begin_attempt(3) == 5
    assert json.loads((tmp_path / "attempt.json").read_text()) == {"3": 5}
