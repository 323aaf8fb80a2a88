"""A model card and a reporting checklist say what the run knows, mark what it does not, and tell of no patient."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st

from common import synthetic, wilson
from common.accounting import epsilon, rdp
from server.reports.export import export_adapter
from server.reports.outward import AUTHORS, FEWEST, Share, cell, together
from server.rounds.store import EvaluationRow, FallRow
from tests.paths import ROOT
from tests.server.reports.exported import counts, exported_run, table_row
from tests.small import PRIVACY

AFTER = [
    EvaluationRow(round=3, site="north", counts=counts(30, 12, 4)),
    EvaluationRow(round=3, site="south", counts=counts(20, 9, 2)),
]
LABELS = [feature.label for feature in synthetic.codebook().features[:3]]


def row(site: str, *asked: int, number: int = 3) -> EvaluationRow:
    return EvaluationRow(round=number, site=site, counts=counts(*asked))


def texts(tmp_path: Path, model: Path, *rows: EvaluationRow | FallRow, **changes: object) -> tuple[str, str]:
    exported_run(tmp_path / "run", model, *rows, **changes)
    out = export_adapter(tmp_path / "run", tmp_path / "out")
    return (out / "README.md").read_text(), (out / "reporting.md").read_text()


def test_the_card_is_one_that_the_hub_reads_with_the_runs_numbers(small_model: Path, tmp_path: Path) -> None:
    card, _ = texts(tmp_path, small_model, row("north", 30, 12, 4), row("south", 20, 9, 2), row("north", 30, number=0))
    data = ModelCard(card).data
    assert data.library_name == "peft" and data.base_model is None, "a folder's path is nobody's business"
    (free, forced) = data.eval_results
    right, asked = 15 + 6 + 2 + 10 + 4 + 1, 77
    assert (free.metric_value, forced.metric_value) == (round(right / asked, 4), round((right + 6) / asked, 4))
    assert table_row(card, "all sites") == [
        "all sites", "77", f"{right / asked:.3f} ({wilson.shown(right / asked, asked)})",
        f"{44 / 77:.3f} ({wilson.shown(44 / 77, 77)})",
    ]  # fmt: skip
    assert table_row(card, "south")[1] == "2 of 3" and "| south | 31 |" in card and "Before training:" in card
    assert synthetic.codebook().title in card and "no epsilon holds" in card
    assert table_row(card, LABELS[0])[1] == "50"


def test_a_total_is_named_by_whom_it_is_of_and_two_rounds_are_compared_over_the_same_sites(
    small_model: Path, tmp_path: Path
) -> None:
    """North, where nothing is right, is away at the end: no step from 0 to what south had all the time."""
    nothing = EvaluationRow(round=0, site="north", counts={name: of | {"free": 0} for name, of in counts(40).items()})
    card, reporting = texts(tmp_path, small_model, nothing, row("south", 20, number=0), row("south", 20))
    after, before = card.partition("## Evaluation")[2].split("Before training:")
    south = ["20", f"0.500 ({wilson.shown(0.5, 20)})", f"0.550 ({wilson.shown(0.55, 20)})"]
    assert [table_row(part, "1 of 2 sites")[1:] for part in (after, before)] == [south, south]
    assert "all sites |" not in card and "north" not in before.partition("By what")[0]
    assert "Held-out patients of 1 of 2 sites, after round 3" in after and "asked for, over 1 of 2 sites" in before
    assert ModelCard(card).data.eval_results[0].dataset_name.endswith("held-out patients of 1 of 2 sites")
    assert "20 questions of held-out patients of 1 of 2 sites" in table_row(reporting, "17")[3]


def test_before_training_nothing_is_added_up_of_fewer_sites_than_after_it(small_model: Path, tmp_path: Path) -> None:
    card, _ = texts(tmp_path, small_model, row("south", 20, number=0), row("south", 20), row("north", 40))
    after, before = card.partition("## Evaluation")[2].split("Before training:")
    assert table_row(after, "all sites")[1] == "60" and "all sites |" not in before
    assert table_row(before, "south")[1] == "20"


def test_counts_that_are_not_whole_are_none_and_keep_no_adapter_from_being_exported(
    small_model: Path, tmp_path: Path
) -> None:
    hostile = EvaluationRow(round=3, site="south", counts={next(iter(counts(1))): {"asked": 30}})
    card, _ = texts(tmp_path, small_model, row("north", 30, 12), hostile)
    assert table_row(card, "all sites")[1] == "72"


def test_of_a_round_that_was_not_finished_nothing_is_on_the_card(small_model: Path, tmp_path: Path) -> None:
    """Sites answer one by one, and the checkpoint is that of the round before until all have."""
    finished = [row("north", 30), row("south", 20)]
    card, reporting = texts(tmp_path, small_model, *finished)
    assert texts(tmp_path / "later", small_model, *finished, row("north", 40, number=4)) == (card, reporting)


@pytest.mark.parametrize(("form", "said"), [("letter", "the letter"), ("text", "the text of the choice")])
def test_the_card_says_what_stands_in_the_box(small_model: Path, tmp_path: Path, form: str, said: str) -> None:
    card, _ = texts(tmp_path, small_model, *AFTER, grpo={"prompt": {"answer": form}})
    assert f"The answer is {said} in `\\boxed{{}}`." in card


def test_nothing_of_this_machine_is_on_a_card(small_model: Path, tmp_path: Path) -> None:
    for text in texts(tmp_path, small_model, *[row("north", 30)]):
        assert str(small_model.parent) not in text and str(tmp_path) not in text and str(Path.home()) not in text


def test_what_stands_on_few_questions_is_added_up(small_model: Path, tmp_path: Path) -> None:
    card, _ = texts(tmp_path, small_model, row("north", 30, 5, 3), row("south", 3, 1))
    heads = [line.split("|")[1].strip() for line in card.splitlines() if line.startswith("|")]
    assert not set(LABELS) & set(heads), "6 and 3 questions are under ten together: the third goes with them"
    assert "| others, together | 42 |" in card
    assert "| north | 38 |" not in card and "| other sites | 42 |" in card, "else south's follow from the sum"
    few, _ = texts(tmp_path / "few", small_model, row("north", FEWEST - 1))
    assert "all sites |" not in few and f"fewer than {FEWEST} questions were asked" in few


@given(st.lists(st.integers(0, 40), max_size=12))
def test_a_published_share_never_stands_on_fewer_and_no_difference_does(asked: list[int]) -> None:
    shares = [Share(str(i), n, 0, 0) for i, n in enumerate(asked)]
    shown = together(shares, "others")
    total = sum(asked)
    assert all(one.asked >= FEWEST for one in shown)
    hidden = total - sum(one.asked for one in shown)
    assert hidden == 0 or not shown or hidden == total


def test_epsilon_is_told_by_site_from_the_rounds_that_hold_its_part(small_model: Path, tmp_path: Path) -> None:
    privacy = {**PRIVACY, "metrics_noise_multiplier": 6.0}
    noised = {"all": {"asked": 40, "free": 22, "forced": 24}}
    rows = [EvaluationRow(round=n, site="south", counts=noised) for n in (0, 3)]
    undone = {"south": [1, 0], "west": [1, 1]}
    fall = FallRow(round=4, back_to=3, shares={}, lost={}, counts={}, disagreeing=[], sites=undone)
    card, _ = texts(tmp_path, small_model, *rows, fall, privacy=privacy, grpo={"kl": 0.0})

    def cost(multiplier: float, rate: float, steps: int) -> str:
        spent = rdp(noise_multiplier=multiplier, sampling_rate=rate, steps=steps)
        return f"{epsilon(spent, PRIVACY['delta']):.3g}"

    section = card.partition("## Privacy")[2]
    assert table_row(section, "north") == ["north", "3", cost(4.0, 0.3, 3), "0"]
    assert table_row(section, "south") == ["south", "3", cost(4.0, 0.3, 3), cost(6.0, 1.0, 2)]
    assert table_row(section, "west") == ["west", "1", cost(4.0, 0.3, 1), cost(6.0, 1.0, 1)], "it took part in no other"
    assert cost(4.0, 0.3, 3) != cost(4.0, 0.3, 2), "south was left out of round 2, and one was taken back"
    assert "leaves out the noise" in card and "By what is asked for" not in card
    assert "differential-privacy" in ModelCard(card).data.tags


def test_both_guidelines_are_answered_item_by_item(small_model: Path, tmp_path: Path) -> None:
    _, reporting = texts(tmp_path, small_model, *AFTER)
    llm, ai = re.split(r"^## TRIPOD\+AI$", reporting, flags=re.MULTILINE)
    numbers = [re.findall(r"^\| (\d+[a-g]?) \|", text, re.MULTILINE) for text in (llm, ai)]
    assert [len(found) for found in numbers] == [49, 52]
    assert [sorted({int(re.sub(r"\D", "", n)) for n in found}) for found in numbers] == [
        list(range(1, 20)), list(range(1, 28)),
    ]  # fmt: skip
    assert all(len(set(found)) == len(found) for found in numbers)
    cells = [re.split(r"(?<!\\)\|", line) for line in reporting.splitlines() if re.match(r"\| \d", line)]
    assert all(len(parts) == 6 and parts[4].strip() for parts in cells)
    assert (
        table_row(reporting, "14a")[3] == AUTHORS and "questions of held-out patients" in table_row(reporting, "17")[3]
    )
    headings = set(re.findall(r"^## (.+)$", (ROOT / "server/templates/card.md").read_text(), re.MULTILINE))
    items = [
        i
        for g in tomllib.loads((ROOT / "server/templates/reporting.toml").read_text())["guidelines"]
        for i in g["items"]
    ]
    where = {item["where"].partition(", ")[2] for item in items if item.get("where", "").startswith("README.md, ")}
    assert where and where <= headings


def test_of_a_codebook_that_is_not_here_no_feature_is_named(small_model: Path, tmp_path: Path) -> None:
    card, reporting = texts(tmp_path, small_model, *AFTER, questions={"codebook": "elsewhere.toml"})
    assert "By what is asked for" not in card and "known by its hash alone" in card
    assert not [label for label in LABELS if re.search(rf"\b{re.escape(label)}\b", card + reporting)]


def test_a_run_without_counts_still_has_a_card(small_model: Path, tmp_path: Path) -> None:
    card, reporting = texts(tmp_path, small_model)
    assert "No site let its counts out" in card and ModelCard(card).data.eval_results is None
    assert table_row(reporting, "17")[3] == f"{AUTHORS}. Groups of patients: {AUTHORS}."


@pytest.mark.parametrize("text", ["a|b", "[x](javascript:1)", "<script>", "two\nlines", "*bold* `code`"])
def test_text_of_others_is_no_markup(text: str) -> None:
    told = cell(text)
    assert "\n" not in told and not re.search(r"(?<!\\)[|\[\]<>*`]", told)
