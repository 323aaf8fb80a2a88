"""What a review comes to equals a count by hand; what may leave holds no count of few patients."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from client.review.cli import opened
from client.review.figures import figures
from client.review.order import turns
from client.review.report import FEWEST, lines, ratings_csv, report_page, summary, write
from client.review.store import ReviewStore
from common import synthetic
from common.errors import Code
from tests.federations import refused
from tests.reviewed import HOSTILE, SECRET, ready, site_of


def rated(site: Path, said: dict[str, dict[int, int]], *, axis: str = "overall", comment: str = "") -> None:
    """Rate cases by how much better the first model is, whichever side it stands on."""
    with ReviewStore.opened(site, "review", required=False) as store:
        for rater, values in said.items():
            sides = {turn.case: turn.left for turn in turns(SECRET, rater, sorted(store.cases()))}
            for case, value in values.items():
                shown = -value if sides[case] == "first" else value
                store.rate(case, rater, sides[case], {axis: shown}, comment)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = site_of(tmp_path / "amc", patients=1)
    ready(folder, 20)
    return folder


def test_whoever_stands_in_any_column_of_identifiers_takes_a_case_out(site: Path) -> None:
    (site / "excluded.txt").write_text(f"mrn;{synthetic.codebook().patient}\nP1;P2\n")
    with opened(site, "review") as store:
        assert [number for number, case in store.cases().items() if case.withdrawn] == [1, 2]


SAID = {
    "kim": {case: 2 if case <= 12 else 0 if case <= 15 else -1 for case in range(1, 21)},
    "lee": {case: 1 if case <= 10 else -1 for case in range(1, 21)},
}


def test_figures_equal_a_count_by_hand(site: Path) -> None:
    """Of both: 22 above 0, 3 at 0, 15 below; by patient 1..12 for A (11 and 12 by 2 - 1), 13..20 for B."""
    rated(site, SAID)
    with ReviewStore.opened(site, "review", required=False) as store:
        found = figures(store)
    one = found.axes["overall"]
    assert one is not None
    assert (one.better, one.alike, one.worse, one.patients, one.first, one.second) == (22, 3, 15, 20, 12, 8)
    assert one.mean == pytest.approx((12 * 2 - 5 + 10 - 10) / 40)
    assert (found.first, found.second, found.cases, found.rated, found.left) == ("ZEPHYR", "MISTRAL", 20, 20, 0)
    assert found.raters == {"kim": 20, "lee": 20} and found.alike == 0
    assert {kind: one.ratings for kind, one in found.kinds.items()} == {"categorical": 20, "numeric": 20}
    assert (found.by_rater["lee"].better, found.by_rater["lee"].worse) == (10, 10)
    assert found.axes["harm"] is None
    text = "\n".join(lines(found))
    assert "A better 22, alike 3, B better 15; patients 12 : 8 of 20, share 0.60" in text
    assert "Freedom from harm: no ratings" in text


def test_what_was_skipped_or_half_said_counts_where_it_was_said(site: Path) -> None:
    rated(site, {"kim": {1: 1, 2: 1}})
    rated(site, {"lee": {1: -2}}, axis="harm")
    with ReviewStore.opened(site, "review", required=False) as store:
        store.rate(2, "kim", "first", {"overall": 1}, "", skipped=True)
        found = figures(store)
    assert found.axes["overall"] is not None and found.axes["overall"].ratings == 1
    assert found.axes["harm"] is not None and found.axes["harm"].worse == 1
    assert found.raters == {"kim": 1, "lee": 0} and (found.skipped, found.left) == (1, 38)


def test_what_is_sent_twice_at_once_is_saved_once(site: Path) -> None:
    """As by a double click: both are told that it is saved, and one of them is."""
    with ReviewStore.opened(site, "review", required=False) as store, ThreadPoolExecutor(4) as pool:
        for case in range(1, 21):
            said = [pool.submit(store.rate, case, "kim", "first", {"overall": value}, "") for value in (-1, 1, 1, 2)]
            assert [one.result() for one in said] == [None] * 4
        assert len(store.ratings()) == 20


def test_a_file_that_another_program_holds_is_not_called_damaged(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("client.review.store._WAIT_SECONDS", 0.05)
    with ReviewStore.opened(site, "review", required=False) as store:
        store.rate(1, "kim", "first", {"overall": 1}, "")
        with closing(sqlite3.connect(store.path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            told = refused(Code.RUN_LOCKED, lambda: store.rate(2, "kim", "first", {"overall": 1}, ""))
            assert "backup" not in str(told)
        store.rate(2, "kim", "first", {"overall": 1}, "")


def test_the_page_holds_the_figures_and_comments_as_text(site: Path) -> None:
    rated(site, SAID, comment=HOSTILE)
    with ReviewStore.opened(site, "review", required=False) as store:
        text = report_page(figures(store), store, "review")
    assert "<script" not in text and "&lt;script&gt;" in text
    row = re.search(r"Overall preference</th>(.*?)</tr>", text)
    assert row and re.findall(r"<td>([^<]*)</td>", row[1])[:4] == ["22", "3", "15", "12 : 8 of 20"]
    assert "ZEPHYR" in text and "Krippendorff" in text


def test_a_summary_holds_no_count_of_few_and_nothing_of_a_record(site: Path) -> None:
    rated(site, SAID, comment="P7 has 4711")
    rated(site, {"lee": {1: 1, 2: 1}}, axis="therapy", comment="P7 has 4711")
    with ReviewStore.opened(site, "review", required=False) as store:
        text = summary(figures(store))
    told = json.loads(text)
    assert set(told["axes"]) == {"overall"}
    counts = [value for one in (*told["axes"].values(), *told["kinds"].values()) for value in (one["patients"],)]
    assert counts == [20, 10, 10]
    assert not re.search(r"P\d|4711|kim|lee|Pulse|item", text)
    assert all(one["ratings"] >= FEWEST for one in told["kinds"].values())


def test_kinds_are_told_all_or_none(site: Path) -> None:
    """With one of them left out, it would be what the sum has more than the rest."""
    rated(site, {"kim": dict.fromkeys(range(1, 20), 1)})
    with ReviewStore.opened(site, "review", required=False) as store:
        assert json.loads(summary(figures(store)))["kinds"] is None


def test_a_share_and_an_alpha_of_few_stay(site: Path) -> None:
    """Ten patients are rated; three of them are decided, and two were rated twice."""
    rated(site, {"kim": {case: int(case < 4) for case in range(1, 11)}, "lee": {5: 0, 1: 1}})
    with ReviewStore.opened(site, "review", required=False) as store:
        found = figures(store)
        told = json.loads(summary(found))["axes"]["overall"]
    assert found.agreement["overall"] is not None and found.axes["overall"] is not None
    assert (told["patients"], told["mean"]) == (10, round(found.axes["overall"].mean, 2))
    assert [told[key] for key in ("share_for_A", "share_interval", "p", "alpha")] == [None] * 4


def test_a_small_p_leaves_as_it_is_and_not_as_none(site: Path) -> None:
    rated(site, {"kim": dict.fromkeys(range(1, 21), 1)})
    with ReviewStore.opened(site, "review", required=False) as store:
        assert json.loads(summary(figures(store)))["axes"]["overall"]["p"] == 1.907e-06


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        ("""update ratings set answers = '{'""", Code.REVIEW_DAMAGED),
        ("""update ratings set answers = '{"overall": 99}'""", Code.REVIEW_DAMAGED),
        ("""update ratings set answers = '["overall"]'""", Code.REVIEW_DAMAGED),
        ("update ratings set \"left\" = 'right'", Code.REVIEW_DAMAGED),
        ('update ratings set "case" = 77 where "case" = 1', Code.REVIEW_DAMAGED),
        ("update cases set record = 'x'", Code.REVIEW_DAMAGED),
        ("delete from review", Code.REVIEW_DAMAGED),
        ("update completions set side = 'third' where side = 'first'", Code.REVIEW_MISSING),
    ],
)
def test_a_damaged_row_is_refused_by_its_file_and_counts_for_nothing(site: Path, damage: str, code: Code) -> None:
    rated(site, {"kim": {1: 1, 2: -1}})
    with closing(sqlite3.connect(site / "state" / "review" / "review.sqlite")) as other, other:
        other.execute(damage)

    def read() -> None:
        with ReviewStore.opened(site, "review", required=False) as store:
            figures(store)

    assert "review.sqlite" in refused(code, read).found


@pytest.mark.parametrize("cases", [0, FEWEST - 1])
def test_no_summary_leaves_of_fewer_than_ten(site: Path, cases: int) -> None:
    rated(site, {rater: dict.fromkeys(range(1, cases + 1), 1) for rater in ("kim", "lee", "pat")})
    with ReviewStore.opened(site, "review", required=False) as store:
        refused(Code.REVIEW_SMALL, lambda: summary(figures(store)))


def test_the_table_has_every_rating_and_no_formula(site: Path) -> None:
    rated(site, SAID, comment='=HYPERLINK("evil"), "quoted"\nline')
    with ReviewStore.opened(site, "review", required=False) as store:
        rows = list(csv.DictReader(io.StringIO(ratings_csv(store), newline="")))
    assert len(rows) == 40
    assert all(int(row["overall"]) == SAID[row["rater"]][int(row["case"])] for row in rows)
    assert {row["comment"][:2] for row in rows} == {"'="}
    assert {row["left"] for row in rows} == {"A", "B"} and "P1" not in rows[0].values()


def test_what_is_written_is_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    path.write_text("old")
    path.chmod(0o644)
    write(path, "new")
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", 0o600)
    refused(Code.DISK_FULL, lambda: write(tmp_path / "none" / "x", "new"))
