"""Patients who opted out: `excluded.txt` of the site folder, one identifier a line, looked at anew for every task.

A list that cannot be read refuses the task, and so does a line that names nobody: whoever it means would be trained on.
Its content is never shown, only counted and told by line, and only at the site.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from client.registry.folding import folded, is_identifier, lost
from client.registry.header import loose
from client.registry.table import first_of
from common.errors import Code, FedReasonError
from common.logs import logger

if TYPE_CHECKING:
    from common.questions.question import Patient

EXCLUSIONS_FILE = "excluded.txt"

_ELSEWHERE = re.compile(r"excluded((\.txt)?\.(txt|csv|tsv|xlsx?|xlsm|ods|docx?|rtf))?", re.IGNORECASE)
"""Files that are not read, and that someone may take for the list."""
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FIELDS = re.compile(r"[;,\t]")
_OF_PATIENTS = re.compile(r"pat(ient|\b)|subject|person|mrn|pid|(?<![a-z])case", re.IGNORECASE)
_HEADINGS = frozenset({"patient", "patients", "record", "subject", "person", "case"})

_SEPARATOR = re.compile(r"\W*sep\s*=.*", re.IGNORECASE)
_NAMES = re.compile(
    r"pat(?:ient\w*|\b)|f[aä]lle?\b|fall-?(?:nr|num)\w*|subject|proband\w*|person|case|record|study|studien\w*|mrn|pid|"
    r"id(?:ent\w*)?\b|n[rº°]\b|no\b|num(?:mer|ber|[eé]ro)?\b|\w*nummer|code|kennung|sujet|paciente|paziente|dossier|"
    r"excluded|opt-?\s?outs?|withdrawn|widerruf\w*|ausgeschlossen\w*|liste?\b|환자\w*|번호|등록번호",
    re.IGNORECASE,
)
"""Words of a heading."""
_FIRST, _TITLE, _MOST_LIKES = 5, 3, 3
"""Lines that may be headings, words that make a title, and how many of them a message tells."""
_REMARK = re.compile(r"(?://|--|;|%|rem\b|\*)", re.IGNORECASE)

_log = logger("site")
_told: dict[Path, tuple[int, int]] = {}


class Headings(NamedTuple):
    """Columns that a line of headings calls identifiers, and those of them that must name somebody."""

    identifiers: tuple[int, ...] = ()
    patients: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of the list: its number, and the identifiers that it may mean, folded; one of `patients` is somebody's."""

    number: int
    meant: frozenset[str]
    patients: frozenset[str]
    heading: bool
    cut: bool
    like: str = ""
    """What it looks like where it is no identifier."""


@dataclass(frozen=True)
class OptedOut:
    """What a list says of a registry: how many lines it has, who is left out, and the lines that name nobody."""

    path: Path
    lines: int
    gone: frozenset[str]
    unknown: tuple[int, ...]
    cut: tuple[int, ...]
    likes: tuple[tuple[int, str], ...] = ()

    def refuse(self, *, whole_hospital: bool) -> None:
        """Raise EXCLUSIONS_UNKNOWN where a line names nobody, unless the list is of the `whole_hospital`.

        A line whose number has lost digits can name nobody, whatever the list is.
        """
        if self.cut:
            raise FedReasonError(
                Code.EXCLUSIONS_UNKNOWN,
                f"{self.path}: on line {first_of(self.cut)} a long number has lost digits (1.2E+15).",
                "Write the identifier in full.",
            )
        if self.unknown and not whole_hospital:
            looks = [f"Line {number} looks like {like}: delete it, or begin it with #." for number, like in self.likes]
            raise FedReasonError(
                Code.EXCLUSIONS_UNKNOWN,
                f"{self.path}: {len(self.unknown):,} of {self.lines:,} lines name nobody in the registry: "
                f"line {first_of(self.unknown)}.",
                " ".join(looks[:_MOST_LIKES])
                + " " * bool(looks)
                + "Compare them with the identifiers of the registry; a remark begins with #. Where the list is of the "
                "whole hospital, say whole_hospital = true under [exclusions] in site.toml.",
            )


