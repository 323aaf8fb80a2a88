"""A first codebook drafted from a table of records; private until a person has replaced what came from them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from itertools import islice

import tomli_w

from client.draft.column import Column, describe, doubts
from client.draft.texts import LEAST
from client.registry.folding import folded, is_identifier
from client.registry.numerals import Numerals
from client.registry.table import Table
from client.registry.wording import about_death, known_later
from common.codebook import ROW, Codebook
from common.errors import Code, FedReasonError
from common.feature import Feature

MOST_ROWS = 20_000
"""Rows that are looked at, from the first."""

_LABELS = (
    "this looks like a REDCap export with labels: export raw data (CSV / Microsoft Excel (raw data)), and draft from "
    "the data dictionary"
)
_OPENING = f"""\
# Drafted from records by `python -m client codebook`: no run with [privacy] may use it as it stands. Someone who knows
# the registry replaces what came from the data by what is publicly known, from the data dictionary and clinical
# practice:
#   low, high   what a living patient can have; a value outside counts as missing
#   step        distance between neighbouring choices: no less than a clinician tells apart, no more than a quarter of a
#               standard deviation; with scale = "log" their ratio, such as 1.2, for what is skewed
#   decimals    digits shown: as many as the registry tells apart
#   categories  every code, also those that are not here (fewer than {LEAST} patients have them), and its text
#   words       what stands in place of a number, and how it is shown
#   missing     what means that there is no value
# and adds what no table tells: known_later = true where a value is known only after the moment of a question (it stands
# where a name says so: take it back where that is wrong), leak groups, tasks. Then the line `private = true` can go.
# docs/registries.md shows how.

"""


@dataclass(frozen=True)
class Draft:
    """A codebook, the columns that it leaves out with the reason, and the number of rows that were looked at.

    `doubts` are what a person should look at, by feature.
    """

    codebook: Codebook
    left_out: tuple[tuple[str, str], ...]
    rows: int
    doubts: Mapping[str, Sequence[str]]
    remarks: tuple[str, ...] = ()

    def told(self) -> list[str]:
        """Return what became of the columns, in counts."""
        features = self.codebook.features
        kinds = Counter(feature.kind for feature in features)
        later = sum(feature.known_later for feature in features)
        reasons = Counter(why for _, why in self.left_out)
        return [
            f"{self.rows:,} rows, {len(features)} features: {', '.join(f'{kinds[kind]} {kind}' for kind in kinds)}",
            *([f"known_later = true proposed by wording: {later} features"] if later else []),
            *(f"columns left out: {count} ({why})" for why, count in reasons.items()),
            *self.remarks,
            *(
                [f"features in doubt: {len(self.doubts)}, each with a line 'To review' in the file"]
                if self.doubts
                else []
            ),
        ]

    def text(self) -> str:
        """Write the codebook, with what has to be done to it."""
        told = self.codebook.model_dump(mode="json", exclude_defaults=True)
        features = told.pop("features")
        told.pop("ignored", None)
        parts = [_OPENING, tomli_w.dumps(told), "ignored = [\n"]
        parts += [f"    {_quoted(escape(name))}, # {why}\n" for name, why in self.left_out]
        parts.append("]\n")
        for feature in features:
            tables = {key: feature.pop(key) for key in ("words", "categories") if key in feature}
            parts.append("\n")
            parts += [f"# To review: {doubt}.\n" for doubt in self.doubts.get(feature["name"], ())]
            parts.append(f"[[features]]\n{tomli_w.dumps(feature)}")
            parts += [f"[features.{key}]\n{tomli_w.dumps(table)}" for key, table in tables.items()]
        return "".join(parts)


def _quoted(text: str) -> str:
    return tomli_w.dumps({"x": text}).removeprefix("x = ").strip()


def draft(table: Table, *, patient: str | None, decimal: str, title: str, thousands: str | None = None) -> Draft:
    """Draft a codebook from a table.

    Parameters
    ----------
    patient
        Column that identifies the patient; ROW where every row is another one; found by its name where None.
    decimal
        What stands for the point in its numbers.
    thousands
        What separates groups of three digits in them.

    Raises
    ------
    FedReasonError
        REGISTRY_COLUMN where the table has no such column or several, REGISTRY_EMPTY without rows, CODEBOOK_SOURCE
        where no column looks like the patient's, or none gives a feature.
    """
    patient = patient or _patient_of(table)
    if patient != ROW and table.columns.count(patient) != 1:
        raise FedReasonError(
            Code.REGISTRY_COLUMN,
            f"{table.name} has {table.columns.count(patient)} columns {patient}.",
            "Say which one identifies the patient: --patient COLUMN.",
        )
    numerals = Numerals(decimal, thousands)
    columns = [Column(name, numerals) for name in table.columns]
    place = None if patient == ROW else table.columns.index(patient)
    persons: dict[str, int] = {}
    rows = 0
    for rows, (_, cells) in enumerate(islice(table.rows, MOST_ROWS), start=1):
        person = rows if place is None else persons.setdefault(folded(cells[place]), len(persons))
        for column, cell in zip(columns, cells, strict=True):
            column.take(cell.strip(), person)
    if not rows:
        raise FedReasonError(
            Code.REGISTRY_EMPTY, f"{table.name} has a header and no rows.", "Export it again, with its patients."
        )
    others = [column for at, column in enumerate(columns) if at != place]
    record = None if place is None or len(persons) == rows else _record_of(others, rows)
    described, left_out = _sorted_out([column for column in others if column.name != record])
    if not described:
        raise FedReasonError(
            Code.CODEBOOK_SOURCE,
            f"{table.name}: none of its {len(columns)} columns holds what {LEAST} patients of {rows} rows share.",
            "Draft it from more patients, or write the codebook by hand: docs/registries.md.",
        )
    deaths = tuple(f.name for f in described if about_death(f.name, choices=f.categories.values()))
    absent = sorted({text for column in others for text in column.absent})
    codebook = Codebook(
        title=title,
        private=True,
        patient=patient,
        record=record,
        missing=tuple(dict.fromkeys([*Codebook.model_fields["missing"].default, *absent])),
        ignored=tuple(escape(name) for name, _ in left_out),
        features=tuple(described),
        leak_groups=(deaths,) if len(deaths) > 1 else (),
    )
    seen = {column.name: column for column in others}
    doubted = {feature.name: lines for feature in described if (lines := doubts(seen[feature.name], feature))}
    return Draft(codebook, tuple(left_out), rows, doubted, remarks=(_LABELS,) if any(map(_labelled, columns)) else ())


def _labelled(column: Column) -> bool:
    """Whether a column is as REDCap exports it with labels: its header, or the texts of a box or of a form's state."""
    texts = {text.casefold() for text in column.texts.cells}
    boxes, states = {"checked", "unchecked"}, {"complete", "incomplete", "unverified"}
    form = re.search(r"_complete$|^complete\?", column.name, re.IGNORECASE)
    return "(choice=" in column.name or (bool(texts) and (texts <= boxes or (form is not None and texts <= states)))


