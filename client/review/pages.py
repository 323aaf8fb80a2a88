"""What a rater sees: where they stand, and one case after the other. Nothing tells which answer is of which model.

Whoever came in by the link that the command printed sees how far everybody is, and rates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from client.preview.text import visible
from client.review.order import Turn, turns
from client.review.scale import ALWAYS, AXES, LONGEST_COMMENT, SCALE
from client.review.store import CaseRow, RatingRow, ReviewStore
from common.errors import Code, FedReasonError
from common.pages.page import Section, details, html_table, paragraph
from common.questions.question import LETTERS
from common.web.accounts import Accounts
from common.web.sessions import STARTER
from common.web.visit import Answer, Document, Place, Visit, go

_NOT_ASKED = ""
"""What a form says of an axis that does not apply."""
_STATES = {"rated": "rated", "begun": "begun: the overall preference is missing", "skipped": "skipped", "open": "open"}


class Desk:
    """The pages of one review."""

    def __init__(self, store: ReviewStore, accounts: Accounts) -> None:
        review = store.review()
        assert review is not None
        self._store, self._accounts, self._secret = store, accounts, review.secret

    @property
    def places(self) -> list[Place]:
        """Where what is answered."""
        return [
            Place("/", self.overview),
            Place("/case/{place}", self.case),
            Place("/case/{place}/rate", self.rated, action=True),
            Place("/case/{place}/skip", self.skipped, action=True),
        ]

    # --- Shown ---

    def overview(self, visit: Visit) -> Answer:
        """Show a rater's cases; to whoever started this, how far everybody is."""
        if visit.session.user == STARTER:
            return self._progress()
        order, states = self._own(visit.session.user)
        count = list(states.values()).count
        lead = f"{count('rated')} of {len(states)} cases are rated, {count('skipped')} skipped."
        following = next((place for place in states if states[place] in ("open", "begun")), None)
        onward = (
            paragraph("Every case is rated or skipped. Thank you; you may still change what you said.", "good")
            if following is None
            else f'<p><a href="/case/{following}">Go to case {following}</a></p>'
        )
        rows = "".join(
            f'<li><a href="/case/{place}">Case {place}</a>: {escape(_STATES[state])}</li>'
            for place, state in states.items()
        )
        gone = len(order) - len(states)
        left_out = paragraph(f"Cases taken out since: {gone}.", "note") if gone else ""
        return Document(
            "Blinded comparison",
            lead,
            [
                Section("Go on", onward),
                Section("How to rate", _HOW),
                Section("Your cases", f"<ul>{rows}</ul>{left_out}"),
            ],
        )

    def case(self, visit: Visit) -> Answer:
        """Show a case with both answers and what the rater said of it so far."""
        place, turn, case, said = self._asked_for(visit)
        texts = self._store.completions(turn.case)
        answers = "".join(
            f"<div><h3>{name}</h3><pre>{_text(texts[turn.case, side])}</pre></div>"
            for name, side in (("Answer 1", turn.left), ("Answer 2", turn.right))
        )
        form = visit.form_of(f"/case/{place}/rate", _form(said), "Save and go on", kind="main")
        skip = visit.button(f"/case/{place}/skip", "Skip this case")
        states = self._own(visit.session.user)[1]
        return Document(
            f"Case {place}",
            f"{list(states.values()).count('rated')} of {len(states)} cases are rated. "
            f"This one: {_STATES[_state(said)]}.",
            [
                Section("Record and question", _question(case)),
                Section("The two answers", f'<div class="pair">{answers}</div>'),
                Section("Your rating", f'<div class="rating">{form}</div>'),
                Section("Without a rating", paragraph("What is chosen above is not saved by this.", "note") + skip),
            ],
            records=True,
        )

    def _progress(self) -> Document:
        ratings: dict[str, list[RatingRow]] = {name: [] for name in self._accounts.names()}
        for rating in self._store.ratings():
            ratings.setdefault(rating.rater, []).append(rating)
        there = sum(self._store.numbers().values())
        rows = [
            (name, sum(_state(one) == "rated" for one in theirs), sum(one.skipped for one in theirs), there)
            for name, theirs in sorted(ratings.items())
        ]
        table = html_table(["rater", "rated", "skipped", "of"], rows)
        note = paragraph("To rate, leave and come in with an account's name and password.", "note")
        return Document("Blinded comparison", "How far the raters are.", [Section("Raters", table + note)])

    # --- Done ---

    def rated(self, visit: Visit) -> Answer:
        """Save what a rater says of a case."""
        place, turn, _, _ = self._asked_for(visit)
        answers = _answers(visit.form)
        comment = visit.form.get("comment", "").replace("\r\n", "\n").strip()
        if len(comment) > LONGEST_COMMENT:
            raise FedReasonError(
                Code.REVIEW_RATING,
                f"The comment has {len(comment):,} characters, {LONGEST_COMMENT:,} are the most: nothing was saved.",
                "Go back, shorten it and save again.",
            )
        self._store.rate(turn.case, visit.session.user, turn.left, answers, comment)
        if ALWAYS not in answers:
            visit.session.notice = f"Case {place} is saved; its overall preference is still missing."
            return go(f"/case/{place}")
        return self._onward(visit, place, "saved")

    def skipped(self, visit: Visit) -> Answer:
        """Mark a case as skipped; what was said of it before is kept, and counts again once it is saved again."""
        place, turn, _, said = self._asked_for(visit)
        answers, comment = ({}, "") if said is None else (said.answers, said.comment)
        self._store.rate(turn.case, visit.session.user, turn.left, answers, comment, skipped=True)
        return self._onward(visit, place, "skipped")

    def _onward(self, visit: Visit, place: int, what: str) -> Answer:
        states = self._own(visit.session.user)[1]
        left = [other for other in states if states[other] in ("open", "begun")]
        following = next((other for other in left if other > place), left[0] if left else None)
        visit.session.notice = f"Case {place} is {what}."
        return go("/" if following is None else f"/case/{following}")

    # --- Whose ---

    def _own(self, rater: str) -> tuple[list[Turn], dict[int, str]]:
        """Return the cases of a rater in their order, and the state of each that was not withdrawn."""
        self._store.renew()
        there = self._store.numbers()
        order = turns(self._secret, rater, list(there))
        said = {rating.case: rating for rating in self._store.ratings(rater)}
        return order, {
            place: _state(said.get(turn.case)) for place, turn in enumerate(order, start=1) if there[turn.case]
        }

    def _asked_for(self, visit: Visit) -> tuple[int, Turn, CaseRow, RatingRow | None]:
        """Return the case that an address means to this rater: its number is the place in their own order.

        Raises
        ------
        FedReasonError
            REVIEW_RATING where there is none, or whoever asks is no rater.
        """
        rater, text = visit.session.user, visit.parts["place"]
        if rater == STARTER:
            raise FedReasonError(
                Code.REVIEW_RATING, "Ratings belong to an account.", "Leave, and come in with a name and password."
            )
        order, states = self._own(rater)
        place = int(text) if text.isascii() and text.isdecimal() and len(text) < 9 else 0
        if place not in states:
            raise FedReasonError(Code.REVIEW_RATING, "There is no such case.", "Choose one from the first page.")
        turn = order[place - 1]
        said = next((rating for rating in self._store.ratings(rater) if rating.case == turn.case), None)
        return place, turn, self._store.case(turn.case), said