def read_exclusions(folder: Path, *, required: bool = False, column: str | None) -> frozenset[str]:
    """Return the identifiers of those who opted out, folded.

    Parameters
    ----------
    required
        Whether a list that does not exist is refused, as at a hospital, or empty, as in a simulation.
    column
        The codebook's name for the patient's column, an identifier in the list's headings, too; None where all that
        is asked is whether anything is listed.

    Raises
    ------
    FedReasonError
        REGISTRY_MISSING where the list cannot be read, REGISTRY_ENCODING where it is no text in UTF-8 or UTF-16,
        EXCLUSIONS_UNKNOWN where another file beside it may be meant as the list.
    """
    return frozenset().union(*(line.meant for line in _lines(folder / EXCLUSIONS_FILE, required, column)))


def listed(folder: Path, *, required: bool = False, column: str | None) -> int:
    """Return how many lines the list has, headings apart, without looking into the registry; refuses as above."""
    return sum(not line.heading for line in _lines(folder / EXCLUSIONS_FILE, required, column))


def opted_out(patients: Iterable[Patient], folder: Path, *, required: bool = False, column: str | None) -> OptedOut:
    """Hold the list against the patients of a registry, whose column the codebook calls `column`.

    Raises
    ------
    FedReasonError
        Every refusal of `read_exclusions`.
    """
    path = folder / EXCLUSIONS_FILE
    lines = _lines(path, required, column)
    if not lines:
        return OptedOut(path, 0, frozenset(), (), ())
    present = {folded(patient.id) for patient in patients}
    named = [line for line in lines if line.meant & present or not line.heading]
    return OptedOut(
        path,
        lines=len(named),
        gone=frozenset(identifier for line in named for identifier in line.meant & present),
        unknown=tuple(line.number for line in named if not line.patients & present),
        cut=tuple(line.number for line in named if line.cut and not line.patients & present),
        likes=tuple((line.number, line.like) for line in named if line.like and not line.patients & present),
    )


def without_excluded(
    patients: Iterable[Patient],
    folder: Path,
    *,
    required: bool = False,
    whole_hospital: bool = False,
    column: str | None,
) -> list[Patient]:
    """Return the patients who have not opted out; how many have, the log says whenever that changes.

    Raises
    ------
    FedReasonError
        Every refusal of `read_exclusions` and of `OptedOut.refuse`.
    """
    everyone = list(patients)
    found = opted_out(everyone, folder, required=required, column=column)
    found.refuse(whole_hospital=whole_hospital)
    if _told.get(folder, (0, 0)) != (len(found.gone), len(found.unknown)):
        _told[folder] = (len(found.gone), len(found.unknown))
        _log.info("%s: %d patients opted out and are left out", EXCLUSIONS_FILE, len(found.gone))
        if found.unknown:
            _log.warning("%s: %d lines name nobody in the registry", EXCLUSIONS_FILE, len(found.unknown))
    return [patient for patient in everyone if folded(patient.id) not in found.gone] if found.gone else everyone


