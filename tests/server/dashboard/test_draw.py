"""A long run of many sites is told on one page: thinned out, by sums that are those of a hand count."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.stored import evaluation_of, stored
from server.dashboard.draw import drawn
from server.dashboard.history import History
from server.reports.report import privacy_section
from server.reports.rows import read_rows
from server.reports.spent import taken
from server.rounds.store import EvaluationRow, FallRow, LookRow, RunStore
from tests.server.dashboard.scene import run_of


def sections(folder: Path, sites: int, rounds: int, *, looks: int = 0) -> dict[str, str]:
    names = [f"site{number:02d}" for number in range(sites)]
    config = run_of("long", sites, private=True)
    stored(folder, config, names, rounds)
    with RunStore.opened(folder, config) as store:
        counts = {name: {"right": 5, "asked": 10} for name in names}
        told = {"shares": {"right": 0.5}, "counts": counts, "disagreeing": names[-1:]}
        for number in range(looks):
            store.record(LookRow(round=number, **told))
        if looks:
            store.record(FallRow(round=2, back_to=1, lost={"right": 0.9}, sites=names, **told))
    history = History(folder)
    history.look()
    return {one.title: one.body for one in drawn(history, config)}


def test_few_sites_and_rounds_are_told_as_in_the_report(tmp_path: Path) -> None:
    found = sections(tmp_path, 3, 12)
    accuracy = found["Held-out accuracy by round and site"]
    assert "is shown; the run's report has all" not in accuracy
    assert all(f"site0{number}, 12" in accuracy for number in range(3))
    assert found["Privacy spent"] == privacy_section(run_of("long", 3, private=True), taken(read_rows(tmp_path)))


def test_of_many_sites_the_curve_is_of_all_together_and_each_one_s_last_is_in_a_table(tmp_path: Path) -> None:
    accuracy = sections(tmp_path, 12, 30)["Held-out accuracy by round and site"]
    last = [evaluation_of(30, "", place).counts["age"] for place in range(12)]
    share = sum(count["free"] for count in last) / sum(count["asked"] for count in last)
    assert re.search(rf"all sites</th><td>30</td><td>720</td><td>{share:.3f}", accuracy)
    assert "The curves are of all 12 sites together" in accuracy
    for place, count in enumerate(last):
        assert re.search(rf"site{place:02d}</th><td>60</td><td>{count['free'] / count['asked']:.3f}", accuracy)


def test_a_curve_of_many_sites_together_is_of_the_same_ones_in_every_round(tmp_path: Path) -> None:
    """In each round another site is away but in the last two: its neighbours' accuracy is no step of the model."""
    names = [f"site{number:02d}" for number in range(10)]
    with RunStore.opened(tmp_path, run_of("long", 10)) as store:
        for number, away in enumerate((0, 1, 9, 9)):
            for place, name in enumerate(names):
                counts = {"age": {"asked": 10, "free": place, "forced": place}}
                if place != away:
                    store.record(EvaluationRow(round=number, site=name, counts=counts))
    history = History(tmp_path)
    history.look()
    (accuracy,) = (one.body for one in drawn(history, None) if one.title == "Held-out accuracy by round and site")
    assert "The curves are of the same 9 sites together" in accuracy and "all sites" not in accuracy
    assert re.findall(r"9 of 10 sites</th><td>(\d)</td><td>90</td><td>([0-9.]+)", accuracy) == [
        ("2", "0.400"),
        ("3", "0.400"),
    ]


@pytest.mark.long
@pytest.mark.parametrize("title", ["Held-out accuracy by round and site", "The guard's public questions"])
def test_what_is_told_by_site_does_not_grow_with_the_rounds(tmp_path: Path, title: str) -> None:
    short = sections(tmp_path / "short", 12, 90, looks=90)[title]
    long = sections(tmp_path / "long", 12, 270, looks=270)[title]
    assert len(long) < 1.2 * len(short)


def test_what_was_taken_back_stays_on_the_page(tmp_path: Path) -> None:
    found = sections(tmp_path, 12, 90, looks=90)["The guard's public questions"]
    assert "Round 2 was taken back" in found
    assert "site11" in found and "site03" not in re.sub("took part: .*", "", found)
