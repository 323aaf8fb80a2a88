"""What the results say of a small table that was worked out by hand."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from rich.console import Console

from common.errors import Code, FedReasonError
from simulation.statistics import results
from simulation.statistics.results import results_of, write_results
from simulation.statistics.scores import scores, sums
from simulation.statistics.tables import tables_of
from simulation.study.rows import schema_of, write_table
from tests.simulation.statistics.made_up import CONFIG, made_up, row


def made_up_table(rows: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(rows, schema=schema_of(CONFIG), preserve_index=False)


def test_alone_is_the_mean_over_sites_and_own_each_site_at_home() -> None:
    found = results_of(made_up(), CONFIG)
    free = {side: each["free"]["estimate"] for side, each in found["accuracy"].items()}
    assert free == {"chance": 0.5, "before": 0.0, "alone": 0.5, "own": 1.0, "federated": 1.0}
    assert found["across"] == {"north": {"north": 1.0, "south": 0.0}, "south": {"north": 0.0, "south": 1.0}}
    assert (found["questions"], found["patients"], found["seeds"]) == (60, 60, [1])
    assert found["by_site"]["north"] == {
        "questions": 30, "chance": 0.5, "before": 0.0, "alone": 0.5, "own": 1.0, "federated": 1.0
    }  # fmt: skip


def test_a_difference_is_of_the_same_questions_and_adjusted_for_all_that_were_stated() -> None:
    random = np.random.default_rng(0)
    table = made_up()
    table.loc[table["arm"] == "federated", "correct"] = random.random(60) < 0.8
    found = results_of(table, CONFIG)["comparisons"]
    right = table[table["arm"] == "federated"]["correct"].mean()
    assert [each["free"]["estimate"] for each in found] == pytest.approx(
        [right - 0.5, right - 1, right - 0.5], abs=1e-6
    )
    for each in found:
        assert each["free"]["low"] <= each["free"]["estimate"] <= each["free"]["high"]
        assert each["by_seed"] == {"1": each["free"]["estimate"]}
    smallest = min(each["p"] for each in found)
    assert min(each["p_holm"] for each in found) == pytest.approx(3 * smallest)


def test_questions_that_one_side_was_not_asked_count_for_neither() -> None:
    table = made_up()
    table = table[~((table["arm"] == "federated") & (table["patient"] < 10))]
    counted = sums(scores(table, "free", ["federated", "before"]), ["federated", "before"])
    assert counted.patients == tuple(range(10, 60)) and counted.asked.sum() == 50


def test_items_are_averaged_alike_however_often_they_are_asked() -> None:
    table = pd.DataFrame(
        [row("before", patient, True) for patient in range(60)]
        + [row("before", patient, False, item="map") for patient in range(5)]
    )
    found = results_of(table, CONFIG.model_copy(update={"comparisons": (), "arms": ("before",)}))
    assert found["accuracy"]["before"]["free"]["estimate"] == pytest.approx(60 / 65, abs=1e-6)
    assert found["accuracy"]["before"]["free_macro"]["estimate"] == 0.5


def test_the_worst_group_is_named_with_its_gap_and_small_groups_are_not_shown() -> None:
    table = made_up()
    table.loc[(table["arm"] == "federated") & (table["patient"] < 6), "correct"] = False
    found = results_of(table, CONFIG)["subgroups"]["sex"]
    assert found["worst"]["federated"] == {"group": "male", "gap": 0.2}
    assert found["groups"]["male"] == {
        "patients": 30, "questions": 30, "chance": 0.5, "before": 0.0, "alone": 0.5, "own": 1.0, "federated": 0.8
    }  # fmt: skip
    table["group_sex"] = np.where(table["patient"] < results.LEAST - 1, "male", "female")
    assert list(results_of(table, CONFIG)["subgroups"]["sex"]["groups"]) == ["female"]


def test_an_outcome_has_its_figures_for_each_side_and_stated_difference() -> None:
    rows = []
    for patient in range(60):
        died, guess = patient % 3 == 0, (patient * 7 % 10) / 10
        same = {"item": "death", "task": "outcome", "event": died}
        rows.append(row("before", patient, True, p_event=0.5, **same))
        rows.append(row("federated", patient, True, p_event=0.9 if died else guess, **same))
    config = CONFIG.model_copy(update={"arms": ("before", "federated"), "comparisons": (("federated", "before"),)})
    found = results_of(pd.DataFrame(rows), config)["outcomes"]["death"]
    assert found["sides"]["before"]["auroc"] == {"estimate": 0.5, "low": 0.5, "high": 0.5}
    assert found["sides"]["before"]["brier"]["estimate"] == 0.25
    (difference,) = found["comparisons"]
    better = found["sides"]["federated"]["auroc"]["estimate"]
    assert better > 0.9 and difference["auroc"]["estimate"] == pytest.approx(better - 0.5, abs=1e-6)
    assert 0 < difference["auroc"]["low"] < difference["auroc"]["high"]


def test_a_difference_that_no_draw_moves_and_a_perfect_area_have_no_interval() -> None:
    """Ten patients cannot say that one side is right on all of any number of them, and the other on none."""
    rows = []
    for patient in range(10):
        same = {"item": "death", "task": "outcome", "event": patient < 3}
        rows.append(row("before", patient, False, p_event=0.5, **same))
        rows.append(row("federated", patient, True, p_event=0.9 if patient < 3 else 0.1, **same))
    config = CONFIG.model_copy(update={"arms": ("before", "federated"), "comparisons": (("federated", "before"),)})
    found = results_of(pd.DataFrame(rows), config)
    assert found["comparisons"][0]["free"] == {"estimate": 1.0, "low": None, "high": None}
    outcome = found["outcomes"]["death"]
    assert outcome["sides"]["federated"]["auroc"] == {"estimate": 1.0, "low": None, "high": None}
    assert outcome["comparisons"][0]["auroc"] == {"estimate": 0.5, "low": None, "high": None}


def test_a_difference_of_an_outcome_is_of_the_patients_that_both_were_asked_about() -> None:
    rows = []
    for patient in range(80):
        died = patient % 3 == 0
        for arm in ("before", "federated"):
            same = {"item": "death", "task": "outcome", "event": died, "p_event": 0.2 + 0.01 * (patient % 37)}
            if arm == "before" or patient < 40:
                rows.append(row(arm, patient, True, **same))
    config = CONFIG.model_copy(update={"arms": ("before", "federated"), "comparisons": (("federated", "before"),)})
    (difference,) = results_of(pd.DataFrame(rows), config)["outcomes"]["death"]["comparisons"]
    assert difference == {"one": "federated", "other": "before"} | {
        name: {"estimate": 0.0, "low": 0.0, "high": 0.0} for name in ("auroc", "brier")
    }


@pytest.mark.parametrize("patients", [0, 1, 2, 3])
def test_a_table_of_hardly_anybody_has_results(patients: int) -> None:
    table = made_up()
    found = results_of(table[table["patient"] < patients], CONFIG)
    assert found["patients"] == patients
    assert found["comparisons"][0]["p_holm"] == (1.0 if patients < 3 else 0.75), "a quarter, of three comparisons"
    low = found["accuracy"]["alone"]["free"]["low"]
    assert (low is None) is (patients < 3)


def test_a_group_has_intervals_of_its_own_patients() -> None:
    random = np.random.default_rng(3)
    table = made_up()
    table.loc[table["arm"] == "federated", "correct"] = random.random(60) < 0.7
    sex = results_of(table, CONFIG)["subgroups"]["sex"]
    alone = results_of(table[table["group_sex"] == "male"], CONFIG)["accuracy"]
    assert sex["intervals"]["male"] == {side: each["free"] for side, each in alone.items()}
    assert sex["intervals"]["male"]["federated"]["estimate"] == sex["groups"]["male"]["federated"]


def test_everything_is_computed_from_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.parquet"
    write_table(path, made_up_table(made_up()))
    found = write_results(path)
    assert found == json.loads((tmp_path / "results.json").read_text())
    assert found == results_of(made_up(), CONFIG) | {"questions": 60}
    written = StringIO()
    console = Console(width=200, file=written)
    for table in tables_of(found):
        console.print(table)
    shown = written.getvalue()
    assert "federated - alone" in shown and "+0.500" in shown and "male (30)" in shown


@pytest.mark.parametrize("content", [b"", b"PAR1 torn", None])
def test_a_table_that_is_torn_or_of_something_else_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "study.parquet"
    if content is None:
        write_table(path, pa.table({"patient": [1]}))
    else:
        path.write_bytes(content)
    with pytest.raises(FedReasonError) as refused:
        write_results(path)
    assert refused.value.code == Code.STUDY_DAMAGED and str(path) in refused.value.found


def test_a_study_that_held_nobody_out_has_results_without_figures(tmp_path: Path) -> None:
    path = tmp_path / "study.parquet"
    write_table(path, made_up_table(made_up()[:0]))
    found = write_results(path)
    assert found["questions"] == found["patients"] == 0
    assert found["accuracy"]["federated"]["free"] == {"estimate": None, "low": None, "high": None}
    assert found["comparisons"][0]["p_holm"] == 1.0 and found["subgroups"]["sex"]["groups"] == {}
    assert len(tables_of(found)) > 1


def test_an_arm_that_was_asked_nothing_somewhere_has_no_share_there() -> None:
    table = made_up()
    table = table[~((table["arm"] == "federated") & (table["site"] == "north"))]
    found = results_of(table, CONFIG)
    assert found["by_site"]["north"]["federated"] is None and found["by_site"]["south"]["federated"] == 1.0
    table = table[~((table["arm"] == "federated") & (table["group_sex"] == "male"))]
    assert "federated" not in results_of(table, CONFIG)["subgroups"]["sex"]["worst"]
