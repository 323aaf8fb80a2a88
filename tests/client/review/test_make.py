"""Making a review: records that neither model saw, answers that an interruption does not change, refusals by number."""

from __future__ import annotations

import json
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bench.waiting import PATIENCE
from client.review.make import Plan, make_review
from client.review.models import as_question
from client.review.store import ReviewStore
from client.site.split import kept
from common import synthetic
from common.codebook import Codebook, load_codebook
from common.errors import Code
from common.feature import Feature
from common.questions.prompt import question_text
from common.tasks import Task
from server.reports.adapter import generate_answer
from simulation.prepare import write_site
from tests.federations import refused
from tests.paths import ROOT
from tests.reviewed import exported, site_of

CASES = 11


def silent(done: int, total: int) -> None:
    """Report nothing."""


@pytest.fixture(scope="module")
def adapters(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("adapters")
    return [str(exported(folder, small_model, number)) for number in (1, 2)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return site_of(tmp_path_factory.mktemp("sites") / "amc")


@pytest.fixture(scope="module")
def made(site: Path, adapters: list[str]) -> Path:
    assert make_review(site, "undisturbed", adapters, Plan(CASES, 0, None), silent) == CASES
    return site


def content(site: Path, name: str) -> tuple[list[object], dict[tuple[int, str], str]]:
    with ReviewStore.opened(site, name, required=False) as store:
        cases = [(case.patient, case.item, tuple(case.record), case.truth) for case in store.cases().values()]
        return list(cases), store.completions()


def test_cases_are_of_patients_that_were_kept_for_evaluation_another_each(made: Path) -> None:
    cases, texts = content(made, "undisturbed")
    patients = [case[0] for case in cases]  # type: ignore[index]
    assert len(set(patients)) == CASES
    assert all(kept(patient, 0.3, "small") for patient in patients)
    assert len(texts) == 2 * CASES
    assert {texts[n, "first"] == texts[n, "second"] for n in range(1, CASES + 1)} >= {False}


def test_answers_are_those_of_the_exported_adapters(made: Path, adapters: list[str]) -> None:
    with ReviewStore.opened(made, "undisturbed", required=False) as store:
        case = store.cases()[3]
        for side, adapter in zip(("first", "second"), adapters, strict=True):
            told = generate_answer(Path(adapter), question_text(as_question(case)))
            assert store.completions(3)[3, side] == told


@pytest.mark.parametrize("batches", [1, 2, 3])
def test_killed_and_made_again_it_is_the_undisturbed_one(made: Path, adapters: list[str], batches: int) -> None:
    def killed(done: int, total: int) -> None:
        nonlocal batches
        batches -= done > 0
        if not batches and done:
            raise KeyboardInterrupt

    name, plan = f"killed{batches}", Plan(CASES, 0, None)
    with pytest.raises(KeyboardInterrupt):
        make_review(made, name, adapters, plan, killed)
    refused(Code.REVIEW_MISSING, lambda: content(made, name))
    make_review(made, name, adapters, plan, silent)
    assert content(made, name) == content(made, "undisturbed")


def test_a_killed_process_loses_what_it_was_at_and_nothing_else(made: Path, adapters: list[str]) -> None:
    line = [sys.executable, "-m", "client", "review", "--site", str(made), "--name", "process", "--cases", str(CASES)]
    line += [word for adapter in adapters for word in ("--adapter", adapter)]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    told = next(line for line in process.stderr if re.match(r"[1-9]\d* of \d+ answers", line))
    process.kill()
    process.wait(PATIENCE)
    process.stderr.close()
    assert told.startswith("8 of 22")
    assert make_review(made, "process", adapters, Plan(CASES, 0, None), silent) == CASES
    assert content(made, "process") == content(made, "undisturbed")


def test_a_consultation_is_asked_without_choices_and_compared_to_what_was_done(
    small_model: Path, tmp_path: Path
) -> None:
    public = synthetic.codebook()
    advice = Feature(name="advice", section="Course", label="Advice", kind="text")
    task = Task(name="therapy", kind="consultation", feature="advice", question="Which empirical therapy?")
    book = public.model_copy(update={"features": (*public.features, advice), "tasks": (*public.tasks, task)})
    book = Codebook.model_validate(book.model_dump())
    rows = [
        {**row, "advice": f"Meropenem {number}"} for number, row in enumerate(synthetic.registry("north", 40, seed=4))
    ]
    site = write_site(tmp_path / "amc", "amc", book.columns, rows, book)
    adapter = str(exported(tmp_path, small_model, 1, questions={"codebook_sha256": load_site_book(site)}))
    assert make_review(site, "review", [adapter, "base"], Plan(4, 0, "therapy"), silent) == 4
    with ReviewStore.opened(site, "review", required=False) as store:
        cases = store.cases().values()
        assert all(case.kind == "consultation" and case.choices == [] for case in cases)
        assert all(re.fullmatch(r"Meropenem \d+", case.truth) for case in cases)
        assert all("Meropenem" not in " ".join([*case.record, case.text]) for case in cases)


def load_site_book(site: Path) -> str:
    return load_codebook(site / "codebook.toml").sha256


def test_made_once_more_it_answers_nothing_anew(
    made: Path, adapters: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.review.models.load_exported", None)
    assert make_review(made, "undisturbed", adapters, Plan(CASES, 0, None), silent) == CASES


def test_a_base_is_its_adapter_left_out(made: Path, adapters: list[str], small_model: Path) -> None:
    plan = Plan(4, 0, None)
    make_review(made, "one", [adapters[0], "base"], plan, silent)
    make_review(made, "other", ["base", adapters[1]], plan, silent)
    (_, one), (_, other) = content(made, "one"), content(made, "other")
    assert [one[n, "second"] for n in range(1, 5)] == [other[n, "first"] for n in range(1, 5)]
    with ReviewStore.opened(made, "one", required=False) as store:
        review = store.review()
        assert review is not None and (review.first, review.second) == ("run1, round 3", f"base model {small_model}")


def test_another_review_of_the_same_name_is_refused(made: Path, adapters: list[str]) -> None:
    for named, plan, differing in [
        (adapters[::-1], Plan(CASES, 0, None), "models"),
        (adapters, Plan(CASES + 1, 0, None), "cases"),
        (adapters, Plan(CASES, 1, "mortality"), "seed, item"),
    ]:
        error = refused(Code.REVIEW_OTHER, lambda n=named, p=plan: make_review(made, "undisturbed", n, p, silent))  # type: ignore[misc]
        assert f"{differing} differ" in error.found


def test_one_task_alone_is_asked(made: Path, adapters: list[str]) -> None:
    make_review(made, "task", adapters, Plan(3, 0, "mortality"), silent)
    cases, _ = content(made, "task")
    assert [case[1] for case in cases] == ["mortality"] * 3  # type: ignore[index]
    refused(Code.CONFIG_VALUE, lambda: make_review(made, "none", adapters, Plan(3, 0, "nothing"), silent))


@pytest.mark.parametrize("named", [[], ["base"], ["base", "base"], ["A"], ["A", "A"], ["A", "B", "base"]])
def test_what_are_not_two_models_is_refused(site: Path, adapters: list[str], named: Sequence[str]) -> None:
    given = [{"A": adapters[0], "B": adapters[1]}.get(name, name) for name in named]
    refused(Code.REVIEW_MODELS, lambda: make_review(site, "x", given, Plan(3, 0, None), silent))


def changed(adapter: str, folder: Path, **changes: object) -> str:
    """Copy an adapter with another description."""
    copy = shutil.copytree(adapter, folder / "copy")
    described = json.loads((copy / "fedreason.json").read_text())
    (copy / "fedreason.json").write_text(json.dumps({**described, **changes}))
    return str(copy)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"asked": None}, Code.MODEL_ADAPTER),
        ({"asked": {"view": "full", "held_out": 0.3, "federation": "small"}}, Code.REVIEW_MODELS),
        ({"asked": {"view": "core", "held_out": 0.0, "federation": "small"}}, Code.REGISTRY_UNUSABLE),
        ({"codebook_sha256": "0" * 64}, Code.CODEBOOK_CHANGED),
        ({"adapter_sha256": "0" * 64}, Code.MODEL_ADAPTER),
        ({"max_prompt_tokens": 3}, Code.REGISTRY_UNUSABLE),
    ],
)
def test_adapters_that_cannot_be_compared_are_refused(
    site: Path, adapters: list[str], tmp_path: Path, changes: dict[str, object], code: Code
) -> None:
    other = changed(adapters[1], tmp_path, **changes)
    name = "x" + "".join(changes) + str(len(str(changes)))
    refused(code, lambda: make_review(site, name, [adapters[0], other], Plan(3, 0, None), silent))