def named_below(table: Table) -> bool:
    """Whether the first row of a sheet holds names too: all are words, and without them columns are not told apart."""
    _, cells = next(table.rows, (0, ()))
    words = [cell.strip() for cell in cells if cell.strip()]
    unclear = [place for place, name in enumerate(table.columns) if not name or table.columns.count(name) > 1]
    return (
        any(cells[place].strip() for place in unclear if place < len(cells))
        and len(set(words)) == len(words)
        and all(re.search(r"[^\W\d]", word) and not re.match(r"[<>]?\d", word) for word in words)
    )


def _patient_of(table: Table) -> str:
    for name in table.columns:
        if is_identifier(name):
            return name
    raise FedReasonError(
        Code.CODEBOOK_SOURCE,
        f"{table.name} has no column that is named like an identifier.",
        f"Say which one identifies the patient: --patient COLUMN, or --patient '{ROW}' where every row is another one.",
    )


def _record_of(columns: Iterable[Column], rows: int) -> str | None:
    """Column by which the rows of a patient are told apart: named like an identifier, and another one on every row."""
    return next((column.name for column in columns if len(column.identifiers or ()) == rows), None)


def _reviewed(feature: Feature) -> Feature:
    """Return the feature as known later where its wording says so."""
    later = known_later(feature.name, choices=feature.categories.values())
    return feature.model_copy(update={"known_later": True}) if later else feature


def _sorted_out(columns: Iterable[Column]) -> tuple[list[Feature], list[tuple[str, str]]]:
    """Return the features, and the names of the other columns with the reason."""
    columns = list(columns)
    names = Counter(column.name for column in columns)
    described: list[Feature] = []
    left_out: dict[str, str] = {}
    for column in columns:
        found = "several columns have this name" if names[column.name] > 1 else describe(column)
        if isinstance(found, Feature):
            described.append(_reviewed(found))
        else:
            left_out[column.name] = found
    return described, list(left_out.items())
