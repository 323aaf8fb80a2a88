"""The question that a summary shows: one that training turned right, else the first, and none where none was kept."""

from __future__ import annotations

from simulation.report import by_site
from simulation.summary import shares_at, telling_sample


def asked(question: str, boxed: str | None) -> dict[str, object]:
    return {"question": question, "answer": "B", "truth": "12", "completion": f"so {boxed}", "boxed": boxed}


def test_the_question_that_training_turned_right_is_shown() -> None:
    before = [asked("first", "B"), asked("second", None), asked("third", "A")]
    shown = telling_sample(before, [asked("first", "B"), asked("second", "C"), asked("third", "B")])
    assert shown is not None and shown["question"] == "third"
    assert shown["boxed"] == {"before": "A", "federated": "B"}


def test_where_none_was_turned_right_it_is_the_first_and_where_there_is_none_nothing() -> None:
    shown = telling_sample([asked("first", "A"), asked("second", "B")], [asked("first", "C"), asked("second", "B")])
    assert shown is not None and shown["question"] == "first"
    assert telling_sample([], []) is None


def test_a_site_that_was_asked_nothing_has_no_accuracy() -> None:
    """None of its patients was held out: that is no accuracy of 0."""
    right = {"age": {"asked": 4, "free": 3, "forced": 3}}
    counts = {arm: {"north": right, "south": {"age": {"asked": 0, "free": 0}}} for arm in ("before", "federated")}
    assert shares_at("north", counts, ["age"]) == {"before": 0.75, "federated": 0.75}
    assert shares_at("south", counts, ["age"]) == {}
    shares = {site: shares_at(site, counts, ["age"]) for site in ("north", "south")}
    page = by_site({"sites": ["north", "south"], "by_site": shares})
    assert "0.750" in page and "0.000" not in page
