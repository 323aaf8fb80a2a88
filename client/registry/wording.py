"""What a field's wording says by public rules: known only later, about a death, or nothing of medicine.

The rules propose, a person accepts. They look at names, labels, sections and choices, never at a value; where they are
in doubt they hide, because a value shown beside one that implies it answers the question.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

_DEATH = (
    *(r"(?:hosp)?dead(?! (?:space|animals?|birds?))", "deaths?", "die[ds]?", "dying", "deceased", r"\w*mortality"),
    r"death ?(?:times?|dates?)",
    *(r"sterbe(?:datum|tag|fall)\w*", r"\w*(?:letalitaet|hospmort|icumort)", r"\d+mort"),
    *(
        "(?:h|hosp|icu|hospital|in-?hospital)[ -]?mort",
        "fatal(?:ity)?",
        r"autops\w+",
        r"surviv\w*",
        "alive",
        *(
            "vital ?status",
            r"expired(?=$| (?:in|at|on|during|flag|dates?|status)\b)",
            "expire flag",
            "lethal(?:ity)?",
            "mors",
        ),
    ),
    # other languages, without accents
    *("exitus", "tod", r"todes(?:datum|ursache|tag|zeit\w*|fall)", r"(?:ver|ge)storben\w*", r"\w*letalitat", "letal"),
    *(r"\w*sterblichkeit", r"\w*mortalita?ts?\w*", r"u(?:e)?berleb\w*", "mort[ea]?", "deces", r"decede\w*", "survie"),
    *(
        r"mortalidade?",
        r"mortalita",
        r"mortalite",
        "muert[eoa]s?",
        r"fallec\w+",
        "defuncion",
        r"supervivencia",
        "obitos?",
    ),
    *(r"sobreviv\w+", r"decess[oi]", r"decedut\w+", r"sopravviv\w+", "sopravvivenza", r"overleden\w*", "sterfte"),
    *(
        r"overlev\w+",
        "overlijden",
        "dod(?:sfall|sfald|sdato|sdatum|sarsak|sorsak|elighed|elighet)?",
        r"avlid\w+",
        r"gestorven",
    ),
    *(r"kuol\w+", "zgony?", r"zmarl\w*", r"umrti", r"zemrel\w*", "smrt", r"elhunyt\w*", r"halal(?:ozas\w*|eset)"),
    *("사망\\w*", "생존\\w*", "死亡\\w*"),
)
_DAYS = "(?:28|30|60|90|180|365)"
_MANY_DAYS = "(?:28|30|45|60|90|100|120|180|182|183|360|365)"
_LATE = r"(?:3|6|9|12|18|24|36|48|60)"
_MONTHS = (
    r"(?:m|mo|mos|mths?|mon|months?|monat\w*|mois|mes(?:es|i)?|maanden|maned\w*|manad\w*|kk|y|yrs?|jahren?|anni|jaar)"
)
_DAY = r"(?:d|days?|tage?n?|jours?|j|dias?|giorni|dagen|dage|dager|dagar|dag)"
_SCALES = (
    r"(?:m ?rs|rankin|cpc|gos ?-?e?|opc|eq ?-?5 ?d(?: ?[35] ?l)?|sf ?-?(?:12|36)|qol|hrqol|whodas|barthel|katz|i?adl|"
    r"hads|moca|mmse|karnofsky|kps|ecog|fim|disab\w*|phq ?9|status|los|mort|outcome|event|vital)"
)
"""Scales and words of an outcome, which a number behind them dates."""
_NO_AGE = "".join(rf"(?<!\b{word})" for word in ("age", "aged", "than", "under", "over", "last", "past", "of", "every"))
_STAY = r"(?:icu|itu|picu|nicu|hosp(?:ital)?|ward|vent(?:ilat\w+)?|mv|imv|rrt|crrt|ecmo|dialysis)"
_LATER = {
    "death": _DEATH,
    "discharge": (
        *("discharged?", "hospital course", r"lengths? of (?:\w+ )*stay", "s?los", "losdays"),
        *(r"(?:icu|itu|picu|nicu|h|hosp|hospital|ward|total|post-?op) ?los", "lohs", r"disch(?:g|rg|arge)?"),
        *(r"(?:dc|d/c|d-c) (?:disp\w*|dest\w*|dates?|status|loc\w*|home|to|diag\w*|dx|alive|time|day)", "disposition"),
        *(
            "(?:dc)?dispo",
            "(?:dc|disch)date",
            "verlegt",
            r"lengthofstay",
            "stay (?:days|duration|length)",
            r"destination",
            r"hospital days",
            rf"{_STAY} days",
            rf"days (?:in|on|of) (?:the )?{_STAY}",
        ),
        *(rf"{_STAY} (?:stay|duration|dur)", rf"duration of (?:\w+ )?(?:{_STAY}|stay|hospitali[sz]ation)\w*"),
        *(r"\w*entlass\w*", r"\w*verweildauer", r"\w*liegedauer", r"\w*aufenthaltsdauer", r"verlegungsziel"),
        *("sortie", r"duree (?:de |du )?sejour", "dms", r"(?:al|fecha|destino|estado|tipo|motivo)(?: de| al)? alta"),
        *(
            r"(?:data|destino) (?:da |de )?alta",
            r"(?:dias|tiempo|duracion) (?:de )?(?:estancia|hospitali\w+)",
            "estancia",
        ),
        *(r"dimission\w*", "dimesso", r"(?:durata|giorni) (?:di |della )?degenza", "degenza", r"ontslag\w*", "ligduur"),
        *(r"(?:verblijfs|opname) ?duur", r"utskriv\w*", r"udskriv\w*", "liggetid", "vardtid", r"indlaeggelsestid"),
        *(r"kotiut\w*", "hoitoaika", r"wypis\w*", r"czas pobytu", r"propusten\w*", "퇴원\\w*", "재원\\w*"),
    ),
    "outcome": (
        *("outcomes?", r"prognos\w+", "sequelae", "end ?points?", "end of study", "study completion", "lost to follow"),
        *("withdr[ae]wn?", "withdrawal"),
        *(
            "vfds?",
            "vfdays",
            "pfs",
            "os (?:months?|days?|years?|time|status|event)",
            r"time to (?:event|\w*progression)",
            "event time",
            "resultado final",
            "hfds?",
            "osfds?",
            "rrtfds?",
            "icufds?",
            "daoh",
            "dah",
            r"\w*-?free[ -]?days?",
            "days? alive",
        ),
        *(r"days? free", r"\w+freie (?:tage|d)", r"jours sans \w+", r"dias (?:libres|livres)", r"giorni liberi"),
        *("ausgang", "endpunkt", r"behandlungsergebnis\w*", "devenir", "desenlace", "desfecho", "esito", "uitkomst"),
        *("utfall", "udfald", r"lopputulos", r"wynik leczenia"),
    ),
    "follow-up": (
        *(
            "follow-? ?ups?",
            "fup",
            r"(?<!\d-)(?<!\d )f/?u",
            r"readmi\w+",
            r"re-(?:admi|hospitali)\w+",
            r"rehosp\w*",
            "recurrence",
            "relapsed?",
        ),
        *(
            "nachsorge",
            r"nachbeobachtung\w*",
            "katamnese",
            r"wiederaufnahme\w*",
            "suivi",
            r"rehospitalisation",
            "rechute",
        ),
        *("seguimi?ento", "reingreso", "reinternacao", "recaida", r"riammission\w*", "recidiva", "rezidiv"),
        *("opvolging", r"heropname\w*", r"uppfoljning\w*", r"opfolgning\w*", r"oppfolging\w*", r"aterinlaggning\w*"),
        *("seuranta", r"genindlaeggelse\w*", "추적\\w*"),
    ),
    "a time afterwards": (
        *(rf"(?:at|within|after|by|days?|months?|years?|weeks?) {_DAYS}", rf"{_DAYS}-? ?d(?:ays?)?"),
        *(r"(?:at|within|after) (?:\w+ )?(?:\d+ )?(?:months?|years?)", r"(?:months?|years?) (?:visit|\d+)"),
        r"\d+ ?(?:months?|years?) (?:visit|assessment|later|after)",
        rf"(?:d|days?|tag|jour|dia|j) ?{_MANY_DAYS}",
        rf"{_MANY_DAYS} ?-?{_DAY}",
        rf"(?<!gcs )(?<!last )m(?:o|th|on)? ?{_LATE}(?! ?[a-z]*/)",
        rf"\w+{_NO_AGE}[ -]{_LATE} ?-?{_MONTHS}$",
        rf"^{_LATE} ?-?{_MONTHS} \w+",
        rf"(?:nach|bei|apres|a|despues de|depois de|dopo|na|efter|etter|po) {_LATE} {_MONTHS}",
        rf"[a-z]\w*{_NO_AGE} 1 ?-?(?:y|yr|year|jahr)$",
    ),
    "a scale of outcome": (
        *(
            rf"{_SCALES}(?: \w+)? {_MANY_DAYS}",
            r"(?:m ?rs|cpc|gos ?-?e?|opc)",
            r"modified rankin\w*",
            "cerebral performance",
        ),
    ),
}
_BEFORE = re.compile(
    r"\b(?:last|past|prev(?:ious(?:ly)?)?|prior|before|preceding|history|ago|since|letzten?|vorher|avant|antes|prima|voor)\b"
)
"""Such a time lies before the moment of a question."""
_AT_FIRST = re.compile(r"\b(?:pre\w*|baseline|admission|adm|aufnahme|initial|vor\w*|prae\w*)\b")
"""Such a scale is of before it, or of that moment."""
_DEAD = re.compile(
    r"(?:not |patient |has )*(?:deceased|died|dead|death|expired|alive|survived|survivor|exitus|(?:ver|ge)storben|"
    r"(?:u|ue)berlebt|lebend|decede\w*|fallecid\w+|muert[oa]|decedut[oa]|overleden|avliden|dod|kuollut|zmarl\w*|zemrel\w*|"
    r"elhunyt|사망|생존)(?! (?:animals?|birds?))(?![a-z0-9])"
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


_LETTERS = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d"})
_LATER_RULES, _OTHER_RULES = _rules(_LATER), _rules(_OTHER)


def words_of(text: str) -> str:
    """Return a name or label as small words: `hospDead90_days` gives "hosp dead 90 days"."""
    return " ".join(re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Za-z])(?=\d)|[^\w-]+|_+", " ", text).casefold().split())


def _unaccented(text: str) -> str:
    """Return its words without accents, as the rules have them."""
    parts = unicodedata.normalize("NFD", words_of(text).translate(_LETTERS))
    return unicodedata.normalize("NFC", "".join(sign for sign in parts if not "\u0300" <= sign <= "\u036f"))


def known_later(*texts: str, choices: Iterable[str] = ()) -> str | None:
    """Return why a field is known only after the moment of a question, by its wording; None where nothing says so."""
    if about_death(*texts, choices=choices):
        return "death"
    told = [_unaccented(text) for text in texts]
    before, first = any(map(_BEFORE.search, told)), any(map(_AT_FIRST.search, told))
    not_so = {"a time afterwards": before, "a scale of outcome": before or first}
    return next(
        (what for what, rule in _LATER_RULES.items() if any(map(rule.search, told)) and not not_so.get(what)), None
    )


def about_death(*texts: str, choices: Iterable[str] = ()) -> bool:
    """Whether a wording, or one of the choices, tells whether or when somebody died."""
    return any(_LATER_RULES["death"].search(_unaccented(text)) for text in texts) or any(
        _DEAD.match(_unaccented(choice)) for choice in choices
    )


def not_clinical(*texts: str) -> str | None:
    """Return what a field is of, where that is nothing a clinician would infer from a record; else None."""
    told = [words_of(text) for text in texts]
    return next((what for what, rule in _OTHER_RULES.items() if any(map(rule.search, told))), None)
