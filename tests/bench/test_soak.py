"""What a watched soak says of the dashboard: its memory, and rounds with its page open and without."""

from __future__ import annotations

from bench.soak import beside


def test_rounds_in_which_the_page_is_opened_or_closed_count_on_neither_side() -> None:
    took = {number: {0: 90.0, 7: 80.0}.get(number % 10, 1.02 if number % 10 < 7 else 1.0) for number in range(1, 41)}
    told = beside(took, [100, 150, 101])
    assert told["MB"] == {"first third": 100, "last third": 101}
    assert told["seconds a round"] == {"open": 1.02, "closed": 1.0}
    assert (told["rounds"], told["slower by %"]) == ({"open": 24, "closed": 8}, 2.0)


def test_a_run_too_short_to_compare_tells_the_memory_alone() -> None:
    assert beside(dict.fromkeys(range(1, 8), 1.0), [1, 2, 3]) == {"MB": {"first third": 1, "last third": 3}}
