"""The question that a summary shows: one that training turned right, else the first, and none where none was kept."""

from __future__ import annotations

from simulation.summary import telling_sample


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
