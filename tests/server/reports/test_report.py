"""A report is one file that asks the network for nothing, escapes what it is given and shows every number."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.orm import Session

from common import wilson
from common.errors import Code, FedReasonError
from server.dashboard.watch import RunWatch
from server.reports.curves import accuracy_counts
from server.reports.report import write_run_report
from server.reports.rows import read_rows
from server.reports.stages import stages_section
from server.rounds.shares import mean_reward
from server.rounds.stages import Stages, Took
from server.rounds.store import EvaluationRow, RoundRow, RunStore
from simulation.report import write_report
from tests.federations import refused
from tests.server.reports.pages import (
    HOSTILE,
    SITES,
    Page,
    counts,
    full_run,
    round_row,
    run_config,
    run_folder,
    summary,
)


def numbers(values: Any) -> list[float]:
    if isinstance(values, dict):
        return [number for value in values.values() for number in numbers(value)]
    return [values] if isinstance(values, float) else []


def both(folder: Path, content: dict[str, Any]) -> list[Page]:
    """Report of the coordinator, then the simulation's; they have the same name."""
    return [Page(write_run_report(folder)), Page(write_report(folder, content))]


def test_nothing_is_fetched_from_anywhere(tmp_path: Path) -> None:
    for page in both(full_run(tmp_path), summary()):
        assert not {tag for tag, _ in page.tags} & {"link", "img", "iframe", "object", "base", "form"}
        assert page.fetched == [] and page.scripts == []
        policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
        assert str(policy).startswith("default-src 'none';")
        assert "@import" not in "".join(page.text) and "url(" not in "".join(page.text)


def test_every_id_is_there_once_and_every_reference_meets_one(tmp_path: Path) -> None:
    for page in both(full_run(tmp_path), summary()):
        ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
        assert page.figures and len(ids) == len(set(ids))
        named = [str(attrs["aria-labelledby"]).split() for _, attrs in page.tags if "aria-labelledby" in attrs]
        links = [str(attrs["href"])[1:] for _, attrs in page.tags if "href" in attrs]
        assert len(named) > 5 and {name for names in named for name in names} | set(links) <= set(ids)


def test_a_page_has_landmarks_headings_in_order_and_tables_and_plots_that_are_told(tmp_path: Path) -> None:
    for page in both(full_run(tmp_path), summary()):
        tags = [tag for tag, _ in page.tags]
        assert [tags.count(tag) for tag in ("header", "nav", "main", "h1")] == [1, 1, 1, 1]
        levels = [int(tag[1]) for tag in tags if tag in ("h1", "h2", "h3", "h4")]
        assert levels[0] == 1 and all(later - level <= 1 for level, later in pairwise(levels))
        assert tags.count("section") == tags.count("h2") > 4
        assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
        scrolled = [attrs for _, attrs in page.tags if attrs.get("class") == "scroll"]
        assert len(scrolled) == tags.count("table") and all(a["tabindex"] == "0" and a["aria-label"] for a in scrolled)
        pictures = [attrs for tag, attrs in page.tags if tag == "svg" and attrs.get("role") == "img"]
        assert len(pictures) == len(page.figures) == tags.count("figcaption") == tags.count("desc")
        assert all(attrs.get("aria-hidden") for tag, attrs in page.tags if tag == "svg" and attrs not in pictures)


def test_a_long_run_of_many_sites_stays_below_the_size_that_mail_takes(tmp_path: Path) -> None:
    rows: list[RoundRow | EvaluationRow] = [round_row(number) for number in range(1, 2001)]
    sites = [f"site-{i}" for i in range(10)]
    rows += [EvaluationRow(round=n, site=s, counts=counts(90, 40, 50)) for n in range(0, 2001, 20) for s in sites]
    with RunStore.opened(tmp_path, run_config()) as store, Session(store._engine) as session, session.begin():
        session.add_all(rows)
    path = write_run_report(tmp_path)
    assert path.stat().st_size < 1_500_000
    assert "Every row whose place can be divided by 2, and the last." in Page(path).words


def test_hostile_labels_and_names_stay_text(tmp_path: Path) -> None:
    folder = full_run(tmp_path)
    with RunStore.opened(folder, run_config()) as store:
        store.record(round_row(3, refused={HOSTILE: 503}))
        for number in (0, 4):
            store.record(EvaluationRow(round=number, site=HOSTILE, counts=counts(9, 3, 4)))
    content = summary(label=HOSTILE)
    content["name"], content["reading"] = HOSTILE, [HOSTILE]
    content["sites"] = [*SITES, HOSTILE]
    content["by_site"][HOSTILE] = content["by_site"]["south"]
    content["alone"][HOSTILE] = 0.5
    content["sample"] = {
        "question": HOSTILE,
        "answer": "B",
        "truth": HOSTILE,
        "completions": {"before": HOSTILE, "federated": HOSTILE + "\\boxed{B}"},
        "boxed": {"before": None, "federated": "B"},
    }
    for page in both(folder, content):
        assert HOSTILE in page.words
        assert "script" not in [tag for tag, _ in page.tags] and page.fetched == []
        assert any(text.startswith(HOSTILE) for text in page.text), "the plots' own text"


