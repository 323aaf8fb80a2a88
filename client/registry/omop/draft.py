"""A first codebook for the columns that site.toml asks of an OMOP CDM; labels are names of its vocabulary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli_w
from sqlalchemy import Connection, Select, column, select, table

from client.registry.omop.config import FIXED, OmopColumn, OmopConfig
from client.registry.quantity import by_ratio
from client.registry.sql import read_query
from common.alike import as_one

_HEADER = """\
# Drafted from the concept table; nothing here was read off records.
# Add low, high, step and decimals to every measured number: they are clinical knowledge. A step is no less than a
# clinician tells apart and no more than a quarter of a standard deviation; with scale = "log", proposed by unit for
# what is mostly skewed, it is a ratio such as 1.2. Decimals are as many as the database tells apart. Look at labels, at
# what is known later, and at what would give another feature away (leak_groups).

"""
_TITLES = {
    "condition": "Diagnoses",
    "drug": "Drugs",
    "procedure": "Procedures",
    "device": "Devices",
    "observation": "Observations",
    "measurement": "Measurements",
}
_GENDERS = {8507: "male", 8532: "female"}
_VISITS = {
    9201: "Inpatient Visit",
    9202: "Outpatient Visit",
    9203: "Emergency Room Visit",
    262: "Emergency Room and Inpatient Visit",
}
_ANSWERS = {9191: "Positive", 9189: "Negative"}
_YES_NO = {"yes": "yes", "no": "no"}


def draft_codebook(url_variable: str, config: OmopConfig, *, name: str, title: str) -> str:
    """Write a codebook, as TOML, that describes every column of `config` and the fixed ones that questions are made of.

    A concept that the concept table does not name is written by its number. Parameters and errors are those of
    `open_omop`, but for the codebook's title, and that no table of records is read.
    """
    wanted = {*config.visits, *(concept for about in config.columns for concept in about.concepts)}
    wanted |= {about.unit for about in config.columns if about.unit is not None}
    concept = table("concept", column("concept_id"), column("concept_name"), schema=config.vocabulary or config.schema_)

    def named(_: Connection) -> Select[Any]:
        return select(concept.c.concept_id, concept.c.concept_name).where(concept.c.concept_id.in_(wanted))

    rows = read_query(url_variable, named, name=name).rows
    names = {int(number): text for _, (number, text) in rows if text}
    visits = as_one({str(visit): names.get(visit, str(visit)) for visit in config.visits}) or _VISITS
    begins = [
        {"name": "age", "section": "Patient", "label": "Age", "kind": "numeric", "unit": "years"}
        | {"low": 0, "high": 120, "step": 4},
        _categorical("gender", "Patient", "Sex", _GENDERS),
        *([_categorical("visit", "Admission", "Kind of visit", visits)] if len(set(visits.values())) > 1 else []),
    ]
    ends = [
        {"name": "length_of_stay", "section": "Outcome", "label": "Length of stay", "kind": "numeric", "unit": "days"}
        | {"low": 0, "high": 365, "step": 1.3, "scale": "log", "known_later": True},
        _categorical("died", "Outcome", "Died during the stay", _YES_NO) | {"known_later": True},
    ]
    features = [*begins, *(_described(about, names) for about in config.columns), *ends]
    described = {str(feature["name"]) for feature in features}
    content = {
        "title": title,
        "patient": "person_id",
        "record": "visit_occurrence_id",
        "ignored": [fixed for fixed in FIXED[2:] if fixed not in described],
        "features": features,
    }
    return _HEADER + tomli_w.dumps(content)


def _described(about: OmopColumn, names: Mapping[int, str]) -> dict[str, Any]:
    """Describe a column; its records are known early only where `hours` says so."""
    title = _TITLES[about.domain] + (f" of the first {about.hours} hours" if about.hours else "")
    own = about.name.replace("_", " ").capitalize()
    label = names.get(about.concepts[0], own) if len(about.concepts) == 1 else own
    later = {} if about.hours else {"known_later": True}
    if about.value is None:
        return _categorical(about.name, title, label, _YES_NO) | later
    if about.value != "first":
        label += {"last": ", last", "min": ", lowest", "max": ", highest"}[about.value]
    if about.coded:
        return _categorical(about.name, title, label, _ANSWERS) | later
    unit = {} if about.unit is None else {"unit": names.get(about.unit, str(about.unit))}
    scale = {"scale": "log"} if by_ratio(unit.get("unit", ""), None, None) else {}
    return {"name": about.name, "section": title, "label": label, "kind": "numeric"} | unit | scale | later


def _categorical(name: str, section: str, label: str, categories: Mapping[Any, str]) -> dict[str, Any]:
    texts = {str(code): text for code, text in categories.items()}
    return {"name": name, "section": section, "label": label, "kind": "categorical", "categories": texts}
