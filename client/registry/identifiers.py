"""Who each row is of: every record has an identifier of its own, and messages name rows by their place alone."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from client.registry.absent import NOBODY, bare
from client.registry.folding import Spellings, identity, plain
from client.registry.table import Table, first_of
from common.codebook import Codebook
from common.errors import Code, FedReasonError

_NOBODY = re.compile(
    r"\D+|n\s*=.*|(grand )?(total|sum|summe|gesamt|mean|average|median|mittelwert)\b.*", re.IGNORECASE | re.DOTALL
)
"""In a column of numbers, or of identifiers with a number, a row of sums."""
_FEW = 3


class Identifiers:
    """Identifier of the patient and of the record of every row; what is blank or came before is kept to be refused.

    A whole number by which `missing` means no value is somebody's, for patients are numbered through; but not one of
    several records, which may be as many unknown persons'.
    """

    def __init__(self, table: Table, codebook: Codebook, position: Mapping[str, int], missing: frozenset[str]) -> None:
        self._table = table
        self._numbers = frozenset(code for each in missing if (code := plain(each)).isdecimal())
        self._missing = frozenset(each for each in missing if plain(each) not in self._numbers)
        self._patient = position.get(codebook.patient)
        self._record = self._patient if codebook.record is None else position[codebook.record]
        self._column = codebook.record or codebook.patient
        self._patients = Spellings()
        self._records = self._patients if self._record == self._patient else Spellings()
        self._name = codebook.patient
        self._first: dict[str, int] = {}
        self._blank: list[int] = []
        self._nobody: list[int] = []
        self._coded: dict[str, list[int]] = {}
        self._twice: list[tuple[int, int]] = []

    def take(self, place: int, cells: Sequence[str]) -> tuple[str, str]:
        """Return what the patient of a row is known by, and its record, folded."""
        patient = str(place) if self._patient is None else cells[self._patient].strip()
        record = str(place) if self._record is None else cells[self._record].strip()
        if self._none(patient) or self._none(record):
            self._blank.append(place)
            return patient, record
        self._patients.take(place, patient)
        if _NOBODY.fullmatch(patient):
            self._nobody.append(place)
        key = self._records.take(place, record)
        if key in self._first:
            self._twice.append((self._first[key], place))
        elif self._patient is not None and (number := plain(patient)) in self._numbers:
            self._coded.setdefault(number, []).append(place)
        self._first.setdefault(key, place)
        return identity(patient), key

    def remarks(self) -> list[str]:
        """Say which rows may be nobody's: few, named by a word where all the others have a number, or by a code."""
        told, unit = [], self._table.unit
        if 0 < len(self._nobody) <= min(_FEW, len(self._first) - len(self._nobody) - 1):
            told.append(
                f"{unit} {first_of(self._nobody)} may be no patient but a sum or a remark: the identifier is a word, "
                "where the others have a number. Delete it in the table"
            )
        if coded := [place for places in self._coded.values() for place in places]:
            told.append(
                f"{unit} {first_of(coded)} may be no patient: the identifier is a number that `missing` lists. "
                "Where it stands for nobody, delete the row in the table"
            )
        return told

    def refuse(self) -> None:
        """Raise where a row had none of its own, or one may stand for two patients."""
        self._patients.refuse(self._table, self._name)
        self._records.refuse(self._table, self._column)
        found, unit = [], self._table.unit
        if self._twice:
            pairs = [f"{before} and {after}" for before, after in self._twice]
            found.append(f"the same one stands on {unit}s {first_of(pairs)}")
        if self._blank:
            found.append(f"{unit} {first_of(self._blank)} has none (blank, or a word for no value)")
        if found:
            raise self._refusal(
                self._column,
                found,
                "Give every row an identifier of its own. Where a patient may have several rows, such as visits, name "
                "the column that tells them apart in the codebook: record = ...",
            )
        if joined := [first_of(places) for places in self._coded.values() if len(places) > 1]:
            raise self._refusal(
                self._name,
                [f"{unit}s {places} have the same number, which `missing` lists" for places in joined],
                "Where it stands for nobody, leave these rows out of the table or the query. Where it is a patient's, "
                "take the number out of `missing` and state it by feature ([registry.missing] in site.toml).",
            )

    def _refusal(self, column: str, found: Sequence[str], fix: str) -> FedReasonError:
        told = f"{self._table.name}, identifier {column}: {'; '.join(found)}."
        return FedReasonError(Code.REGISTRY_DUPLICATE_PATIENT, told, fix)

    def _none(self, identifier: str) -> bool:
        written = plain(identifier)
        return identifier in self._missing or written in self._missing or bare(written) in NOBODY
