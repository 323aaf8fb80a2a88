"""A preview shows what a model would be shown, the rest as hidden, and the truth; and stays with who asked for it."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from client.preview.page import page, write_page
from client.preview.questions import Preview, aligned, previews, sampled
from client.preview.text import NOTICE, shown
from common import synthetic
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import Feature
from common.questions.question import Consultation, Moment, Patient, Question, QuestionMaker
from common.tasks import Task
from simulation.prepare import write_site
from tests.paths import ROOT
from tests.small import shown as shown_values
from tests.small_disk import needs_small_disk, on_small_disk

NASTY = "<script>alert('x')</script> & \x1b[31mred \u202eright"


def numeric(name: str, **more: Any) -> Feature:
    return Feature(name=name, section="Labs", label=name, kind="numeric", low=0, high=100, step=1, **more)


CODEBOOK = Codebook(
    title="test",
    patient="id",
    features=(
        numeric("twin"),
        numeric("other"),
        numeric("lactate", series=True),
        numeric("like"),
        Feature(
            name="died",
            section="End",
            label="Died",
            kind="categorical",
            categories={"no": "no", "yes": "yes"},
            known_later=True,
        ),
        Feature(name="advice", section="End", label="Advice", kind="text"),
    ),
    leak_groups=(("twin", "like"),),
    tasks=(
        Task(name="mortality", feature="died", question="Died?", hidden=("other",)),
        Task(name="lactate later", kind="later", feature="lactate", hours=24, question="Lactate 24 h later?"),
        Task(name="consult", kind="consultation", feature="advice", question="What now?"),
    ),
)
VALUES = {"twin": "41", "like": "43", "other": "7", "lactate": "3", "died": "yes", "advice": NASTY}
PATIENT = Patient("p", VALUES, {"lactate later": Moment({"lactate": "5", "like": "43"}, "9")})


def preview_of(item: str, codebook: Codebook = CODEBOOK, patient: Patient = PATIENT) -> Preview:
    (found,) = sampled(QuestionMaker(codebook, "full"), [item], [patient], 1, 0)
    return found


def hidden_lines(found: Preview) -> list[str]:
    return [line.text for line in found.lines if line.hidden]


def test_what_is_not_hidden_is_to_the_letter_what_the_model_is_shown() -> None:
    maker = QuestionMaker(synthetic.codebook(), "full")
    patients = [Patient(row["patient_id"], shown_values(row)) for row in synthetic.registry("north", 60, seed=1)]
    found = sampled(maker, list(maker.weights), patients, 120, 3)
    assert len(found) == 120 and len({each.asked.item for each in found}) > 20
    assert len({each.asked.patient for each in found}) > 40
    assert any(hidden_lines(each) for each in found)
    for each in found:
        assert tuple(line.text for line in each.lines if not line.hidden) == each.asked.record


def test_hidden_values_are_not_told_and_why_they_are_hidden_is() -> None:
    found = preview_of("twin")
    assert hidden_lines(found) == ["like: (hidden: leaks the answer)"]
    assert "twin: [MASK]" in [line.text for line in found.lines if not line.hidden]
    assert not any("43" in line.text for line in found.lines)
    open_book = CODEBOOK.model_copy(update={"leak_groups": ()})
    assert "like: 43" in preview_of("twin", open_book).asked.record, "the check above can fail"


def test_tasks_show_what_was_known_at_their_moment() -> None:
    mortality, later, consult = (preview_of(task.name) for task in CODEBOOK.tasks)
    assert hidden_lines(mortality) == ["other: (hidden: leaks the answer)", "Died: (hidden: it is the answer)"]
    assert isinstance(later.asked, Question) and later.asked.truth == "9"
    assert "lactate: 5" in later.asked.record and "lactate: 3" not in later.asked.record
    assert "Died: (hidden: known only later)" in hidden_lines(later)
    assert isinstance(consult.asked, Consultation) and consult.asked.reference == NASTY
    assert NASTY not in "".join(line.text for line in consult.lines)
    for each in (mortality, later, consult):
        assert tuple(line.text for line in each.lines if not line.hidden) == each.asked.record


def test_what_a_site_found_to_leak_is_hidden_from_a_task_and_told_as_hidden() -> None:
    leaks = {"died": frozenset({"twin"}), "lactate": frozenset({"like", "lactate"})}
    maker = QuestionMaker(CODEBOOK, "full", leaks=leaks)
    for item, told in (("mortality", "twin"), ("lactate later", "like")):
        (found,) = sampled(maker, [item], [PATIENT], 1, 0)
        assert f"{told}: (hidden: leaks the answer)" in hidden_lines(found)
        assert tuple(line.text for line in found.lines if not line.hidden) == found.asked.record


def test_a_section_of_which_all_is_hidden_is_hidden() -> None:
    lines = aligned(["[A]", "a: 1", "[B]", "b: (hidden)", "[A]", "a: 2"], ["[A]", "a: 1", "a: 2"])
    assert [line.hidden for line in lines] == [False, False, True, True, True, False]


def test_tasks_come_first_and_one_record_is_not_asked_everything() -> None:
    maker = QuestionMaker(CODEBOOK, "full")
    patients = [Patient(f"p{i}", VALUES, PATIENT.later) for i in range(50)]
    found = sampled(maker, ["mortality", "consult", "twin", "other"], patients, 8, 0)
    assert [each.asked.item for each in found] == ["mortality", "consult", "twin", "other"] * 2
    assert len({each.asked.patient for each in found}) >= 5
    assert [each.asked.patient for each in sampled(maker, ["twin"], patients, 9, 1)] != [
        each.asked.patient for each in sampled(maker, ["twin"], patients, 9, 2)
    ]
    assert len(sampled(maker, ["twin"], patients, 500, 0)) == 50


def test_every_visit_of_a_patient_may_be_shown() -> None:
    patient = Patient("p", {"twin": "11"}, visits=(Patient("p", {"twin": "12"}),))
    truths = {each.asked.truth for each in sampled(QuestionMaker(CODEBOOK, "full"), ["twin"], [patient], 9, 0)}  # type: ignore[union-attr]
    assert truths == {"11", "12"}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]


def test_a_page_fetches_nothing_runs_nothing_and_warns() -> None:
    found = [preview_of("consult"), preview_of("mortality")]
    text, tags = page(found), _Tags()
    tags.feed(text)
    assert not {"script", "link", "img", "iframe", "a", "form"} & set(tags.tags)
    assert not {"src", "href", "style"} & set(tags.attributes) and not re.search(r"https?:|url\(|@import", text)
    assert "&lt;script&gt;alert(&#x27;x&#x27;)&lt;/script&gt; &amp; &lt;U+001B&gt;[31mred &lt;U+202E&gt;right" in text
    assert NOTICE in text and "default-src 'none'" in text
    assert '<li class="right">yes (the truth)</li>' in text and text.count("(the truth)") == 1
    assert '<p class="hidden">Died: (hidden: it is the answer)</p>' in text


def test_the_terminal_is_told_the_truth_and_steered_by_nothing() -> None:
    told = "\n".join(str(part) for part in shown([preview_of("mortality"), preview_of("consult")]))
    assert re.search(r"^[AB]\. yes   <- the truth$", told, re.MULTILINE) and told.count("<- the truth") == 1
    assert "Reference: <script>" in told and "\x1b" not in told and "\u202e" not in told


@pytest.fixture
def site(tmp_path: Path) -> Path:
    features = tuple(feature for feature in CODEBOOK.features if not feature.series)
    codebook = CODEBOOK.model_copy(update={"features": features, "tasks": CODEBOOK.tasks[::2]})
    rows = [{"id": f"p{i}", **{name: text for name, text in VALUES.items() if name != "lactate"}} for i in range(9)]
    return write_site(tmp_path / "amc", "amc", list(rows[0]), rows, codebook)


def client(site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "client", "preview", "--site", str(site), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)


def test_the_command_prints_questions_and_says_that_they_are_patient_data(site: Path) -> None:
    done = client(site, "--count", "4")
    assert done.returncode == 0, done.stderr
    assert "1 of 4: mortality" in done.stdout and "2 of 4: consult" in done.stdout
    assert done.stderr.startswith("This is patient data.") and "41" not in done.stderr
    assert not list(site.rglob("state/*")), "nothing is kept"
    assert "1 of 1: twin" in client(site, "--feature", "twin", "--count", "1").stdout


def test_the_page_is_its_owners_alone_and_nothing_of_it_is_elsewhere(site: Path) -> None:
    old = os.umask(0)
    try:
        done = client(site, "--html")
    finally:
        os.umask(old)
    path = site / "state" / "preview.html"
    assert done.stdout == f"{path}\n" and done.stderr.startswith("This is patient data.")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and [each.name for each in path.parent.iterdir()] == [path.name]
    assert "alert" in path.read_text()
    again = client(site, "--out", str(site / "elsewhere.html"))
    assert again.returncode == 0 and stat.S_IMODE((site / "elsewhere.html").stat().st_mode) == 0o600


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--feature", "advice"], "E104: 'advice' is no task"),
        (["--feature", "nothing"], "E104: 'nothing' is no task"),
        (["--view", "nothing"], "E205:"),
        (["--out", "nowhere/page.html"], "E821: nowhere/page.html cannot be written (FileNotFoundError)"),
        (["--out", "/"], "E821: / cannot be written"),
    ],
)
def test_what_cannot_be_shown_or_written_is_one_numbered_line(site: Path, words: list[str], told: str) -> None:
    done = client(site, *words)
    assert done.returncode == 1 and done.stderr.startswith(told) and done.stderr.count("\n") == 1, done.stderr
    assert "alert" not in done.stderr + done.stdout


def test_who_opted_out_is_not_shown(site: Path) -> None:
    (site / "excluded.txt").write_text("".join(f"p{i}\n" for i in range(9)))
    with pytest.raises(FedReasonError) as caught:
        previews(site, item="twin", count=1, view="full", seed=0)
    assert caught.value.code is Code.REGISTRY_UNUSABLE
    (site / "excluded.txt").write_text("".join(f"p{i}\n" for i in range(8)))
    assert {each.asked.patient for each in previews(site, item=None, count=9, view="full", seed=0)} == {"p8"}


def test_a_page_that_cannot_be_written_leaves_the_old_one(site: Path) -> None:
    first = write_page(site, [preview_of("twin")], None)
    before = first.read_text()
    with pytest.raises(FedReasonError) as caught:
        write_page(site, [preview_of("consult")], site / "registry.csv" / "page.html")
    assert caught.value.code is Code.DISK_FULL and first.read_text() == before


@needs_small_disk
def test_a_full_disk_leaves_no_part_of_a_page() -> None:
    on_small_disk("""
        from pathlib import Path
        from client.preview.questions import Line, Preview
        from client.preview.page import write_page
        from common.errors import Code, FedReasonError
        from common.questions.question import Question
        question = Question("p", "twin", "numeric", ("twin: [MASK]",), "What?", ("1", "2"), 0)
        preview = Preview(question, (Line("twin: [MASK]"),))
        folder = Path("/mnt")
        page = write_page(folder, [preview], None)
        before = page.read_text()
        fill()
        try:
            write_page(folder, [preview] * 50, None)
        except FedReasonError as error:
            assert error.code is Code.DISK_FULL, error
        else:
            raise SystemExit("it was written")
        assert page.read_text() == before
        assert [path.name for path in page.parent.iterdir()] == [page.name]
    """)
