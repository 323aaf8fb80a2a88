"""The order of a review is each rater's own, complete, and balanced wherever the rater ends."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from client.review.order import turns
from client.review.scale import SIDES

SECRETS = st.text("0123456789abcdef", min_size=1, max_size=32)
NAMES = st.text("abcdefghijklmnop", min_size=1, max_size=12)


@given(SECRETS, NAMES, st.integers(0, 61))
def test_every_case_comes_once_and_the_sides_differ_by_one_at_most_wherever_one_ends(
    secret: str, rater: str, cases: int
) -> None:
    order = turns(secret, rater, range(1, cases + 1))
    assert sorted(turn.case for turn in order) == list(range(1, cases + 1))
    for end in range(cases + 1):
        count = Counter(turn.left for turn in order[:end])
        assert abs(count["first"] - count["second"]) <= 1
    assert all({turn.left, turn.right} == set(SIDES) for turn in order)
    assert turns(secret, rater, range(1, cases + 1)) == order


def test_raters_and_reviews_have_orders_of_their_own() -> None:
    orders = [turns(secret, rater, range(40)) for secret in ("a", "b") for rater in ("kim", "lee")]
    assert len({tuple(order) for order in orders}) == 4


def test_no_place_and_no_case_tells_the_side() -> None:
    """Over many raters, each place and each case has the first model on the left about as often as not."""
    raters, cases = 400, 10
    orders = [turns("secret", f"rater{number}", range(cases)) for number in range(raters)]
    for place in range(cases):
        left = sum(order[place].left == "first" for order in orders)
        assert abs(left - raters / 2) < 5 * (raters / 4) ** 0.5
    by_case = Counter(turn.case for order in orders for turn in order if turn.left == "first")
    assert all(abs(by_case[case] - raters / 2) < 5 * (raters / 4) ** 0.5 for case in range(cases))
