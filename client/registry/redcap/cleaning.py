"""What is done to each row of an export before anything is read from it: boxes, decimal commas, identifiers.

REDCap exports 0 for a box that nobody saw: boxes of a field that are all 0 are blanked where nothing says that the form
was filled in, and so are all of them where the field was marked with a missing data code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from client.registry.folding import plain
from client.registry.redcap.dictionary import Dictionary, Field

_COMPLETE = "2"
_TICKED = frozenset({"1", "true", "checked"})
"""As REDCap writes it raw, a program that read it as yes or no, and REDCap with labels."""

Step = Callable[[list[str]], None]
"""Changes the stripped cells of a row."""


def cleaning(dictionary: Dictionary, columns: Sequence[str], decimal: str = ".") -> list[Step]:
    """Return what is done to the rows of an export with these columns and this decimal sign, in order."""
    place_of = {name: place for place, name in enumerate(columns)}
    points = [_point(dictionary, place_of)] if decimal == "." else []
    return [*_boxes(dictionary, place_of), *points, _blank(dictionary, columns)]


def identifying(dictionary: Dictionary, columns: Iterable[str]) -> frozenset[str]:
    """Those of the columns that identify a person, but for the record's own."""
    fields = [field for field in dictionary.fields if field.identifier and field is not dictionary.record]
    return frozenset(column for column in columns if any(field.holds(column) for field in fields))


def is_code(cell: str, code: str) -> bool:
    """Whether a cell holds a code, also where a program wrote its numbers with a point."""
    return cell == code or plain(cell) == code


def _blank(dictionary: Dictionary, columns: Sequence[str]) -> Step:
    """Return what blanks the identifiers."""
    names = identifying(dictionary, columns)
    places = [place for place, name in enumerate(columns) if name in names]

    def blank(cells: list[str]) -> None:
        for place in places:
            cells[place] = ""

    return blank


def _point(dictionary: Dictionary, place_of: Mapping[str, int]) -> Step:
    """Return what writes a decimal comma as a point."""
    places = _places(place_of, (field for field in dictionary.fields if field.comma))

    def point(cells: list[str]) -> None:
        for place in places:
            cells[place] = cells[place].replace(",", ".")

    return point


@dataclass(frozen=True)
class _Boxes:
    """Blanks the boxes of one field in a row where none is ticked and nothing says that they were seen.

    They were seen where the form is marked complete or another of its fields is filled in. With branching logic that is
    no sign: the boxes may not have been shown. `codes` are columns of the field that the dictionary does not know:
    REDCap writes them for the project's missing data codes. Where one is ticked the others say nothing, ticked or not.
    """

    boxes: tuple[int, ...]
    codes: tuple[int, ...]
    complete: int | None
    others: tuple[int, ...]
    ticks: tuple[int, ...]
    conditional: bool

    def __call__(self, cells: list[str]) -> None:
        if not any(_ticked(cells[place]) for place in self.codes):
            if any(_ticked(cells[place]) for place in self.boxes):
                return
            seen = not self.conditional and (
                (self.complete is not None and is_code(cells[self.complete], _COMPLETE))
                or any(cells[place] for place in self.others)
                or any(_ticked(cells[place]) for place in self.ticks)
            )
            if seen:
                return
        for place in self.boxes:
            cells[place] = ""


def _ticked(cell: str) -> bool:
    """Whether a box is ticked."""
    return cell.casefold() in _TICKED or plain(cell) in _TICKED


def _boxes(dictionary: Dictionary, place_of: Mapping[str, int]) -> Iterator[Step]:
    known = {column for field in dictionary.fields for column in field.columns}
    unknown = {column: place for column, place in place_of.items() if column not in known}
    for form, fields in dictionary.forms.items():
        filled = _places(place_of, (f for f in fields if f.kind != "checkbox" and f is not dictionary.record))
        for field in fields:
            if field.kind == "checkbox":
                beside = (other for other in fields if other.kind == "checkbox" and other is not field)
                yield _Boxes(
                    boxes=_places(place_of, [field]),
                    codes=tuple(at for name, at in unknown.items() if name.lower().startswith(f"{field.name}___")),
                    complete=place_of.get(f"{form}_complete"),
                    others=filled,
                    ticks=_places(place_of, beside),
                    conditional=field.conditional,
                )


def _places(place_of: Mapping[str, int], fields: Iterable[Field]) -> tuple[int, ...]:
    return tuple(place_of[column] for field in fields for column in field.columns if column in place_of)
