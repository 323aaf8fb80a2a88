"""The table of a study: one row for each answer to each held-out question, and nothing of a record but what is scored.

Patients have numbers that mean something within the study alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.cli import disk_full, is_disk_full
from common.config import SYNTHETIC
from common.errors import Code, FedReasonError
from common.feature import Feature, number_of
from common.questions.question import LETTERS, Patient, Question
from server.rounds.store import replace_durably
from simulation.prepare import simulation_of
from simulation.study.config import Study, StudyConfig

if TYPE_CHECKING:
    from client.training.workplace import Workplace
    from simulation.study.units import Unit

UNKNOWN = "unknown"
GROUP = "group_"
"""Before the name of a subgroup's column."""
_COLUMNS = [
    ("seed", pa.int64()),
    ("arm", pa.string()),
    ("trained_at", pa.string()),
    ("site", pa.string()),
    ("patient", pa.int64()),
    ("item", pa.string()),
    ("kind", pa.string()),
    ("task", pa.string()),
    ("choices", pa.int8()),
    ("truth", pa.string()),
    ("answer", pa.string()),
    ("correct", pa.bool_()),
    ("forced", pa.string()),
    ("forced_correct", pa.bool_()),
    *((f"p_{letter.lower()}", pa.float64()) for letter in LETTERS),
    ("event", pa.bool_()),
    ("p_event", pa.float64()),
]


@dataclass(frozen=True)
class Given:
    """An answer: index of the letter given (None: none), of the one it was forced to, and what each letter was given.

    The probabilities are of the question's own letters and add up to 1.
    """

    chosen: int | None
    forced: int
    probabilities: tuple[float, ...]


def schema_of(config: StudyConfig) -> pa.Schema:
    """Return the columns of a study's table; its file goes along, so that the table says how it is to be read."""
    groups = [(f"{GROUP}{name}", pa.string()) for name in config.subgroups]
    return pa.schema([*_COLUMNS, *groups], metadata={"study": config.model_dump_json()})


def schema_of_unit(study: Study, unit: Unit) -> pa.Schema:
    """Return the columns of a unit's rows, with which unit of which study they are."""
    schema = schema_of(study.config)
    return schema.with_metadata({**schema.metadata, "unit": f"{unit.name} of {study.sha256}"})


class Rows:
    """Makes the rows of one seed."""

    def __init__(self, study: Study, seed: int, sites: Sequence[Workplace]) -> None:
        self._study, self._seed, self._codebook = study, seed, study.codebook
        patients = {patient.id: patient for site in sites for patient in site.patients}
        self._numbers = numbers(study, seed, patients)
        self._groups = {
            name: {f"{GROUP}{column}": group for column, group in groups_of(study, patient).items()}
            for name, patient in patients.items()
        }
        self._tasks = {task.name: task for task in study.codebook.tasks}

    def row(self, arm: str, trained_at: str | None, site: str, question: Question, given: Given) -> dict[str, Any]:
        """Return the row of one answer."""
        task = self._tasks.get(question.item)
        event = self._study.config.outcomes.get(question.item)
        offered = event is not None and event in question.choices
        padded = [*given.probabilities, *([None] * (len(LETTERS) - len(question.choices)))]
        return {
            "seed": self._seed,
            "arm": arm,
            "trained_at": trained_at,
            "site": site,
            "patient": self._numbers[question.patient],
            "item": question.item,
            "kind": question.kind,
            "task": None if task is None else task.kind,
            "choices": len(question.choices),
            "truth": question.letter,
            "answer": None if given.chosen is None else LETTERS[given.chosen],
            "correct": given.chosen == question.answer,
            "forced": LETTERS[given.forced],
            "forced_correct": given.forced == question.answer,
            **{f"p_{letter.lower()}": p for letter, p in zip(LETTERS, padded, strict=True)},
            "event": question.truth == event if offered else None,
            "p_event": given.probabilities[question.choices.index(event)] if offered and event else None,
            **self._groups[question.patient],
        }


def numbers(study: Study, seed: int, patients: Iterable[str]) -> dict[str, int]:
    """Give each patient a number, by the order of hashes: one in all arms and seeds, of a synthetic one in his seed.

    The synthetic hospitals of another seed hold other people under the same identifiers.
    """

    def place(identifier: str) -> bytes:
        return hashlib.sha256(f"{study.config.name}\n{identifier}".encode()).digest()

    simulation = simulation_of(study.plain)
    made = simulation.patients * len(simulation.hospitals) if simulation.registry == SYNTHETIC else 0
    first = study.config.seeds.index(seed) * made
    return {identifier: first + rank for rank, identifier in enumerate(sorted(patients, key=place))}


def groups_of(study: Study, patient: Patient) -> dict[str, str]:
    """Return the group of a patient in every column that the study names, by the first record."""
    values = dict(patient.values.items())
    return {
        name: group_of(study.codebook.by_name[name], cuts, values.get(name))
        for name, cuts in study.config.subgroups.items()
    }


def group_of(feature: Feature, cuts: Sequence[float], shown: str | None) -> str:
    """Return the band of a number or the category; UNKNOWN where there is none."""
    if shown is None:
        return UNKNOWN
    if feature.kind != "numeric":
        return shown
    number = number_of(shown)
    if number is None:
        return UNKNOWN
    return bands_of(cuts)[sum(number >= cut for cut in cuts)]


def bands_of(cuts: Sequence[float]) -> list[str]:
    """Return the names of the bands that begin at these numbers, in their order; none without a number."""
    if not cuts:
        return []
    told = [f"{cut:.15g}" for cut in cuts]
    between = [f"{low} to below {high}" for low, high in pairwise(told)]
    return [f"below {told[0]}", *between, f"{told[-1]} and above"]


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], study: Study, unit: Unit) -> None:
    """Write a unit's rows so that a crash leaves none or all."""
    write_table(path, pa.Table.from_pylist([dict(row) for row in rows], schema=schema_of_unit(study, unit)))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a table, whole or not at all.

    Raises
    ------
    FedReasonError
        Where there is no space.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    try:
        pq.write_table(table, fresh, compression="zstd", write_page_checksum=True)
        replace_durably(fresh, path)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        if is_disk_full(error):
            raise disk_full(error) from None
        raise


def read_table(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a table of a study; where a schema is given, one of the same study, unit and columns.

    Raises
    ------
    FedReasonError
        STUDY_DAMAGED where it cannot be read, says nothing of its study or is of another one.
    """
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, pa.ArrowException):
        table = None
    if table is None or b"study" not in (table.schema.metadata or {}):
        found = f"{path} is not a table of a study, or damaged."
    elif schema is not None and not table.schema.equals(schema, check_metadata=True):
        found = f"{path} is of another study, another part of this one, or an older version."
    else:
        return table
    raise FedReasonError(Code.STUDY_DAMAGED, found, "Delete it and start the study again.")
