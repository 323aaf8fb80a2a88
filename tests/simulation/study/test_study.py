"""A study as a person runs it: killed at any moment and started again it ends with the table of an undisturbed one."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bench.waiting import PATIENCE
from client.privacy.ledger import Ledger
from common.errors import Code, FedReasonError
from simulation.study.config import load_study
from simulation.study.driver import claimed
from tests.simulation.study.studies import finished, killed, start, write_study
from tests.small import PRIVACY

ARMS = ["boosting", "before", "alone", "left_out", "federated", "pooled"]


@pytest.mark.federation
def test_a_study_killed_again_and_again_and_resumed_has_the_table_of_an_undisturbed_one(
    small_model: Path, tmp_path: Path
) -> None:
    study = write_study(
        tmp_path, small_model, arms=ARMS, seeds=[4], comparisons=[["federated", "alone"], ["left_out", "own"]]
    )
    output = finished(start(study, tmp_path / "whole"))
    assert "left_out - own" in output and "10 of 10 units" in output
    moments = (
        ("seed-4/sites/*/registry.csv", 2),  # sites are being laid out
        ("seed-4/**/checkpoint.safetensors", 2),  # rounds are being done
        ("units/*.parquet", 4),
    )
    for sign, often in moments:
        killed(start(study, tmp_path / "torn"), tmp_path / "torn" / "studies" / "small", sign, often)
    output = finished(start(study, tmp_path / "torn"))
    assert "units were done before" in output

    folders = [tmp_path / name / "studies" / "small" for name in ("whole", "torn")]
    whole, torn = (pq.read_table(folder / "study.parquet") for folder in folders)
    assert torn.equals(whole, check_metadata=True)
    rows = whole.to_pandas()
    answers = {arm: part.drop(columns="arm").reset_index(drop=True) for arm, part in rows.groupby("arm")}
    assert answers["pooled"].equals(answers["federated"]), "the same bits"
    assert not answers["before"].equals(answers["federated"])
    assert [len(answers[arm]) // len(answers["before"]) for arm in ARMS] == [1, 1, 3, 1, 1, 1]
    assert not rows.duplicated(["seed", "arm", "trained_at", "site", "patient", "item"]).any()
    one, other = (json.loads((folder / "results.json").read_text()) for folder in folders)
    assert one == other
    assert "done in" not in finished(start(study, tmp_path / "torn")), "nothing is run again"


@pytest.mark.federation
def test_private_arms_are_charged_at_sites_of_their_own_and_go_on_after_a_kill(
    small_model: Path, tmp_path: Path
) -> None:
    private = {"privacy": PRIVACY | {"colluders": 1}, "optimizer": {"name": "sgd", "learning_rate": 0.1}}
    study = write_study(
        tmp_path, small_model, arms=["before", "federated", "local", "distributed"], seeds=[4], private=private
    )
    folder = tmp_path / "runs" / "studies" / "small"
    killed(start(study, tmp_path / "runs"), folder, "seed-4-distributed/checkpoint.safetensors", 1)
    done = {path.name: path.read_bytes() for path in (folder / "units").glob("*.parquet")}
    finished(start(study, tmp_path / "runs"))
    rows = pq.read_table(folder / "study.parquet").to_pandas()
    questions = rows.groupby("arm")[["patient", "item"]].apply(lambda part: sorted(map(tuple, part.to_numpy())))
    assert set(questions.index) == {"before", "federated", "local", "distributed"}
    assert all(asked == questions["before"] for asked in questions)
    assert {name: (folder / "units" / name).read_bytes() for name in done} == done, "what is done stays"
    for arm in ("local", "distributed"):
        for site in ("north", "south", "west"):
            ledger = Ledger.opened(folder / f"seed-4-{arm}" / "sites" / site)
            assert ledger.epsilon > 0
    charged = {path.relative_to(folder).parts[0] for path in folder.rglob("ledger.jsonl")}
    assert charged == {"seed-4-local", "seed-4-distributed"}


def test_a_changed_study_is_refused_where_the_old_one_is_kept(tmp_path: Path) -> None:
    path = write_study(tmp_path, Path("tiny"), arms=["majority"])
    study, folder = load_study(path), tmp_path / "small"
    with claimed(folder, study):
        pass
    path.write_text(path.read_text().replace("resamples = 199", "resamples = 299"))
    with pytest.raises(FedReasonError) as refused, claimed(folder, load_study(path)):
        pass
    assert refused.value.code == Code.RUN_OTHER_CONFIG and str(folder) in refused.value.found


@pytest.mark.federation
def test_a_unit_that_is_damaged_is_named_and_done_again_once_it_is_deleted(tmp_path: Path) -> None:
    study, runs = write_study(tmp_path, Path("tiny"), arms=["majority"]), tmp_path / "runs"
    finished(start(study, runs))
    folder = runs / "studies" / "small"
    whole, unit = pq.read_table(folder / "study.parquet"), folder / "units" / "5-majority.parquet"
    (folder / "study.parquet").unlink()
    unit.write_bytes(unit.read_bytes()[:-20])
    process = start(study, runs)
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1 and f"E{Code.STUDY_DAMAGED.value}" in output and "5-majority.parquet" in output
    unit.unlink()
    finished(start(study, runs))
    assert pq.read_table(folder / "study.parquet").equals(whole)
