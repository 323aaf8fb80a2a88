"""`python -m client preview`: questions as a model would be shown them, with what is hidden and the truth.

They hold patient data: nothing of them goes to a log.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from client.site.config import load_site
from client.site.exclusions import without_excluded
from client.site.opened import read_registry
from common.codebook import Codebook, load_codebook
from common.errors import Code, FedReasonError
from common.questions.question import Consultation, Patient, Question, QuestionMaker, record_lines
from common.stream import Stream
from common.tasks import Task


@dataclass(frozen=True)
class Line:
    """A line of a record; a hidden one is not shown to the model."""

    text: str
    hidden: bool = False


@dataclass(frozen=True)
class Preview:
    """A question, or one for a consultation, beside the whole record."""

    asked: Question | Consultation
    lines: tuple[Line, ...]


def previews(folder: Path, *, item: str | None, count: int, view: str, seed: int) -> list[Preview]:
    """Read the registry of a site and return some questions of it.

    Raises
    ------
    FedReasonError
        Where the registry or the codebook cannot be read, has no such view or item, or no record can be asked.
    """
    config = load_site(folder)
    codebook = load_codebook(config.codebook)
    maker = QuestionMaker(codebook, view)
    items = items_in_turn(maker, item, seed)
    registry = read_registry(config, codebook)
    patients = without_excluded(
        registry.patients,
        folder,
        required=config.federation is not None,
        whole_hospital=config.exclusions.whole_hospital,
        column=codebook.patient,
    )
    found = sampled(maker, items, patients, count, seed)
    if not found:
        what = "any feature or task of the view" if item is None else f"'{item}'"
        raise FedReasonError(
            Code.REGISTRY_UNUSABLE,
            f"None of the {len(patients):,} patients can be asked for {what}.",
            "`python -m client check` counts what was measured, by feature.",
        )
    return found


def sampled(
    maker: QuestionMaker, items: Sequence[str], patients: Sequence[Patient], count: int, seed: int
) -> list[Preview]:
    """Ask the items in turn, each of the next record that allows it; fewer than `count` where records run out.

    Every item begins with another record, so that few records are met twice.
    """
    records = [replace(record, visits=()) for patient in patients for record in patient.records]
    drawn = Stream.named("preview", seed).uniforms(len(records)).argsort(kind="stable").tolist()
    left = {
        item: _of_item(maker, item, [records[place] for place in drawn[turn:] + drawn[:turn]], seed)
        for turn, item in enumerate(items)
    }
    found: list[Preview] = []
    while left and len(found) < count:
        for item in list(left):
            one = next(left[item], None)
            if one is None:
                del left[item]
            elif len(found) < count:
                found.append(one)
    return found


def items_in_turn(maker: QuestionMaker, wanted: str | None, seed: int) -> list[str]:
    """Return what is asked in turn: tasks first, then features in random order."""
    consultations = [task.name for task in maker.consultations]
    if wanted is not None:
        if wanted in maker.weights or wanted in consultations:
            return [wanted]
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"'{wanted}' is no task of the codebook, nor a feature of the view that is asked.",
            f"There are: {', '.join([*maker.weights, *consultations])}.",
        )
    features = [name for name in maker.weights if name not in maker.tasks]
    return [*maker.tasks, *consultations, *Stream.named("preview items", seed).shuffled(features)]


def _of_item(maker: QuestionMaker, item: str, records: Iterable[Patient], seed: int) -> Iterator[Preview]:
    """Yield the questions for one item, record after record."""
    codebook, view = maker.codebook, maker.view
    task = next((task for task in codebook.tasks if task.name == item), None)
    for record in records:
        asked = _asked(maker, item, task, record, seed)
        if asked is None:
            continue
        hidden = maker.hidden(codebook.by_name[task.feature if task else item], task)
        values = _values(codebook, task, record)
        values |= {name: _why(codebook, task, name) for name in hidden if name in values}
        whole = record_lines(codebook, view, values, masked=None if task else item)
        yield Preview(asked, aligned(whole, asked.record))


def _asked(
    maker: QuestionMaker, item: str, task: Task | None, record: Patient, seed: int
) -> Question | Consultation | None:
    if task is not None and task.kind == "consultation":
        return next((each for each in maker.consult(record) if each.item == item), None)
    return maker.make(record, item, Stream.named("preview", seed, item, record.id))


def _values(codebook: Codebook, task: Task | None, record: Patient) -> dict[str, str]:
    """Values that a question may show: of a series those known at the moment that it is asked at."""
    values = dict(record.values.items())
    if task is None or task.kind != "later":
        return values
    values = {name: text for name, text in values.items() if not codebook.by_name[name].series}
    return values | dict(record.later[task.name].values)


def _why(codebook: Codebook, task: Task | None, name: str) -> str:
    if task is not None and name == task.feature:
        return "(hidden: it is the answer)"
    return "(hidden: known only later)" if name in codebook.later else "(hidden: leaks the answer)"


def aligned(whole: Sequence[str], shown: Sequence[str]) -> tuple[Line, ...]:
    """Return all lines of a record with those marked that a question does not show, which are in the same order."""
    lines, place = [], 0
    for text in whole:
        is_shown = place < len(shown) and text == shown[place]
        place += is_shown
        lines.append(Line(text, hidden=not is_shown))
    return tuple(lines)
