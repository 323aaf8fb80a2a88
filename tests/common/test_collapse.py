"""What counts as a collapse, at a site and at the coordinator: nothing on a good run, and each kind by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.grpo.entry import Entry
from client.site.config import LogConfig
from client.training.log import TrainingLog, read_log
from common.collapse import LETTERS, collapse, one_letter
from server.rounds.guard import collapsed, shares_of
from tests.small import small_config


def step(questions: int = 12, letters: tuple[int, ...] = (30, 20, 20, 14, 10), **counts: float) -> dict[str, float]:
    """Return counts of a step of eight completions a question; 2 of 96 box nothing."""
    rollouts = 8 * questions
    usual = {"questions": questions, "rollouts": rollouts, "reward": 0.3 * rollouts, "zero_variance": 3, "truncated": 2}
    return usual | {"unboxed": 2} | dict(zip(LETTERS, letters, strict=True)) | counts


STILL = "next to nothing is learnt:"
NONE = dict.fromkeys(LETTERS, 0)


def test_a_step_that_goes_well_is_no_collapse() -> None:
    assert collapse([step()]) == collapse([step()] * 9) == ()


@pytest.mark.parametrize(
    ("latest", "told"),
    [
        (step(letters=(90, 2, 2, 0, 0)), "A is 96% of the boxed answers"),
        (step(letters=(0, 0, 0, 80, 16)), "D is 83% of the boxed answers"),
        (step(**NONE, unboxed=96), "no completion boxes an answer"),
        (step(zero_variance=12), f"{STILL} in 100% of the groups all completions get one reward"),
        (step(20, zero_variance=19), f"{STILL} in 95% of the groups all completions get one reward"),
        (step(truncated=80), "83% of the completions reach no end, 2% did at first"),
        (step(unboxed=48), "50% of the completions box no answer, 2% did at first"),
        (step(reward=0), "the mean reward fell from 0.30 to 0.00"),
    ],
)
def test_each_kind_is_named_and_within_as_many_steps_as_are_looked_at(latest: dict[str, float], told: str) -> None:
    steps = [step()] * 6
    after = [collapse([*steps, *[latest] * count]) for count in range(1, 6)]
    assert any(told in found for found in after)


def test_an_adapter_that_is_right_in_nearly_all_has_not_collapsed() -> None:
    assert collapse([step(), *[step(zero_variance=12, reward=93)] * 3]) == ()


def test_groups_of_which_a_few_disagree_still_teach() -> None:
    assert collapse([step(), *[step(zero_variance=11)] * 3]) == ()


def test_a_reward_that_wavers_has_not_fallen() -> None:
    """Twelve questions a step: what one, or two, may lack by chance."""
    assert collapse([step(reward=60), *[step(reward=40)] * 2]) == ()


def test_letters_that_are_not_told_are_not_looked_for() -> None:
    assert collapse([step(**NONE)] * 4) == ()


def test_a_few_questions_say_nothing() -> None:
    assert collapse([]) == collapse([step(2, (16, 0, 0, 0, 0), zero_variance=2)]) == ()
    few = step(3, (24, 0, 0, 0, 0), zero_variance=3, reward=0)
    assert collapse([few] * 5) == () and collapse([few] * 6) != (), "until they are sixteen"


@pytest.mark.long
@pytest.mark.parametrize("unboxed", [0.03, 0.1, 0.2])
def test_a_share_that_wavers_by_whole_questions_has_hardly_ever_risen(unboxed: float) -> None:
    """Completions of a question that are all alike: 200 runs of 30 steps of 12 questions."""
    named = 0
    for run in np.random.default_rng(1).binomial(12, unboxed, size=(200, 30)).tolist():
        steps = [step(unboxed=8 * questions, truncated=0) for questions in run]
        named += any("box no answer" in told for end in range(2, 31) for told in collapse(steps[:end]))
    assert named <= 5


@pytest.mark.long
def test_a_policy_that_is_right_about_two_choices_boxes_no_letter_too_often() -> None:
    """The truth stands at either place: 200 runs of 30 steps of 8 questions, answered all alike."""
    named = 0
    for run in np.random.default_rng(1).binomial(8, 0.5, size=(200, 30)).tolist():
        steps = [step(8, (8 * first, 64 - 8 * first, 0, 0, 0), unboxed=0, truncated=0) for first in run]
        named += any("of the boxed answers" in told for end in range(2, 31) for told in collapse(steps[:end]))
    assert named <= 10


def test_completions_that_never_had_an_end_are_no_rise() -> None:
    assert collapse([step(truncated=90)] * 5) == ()


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 5), min_size=1, max_size=5))
def test_letters_that_share_the_answers_are_never_one(counts: list[tuple[int, ...]]) -> None:
    """Whatever stood in the steps before."""
    steps = [step(letters=letters) for letters in counts]
    even = [step(letters=(20, 20, 20, 20, 16))] * 2
    assert collapse([*steps, *even]) == ()
    assert one_letter(4, 5) is None and one_letter(5, 5) is not None and one_letter(0, 0) is None


counts = st.dictionaries(
    st.sampled_from([*step(), "else"]), st.one_of(st.integers(), st.integers(0, 99), st.floats()), min_size=4
)


@given(st.lists(counts, max_size=6))
def test_whatever_a_site_sends_stops_nothing(sent: list[dict[str, float]]) -> None:
    assert all(isinstance(line, str) for line in collapse(sent))


def test_public_answers_tell_it_where_nothing_else_travels() -> None:
    def of(boxed: int, other: int) -> tuple[str, ...]:
        shares = shares_of({"asked": 64, "boxed": boxed, "right": 0, "other": other})
        assert shares is not None
        return collapsed(shares)

    assert of(60, 40) == ()
    assert of(0, 0) == ("no public question is answered in a box",)
    assert of(60, 3) == ("to the public questions one letter is 95% of the boxed answers",)


def test_the_log_of_a_site_names_it_and_a_restart_forgets_no_step(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    good = Entry(config.sha256, 1, 0, 0, 3, 12, 0, 96, reward=0.3, zero_variance=0.2, truncated=0.0)
    good = replace(good, letter_a=30, letter_b=30, letter_c=30)
    bad = replace(good, truncated=0.9, letter_a=90, letter_b=0, letter_c=0)
    for entry in (good, good, good, bad, bad, bad):
        log = TrainingLog(tmp_path, LogConfig(), config)  # as a site does that was started anew
        log.write(entry)
        log.close()
    named = [entry.collapse for entry in read_log(tmp_path, config.name)]
    assert named[:3] == [""] * 3
    assert named[5] == "A is 100% of the boxed answers; 90% of the completions reach no end, 0% did at first"
    other = small_config(small_model, grpo={"temperature": 0.9})
    TrainingLog(tmp_path, LogConfig(), other).write(replace(good, config=other.sha256))
    assert read_log(tmp_path, config.name)[-1].collapse == ""
