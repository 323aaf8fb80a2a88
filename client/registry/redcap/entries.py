"""Which features a data dictionary gives: what becomes of each field, and where in a record its values stand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from client.registry.redcap.address import Address
from client.registry.redcap.dictionary import ONE_OF, Dictionary, Field
from client.registry.redcap.labels import asked, readable, split_unit, unit_of
from client.registry.wording import about_death, known_later, not_clinical
from common.alike import bare
from common.feature import OTHER

FATES = {
    "record": "identifies the record",
    "categorical": "categorical features",
    "numeric": "numeric features",
    "boxes": "checkbox fields, one yes-or-no feature a box",
    "unbounded": "numbers without both bounds, to be filled in",
    "calculated": "calculated fields, which have no bounds in REDCap, to be filled in",
    "identifier": "identifiers, left out",
    "date": "dates and times, left out",
    "text": "free text, left out",
    "file": "files, left out",
    "choiceless": "fields without two different choices, left out",
    "descriptive": "descriptive texts, no data",
    "faulty": "fields whose row cannot be read, left out",
}
"""What becomes of a field, and how a person is told."""

DESCRIBED = frozenset({"categorical", "numeric", "boxes"})
TO_FILL_IN = frozenset({"unbounded", "calculated"})

_DATES = ("date", "time")


@dataclass(frozen=True)
class Entry:
    """A feature: a field, or one box of it, at a place in the record."""

    field: Field
    fate: str
    address: Address
    code: str | None
    section: str

    @property
    def name(self) -> str:
        """Name of the feature."""
        return self.address.name

    @property
    def label(self) -> str:
        """Label as far as it asks, with the text of the box."""
        label = asked(self.field.label)
        return f"{label}: {self.field.choices[self.code]}" if self.code is not None else label

    @property
    def unit(self) -> str:
        """Unit of a number, at the end of its label or in its note."""
        return split_unit(self.field.label)[1] or split_unit(self.label.rstrip(" ?"))[1] or unit_of(self.field.note)

    @property
    def later(self) -> str | None:
        """Why the wording says that it is known later: of field, form, section or event; None where it does not."""
        return known_later(*self._wording, choices=self._choices)

    @property
    def about_death(self) -> bool:
        """Whether it tells of a death."""
        return about_death(self.field.name, self.field.label, choices=self._choices)

    @property
    def aside(self) -> str | None:
        """What it is of where it is nothing clinical, by the same wording."""
        return not_clinical(*self._wording)

    @property
    def _wording(self) -> tuple[str, ...]:
        field = self.field
        return field.name, field.label, field.form, field.section, self.address.event or ""

    @property
    def _choices(self) -> Iterable[str]:
        return self.field.choices.values() if self.code is None else [self.field.choices[self.code]]


def fate_of(field: Field, dictionary: Dictionary) -> str:
    """Return what becomes of a field: a key of `FATES`."""
    if field is dictionary.record:
        return "record"
    if field.fault:
        return "faulty"
    if field.kind in ("descriptive", "file"):
        return field.kind
    if field.identifier:
        return "identifier"
    if field.kind in ONE_OF:
        texts = field.choices.values()
        return "categorical" if len(set(map(bare, texts))) > 1 and OTHER not in texts else "choiceless"
    if field.kind == "checkbox":
        return "boxes" if field.choices else "choiceless"
    if field.numeric:
        bounded = field.low is not None and field.high is not None and field.low < field.high
        return "numeric" if bounded else "calculated" if field.kind == "calc" else "unbounded"
    if field.validation.startswith(_DATES):
        return "date"
    return "choiceless" if field.kind == "sql" else "text"


def entries_of(
    dictionary: Dictionary, events: Mapping[str, Sequence[str]], repeats: Mapping[str, int]
) -> tuple[Entry, ...]:
    """Return the features in the order shown.

    Forms at no event come first; then event by event the forms `events` gives it. The form of `repeats` gives as many
    instances, one after another.
    """
    at_events = {form for forms in events.values() for form in forms}
    places: list[tuple[str | None, str]] = [(None, form) for form in dictionary.forms if form not in at_events]
    places += [(event, form) for event, forms in events.items() for form in dictionary.forms if form in forms]
    return tuple(
        entry
        for event, form in places
        for instance in (range(1, repeats[form] + 1) if form in repeats else (None,))
        for field in dictionary.forms[form]
        for entry in _of_field(field, fate_of(field, dictionary), event, instance)
    )


def _of_field(field: Field, fate: str, event: str | None, instance: int | None) -> list[Entry]:
    if fate not in DESCRIBED | TO_FILL_IN:
        return []
    where = ([readable(event)] if event else []) + ([f"instance {instance}"] if instance else [])
    section = f"{field.section} ({', '.join(where)})" if where else field.section
    columns: Mapping[str, str] | Mapping[None, str] = field.boxes or {None: field.name}
    return [Entry(field, fate, Address(column, event, instance), code, section) for code, column in columns.items()]
