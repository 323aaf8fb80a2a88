"""A run that lies in a study has the study's groups on its card, as far as they may be told; no other run has any."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from common import synthetic
from common.errors import Code
from server.reports.export import export_adapter
from server.reports.outward import AUTHORS
from simulation.statistics.results import LEAST, RESULTS, results_of
from simulation.statistics.tables import NAMES, SHOWN
from simulation.study.config import StudyConfig
from tests.federations import command, refused
from tests.server.reports.exported import exported_run, table_row
from tests.simulation.statistics.made_up import CONFIG, made_up

STUDY = CONFIG.model_copy(update={"name": "small"})


def results(config: StudyConfig = STUDY, **groups: int) -> dict[str, Any]:
    """Results of 60 patients, of whom the first `male` are male: the federation fails at the first six."""
    table = made_up()
    table.loc[(table["arm"] == "federated") & (table["patient"] < 6), "correct"] = False
    table["group_sex"] = ["male" if patient < groups.get("male", 30) else "female" for patient in table["patient"]]
    return json.loads(json.dumps(results_of(table, config)))


def exported(tmp_path: Path, model: Path, found: object, name: str = "seed-1", **changes: Any) -> tuple[str, str]:
    folder = tmp_path / "studies" / "small"
    exported_run(folder / name, model, **{"seed": 1, **changes})
    (folder / RESULTS).write_text(found if isinstance(found, str) else json.dumps(found))
    out = export_adapter(folder / name, tmp_path / "out")
    return (out / "README.md").read_text(), (out / "reporting.md").read_text()


def test_a_card_tells_the_studys_groups_with_intervals_and_the_worst(small_model: Path, tmp_path: Path) -> None:
    found = results()
    card, reporting = exported(tmp_path, small_model, found)
    label = synthetic.codebook().by_name["sex"].label
    male, before = found["subgroups"]["sex"]["intervals"]["male"]["federated"], "0.000 (0.000 to 0.116)"
    shown = f"{male['estimate']:.3f} ({male['low']:.3f} to {male['high']:.3f})"
    assert male["estimate"] == 0.8 and 0.5 < male["low"] < 0.8 < male["high"] < 1
    assert table_row(card, "male") == ["male", "30", "30", before, shown]
    assert table_row(card, label)[3:] == ["before training", "this run's arm"]
    assert f"By {label} the worst group is male, 0.200 below the best." in card
    free = found["accuracy"]["federated"]["free"]
    assert table_row(card, "this run's arm")[1] == f"{free['estimate']:.3f} ({free['low']:.3f} to {free['high']:.3f})"
    assert "that of seed 1" in card and "seeds 1 together: 60 held-out questions to 60 patients" in card
    for number in ("14", "17", "23a", "25", "19a"):
        assert f"by {label} the worst group is male, 0.200 below the best" in table_row(reporting, number)[3]
    assert table_row(reporting, "17")[3].startswith(f"{free['estimate']:.3f} (")
    assert "chance, before training" in table_row(reporting, "7e")[3]


def test_where_no_group_is_below_another_none_is_called_the_worst(small_model: Path, tmp_path: Path) -> None:
    table = made_up()
    card, _ = exported(tmp_path, small_model, json.loads(json.dumps(results_of(table, STUDY))))
    assert "no group is below another" in card and "the worst group" not in card


def test_a_run_of_no_study_says_that_groups_are_not_known(small_model: Path, tmp_path: Path) -> None:
    exported_run(tmp_path / "run", small_model)
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    card, reporting = (out / "README.md").read_text(), (out / "reporting.md").read_text()
    assert f"counts by group do not leave a site, and this run is none of a study without noise. {AUTHORS}." in card
    assert f"Groups of patients: {AUTHORS}." in card
    assert table_row(reporting, "14")[3] == f"Groups of patients: {AUTHORS}. Approaches and reasons: {AUTHORS}."
    assert f"Groups of patients: {AUTHORS}." in table_row(reporting, "23a")[3]


def test_a_private_run_has_no_figures_that_hold_no_noise(small_model: Path, tmp_path: Path) -> None:
    for name in ("seed-1-local", "seed-1-distributed"):
        card, _ = exported(tmp_path / name, small_model, results(), name)
        assert "none of a study without noise" in card and "male" not in card


@pytest.mark.parametrize(("male", "told"), [(41, False), (60, True), (40, True)])
def test_a_group_that_is_not_shown_does_not_follow_from_those_that_are(
    small_model: Path, tmp_path: Path, male: int, told: bool
) -> None:
    card, reporting = exported(tmp_path, small_model, results(male=male))
    assert ("| male |" in card) is told, f"{60 - male} patients are left over"
    assert ("below the best" in card + reporting) is (male == 40), "of one group none is worst"


def test_no_column_is_named_of_a_codebook_that_is_not_here_or_was_read_off_records(
    small_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = {"questions": {"codebook": "elsewhere.toml"}}
    card, reporting = exported(tmp_path / "a", small_model, results(), **elsewhere)
    assert "male" not in card + reporting and "### In the study small" in card
    private = synthetic.codebook().model_copy(update={"private": True})
    monkeypatch.setattr(synthetic, "codebook", lambda: private)
    card, reporting = exported(tmp_path / "b", small_model, results(), questions={"codebook_sha256": private.sha256})
    assert "male" not in card + reporting and "known by its hash alone" in card


def test_a_simulated_run_knows_the_codebook_of_its_sites(small_model: Path, tmp_path: Path) -> None:
    site = tmp_path / "studies" / "small" / "seed-1" / "sites" / "north"
    site.mkdir(parents=True)
    (site / "codebook.toml").write_text(synthetic.codebook().to_toml())
    card, _ = exported(tmp_path, small_model, results(), questions={"codebook": "elsewhere.toml"})
    assert table_row(card, "male")[1] == "30"


@pytest.mark.parametrize("spoil", ["", "{}", "[1]", "\\xff", "older", "groups", "other", "seed", "nan"])
def test_results_that_are_damaged_or_of_another_study_are_refused(
    small_model: Path, tmp_path: Path, spoil: str
) -> None:
    found = results()
    if spoil == "older":
        del found["subgroups"]["sex"]["intervals"]
    if spoil == "groups":
        del found["subgroups"]["sex"]["intervals"]["male"]
    if spoil == "other":
        found["study"] = "another"
    if spoil == "seed":
        found["seeds"] = [2]
    text = json.dumps(found)
    if spoil == "nan":
        text = re.sub(r'"gap": [0-9.]+', '"gap": NaN', text)
    if spoil not in ("older", "groups", "other", "seed", "nan"):
        text = spoil
    told = refused(Code.STUDY_DAMAGED, lambda: exported(tmp_path, small_model, text))
    assert RESULTS in told.found and not (tmp_path / "out").exists()


def test_a_study_that_is_not_done_says_nothing_yet(small_model: Path, tmp_path: Path) -> None:
    exported_run(tmp_path / "studies" / "small" / "seed-1", small_model, seed=1)
    out = export_adapter(tmp_path / "studies" / "small" / "seed-1", tmp_path / "out")
    assert "none of a study without noise" in (out / "README.md").read_text()


def test_energy_is_not_known_and_who_can_know_it_is_told_how(small_model: Path, tmp_path: Path) -> None:
    exported_run(tmp_path / "run", small_model)
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    section = (out / "README.md").read_text().partition("## Compute and energy")[2].partition("## Provenance")[0]
    assert f"emissions: {AUTHORS}" in section and "No site sends what its devices use" in section
    words = re.search(r"python -m (client training --site NAME --run small)", section)
    assert words is not None
    done = command(*words.group(1).replace("NAME", str(tmp_path / "nowhere")).split())
    assert done.returncode == 1 and "No such option" not in done.stderr, "the command is there, the site is not"
    answered = table_row((out / "reporting.md").read_text(), "12")[3]
    assert "No site sends" in answered and answered.endswith(f"Machines and energy: {AUTHORS}.")


def test_a_simulated_run_is_exported_by_its_path(small_model: Path, tmp_path: Path) -> None:
    exported_run(tmp_path / "run", small_model)
    done = command("server", "export", tmp_path / "run", "--out", tmp_path / "out")
    assert done.returncode == 0 and (tmp_path / "out" / "README.md").exists(), done.stderr
    absent = command("server", "export", tmp_path / "none", "--out", tmp_path / "other")
    assert absent.returncode == 1 and absent.stderr.startswith("E"), absent.stderr


def test_what_a_card_takes_from_a_study_is_what_a_study_writes() -> None:
    from server.reports import studied

    assert (studied.RESULTS, studied.LEAST, studied.SHOWN) == (RESULTS, LEAST, SHOWN)
    assert set(studied.SIDES) <= set(NAMES)
