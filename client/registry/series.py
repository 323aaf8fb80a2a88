"""Time-stamped values: from a table with one value a row to first values, and to moments with what came hours later.

A moment is chosen by the times of one record alone, so that no other patient changes a question.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from client.registry.display import Display
from client.registry.folding import Spellings
from client.registry.numerals import CODED, Doubts, Numerals, absent_of, meaning
from client.registry.table import Table, first_of
from client.registry.times import Times
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER, Feature
from common.questions.question import Moment
from common.tasks import Task

if TYPE_CHECKING:
    from client.registry.config import SeriesConfig

_PLACES = 6
"""Of hours that are compared: a moment in minutes or seconds has no last digit in them."""
_NOTHING: Mapping[str, str] = MappingProxyType({})
_FEW = 0.1
"""Share of the records that have no value in a series, whoever else has."""
_NO_CODES: Mapping[str, Sequence[str]] = MappingProxyType({})


@dataclass(frozen=True)
class Value:
    """A usable value of a series: hours since any fixed time, feature and shown text."""

    hours: float
    feature: str
    text: str


@dataclass
class Series:
    """Values by record, folded, in the order of time, and how many cells were of no use.

    Of several values of a feature at one time the first of the table counts.
    A code that the codebook does not list is a value, OTHER; `listed` are the features that have another one.
    """

    name: str
    tasks: Sequence[Task]
    values: Mapping[str, Sequence[Value]]
    unreadable: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    unlisted: Counter[str] = field(default_factory=Counter)
    listed: set[str] = field(default_factory=set)
    doubts: Doubts = field(default_factory=Doubts)
    display: Display = field(default_factory=Display)
    used: set[str] = field(default_factory=set)
    remarks: Sequence[str] = ()
    notes: Sequence[str] = ()

    def first(self, record: str) -> Mapping[str, str]:
        """Return the first value of each feature of a record."""
        values = self.values.get(record)
        if values is None:
            return _NOTHING
        self.used.add(record)
        return {value.feature: value.text for value in reversed(values)}

    def moments(self, record: str) -> Mapping[str, Moment]:
        """Return the moment from which each task asks; tasks without any are left out."""
        found = {task.name: moment_of(self.values.get(record, ()), task) for task in self.tasks}
        return {name: moment for name, moment in found.items() if moment is not None}

    def told(self, records: int) -> tuple[list[str], list[str]]:
        """Say, once all records are read, what was left out or doubted on the way, and what hardly is missed.

        Where strangers have values and many of the registry's records have none the identifiers may be of two kinds.
        """
        remarks, notes = list(self.remarks), list(self.notes)
        strangers = self.values.keys() - self.used - {""}
        if nobodys := len(self.values.get("", ())):
            remarks.append(f"{nobodys:,} values have no record and were left out")
        if count := sum(len(self.values[record]) for record in strangers):
            many = records - len(self.used) > _FEW * records
            (remarks if many else notes).append(
                f"{count:,} values of {len(strangers):,} records that the registry does not have were left out: where "
                "it should, compare the identifiers of both"
            )
        return remarks, notes

    def require_use(self) -> None:
        """Refuse values of which none belongs to a record of the registry."""
        if not self.used:
            raise FedReasonError(
                Code.REGISTRY_SERIES,
                f"{self.name}: no row belongs to a record of the registry.",
                "Compare `record` under [registry.series] with the identifiers of the registry, and `items` with its "
                "items.",
            )


def moment_of(values: Sequence[Value], task: Task) -> Moment | None:
    """Return the first moment at which a value of the task's feature is known and one `hours` later follows.

    A category that the codebook does not list is neither.

    Parameters
    ----------
    values
        Of one record, in the order of time.
    """
    assert task.hours is not None
    wanted = task.hours
    times = [value.hours for value in values]
    asked = [value for value in values if value.feature == task.feature and value.text != OTHER]
    for place, now in enumerate(times):
        if place + 1 < len(times) and times[place + 1] == now:
            continue
        if not asked or asked[0].hours > now:
            continue
        follow = (value for value in reversed(asked) if value.hours > now)
        late = {round(abs(value.hours - now - wanted), _PLACES): value for value in follow}
        if late and min(late) <= round(task.tolerance, _PLACES):
            after = late[min(late)]
            known = {value.feature: value.text for value in values[: bisect_right(times, now)]}
            return Moment(known, after.text)
    return None


def read_series(
    table: Table, config: SeriesConfig, codebook: Codebook, *, missing: Mapping[str, Sequence[str]] = _NO_CODES
) -> Series:
    """Read a table of time-stamped values; rows of items that nobody named are passed over.

    `missing` has what means no value by feature, beside the codebook's codes.

    Raises
    ------
    FedReasonError
        REGISTRY_SERIES where a column is missing, an item stands for no series, a time cannot be read or compared with
        the others; REGISTRY_IDENTIFIER where a record's identifier may stand for two.
    """
    features = _features(config, codebook)
    record, time, item, value = _columns(table, config)
    numerals = Numerals(config.decimal, config.thousands)
    absent = {feature.name: absent_of(feature, codebook.missing, missing, numerals) for feature in features.values()}
    found: dict[str, list[Value]] = {}
    times, records = Times(config.times, config.timezone, config.decimal), Spellings()
    untimed: list[int] = []
    tasks = [task for task in codebook.tasks if task.kind == "later"]
    series = Series(table.name, tasks, found, remarks=table.remarks, notes=table.notes)
    for place, cells in table.rows:
        feature = features.get(cells[item].strip())
        raw = cells[value].strip()
        if feature is None:
            continue
        if raw in absent[feature.name]:
            series.doubts.take(feature.name, CODED if absent[feature.name].measurable(raw) else None)
            continue
        hours = times.take(place, cells[time].strip())
        if hours is None:
            untimed.append(place)
            continue
        meant = meaning(feature, raw, numerals)
        text = meant.shown
        series.doubts.take(feature.name, meant.doubt, meant.settles, meant.beside)
        if text is None:
            (series.outside if meant.number else series.unreadable)[feature.name] += 1
        else:
            if text == OTHER:
                series.unlisted[feature.name] += 1
            else:
                series.listed.add(feature.name)
            series.display.saw(feature, meant.number or "", text)
            found.setdefault(records.take(place, cells[record]), []).append(Value(hours, feature.name, text))
    if untimed:
        raise FedReasonError(
            Code.REGISTRY_SERIES,
            f"{table.name}, column {config.time}: no time can be read on {table.unit} {first_of(untimed)}.",
            "Write times as ISO 8601 (2026-11-23 14:05) or as hours; or say in site.toml, [registry.series], how they "
            'are written: times = "%d.%m.%Y %H:%M".',
        )
    times.refuse(table, config.time)
    records.refuse(table, config.record)
    if several := sum([_settle(values) for values in found.values()]):
        table.remarks.append(
            f"{several:,} records have different values of a feature at one time, of which the first in the table "
            "counts: export times as exact as they are known, and say an order in a query"
        )
    return series


def _settle(values: list[Value]) -> bool:
    """Bring a record's values into the order of time, one of a feature at a time; say whether others differed."""
    values.sort(key=lambda value: value.hours)
    first: dict[tuple[float, str], Value] = {}
    differ = [first.setdefault((value.hours, value.feature), value).text != value.text for value in values]
    values[:] = first.values()
    return any(differ)


def _features(config: SeriesConfig, codebook: Codebook) -> dict[str, Feature]:
    series = {feature.name: feature for feature in codebook.features if feature.series}
    unknown = sorted(set(config.items.values()) - set(series))
    if unknown:
        raise FedReasonError(
            Code.REGISTRY_SERIES,
            f"site.toml, [registry.series.items] names {', '.join(unknown)}, no series of the codebook.",
            f"Its series are: {', '.join(series) or 'none'}.",
        )
    return {item: series[name] for item, name in config.items.items()}


def _columns(table: Table, config: SeriesConfig) -> tuple[int, int, int, int]:
    wanted = (config.record, config.time, config.item, config.value)
    absent = [name for name in wanted if table.columns.count(name) != 1]
    if absent:
        raise FedReasonError(
            Code.REGISTRY_SERIES,
            f"{table.name} has not one column each for {', '.join(absent)}.",
            "Compare [registry.series] in site.toml with the header of the table.",
        )
    record, time, item, value = map(table.columns.index, wanted)
    return record, time, item, value
