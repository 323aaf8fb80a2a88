"""A report is one file that asks the network for nothing, escapes what it is given and shows every number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from common import wilson
from common.errors import Code, FedReasonError
from server.reports.report import accuracy_points, read_rows, write_run_report
from server.rounds.store import EvaluationRow, RoundRow, RunStore
from simulation.report import write_report
from tests.server.reports.pages import HOSTILE, SITES, Page, round_row, run_config


def counts(asked: int, free: int, forced: int) -> dict[str, Any]:
    return {"sex": {"asked": asked, "free": free, "forced": forced}}


def run_folder(folder: Path, rows: list[RoundRow | EvaluationRow]) -> Path:
    with RunStore.opened(folder, run_config()) as store:
        for row in rows:
            store.record(row)
    return folder


def full_run(folder: Path) -> Path:
    rounds = [round_row(1), round_row(2, refused={"south": 503}), round_row(3), round_row(4, refused={"south": 999})]
    evaluations = [
        EvaluationRow(round=number, site=site, counts=counts(9, 3 + number, 4 + number))
        for number in (0, 4)
        for site in SITES
    ]
    return run_folder(folder, [*rounds, *evaluations])


def accuracy(start: int, *, compare: bool = True) -> dict[str, float]:
    names = ["chance", "majority", "before", "best_no_training", *(["alone_mean"] if compare else []), "federated"]
    return {name: (start + i) / 1000 for i, name in enumerate([*names, *(["pooled"] if compare else [])])}


def summary(*, compare: bool = True, label: str = "Sex") -> dict[str, Any]:
    def feature(label: str, kind: str, start: int) -> dict[str, Any]:
        return {"label": label, "kind": kind, "asked": 33, "short_list": None, **accuracy(start, compare=compare)}

    arms = ["before", *(SITES if compare else []), "federated", *(["pooled"] if compare else [])]
    result = {
        "name": "trial",
        "config_sha256": "c" * 64,
        "protocol": "fedsgd",
        "rounds": 4,
        "sites": SITES,
        "questions": 400,
        "accuracy": accuracy(211, compare=compare),
        "accuracy_forced": accuracy(311, compare=compare),
        "alone": {"north": 0.417, "south": 0.423} if compare else {},
        "by_kind": {"categorical": accuracy(511, compare=compare), "numeric": accuracy(611, compare=compare)},
        "by_feature": {
            "sex": feature(label, "categorical", 711),
            "age": feature("Age", "numeric", 811),
            "twin": feature("Age", "numeric", 851),
        },
        "by_site": {
            site: {arm: (901 + i + 10 * k) / 1000 for i, arm in enumerate(arms)} for k, site in enumerate(SITES)
        },
        "adapter_sha256": "a" * 64,
        "seconds": 754.2,
        "seconds_per_round": 1.5,
        "bytes_up": 8_010_000,
        "bytes_down": 4_000_000,
    }
    return result | ({"pooled_adapter_sha256": "a" * 64, "federated_equals_pooled": True} if compare else {})


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
        for _, attrs in page.tags:
            assert not {"src", "href", "srcset", "action", "data"} & set(attrs)
        policy = next(attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv"))
        assert str(policy).startswith("default-src 'none';")
        assert "@import" not in "".join(page.text) and "url(" not in "".join(page.text)


def test_plotly_is_embedded_once(tmp_path: Path) -> None:
    for page in both(full_run(tmp_path), summary()):
        assert sum(get_plotlyjs() in script for script in page.scripts) == 1
        assert page.figures and len(page.figures) == len(set(page.figures))
        assert sum("Plotly.newPlot(" in script for script in page.scripts if len(script) < 100_000) == len(page.figures)


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
    plain = [[tag for tag, _ in page.tags].count("script") for page in both(full_run(tmp_path / "plain"), summary())]
    for page, scripts in zip(both(folder, content), plain, strict=True):
        assert HOSTILE in page.words
        assert [tag for tag, _ in page.tags].count("script") == scripts
        assert not [attrs for tag, attrs in page.tags if tag == "a" or "src" in attrs or "href" in attrs]
        drawn = [script for script in page.scripts if "Plotly.newPlot(" in script and len(script) < 100_000]
        assert any("evil.example" in script for script in drawn)
        assert {tag for script in drawn for tag in tags_drawn(script)} <= {"br", "extra", "/extra"}


def tags_drawn(script: str) -> list[str]:
    """Tags in the text that a figure hands to Plotly, which would draw a link as a link."""
    return re.findall(r"<([^>]*)", script.replace("\\u003c", "<").replace("\\u003e", ">").replace("\\u002f", "/"))


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


def test_every_number_of_the_rounds_is_on_the_coordinators_page(tmp_path: Path) -> None:
    page = Page(write_run_report(full_run(tmp_path)))
    rewards = [f"{number / 7:.3f}" for number in range(1, 5)]
    seconds = [f"{1.5 + number / 1000:.3f}" for number in range(1, 5)]
    accuracies = ["0.333", "0.778", "0.444", "0.889"]
    for text in [*rewards, *seconds, *accuracies, "2.001", "4 of 4", "E503 RUN_QUORUM", "E999", f"{4:064x}"]:
        assert text in page.words
    assert page.figures == ["reward", "accuracy-free", "accuracy-forced", "bytes", "seconds", "refusals"]


def test_a_run_whose_sites_keep_their_counts_still_has_a_report(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [round_row(1, told=False), round_row(2, told=False)])
    for page in both(folder, summary(compare=False)):
        assert "metrics = none" in page.words and "No site refused" in page.words
        assert {"bytes", "seconds"} <= set(page.figures) and "reward" not in page.figures


def test_rows_alone_are_enough_before_the_first_round(tmp_path: Path) -> None:
    folder = run_folder(tmp_path, [])
    (folder / "config.json").unlink()
    page = Page(write_run_report(folder))
    assert page.figures == [] and page.words.count("No round is finished yet.") == 3
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
    points = accuracy_points(rows, "free")
    assert points == {"north": [(0, 0.1), (5, 0.2)], "south": [(0, 0.9)], "all sites": [(0, 0.7)]}


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


def test_noised_counts_that_cancel_out_leave_no_accuracy_and_no_error() -> None:
    rows = [
        EvaluationRow(round=0, site="north", counts=counts(5, 1, 1)),
        EvaluationRow(round=0, site="south", counts=counts(-5, 2, 2)),
    ]
    assert accuracy_points(rows, "free") == {"north": [(0, 0.2)]}