def test_every_number_of_the_summary_is_on_the_page(tmp_path: Path) -> None:
    content = summary()
    page = Page(write_report(full_run(tmp_path), content))
    tables = ("accuracy", "accuracy_forced", "alone", "by_kind", "by_feature", "by_site")
    expected = [f"{number:.3f}" for name in tables for number in numbers(content[name])]
    assert len(expected) > 60
    assert [number for number in expected if number not in page.words] == []
    assert wilson.shown(content["accuracy"]["federated"], 400) in page.words and wilson.NAME in page.words
    for text in ("12 min 34 s", "8.010 MB", "4.000 MB", "c" * 64, "a" * 64, "the same bits", "fedsgd", "north, south"):
        assert text in page.words


def test_a_stage_is_told_by_its_sites_the_slowest_first_and_one_that_never_answered_without_seconds() -> None:
    rounds: list[Stages] = [
        {"train": {"north": Took(2.0, 30, 200), "south": Took(None, 30, 0)}, "evaluate": {"west": Took(0.5, 1, 1)}},
        {"train": {"north": Took(8.0, 30, 200), "west": Took(70.0, 30, 100), "south": Took(None, 60, 0)}},
    ]
    table = stages_section(rounds)
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr.*?</tr>", table, re.DOTALL)]
    assert rows[1:] == [
        ["train", "2", "36.0 s", "1 min 10 s", "180 B", "500 B"],
        ["west", "1", "1 min 10 s", "1 min 10 s", "30 B", "100 B"],
        ["north", "2", "5.0 s", "8.0 s", "60 B", "400 B"],
        ["south", "0", "", "", "90 B", "0 B"],
        ["evaluate", "1", "0.5 s", "0.5 s", "1 B", "1 B"],
        ["west", "1", "0.5 s", "0.5 s", "1 B", "1 B"],
    ]


def test_a_run_of_a_version_that_kept_no_stages_has_none_on_its_page(tmp_path: Path) -> None:
    title = "Bytes and seconds by stage and site"
    assert title in Page(write_run_report(full_run(tmp_path / "new"))).words
    folder = run_folder(tmp_path / "old", [round_row(1)])
    with closing(sqlite3.connect(folder / "rounds.sqlite")) as link:
        link.execute("drop table stages")
    assert title not in Page(write_run_report(folder)).words


def test_every_number_of_the_rounds_is_on_the_coordinators_page(tmp_path: Path) -> None:
    page = Page(write_run_report(full_run(tmp_path)))
    rewards = [f"{number / 7:.3f}" for number in range(1, 5)]
    seconds = [f"{1.5 + number / 1000:.3f}" for number in range(1, 5)]
    accuracies = ["0.333", "0.778", "0.444", "0.889", wilson.shown(3 / 9, 9), wilson.shown(8 / 9, 9)]
    for text in [
        *rewards,
        *seconds,
        *accuracies,
        "2.001",
        "4 of 4",
        "E503 RUN_QUORUM",
        "E999",
        f"{4:064x}",
        wilson.shown(3 / 9, 9),
    ]:
        assert text in page.words
    assert page.figures == ["reward", "accuracy-free", "accuracy-forced", "bytes", "seconds", "refusals"]


def test_a_run_whose_sites_keep_their_counts_still_has_a_report(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [round_row(1, told=False), round_row(2, told=False)])
    for page in both(folder, summary(compare=False)):
        assert "metrics = none" in page.words and "No site refused" in page.words
        assert {"bytes", "seconds"} <= set(page.figures) and "reward" not in page.figures


@pytest.mark.parametrize(
    "counts", [{"rollouts": 1e-300, "reward": 1e12}, {"rollouts": 8, "reward": -1}, {"rollouts": 8, "reward": 9}]
)
def test_counts_that_no_rollouts_have_are_no_reward_and_keep_no_page_from_being_written(
    tmp_path: Path, counts: dict[str, float]
) -> None:
    wrong = round_row(2)
    wrong.counts = counts
    folder = run_folder(tmp_path, [round_row(1), wrong])
    for page in both(folder, summary()):
        assert "one round: 0.143 at 1, 0.143 at 1." in page.words
    watch = RunWatch(folder)
    assert watch.sections() and watch.totals(ended=False).reward is None
    assert mean_reward({"rollouts": 1, "reward": 1.0}) == 1.0 and mean_reward({"rollouts": 4, "reward": 0.0}) == 0.0


