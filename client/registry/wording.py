"""What a field's wording says by public rules: known only later, about a death, or nothing of medicine.

The rules propose, a person accepts. They look at names, labels, sections and choices, never at a value; where they are
in doubt they hide, because a value shown beside one that implies it answers the question.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_DEATH = (
    *(r"(?:hosp)?dead(?! (?:space|animals?|birds?))", "deaths?", "die[ds]?", "dying", "deceased", "mortality"),
    *(
        "(?:h|hosp|icu|hospital|in-?hospital)[ -]?mort",
        "fatal(?:ity)?",
        r"autops\w+",
        r"surviv\w*",
        "alive",
        "vital status",
    ),
)
_DAYS = "(?:28|30|60|90|180|365)"
_LATER = {
    "death": _DEATH,
    "discharge": ("discharged?", "hospital course", r"length of (?:\w+ )?stay", "los", "slos"),
    "outcome": (
        *("outcomes?", r"prognos\w+", "sequelae", "end ?points?", "end of study", "study completion", "lost to follow"),
        *("withdr[ae]wn?", "withdrawal"),
    ),
    "follow-up": (
        *(
            "follow-? ?ups?",
            "fup",
            r"readmi\w+",
            r"re-(?:admi|hospitali)\w+",
            r"rehospitali\w+",
            "recurrence",
            "relapsed?",
        ),
    ),
    "a time afterwards": (
        *(rf"(?:at|within|after|by|days?|months?|years?|weeks?) {_DAYS}", rf"{_DAYS}-? ?d(?:ays?)?"),
        *(r"(?:at|within|after) (?:\w+ )?(?:\d+ )?(?:months?|years?)", r"(?:months?|years?) (?:visit|\d+)"),
        r"\d+ ?(?:months?|years?) (?:visit|assessment|later|after)",
    ),
}
_BEFORE = re.compile(r"\b(?:last|past|previous(?:ly)?|prior|before|preceding|history|ago|since)\b")
"""Such a time lies before the moment of a question."""
_DEAD = re.compile(
    r"(?:not |patient |has )*(?:deceased|died|dead|death|expired|alive|survived|survivor)(?! (?:animals?|birds?))\b"
)
"""How a choice begins that tells of a death."""
_OTHER = {
    "consent": ("consent(?:ed|s)?", "assent", "withdr[ae]wn?", "withdrawal", "permission", "signature"),
    "samples": (
        *("(?:research |bio|convalescent |blood |add )samples?", r"biobank\w*", "aliquots?", "barcode", "kit number"),
        "specimen id",
    ),
    "administration": (
        *("investigators?", "interview(?:er|ed)?", "(?:completed|entered) by", "data entry", "collector", "reviewer"),
        *("verified", "form status", "source documents?", r"randomi[sz]\w+", r"enrol\w+", r"eligib\w+", "inclusion"),
        *("exclusion", "screening (?:id|number|log)", "site (?:id|name|code)"),
    ),
    "money": ("costs?", "charges?", r"insur\w+", r"reimburse\w+", "payments?", "payer", "income", "billing"),
    "contact": ("contact (?:details|person|information)", "telephone", "e-?mail", "address", "next of kin"),
    "survey": (r"satisf\w+", "feedback", "survey", "newsletter", "preferred language", "how did you hear"),
}


def _rules(patterns: dict[str, tuple[str, ...]]) -> dict[str, re.Pattern[str]]:
    return {what: re.compile(rf"(?<![a-z0-9])(?:{'|'.join(any_of)})(?![a-z0-9])") for what, any_of in patterns.items()}


_LATER_RULES, _OTHER_RULES = _rules(_LATER), _rules(_OTHER)


def words_of(text: str) -> str:
    """Return a name or label as small words: `hospDead90_days` gives "hosp dead 90 days"."""
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|[^\w-]+|_+", " ", text).casefold().split())


def known_later(*texts: str, choices: Iterable[str] = ()) -> str | None:
    """Return why a field is known only after the moment of a question, by its wording; None where nothing says so."""
    if about_death(*texts, choices=choices):
        return "death"
    told = [words_of(text) for text in texts]
    before = any(map(_BEFORE.search, told))
    return next(
        (
            what
            for what, rule in _LATER_RULES.items()
            if any(map(rule.search, told)) and not (before and what == "a time afterwards")
        ),
        None,
    )


def about_death(*texts: str, choices: Iterable[str] = ()) -> bool:
    """Whether a wording, or one of the choices, tells whether or when somebody died."""
    return any(_LATER_RULES["death"].search(words_of(text)) for text in texts) or any(
        _DEAD.match(words_of(choice)) for choice in choices
    )


def not_clinical(*texts: str) -> str | None:
    """Return what a field is of, where that is nothing a clinician would infer from a record; else None."""
    told = [words_of(text) for text in texts]
    return next((what for what, rule in _OTHER_RULES.items() if any(map(rule.search, told))), None)
