"""Words and signs by which people write that there is no value, in any capitals: for identifiers and for drafts."""

from __future__ import annotations

SIGNS = frozenset(
    ["na", "n/a", "nan", "null", "#n/a", "#null!", "<na>", "(null)", "\\n", ".", "-", "--", "---", "?", "??"]
)
"""Mean nothing else, wherever they stand."""

WORDS = frozenset(
    {
        *(
            "nd",
            "n.d.",
            "n.a",
            "n.a.",
            "nk",
            "n.k.",
            "unk",
            "unk.",
            "none",
            "nil",
            "nat",
            "missing",
            "unknown",
            "undefined",
        ),
        *("not done", "not known", "not available", "not applicable", "not recorded", "not reported", "not documented"),
        *("not tested", "not measured", "not assessed", "not performed", "no data", "no answer", "no information"),
        *("n/d", "n/k", "u/k", "unclear", "undetermined", "unspecified", "not specified", "not stated", "declined"),
        *("refused", "prefer not to say", "don't know", "unable to obtain", "pending"),
        *("k.a.", "k. a.", "keine angabe", "unbekannt", "fehlt", "fehlend", "nicht bekannt", "nicht erhoben", "n.e."),
        *(
            "nicht gemessen",
            "nicht durchgeführt",
            "inconnu",
            "inconnue",
            "non renseigné",
            "non fait",
            "manquant",
            "nsp",
        ),
        *(
            "desconocido",
            "desconocida",
            "no consta",
            "no realizado",
            "sin datos",
            "desconhecido",
            "sconosciuto",
            "ignoto",
        ),
        *("non noto", "non eseguito", "onbekend", "niet bekend", "niet gedaan", "ukendt", "ukjent", "okänd", "okänt"),
        *("ikke utført", "ej utfört", "tuntematon", "nieznany", "nieznane", "brak danych", "neznámý", "ismeretlen"),
        *("미상", "모름", "알수없음", "알 수 없음", "不明"),
    }
)
"""Mean it mostly; "none" may also be said of what a patient has none of."""

NOBODY = SIGNS | {"none", "nil", "nat", "unk", "unknown", "missing", "undefined", "n.a.", "n.a", "n.d.", "unbekannt"}
"""What is no identifier: nothing, as programs and people write it."""


def bare(text: str) -> str:
    """Return a text as the lists have it."""
    return " ".join(text.replace("_", " ").casefold().split())
