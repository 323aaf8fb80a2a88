"""Draws with a name: the same wherever they are made, one by one as together."""

from __future__ import annotations

from common.stream import Stream


def test_one_by_one_the_draws_are_those_that_are_made_together() -> None:
    one, all_at_once = Stream.named("draws", 7), Stream.named("draws", 7).uniforms(1000)
    assert [one.uniform() for _ in range(1000)] == all_at_once.tolist()
    assert 0 <= all_at_once.min() < 0.01 and 0.99 < all_at_once.max() < 1


def test_labels_are_kept_apart() -> None:
    labels: list[tuple[str | int, ...]] = [("a", "b"), ("ab",), ("b", "a"), ("a", "b", 1), ("a", "b", "1")]
    assert len({Stream.named(*each).uniform() for each in labels}) == 5
