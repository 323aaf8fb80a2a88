"""REDCap data dictionaries: the CSV of 18 columns that a project offers for download, or the API's metadata.

A refusal tells lines, names of fields and the form's own column names, never another cell: somebody may take the
records for the dictionary. A field whose row is not as REDCap writes it has a `fault`, and nothing is made of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from pathlib import Path

from client.registry.delimited import read_delimited
from client.registry.redcap.labels import plain_text, readable
from client.registry.table import Table
from common.errors import Code, FedReasonError

ONE_OF = frozenset({"radio", "dropdown", "yesno", "truefalse"})
KINDS = ONE_OF | {"text", "notes", "checkbox", "calc", "slider", "file", "descriptive", "sql"}
"""Field types of REDCap."""

_TITLES: dict[str, tuple[str, ...]] = {
    "name": ("Variable / Field Name", "field_name"),
    "form": ("Form Name",),
    "section": ("Section Header",),
    "kind": ("Field Type",),
    "label": ("Field Label",),
    "choices": (
        "Choices, Calculations, OR Slider Labels",
        "Choices OR Calculations",
        "select_choices_or_calculations",
    ),
    "note": ("Field Note", "Field Notes"),
    "validation": ("Text Validation Type OR Show Slider Number", "Text Validation Type"),
    "low": ("Text Validation Min",),
    "high": ("Text Validation Max",),
    "identifier": ("Identifier?",),
    "branching": ("Branching Logic (Show field only if...)", "Branching Logic"),
    "annotation": ("Field Annotation",),
}
"""Columns that are read: the title of the download, then how older versions and the API call it."""

_OPTIONAL = "annotation"
"""Came to REDCap later than the others."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FORM = re.compile(r"[a-z0-9_]+")
_NUMBER = re.compile(r"[+-]?(?=\.?\d)\d{0,12}(\.\d{0,6})?", re.ASCII)
_NUMERIC = re.compile(r"integer|number(_[1-4]dp)?(_comma_decimal)?")
_CONTACTS = ("email", "phone", "ssn", "mrn", "vmrn", "zipcode", "postalcode")
_REFERENCE = re.compile(r"(?:\[([a-z0-9_-]+)\])?\[([a-z][a-z0-9_]*)(?:\(([^()\[\]]+)\))?(?::[a-z_]+)?\]", re.IGNORECASE)
_DOWNLOAD = "Download it again in REDCap: Data Dictionary, Download the current Data Dictionary."
_MOST_NAMED = 5
_BOX = "___"


@dataclass(frozen=True)
class Reference:
    """A field that a condition or an equation reads: one box of it where a `code` is named, elsewhere with an event."""

    field: str
    code: str | None = None
    event: str | None = None


@dataclass(frozen=True)
class Field:
    """One row of the dictionary; texts are plain, choices are by code and `section` is the one in force.

    `conditional` fields are shown where a condition holds; `condition` and `equation` are the fields these read. A
    `fault` says what of the row cannot be read: type and choices are then not known.
    """

    line: int
    name: str
    form: str
    section: str
    kind: str
    label: str
    note: str
    choices: Mapping[str, str]
    validation: str
    low: Decimal | None
    high: Decimal | None
    flagged: bool
    conditional: bool
    condition: tuple[Reference, ...]
    equation: tuple[Reference, ...]
    fault: str = ""

    @property
    def boxes(self) -> dict[str, str]:
        """Columns of a checkbox field in an export, by code."""
        return {code: box_column(self.name, code) for code in self.choices} if self.kind == "checkbox" else {}

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns in an export."""
        if self.kind == "checkbox":
            return tuple(self.boxes.values())
        return () if self.kind == "descriptive" else (self.name,)

    def holds(self, column: str) -> bool:
        """Whether a column of an export is the field's, whatever its type: its own, or a box."""
        return column == self.name or column.startswith(f"{self.name}{_BOX}")

    @property
    def identifier(self) -> bool:
        """Whether it identifies a person: flagged so, or an address or number to reach them by."""
        return self.flagged or self.validation.startswith(_CONTACTS)

    @property
    def numeric(self) -> bool:
        """Whether its values are numbers."""
        return self.kind in ("slider", "calc") or (self.kind == "text" and bool(_NUMERIC.fullmatch(self.validation)))

    @property
    def comma(self) -> bool:
        """Whether its numbers have a decimal comma."""
        return self.validation.endswith("_comma_decimal")


