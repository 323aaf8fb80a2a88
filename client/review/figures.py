"""The figures of a review, as its report and its summary tell them: from the store, each model by its name again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.review.scale import ALWAYS, AXES
from client.review.statistics import Agreement, Preference, Rating, agreement, by, preference
from client.review.store import CaseRow, RatingRow, ReviewStore


@dataclass(frozen=True)
class Figures:
    """What a review says.

    Attributes
    ----------
    first, second
        Names of the models; in tables they are A and B.
    cases, rated
        Cases of the review, and those with a rating of some rater.
    raters
        For each rater how many cases are rated.
    skipped
        Cases that raters have passed over, of all raters together.
    alike
        Cases that both models answered word for word alike.
    axes, agreement
        Preference and Krippendorff's alpha by axis.
    kinds, by_rater
        The overall preference by kind of question, and by rater.
    """

    first: str
    second: str
    cases: int
    rated: int
    raters: Mapping[str, int]
    skipped: int
    alike: int
    axes: Mapping[str, Preference | None]
    agreement: Mapping[str, Agreement | None]
    kinds: Mapping[str, Preference]
    by_rater: Mapping[str, Preference]

    @property
    def left(self) -> int:
        """Ratings that are still open, of the raters who have begun: neither given nor passed over."""
        return len(self.raters) * self.cases - sum(self.raters.values()) - self.skipped


def ratings_of(rows: Sequence[RatingRow], cases: Mapping[int, CaseRow]) -> list[Rating]:
    """Return what was said of the cases that were not skipped, turned from left and right to first and second."""
    found = []
    for row in rows:
        case = cases[row.case]
        if row.skipped or case.withdrawn:
            continue
        for axis, answer in row.answers.items():
            value = -answer if row.left == "first" else answer
            found.append(Rating(row.rater, row.case, case.patient, case.kind, axis, value))
    return found


def figures(store: ReviewStore) -> Figures:
    """Return the figures of a review as it stands."""
    review, cases, rows = store.review(), store.cases(), store.ratings()
    assert review is not None
    there = [number for number, case in cases.items() if not case.withdrawn]
    ratings = ratings_of(rows, cases)
    axes = by(ratings, "axis")
    overall = axes.get(ALWAYS, [])
    texts = store.completions()
    raters = {name: len(theirs) for name, theirs in by(overall, "rater").items()}
    return Figures(
        first=review.first,
        second=review.second,
        cases=len(there),
        rated=len({rating.case for rating in overall}),
        raters={name: raters.get(name, 0) for name in sorted({row.rater for row in rows})},
        skipped=sum(row.skipped and not cases[row.case].withdrawn for row in rows),
        alike=sum(texts[number, "first"] == texts[number, "second"] for number in there),
        axes={axis: preference(axes.get(axis, [])) for axis in AXES},
        agreement={axis: agreement(axes.get(axis, [])) for axis in AXES},
        kinds=_each(by(overall, "kind")),
        by_rater=_each(by(overall, "rater")),
    )


def _each(groups: Mapping[str, Sequence[Rating]]) -> dict[str, Preference]:
    found = {name: preference(theirs) for name, theirs in groups.items()}
    return {name: one for name, one in found.items() if one is not None}
