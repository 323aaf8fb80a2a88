"""What a study keeps counts for the unit, study and versions that it was made of, and for nothing else."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from common.errors import Code, FedReasonError
from simulation import __main__ as command
from simulation.statistics.results import write_results
from simulation.study import claim
from simulation.study.config import load_study
from simulation.study.driver import claimed, run_study
from simulation.study.rows import read_table
from simulation.study.units import prepare_units
from simulation.study.work import work
from tests.server.reports.pages import Page
from tests.simulation.study.studies import write_study


def done(folder: Path, units: list[str] | None = None, **changes: object) -> Path:
    """Do units of a study of the majority, in this process; return its folder."""
    path = write_study(folder, Path("tiny"), arms=["majority"], **changes)
    study, kept = load_study(path), folder / "studies" / "small"
    events: list[dict[str, object]] = []
    with claimed(kept, study):
        prepare_units(study, kept)
        assert work(path, units or ["4-majority", "5-majority"], folder, events.append), events
    return kept


def ended(folder: Path) -> Path:
    return run_study(folder / "study.toml", folder, Console(file=io.StringIO()))[0]


def test_rows_of_another_seed_or_configuration_or_version_are_no_rows_of_a_unit(tmp_path: Path) -> None:
    kept, other = done(tmp_path / "one"), done(tmp_path / "other", run={"questions": {"held_out": 0.3}})
    unit = kept / "units" / "5-majority.parquet"
    whole = unit.read_bytes()

    def older() -> None:
        pq.write_table(pq.read_table(unit).drop_columns(["forced"]), unit)

    for damage in (
        lambda: shutil.copy(kept / "units" / "4-majority.parquet", unit),
        lambda: shutil.copy(other / "units" / "5-majority.parquet", unit),
        older,
    ):
        damage()
        with pytest.raises(FedReasonError) as refused:
            ended(tmp_path / "one")
        assert refused.value.code is Code.STUDY_DAMAGED and unit.name in refused.value.found
        unit.write_bytes(whole)
    assert ended(tmp_path / "one").exists()


def test_the_table_of_another_study_is_not_shown_as_that_of_this_one(tmp_path: Path) -> None:
    done(tmp_path / "one")
    done(tmp_path / "other", ["4-majority"], seeds=[4])
    table = ended(tmp_path / "one")
    shutil.copy(ended(tmp_path / "other"), table)
    with pytest.raises(FedReasonError) as refused:
        ended(tmp_path / "one")
    assert refused.value.code is Code.STUDY_DAMAGED and str(table) in refused.value.found


def test_no_flipped_bit_changes_an_answer(tmp_path: Path) -> None:
    unit = done(tmp_path, ["4-majority"], seeds=[4]) / "units" / "4-majority.parquet"
    content, whole = unit.read_bytes(), read_table(unit)
    refusals = 0
    for place in range(4, len(content), 23):
        unit.write_bytes(content[:place] + bytes([content[place] ^ 0x10]) + content[place + 1 :])
        try:
            found: pa.Table = read_table(unit, whole.schema)
        except FedReasonError:
            refusals += 1
        else:
            assert found.equals(whole)
    assert refusals > 20


def test_a_unit_is_not_done_by_a_study_that_was_changed_under_way(tmp_path: Path) -> None:
    done(tmp_path, ["4-majority"])
    run, events = tmp_path / "run.toml", list[dict[str, object]]()
    run.write_text(run.read_text().replace("held_out = 0.5", "held_out = 0.2"))
    assert not work(tmp_path / "study.toml", ["5-majority"], tmp_path, events.append)
    assert events[-1]["code"] == Code.RUN_OTHER_CONFIG
    assert not (tmp_path / "studies" / "small" / "units" / "5-majority.parquet").exists()


def test_a_study_s_page_says_what_was_run_though_its_file_is_another_by_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, path = done(tmp_path), tmp_path / "study.toml"
    whole = load_study(path)

    def edited(table: Path) -> dict[str, Any]:
        path.write_text(path.read_text().replace("resamples = 199", "resamples = 277"))
        return write_results(table)

    monkeypatch.setattr("simulation.statistics.results.write_results", edited)
    command.study(path, tmp_path, None)
    assert load_study(path).sha256 != whole.sha256
    page = Page(kept / "report.html").words
    assert whole.sha256 in page and "Resamples of an interval 199" in page


def test_other_versions_show_a_finished_study_and_go_on_with_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(tmp_path)
    with monkeypatch.context() as later:
        later.setattr(claim, "version", lambda name: "9.0" if name == "torch" else "1.0")
        with pytest.raises(FedReasonError) as refused:
            ended(tmp_path)
        assert refused.value.code is Code.RUN_OTHER_CONFIG and "now 9.0" in refused.value.found
    table = ended(tmp_path)
    monkeypatch.setattr(claim, "version", lambda name: "9.0")
    assert ended(tmp_path) == table