@dataclass(frozen=True)
class Dictionary:
    """A project's fields in their order, and the refusals of the rows that name no field of their own."""

    path: str
    fields: tuple[Field, ...]
    nameless: tuple[FedReasonError, ...] = ()

    @property
    def record(self) -> Field:
        """Return the field that identifies the record: REDCap's first."""
        return self.fields[0]

    @cached_property
    def by_name(self) -> dict[str, Field]:
        """Fields by name."""
        return {field.name: field for field in self.fields}

    @cached_property
    def forms(self) -> dict[str, tuple[Field, ...]]:
        """Fields by form, in order."""
        names = dict.fromkeys(field.form for field in self.fields)
        return {name: tuple(field for field in self.fields if field.form == name) for name in names}


def box_column(field: str, code: str) -> str:
    """Column of one box: REDCap writes `-` and `.` as `_`, capitals small, and leaves out what no name can hold."""
    return f"{field}{_BOX}{re.sub('[^a-z0-9_]', '', re.sub('[-.]', '_', code).lower())}"


def is_dictionary(columns: Sequence[str]) -> bool:
    """Whether these are the columns of a data dictionary, not of records."""
    titles = {_bare(column) for column in columns}
    return all(titles & {_bare(name) for name in names} for key, names in _TITLES.items() if key != _OPTIONAL)


def read_dictionary(path: Path, *, whole: bool = True) -> Dictionary:
    """Read a data dictionary.

    Parameters
    ----------
    whole
        Whether a row that names no field of its own is refused, since it may be that of an identifier; else it is
        passed over and told, but for the first, which names the record.

    Raises
    ------
    FedReasonError
        CODEBOOK_SOURCE where it cannot be read, is no data dictionary, or has a line that names no field of its own.
    """
    try:
        rows = list(_rows(read_delimited(path)))
    except FedReasonError as error:
        if error.code is Code.CODEBOOK_SOURCE:
            raise
        raise FedReasonError(Code.CODEBOOK_SOURCE, error.found, f"{_DOWNLOAD} It is in UTF-8.") from None
    if not rows:
        raise FedReasonError(Code.CODEBOOK_SOURCE, f"{path} has a header and no fields.", _DOWNLOAD)
    fields: list[Field] = []
    nameless: list[FedReasonError] = []
    seen: dict[str, int] = {}
    for line, cells in rows:
        try:
            field = _field(str(path), line, cells, fields[-1] if fields else None)
            names = dict.fromkeys((field.name, *field.columns))
            if before := [seen[name] for name in names if name in seen]:
                raise refused(str(path), line, f"gives a name that line {before[0]} has given")
        except FedReasonError as error:
            if whole or not fields:
                raise
            nameless.append(error)
        else:
            seen |= dict.fromkeys(names, line)
            fields.append(field)
    return Dictionary(str(path), tuple(fields), tuple(nameless))