def test_rows_alone_are_enough_before_the_first_round(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [])
    (folder / "config.json").unlink()
    page = Page(write_run_report(folder))
    assert page.figures == [] and page.words.count("No round is finished yet.") == 4
    assert sorted(path.name for path in folder.iterdir() if path.name != ".lock") == ["report.html", "rounds.sqlite"]


@pytest.mark.parametrize(
    ("protocol", "same", "said"),
    [("fedsgd", False, "expected to be"), ("fedavg", False, "need not be"), ("fedsgd", True, "are the same bits")],
)
def test_the_page_says_whether_the_adapters_are_the_same_bits(
    tmp_path: Path, protocol: str, same: bool, said: str
) -> None:
    content = summary() | {"protocol": protocol, "federated_equals_pooled": same, "pooled_adapter_sha256": "b" * 64}
    words = Page(write_report(full_run(tmp_path), content)).words
    assert said in words and "b" * 64 in words and ("are the same bits" in words) == same


def test_a_sample_question_is_shown_only_where_the_summary_has_one(tmp_path: Path) -> None:
    folder, content = full_run(tmp_path), summary()
    assert "sample question" not in Page(write_report(folder, content)).words
    completions = {"before": "thus \\boxed{C}", "federated": "so \\boxed{B}"}
    content["sample"] = {
        "question": "Which?",
        "answer": "B",
        "truth": "gentamicin",
        "completions": completions,
        "boxed": {"before": "C", "federated": "B"},
    }
    words = Page(write_report(folder, content)).words
    assert "Before (base model): wrong" in words and "Federated: right" in words and "thus \\boxed{C}" in words


def test_all_sites_together_are_shown_only_for_rounds_that_have_all() -> None:
    rows = [
        EvaluationRow(round=0, site="north", counts=counts(10, 1, 1)),
        EvaluationRow(round=0, site="south", counts=counts(30, 27, 27)),
        EvaluationRow(round=5, site="north", counts=counts(10, 2, 2)),
        EvaluationRow(round=5, site="empty", counts={}),
    ]
    assert accuracy_counts(rows, "free") == {
        "north": [(0, 1, 10), (5, 2, 10)],
        "south": [(0, 27, 30)],
        "all sites": [(0, 28, 40)],
    }


def test_reading_a_run_changes_nothing_and_names_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(FedReasonError) as caught:
        read_rows(tmp_path)
    assert caught.value.code == Code.CONFIG_MISSING and not list(tmp_path.iterdir())
    folder = full_run(tmp_path / "run").rename(tmp_path / "a folder? with 100% odd#name")
    before = (folder / "rounds.sqlite").read_bytes()
    assert len(read_rows(folder).rounds) == 4
    assert (folder / "rounds.sqlite").read_bytes() == before
    (folder / "rounds.sqlite").write_bytes(b"not a database, but long enough to look at" * 50)
    with pytest.raises(FedReasonError) as caught:
        read_rows(folder)
    assert caught.value.code == Code.RUN_CHECKPOINT


def test_a_write_that_was_broken_off_or_goes_on_is_not_called_damage(tmp_path: Path) -> None:
    """As a kill within a commit leaves it: a journal that only who writes the database may roll back."""
    folder = full_run(tmp_path / "run")
    path = folder / "rounds.sqlite"
    code = (
        "import os, sqlite3, sys\n"
        "kept = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "kept.execute('PRAGMA cache_size = 1')\n"
        "kept.execute('BEGIN IMMEDIATE')\n"
        "kept.execute('CREATE TABLE more (x)')\n"
        "kept.executemany('INSERT INTO more VALUES (?)', [(os.urandom(4000),)] * 200)\n"
        "os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", code, path])
    assert path.with_name("rounds.sqlite-journal").stat().st_size > 0
    told = refused(Code.RUN_LOCKED, lambda: read_rows(folder))
    assert "Nothing is lost" in str(told) and "backup" not in str(told)
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("SELECT count(*) FROM rounds").fetchone()
    assert len(read_rows(folder).rounds) == 4


def test_noised_counts_that_cancel_out_leave_no_accuracy_and_no_error() -> None:
    rows = [
        EvaluationRow(round=0, site="north", counts=counts(5, 1, 1)),
        EvaluationRow(round=0, site="south", counts=counts(-5, 2, 2)),
    ]
    assert accuracy_counts(rows, "free") == {"north": [(0, 1, 5)]}