def _lines(path: Path, required: bool, column: str | None) -> tuple[Line, ...]:
    _refuse_elsewhere(path.parent)
    try:
        state = path.stat()
        return _read(path, column, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    except FileNotFoundError:
        if not required:
            return ()
        fix = "Put the list of patients who opted out back. Where nobody did, make it an empty file."
        raise FedReasonError(Code.REGISTRY_MISSING, f"{path} does not exist.", fix) from None
    except UnicodeError as error:
        place = f": byte {error.start} cannot be decoded" if isinstance(error, UnicodeDecodeError) else ""
        found = f"{path} is no text in UTF-8{place}."
        raise FedReasonError(Code.REGISTRY_ENCODING, found, "Save the list again as text, in UTF-8.") from None
    except OSError as error:
        found = f"{path} cannot be read ({type(error).__name__}), so who opted out is not known."
        raise FedReasonError(Code.REGISTRY_MISSING, found, "It must be a readable file.") from None


def _refuse_elsewhere(folder: Path) -> None:
    """Refuse a list under another name: it would not be read, and no one would notice."""
    try:
        found = (path.name for path in folder.iterdir())
        names = sorted(name for name in found if name != EXCLUSIONS_FILE and _ELSEWHERE.fullmatch(name))
    except OSError:
        return
    if names:
        raise FedReasonError(
            Code.EXCLUSIONS_UNKNOWN,
            f"{folder} holds {', '.join(names)}, which is not read: the list of opt-outs is {EXCLUSIONS_FILE}.",
            f"Write its identifiers to {EXCLUSIONS_FILE}, one a line, and take the other file away.",
        )


@lru_cache(maxsize=16)
def _read(path: Path, column: str | None, *state: int) -> tuple[Line, ...]:
    """Return the lines of the file in this state, but for blank ones and remarks."""
    content = path.read_bytes()
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), "utf-8-sig")
    text = content.decode(encoding)
    if "\0" in text:
        raise UnicodeError
    found: list[Line] = []
    headings = Headings()
    for number, line in enumerate(text.splitlines(), start=1):
        bare = line.strip()
        if bare and not bare.startswith("#"):
            named = Headings() if any(not line.like for line in found) else _headings(bare, column)
            found.append(_line(number, bare, headings, heading=bool(named.identifiers)))
            headings = named if named.identifiers else headings
    return tuple(found)


def _fields(line: str) -> list[str]:
    return [field.strip().strip("\"'").strip() for field in _FIELDS.split(line)]


def _headings(line: str, column: str | None) -> Headings:
    """Return which columns a line names as identifiers; none where it is no line of headings.

    Whoever stands in any of them is left out. A line names nobody where the registry's own `column` does, or without
    it those that are said to be of patients: 1, 2, 3 of a running number may well be patients, too.
    """
    fields = _fields(line)
    own = loose(column or "")
    same = tuple(place for place, field in enumerate(fields) if own and loose(field) == own)
    named = tuple(
        place
        for place, field in enumerate(fields)
        if (is_identifier(field) or field.casefold() in _HEADINGS) and not re.search(r"\d", field)
    )
    of_patients = tuple(place for place in named if _OF_PATIENTS.search(fields[place]))
    return Headings(tuple(sorted({*named, *same})), same or of_patients or named)


def _line(number: int, line: str, headings: Headings, *, heading: bool) -> Line:
    """Return what a line may mean: all of it, or without what follows a `#`, or a field of it; those of `headings`.

    Better one identifier too many, which hardly is another patient's, than training on someone who opted out.
    """
    told = line.split("#", 1)[0]
    fields = _fields(told)
    meant, patients = (
        {line, told, *(fields[place] for place in places or range(len(fields)) if place < len(fields))}
        for places in headings
    )
    return Line(
        number,
        frozenset(map(folded, meant)) - {""},
        frozenset(map(folded, patients)) - {""},
        heading,
        cut=any(map(lost, patients)),
        like=_like(number, line),
    )


def _like(number: int, line: str) -> str:
    """Say what a line looks like that is no identifier: of the first lines, or a remark; "" where nothing is known."""
    if _SEPARATOR.fullmatch(line):
        return "the line by which a spreadsheet names its separator (sep=;)"
    if number <= _FIRST and not re.search(r"\d", line):
        if any(_NAMES.match(word) for field in _fields(line) for word in re.split(r"[\W_]+", field)):
            return "a line of headings"
        if len(line.split()) >= _TITLE and not _FIELDS.search(line):
            return "a title"
    return "a remark" if _REMARK.match(line) else ""