def _rows(table: Table) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield line and cells of every row, by the keys of `_TITLES`."""
    path, titles = table.name, [_bare(column) for column in table.columns]
    places: dict[str, int] = {}
    for key, names in _TITLES.items():
        found = [place for place, title in enumerate(titles) if title in {_bare(name) for name in names}]
        if len(found) > 1:
            raise FedReasonError(Code.CODEBOOK_SOURCE, f"{path} has two columns '{names[0]}'.", _DOWNLOAD)
        if found:
            places[key] = found[0]
    absent = [names[0] for key, names in _TITLES.items() if key not in places and key != _OPTIONAL]
    if absent:
        told = ", ".join(f"'{name}'" for name in absent[:_MOST_NAMED])
        more = f" and {len(absent) - _MOST_NAMED} more" if len(absent) > _MOST_NAMED else ""
        raise FedReasonError(
            Code.CODEBOOK_SOURCE,
            f"{path} is no REDCap data dictionary: it lacks the columns {told}{more}.",
            f"It is not the export of the records. {_DOWNLOAD}",
        )
    for line, cells in table.rows:
        yield line, {key: cells[places[key]].strip() if key in places else "" for key in _TITLES}


def _bare(title: str) -> str:
    return " ".join(re.findall(r"[a-z0-9]+", title.lower()))


def _field(path: str, line: int, cells: dict[str, str], before: Field | None) -> Field:
    name, form, kind = (cells[key].lower() for key in ("name", "form", "kind"))
    if not _NAME.fullmatch(name):
        raise refused(path, line, "has no name of a field under 'Variable / Field Name'")
    if not _FORM.fullmatch(form):
        raise refused(path, line, "has no name of a form under 'Form Name'")
    choices, fault = _choices(name, kind, cells["choices"])
    section = plain_text(cells["section"])
    if not section:
        section = before.section if before and before.form == form else readable(form)
    validation = cells["validation"].lower()
    low, high = (_number(cells[key], validation) for key in ("low", "high"))
    if kind == "slider":
        low, high = low if low is not None else Decimal(0), high if high is not None else Decimal(100)
    return Field(
        line=line,
        name=name,
        form=form,
        section=section,
        kind="" if fault else kind,
        label=plain_text(cells["label"]).rstrip(" :") or readable(name),
        note=plain_text(cells["note"]),
        choices=choices,
        validation=validation,
        low=low,
        high=high,
        flagged=cells["identifier"].lower() in ("y", "yes", "1", "true"),
        conditional=bool(cells["branching"]),
        condition=_references(cells["branching"]),
        equation=_references(f"{cells['choices'] if kind == 'calc' else ''} {cells['annotation']}"),
        fault=fault,
    )


def _choices(name: str, kind: str, text: str) -> tuple[dict[str, str], str]:
    """Return the choices of a field by code, or what of its row cannot be read."""
    if kind not in KINDS:
        return {}, f"has no type of REDCap under 'Field Type' ({', '.join(sorted(KINDS))})"
    if kind == "yesno":
        return {"1": "Yes", "0": "No"}, ""
    if kind == "truefalse":
        return {"1": "True", "0": "False"}, ""
    choices: dict[str, str] = {}
    if kind not in ("radio", "dropdown", "checkbox"):
        return choices, ""
    for choice in filter(None, map(str.strip, text.split("|"))):
        code, comma, label = choice.partition(",")
        code = code.strip()
        if not comma or not code:
            return (
                {},
                "has a choice without code and comma under 'Choices, ...' (the sign | cannot stand within a choice)",
            )
        if code in choices:
            return {}, "gives two choices the same code under 'Choices, ...'"
        choices[code] = plain_text(label) or code
    if kind == "checkbox" and len({box_column(name, code) for code in choices}) < len(choices):
        return {}, "has two boxes that share a column in an export"
    return choices, ""


def _number(text: str, validation: str) -> Decimal | None:
    """Return a bound; None where there is none, or it is a date, a formula or another field's value."""
    if validation.endswith("_comma_decimal"):
        text = text.replace(",", ".")
    return Decimal(text) + 0 if _NUMBER.fullmatch(text) else None


def _references(logic: str) -> tuple[Reference, ...]:
    found = (Reference(m[2].lower(), m[3] and m[3].strip(), m[1] and m[1].lower()) for m in _REFERENCE.finditer(logic))
    return tuple(dict.fromkeys(found))


def refused(path: str, line: int, what: str, fix: str = _DOWNLOAD) -> FedReasonError:
    """Return the refusal of a row."""
    return FedReasonError(Code.CODEBOOK_SOURCE, f"{path}: the row at line {line} {what}.", fix)
