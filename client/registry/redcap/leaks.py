"""Which features tell of one another by how the forms were built.

A field with branching logic is there only where its condition held, and a calculated one follows from its equation:
each leaks what it reads, and what that reads in turn, through fields that are no features themselves. A field of boxes
is there where one of them is ticked, so each box tells of those beside it. What tells of a death implies what else
does, and two or three fields of one section that are labelled alike ("Outcome", "Select outcome") say the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations

from client.registry.redcap.dictionary import Field, Reference
from client.registry.redcap.entries import Entry
from client.registry.redcap.labels import split_unit
from client.registry.wording import words_of

_FILLING = frozenset(["select", "specify", "other", "please", "enter", "record", "if", "yes", "the", "a", "of", "in"])
_FEW = 3
"""More that are labelled alike are different things under a heading."""

_Place = tuple[str | None, Reference]
"""A reference, and the event it is read at."""


def leak_groups(entries: Sequence[Entry], fields: Mapping[str, Field]) -> list[tuple[str, ...]]:
    """Return groups of names: the boxes of a field, what tells of a death, labels alike, a field and what it reads.

    The last are pairs, because fields that depend on the same one tell nothing of each other.
    """
    boxes = dict.fromkeys(_boxes_beside(entry, entries) for entry in entries if entry.code is not None)
    deaths = tuple(entry.name for entry in entries if entry.about_death)
    groups = [group for group in (*boxes, deaths, *_labelled_alike(entries)) if len(group) > 1]
    together = {frozenset(pair) for group in groups for pair in combinations(group, 2)}
    for pair in (*_readers(entries, fields), *_computed_alike(entries, fields)):
        if len(set(pair)) == 2 and frozenset(pair) not in together:
            together.add(frozenset(pair))
            groups.append(pair)
    return groups


def _boxes_beside(entry: Entry, entries: Sequence[Entry]) -> tuple[str, ...]:
    return tuple(other.name for other in entries if other.field is entry.field and _same_place(other, entry))


def _labelled_alike(entries: Sequence[Entry]) -> list[tuple[str, ...]]:
    """Return the few fields of a section whose labels differ by a unit, or by words such as "select"."""
    alike: dict[tuple[object, ...], list[str]] = {}
    for entry in entries:
        words = [word for word in words_of(split_unit(entry.label)[0]).split() if word not in _FILLING]
        if entry.code is None and words:
            place = (entry.address.event, entry.address.instance, entry.field.form, entry.section)
            alike.setdefault((*place, *words), []).append(entry.name)
    return [tuple(names) for names in alike.values() if len(names) <= _FEW]


def _same_place(one: Entry, other: Entry) -> bool:
    return (one.address.event, one.address.instance) == (other.address.event, other.address.instance)


def _readers(entries: Sequence[Entry], fields: Mapping[str, Field]) -> Iterable[tuple[str, str]]:
    """Every feature with each that its condition or equation reads."""
    by_field: dict[str, list[Entry]] = {}
    for entry in entries:
        by_field.setdefault(entry.field.name, []).append(entry)
    for entry in entries:
        field, event = entry.field, entry.address.event
        for at, reference in _read(((event, r) for r in field.condition + field.equation), fields):
            for other in _meant(by_field.get(reference.field, []), at, reference, entry):
                yield entry.name, other.name


def _computed_alike(entries: Sequence[Entry], fields: Mapping[str, Field]) -> Iterable[tuple[str, str]]:
    """Every two features whose equations read a field in common."""
    reads = {
        entry.name: {
            (at, ref.field) for at, ref in _read(((entry.address.event, r) for r in entry.field.equation), fields)
        }
        for entry in entries
        if entry.field.equation
    }
    return (pair for pair in combinations(reads, 2) if reads[pair[0]] & reads[pair[1]])


def _read(first: Iterable[_Place], fields: Mapping[str, Field]) -> list[_Place]:
    """Return what is read, in turn and once each; a reference with no event of its own is at its reader's."""
    waiting, seen = list(first), dict[_Place, None]()
    while waiting:
        at, reference = waiting.pop()
        place = (reference.event or at, reference)
        if place in seen or reference.field not in fields:
            continue
        seen[place] = None
        field = fields[reference.field]
        waiting += [(place[0], further) for further in field.condition + field.equation]
    return list(seen)


def _meant(others: Sequence[Entry], at: str | None, reference: Reference, reader: Entry) -> Sequence[Entry]:
    """Return the features that a reference means; in doubt all of the field."""
    fits: tuple[Callable[[Entry], bool], ...] = (
        lambda other: other.address.event == at,
        lambda other: reference.code is None or other.code == reference.code,
        lambda other: other.field.form != reader.field.form or other.address.instance == reader.address.instance,
    )
    for test in fits:
        others = [other for other in others if test(other)] or others
    return others
