"""Time-stamped values: from a table with one value a row to first values, and to moments with what came hours later.

A moment is chosen by the times of one record alone, so that no other patient changes a question.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING

from client.registry.display import Display
from client.registry.table import Table, first_of
from common.codebook import Codebook, Feature, Task, number_of
from common.errors import Code, FedReasonError
from common.questions.question import Moment

if TYPE_CHECKING:
    from client.site import SeriesConfig

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(order=True, frozen=True)
class Value:
    """A usable value of a series: hours since any fixed time, feature and shown text."""

    hours: float
    feature: str
    text: str


@dataclass
class Series:
    """Values by record, in the order of time, and how many cells were of no use."""

    name: str
    tasks: Sequence[Task]
    values: Mapping[str, Sequence[Value]]
    unreadable: Counter[str] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    display: Display = field(default_factory=Display)
    used: int = 0

    def first(self, record: str) -> Mapping[str, str]:
        """Return the first value of each feature of a record."""
        values = self.values.get(record)
        if values is None:
            return _NOTHING
        self.used += 1
        return {value.feature: value.text for value in reversed(values)}

    def moments(self, record: str) -> Mapping[str, Moment]:
        """Return the moment from which each task asks; tasks without any are left out."""
        found = {task.name: moment_of(self.values.get(record, ()), task) for task in self.tasks}
        return {name: moment for name, moment in found.items() if moment is not None}

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

    Parameters
    ----------
    values
        Of one record, in the order of time.
    """
    assert task.hours is not None
    wanted = task.hours
    times = [value.hours for value in values]
    asked = [value for value in values if value.feature == task.feature]
    for place, now in enumerate(times):
        if place + 1 < len(times) and times[place + 1] == now:
            continue
        if not asked or asked[0].hours > now:
            continue
        late = {abs(value.hours - now - wanted): value for value in reversed(asked) if value.hours > now}
        if late and min(late) <= task.tolerance:
            after = late[min(late)]
            known = {value.feature: value.text for value in values[: bisect_right(times, now)]}
            return Moment(known, after.text)
    return None


def read_series(table: Table, config: SeriesConfig, codebook: Codebook) -> Series:
    """Read a table of time-stamped values; rows of items that nobody named are passed over.

    Raises
    ------
    FedReasonError
        REGISTRY_SERIES where a column is missing, an item stands for no series, or a time cannot be read.
    """
    features = _features(config, codebook)
    record, time, item, value = _columns(table, config)
    missing = frozenset(codebook.missing) | {""}
    found: dict[str, list[Value]] = {}
    untimed: list[int] = []
    tasks = [task for task in codebook.tasks if task.kind == "later"]
    series = Series(table.name, tasks, found)
    for place, cells in table.rows:
        feature = features.get(cells[item].strip())
        raw = cells[value].strip()
        if feature is None or raw in missing:
            continue
        hours = hours_of(cells[time].strip())
        if hours is None:
            untimed.append(place)
            continue
        number = raw.replace(config.decimal, ".") if feature.kind == "numeric" else raw
        text = feature.shown(number)
        if text is None:
            (series.unreadable if number_of(number) is None else series.outside)[feature.name] += 1
        else:
            series.display.saw(feature, number, text)
            found.setdefault(cells[record].strip(), []).append(Value(hours, feature.name, text))
    if untimed:
        raise FedReasonError(
            Code.REGISTRY_SERIES,
            f"{table.name}, column {config.time}: no time can be read on {table.unit} {first_of(untimed)}.",
            "Write times as ISO 8601 (2026-11-23 14:05), or as hours.",
        )
    for values in found.values():
        values.sort()
    return series


def hours_of(text: str) -> float | None:
    """Return a time in hours: a number as it stands, a date and time since 1970; None for anything else."""
    number = number_of(text)
    if number is not None:
        return number
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() / 3600


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
