"""What a column's name says: section, label and unit, or who the patient is."""

from __future__ import annotations

import re
from typing import NamedTuple

from client.registry.header import JOINED as ABOVE
from client.registry.redcap.labels import split_unit

_PERSONAL = re.compile(
    r"\b(name|(sur|first|last|full|family|fore)name|birth|birthday|born|dob|address|street|zip|zipcode|postcode|phone|"
    r"telephone|mobile|e?mail|ssn|mrn|insurance|passport|initials)\b",
    re.IGNORECASE,
)
_SPELT = """
    mg/dL g/dL mg/L g/L µg/L ng/L ng/mL pg/mL mmol/L µmol/L nmol/L mEq/L IU/L U/L mU/L mmHg kPa cmH2O bpm kg cm mL L/min
    mL/h mL/min mL/kg µg/kg/min 10^9/L 10^12/L years days hours weeks months kg/m2
"""
_UNITS = {re.sub(r"\W", "", unit.casefold()).replace("μ", "u"): unit for unit in _SPELT.split()}
_UNITS |= {"pct": "%", "percent": "%", "degc": "°C", "celsius": "°C"}
"""Units by how the end of a column's name writes them, as in crea_mg_dl."""


class Name(NamedTuple):
    """What a column's name says."""

    section: str
    label: str
    unit: str


def read_name(column: str) -> Name:
    """Section, label and unit of a column: "Labs / Creatinine (mg/dL)", "crea_mg_dl", "HR [bpm]"."""
    *groups, own = (" ".join(part.split()) for part in column.split(ABOVE))
    own, unit = split_unit(own)
    words = re.split(r"[\s_.]+", own.strip(" _."))
    for count in (3, 2, 1):
        ending = "".join(words[-count:]).casefold()
        if not unit and len(words) > count and ending in _UNITS:
            words, unit = words[:-count], _UNITS[ending]
    label = " ".join(words)
    return Name(ABOVE.join(part for part in groups if part) or "Record", label[:1].upper() + label[1:], unit)


def tells_who(column: str) -> bool:
    """Whether a column is by its name one that tells who the patient is."""
    return bool(_PERSONAL.search(column.replace("_", " ")))
