"""The guard's rule: what sites agree on, which no minority moves far, and when an adapter has fallen."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.guard import KINDS, GuardConfig
from server.rounds.guard import agreed, best_of, fallen, fewest_asked, held_out_fall, held_out_shares
from server.rounds.shares import HELD_OUT, shares_of
from tests.small import PRIVACY, small_config

CONFIG = GuardConfig(questions=100)
GOOD = {"asked": 100, "boxed": 90, "right": 60, "other": 50}

honest = (
    st.integers(0, 100)
    .flatmap(lambda boxed: st.tuples(st.just(100), st.just(boxed), st.integers(0, boxed), st.integers(0, boxed)))
    .map(lambda counts: dict(zip(KINDS, counts, strict=True)))
)
anything = st.one_of(
    honest,
    st.dictionaries(st.sampled_from([*KINDS, "else"]), st.integers(-(2**70), 2**70)),
)
shares = st.dictionaries(st.sampled_from(["boxed", "right", "other"]), st.floats(0, 1))


@given(honest, st.integers(2, 6), st.lists(anything, max_size=5))
def test_a_minority_moves_nothing_and_no_honest_site_is_named(
    counts: dict[str, int], sites: int, lies: list[dict[str, int]]
) -> None:
    lies = lies[: sites - 1]
    answers = {f"site{i}": counts for i in range(sites)} | {f"liar{i}": lie for i, lie in enumerate(lies)}
    found = agreed(answers, CONFIG)
    assert found is not None and found.shares == shares_of(counts)
    assert not [site for site in found.disagreeing if site.startswith("site")]


@given(st.lists(anything, max_size=5), st.randoms())
def test_the_order_of_the_answers_does_not_matter(lies: list[dict[str, int]], random: object) -> None:
    answers = {f"site{i}": lie for i, lie in enumerate(lies)}
    mixed = list(answers.items())
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert agreed(dict(mixed), CONFIG) == agreed(answers, CONFIG)


@given(honest, anything)
def test_one_site_alone_is_never_believed(counts: dict[str, int], other: dict[str, int]) -> None:
    assert agreed({"a": counts}, CONFIG) is None
    far = shares_of(other)
    own = shares_of(counts)
    assert own is not None
    if far is None or any(abs(far[kind] - own[kind]) > CONFIG.tolerance + 1e-9 for kind in own):
        assert agreed({"a": counts, "b": other}, CONFIG) is None


def test_other_machines_may_answer_a_little_otherwise() -> None:
    near, far = {**GOOD, "right": 55}, {**GOOD, "right": 54}
    found = agreed({"a": GOOD, "b": GOOD, "c": near}, CONFIG)
    assert found is not None and found.disagreeing == ()
    found = agreed({"a": GOOD, "b": GOOD, "c": far}, CONFIG)
    assert found is not None and found.disagreeing == ("c",)


def test_of_two_halves_neither_is_believed() -> None:
    other = {**GOOD, "right": 0}
    assert agreed({"a": GOOD, "b": GOOD, "c": other, "d": other}, CONFIG) is None
    assert agreed({"a": GOOD, "b": GOOD, "c": {}, "d": {}}, CONFIG) is None
    assert agreed({"a": GOOD, "b": GOOD, "c": other}, CONFIG) is not None


def test_more_evaluators_may_be_asked_for_than_a_majority() -> None:
    answers = {"a": GOOD, "b": GOOD, "c": {**GOOD, "right": 0}}
    assert agreed(answers, CONFIG) is not None
    assert agreed(answers, CONFIG.model_copy(update={"evaluators": 3})) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"asked": 0, "boxed": 0, "right": 0, "other": 0},
        {**GOOD, "boxed": 101},
        {**GOOD, "right": 91},
        {**GOOD, "other": 91},
        {**GOOD, "right": -1},
        {**GOOD, "other": -1},
        {"asked": 100},
        {**GOOD, "more": 1},
        {},
    ],
)
def test_counts_that_no_answers_have_are_none(wrong: dict[str, int]) -> None:
    assert shares_of(wrong) is None
    found = agreed({"a": GOOD, "b": GOOD, "c": wrong}, CONFIG)
    assert found is not None and found.disagreeing == ("c",)


@given(st.lists(shares, min_size=1), st.floats(0.01, 0.99))
def test_the_best_so_far_has_not_fallen_and_falls_add_up(looks: list[dict[str, float]], margin: float) -> None:
    """Many small falls are one: what counts is the best of all, not the last."""
    best = best_of(looks)
    assert fallen(best, best, margin) == {}
    assert best_of([*looks, {}]) == best == best_of([best, *looks])
    below = {kind: share - margin - 1e-8 for kind, share in best.items()}
    assert fallen(below, best, margin) == best
    for look in looks:
        assert set(fallen(look, best, margin)) == {kind for kind in look if best[kind] - look[kind] > margin + 1e-9}


def test_what_was_never_measured_before_cannot_fall() -> None:
    assert fallen({"boxed": 0.9, HELD_OUT: 0.0}, {"boxed": 0.9}, 0.2) == {}


def test_one_site_s_held_out_counts_decide_nothing() -> None:
    item = {"asked": 10, "free": 6, "forced": 7}
    sites = {"a": {"age": item}, "b": {"age": item, "sex": item}, "liar": {"age": {"asked": 1, "free": -(10**9)}}}
    assert held_out_shares(sites, 1) == {"a": 0.6, "b": 0.6, "liar": 0.0}
    huge = {"age": {"asked": 1, "free": 10**4000}}
    assert held_out_shares({"liar": huge, "empty": {"age": {}}, "noise": {"all": {"asked": -3}}}, 1) == {"liar": 1.0}
    assert held_out_shares(sites, 11) == {"b": 0.6} and held_out_shares(sites, 21) == {}
    honest = {"a": 0.6, "b": 0.6}
    for lie in (0.0, 1.0):
        assert held_out_fall({**honest, "liar": lie}, [honest | {"liar": 1.0}], 2) == ({HELD_OUT: 0.6}, {HELD_OUT: 0.6})
    assert held_out_fall({"a": 0.0, "liar": 0.0}, [honest], 2) == held_out_fall(honest, [], 2) == ({}, {})


@pytest.mark.parametrize("then", [{"a", "b", "c"}, {"a"}])
def test_a_liar_that_is_half_of_the_sites_in_common_takes_nothing_back(then: set[str]) -> None:
    share, best = held_out_fall(
        dict.fromkeys("ade", 0.6) | {"liar": 0.0}, [dict.fromkeys(then, 0.6) | {"liar": 0.9}], 2
    )
    assert fallen(share, best, 0.2) == {}


@given(
    st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 1), min_size=2),
    st.lists(st.sets(st.sampled_from("abcdef")), min_size=1, max_size=5),
    st.sets(st.sampled_from("abcdef")),
)
def test_of_the_same_adapter_no_held_out_share_falls_whichever_sites_answer(
    accuracy: dict[str, float], looks: list[set[str]], here: set[str]
) -> None:
    now, *before = ({site: accuracy[site] for site in accuracy if site in of} for of in (here, *looks))
    share, best = held_out_fall(now, before, 2)
    assert fallen(share, best, 0.0) == {}
    below = {site: of - 0.5 for site, of in now.items()}
    share, best = held_out_fall(below, [*before, now], 2)
    assert fallen(share, best, 0.49) == best, "the look at which all of these answered tells it"


def test_noised_counts_tell_something_of_a_site_that_is_large_enough() -> None:
    config = small_config(Path("none"))
    assert fewest_asked(config) == 1
    noised = PRIVACY | {"metrics_noise_multiplier": 2.5, "metrics_questions": 2}
    assert fewest_asked(small_config(Path("none"), privacy=noised)) == 20 * 2.5 * 4
    rounded = PRIVACY | {"metrics_noise_multiplier": 1.2}
    assert fewest_asked(small_config(Path("none"), privacy=rounded)) == 20 * 3, "of the noise that a site draws"


def test_a_run_asks_for_no_more_evaluators_than_make_a_round() -> None:
    assert small_config(Path("none"), guard={"evaluators": 3}).guard is not None
    for wrong in ({"guard": {"evaluators": 4}}, {"guard": {}, "federation": {"quorum": 1}}):
        with pytest.raises(ValueError, match=r"guard\.evaluators"):
            small_config(Path("none"), **wrong)


def test_the_limits_of_the_section() -> None:
    for wrong in (
        {"evaluators": 1},
        {"margin": 0.0},
        {"margin": 1.0},
        {"tolerance": 0.5},
        {"questions": 15},
        {"every": 0},
    ):
        with pytest.raises(ValueError):
            GuardConfig.model_validate(wrong)
    assert math.isclose(GuardConfig().margin, 0.2)