def _state(said: RatingRow | None) -> str:
    if said is None:
        return "open"
    if said.skipped:
        return "skipped"
    return "rated" if ALWAYS in said.answers else "begun"


_HOW = "".join(
    paragraph(text)
    for text in (
        "Each case shows a record, a question and two answers. Say on each axis which answer is better.",
        "Every case is saved as you leave it by its button. You may stop at any time and come back, skip a case, or "
        "change what you said.",
        "Which model gave answer 1 is drawn anew for every case. Do not talk about cases with other raters before "
        "all are done.",
    )
)


def _question(case: CaseRow) -> str:
    lettered = [f"{letter}. {choice}" for letter, choice in zip(LETTERS, case.choices, strict=False)]
    known = "What was done" if case.kind == "consultation" else "What the record says"
    return (
        f"<pre>{_text(chr(10).join(case.record))}</pre>"
        f"<pre>{_text(chr(10).join([case.text, *lettered]))}</pre>{details(known, f'<pre>{_text(case.truth)}</pre>')}"
    )


def _text(text: str) -> str:
    return escape("\n".join(visible(line.expandtabs()) for line in text.splitlines()))


def _form(said: RatingRow | None) -> str:
    answers: Mapping[str, int] = {} if said is None else said.answers
    groups = "".join(
        _group(axis, label, answers, known=said is not None and not said.skipped) for axis, label in AXES.items()
    )
    comment = escape("" if said is None else said.comment)
    return (
        f'{groups}<label>Comment (no names) <textarea name="comment" maxlength="{LONGEST_COMMENT}">\n{comment}'
        "</textarea></label>"
    )


def _group(axis: str, label: str, answers: Mapping[str, int], *, known: bool) -> str:
    options = [(str(value), text) for value, text in SCALE.items()]
    if axis != ALWAYS:
        options.append((_NOT_ASKED, "Does not apply"))
    chosen = str(answers[axis]) if axis in answers else _NOT_ASKED if known else None
    radios = "".join(
        f'<label class="line"><input type="radio" name="{axis}" value="{value}"'
        f"{' checked' if value == chosen else ''}> {escape(text)}</label>"
        for value, text in options
    )
    return f'<fieldset><legend>{escape(label)}</legend><div class="choices">{radios}</div></fieldset>'


def _answers(form: Mapping[str, str]) -> dict[str, int]:
    """Return what a form says by axis.

    Raises
    ------
    FedReasonError
        REVIEW_RATING where it says what no button of it does.
    """
    scale = {str(value): value for value in SCALE}
    answers = {}
    for axis in AXES:
        said = form.get(axis, _NOT_ASKED)
        if said == _NOT_ASKED:
            continue
        if said not in scale:
            raise FedReasonError(
                Code.REVIEW_RATING, "An answer lies outside the scale: nothing was saved.", "Go back and choose again."
            )
        answers[axis] = scale[said]
    return answers