def test_fewer_cases_are_made_where_records_run_out(made: Path, adapters: list[str]) -> None:
    count = make_review(made, "all", adapters, Plan(5000, 0, "mortality"), silent)
    assert 5 < count < 60
    cases, _ = content(made, "all")
    assert len(cases) == count


def test_a_second_maker_waits_outside(made: Path, adapters: list[str]) -> None:
    with ReviewStore.made(made, "held"):
        refused(Code.RUN_LOCKED, lambda: make_review(made, "held", adapters, Plan(3, 0, None), silent))


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "x" * 65, "a b"])
def test_a_name_that_is_no_file_s_is_refused(site: Path, name: str) -> None:
    refused(Code.REVIEW_MISSING, lambda: content(site, name))


def test_what_lies_there_is_for_its_owner_alone(made: Path) -> None:
    folder = made / "state" / "review"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


def test_a_damaged_review_is_refused_by_its_file(site: Path) -> None:
    folder = site / "state" / "review"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "damaged.sqlite").write_bytes(b"no database at all" * 100)
    assert "damaged.sqlite" in refused(Code.REVIEW_DAMAGED, lambda: content(site, "damaged")).found
    (folder / "damaged.sqlite").write_bytes(b"")
    refused(Code.REVIEW_DAMAGED, lambda: content(site, "damaged"))


def test_whoever_opts_out_is_erased_from_a_review(made: Path, adapters: list[str]) -> None:
    make_review(made, "opted", adapters, Plan(4, 0, None), silent)
    with ReviewStore.opened(made, "opted", required=False) as store:
        patient, record = store.cases()[2].patient, store.cases()[2].record
        store.rate(2, "kim", "first", {"overall": 1}, "a comment of 4711")
        store.rate(3, "kim", "first", {"overall": 1}, "")
    (made / "excluded.txt").write_text(f"{patient}\n")
    try:
        with ReviewStore.opened(made, "opted", required=False) as store:
            gone = store.cases()[2]
            assert (gone.withdrawn, gone.patient, gone.record, gone.truth) == (True, "", [], "")
            assert set(store.completions(2).values()) == {""}
            assert [row.case for row in store.ratings()] == [3]
        assert make_review(made, "opted", adapters, Plan(4, 0, None), silent) == 4
    finally:
        (made / "excluded.txt").unlink()
    held = (made / "state" / "review" / "opted.sqlite").read_bytes()
    assert patient.encode() not in held and b"4711" not in held and json.dumps(record).encode() not in held
