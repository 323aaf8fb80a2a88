"""A study's page and the page of results say what `results.json` says, and nothing stands in a reader's way."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from common.errors import Code, FedReasonError
from simulation.statistics.results import results_of
from simulation.statistics.tables import NAMES
from simulation.study.config import load_study
from simulation.study.report import write_study_report
from simulation.study.results import verdict, write_results_page
from tests.browsing import DESK, PHONE, barriers, beyond_the_screen, browser, needs_browser, viewed
from tests.server.reports.pages import Page
from tests.simulation.statistics.made_up import CONFIG, made_up, row
from tests.simulation.study.studies import write_study

__all__ = ["browser"]
ARMS = ["before", "alone", "federated"]


def results(**changes: Any) -> dict[str, Any]:
    """Results of the made-up table, with an outcome that is foretold."""
    import pandas as pd

    rows = [made_up()]
    for patient in range(60):
        for seed in (1, 2):
            for arm in ("before", "federated"):
                chance = 0.2 + 0.01 * (patient % 37) + (0.3 if arm == "federated" and patient % 3 == 0 else 0.0)
                told = {"seed": seed, "item": "death", "event": patient % 3 == 0, "p_event": chance, "task": "outcome"}
                rows.append(pd.DataFrame([row(arm, patient, patient % 3 != 0, **told)]))
    return results_of(pd.concat(rows, ignore_index=True), CONFIG) | changes


@pytest.fixture(scope="module")
def page(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_study_report(folder, load_study(write_study(folder, small_model, arms=ARMS)), results())


def test_every_figure_of_the_page_is_that_of_the_results(page: Path) -> None:
    told, found = results(), Page(page)
    for side, each in told["accuracy"].items():
        free = each["free"]
        row = f"{NAMES[side]} {free['estimate']:.3f} {free['low']:.3f} to {free['high']:.3f}"
        assert row in found.words, row
    for each in told["comparisons"]:
        assert f"{each['one']} less {each['other']} {each['free']['estimate']:+.3f}" in found.words
        assert f"{each['p_holm']:.4f}" in found.words
    outcome = told["outcomes"]["death"]
    auroc = outcome["sides"]["federated"]["auroc"]
    assert f"federated {auroc['estimate']:.3f} {auroc['low']:.3f} to {auroc['high']:.3f}" in found.words
    assert {"accuracy", "differences", "death-reliability", "death-benefit", "sites"} == set(found.figures)
    assert found.fetched == [] and found.scripts == []
    assert page.stat().st_size < 200_000


def test_it_says_what_was_run(page: Path) -> None:
    words = Page(page).words
    for wanted in ("Study SHA-256", "Configuration SHA-256", "Codebook SHA-256", "torch", "4, 5", "Resamples"):
        assert wanted in words, wanted


@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_page_has_no_barrier_and_fits_the_screen(
    browser: Any, page: Path, size: dict[str, int], scheme: str
) -> None:
    with viewed(browser, size, scheme) as view:
        view.goto(page.as_uri())
        assert (barriers(view), beyond_the_screen(view)) == ([], 0)


def test_the_page_of_results_holds_the_same_figures_and_drawings_that_are_sound(tmp_path: Path) -> None:
    folder = tmp_path / "studies" / "made-up"
    folder.mkdir(parents=True)
    told = results()
    (folder / "results.json").write_text(json.dumps(told))
    out = tmp_path / "docs" / "results.md"
    write_results_page([folder], out)
    text = out.read_text()
    free = told["accuracy"]["federated"]["free"]
    assert f"| federated | {free['estimate']:.3f} | {free['low']:.3f} to {free['high']:.3f} |" in text
    assert "| federated less alone | +" in text
    linked = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert sorted(linked) == ["figures/made-up-accuracy.svg", "figures/made-up-differences.svg"]
    for name in linked:
        drawn = (out.parent / name).read_text()
        titles = [one.text for one in ET.fromstring(drawn).iter("{http://www.w3.org/2000/svg}title")]
        assert len(titles) > 2
        assert len(drawn) < 20_000
    assert unescape(text).count("\n\n\n") == 0


@pytest.mark.parametrize(
    ("low", "high", "wanted"),
    [(0.01, 0.05, "*federated* is above"), (-0.05, -0.01, "is above *federated*"), (-0.01, 0.05, "holds 0")],
)
def test_a_difference_is_told_by_its_interval(low: float, high: float, wanted: str) -> None:
    free = {"estimate": (low + high) / 2, "low": low, "high": high}
    assert wanted in verdict({"one": "federated", "other": "own", "free": free, "p_holm": 0.049})


def test_sides_that_no_draw_parts_are_said_to_be_right_as_often_not_to_answer_the_same() -> None:
    free = {"estimate": 0.0, "low": 0.0, "high": 0.0}
    assert "as many right answers" in verdict({"one": "federated", "other": "pooled", "free": free, "p_holm": 1.0})


def test_one_of_many_differences_is_not_called_one_and_without_an_interval_nothing_is() -> None:
    difference = {
        "one": "federated",
        "other": "own",
        "p_holm": 0.05,
        "free": {"estimate": 0.2, "low": 0.1, "high": 0.3},
    }
    told = verdict(difference)
    assert "above" not in told and "does not hold 0, but p over all differences is 0.050" in told
    for estimate in (0.0, 0.2):
        few = {"estimate": estimate, "low": None, "high": None}
        assert "there is no interval" in verdict(difference | {"free": few})


def test_two_studies_of_one_name_are_refused_before_one_takes_the_figures_of_the_other(tmp_path: Path) -> None:
    for folder in (tmp_path / "one", tmp_path / "other"):
        folder.mkdir()
        (folder / "results.json").write_text(json.dumps(results()))
    with pytest.raises(FedReasonError) as refused:
        write_results_page([tmp_path / "one", tmp_path / "other"], tmp_path / "page" / "out.md")
    assert refused.value.code is Code.CONFIG_VALUE and CONFIG.name in refused.value.found
    assert not (tmp_path / "page").exists()


def test_what_is_no_result_of_a_study_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(FedReasonError) as refused:
        write_results_page([tmp_path], tmp_path / "out.md")
    assert refused.value.code is Code.CONFIG_MISSING
    older = results()
    del older["accuracy"]["before"]["free_macro"]
    for content in ("{}", "[]", json.dumps(older), json.dumps(older | {"accuracy": 3})):
        (tmp_path / "results.json").write_text(content)
        with pytest.raises(FedReasonError) as refused:
            write_results_page([tmp_path], tmp_path / "out.md")
        assert refused.value.code is Code.STUDY_DAMAGED
        assert str(tmp_path) in str(refused.value)
    assert not (tmp_path / "out.md").exists() and not (tmp_path / "figures").exists()
