"""Units that hospitals report the same measurement in, to say which one the numbers of a registry may be in.

The factors are those of the units and of molar masses. They make a hint for a person; nothing is converted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from client.registry.load import Registry
from common.codebook import Codebook
from common.feature import Feature, number_of


@dataclass(frozen=True)
class Conversion:
    """A number in `unit` is `factor` times the one in `other`, plus `offset`; `of` is in the label or name, or any."""

    unit: str
    other: str
    factor: float
    offset: float = 0.0
    of: tuple[str, ...] = ("",)

    def convert(self, number: float) -> float:
        """Return a number in `unit` for one in `other`."""
        return self.factor * number + self.offset

    @property
    def inverse(self) -> Conversion:
        """The same the other way round."""
        return Conversion(self.other, self.unit, 1 / self.factor, -self.offset / self.factor, self.of)


_ONE_WAY = (
    Conversion("mg/dL", "µmol/L", 1 / 88.42, of=("creatinine",)),
    Conversion("mg/dL", "µmol/L", 1 / 17.10, of=("bilirubin",)),
    Conversion("mg/dL", "mmol/L", 18.02, of=("glucose",)),
    Conversion("mg/dL", "mmol/L", 2.801, of=("urea nitrogen", "bun")),
    Conversion("mg/dL", "mmol/L", 6.006, of=("urea",)),
    Conversion("mg/dL", "mmol/L", 4.008, of=("calcium",)),
    Conversion("mg/dL", "mmol/L", 2.431, of=("magnesium",)),
    Conversion("mg/dL", "mmol/L", 3.097, of=("phosph",)),
    Conversion("mg/dL", "mmol/L", 9.008, of=("lactate", "lactic")),
    Conversion("mg/dL", "mmol/L", 38.67, of=("cholesterol",)),
    Conversion("g/dL", "mmol/L", 1.611, of=("hemoglobin", "haemoglobin")),
    Conversion("g/dL", "g/L", 0.1),
    Conversion("mg/dL", "mg/L", 0.1, of=("crp", "c-reactive")),
    Conversion("%", "a share of 1", 100.0),
    Conversion("mmHg", "kPa", 7.5006),
    Conversion("°C", "°F", 5 / 9, -160 / 9),
    Conversion("kg", "lb", 0.45359),
    Conversion("kg", "g", 0.001),
    Conversion("cm", "m", 100.0),
    Conversion("cm", "in", 2.54),
    Conversion("mL", "L", 1000.0),
    Conversion("10^9/L", "/µL", 0.001),
)
CONVERSIONS = (*_ONE_WAY, *(conversion.inverse for conversion in _ONE_WAY))


@dataclass(frozen=True)
class Hint:
    """How many of a feature's numbers lie within the codebook's bounds as they stand, and taken as in `unit`."""

    unit: str
    within: int
    now: int
    numbers: int

    @property
    def text(self) -> str:
        """The hint in words."""
        within = f"{self.within:,} of the {self.numbers:,} numbers are within the bounds"
        return f"Taken as {self.unit} {within}, as they stand {self.now:,}."


def hint(feature: Feature, numbers: Iterable[float]) -> Hint | None:
    """Return the unit in which most of the numbers are within the bounds; None where none explains more than half."""
    found = list(numbers)
    now = _within(feature, found)
    hints = [
        Hint(each.other, _within(feature, map(each.convert, found)), now, len(found))
        for each in conversions_of(feature)
    ]
    best = max(hints, key=lambda hint: hint.within, default=None)
    return best if best is not None and best.within > max(now, len(found) / 2) else None


def conversions_of(feature: Feature) -> list[Conversion]:
    """Return the conversions to a feature's unit: those for what it measures, else those for anything."""
    unit, named = _plain(feature.unit), f"{feature.name} {feature.label}".lower()
    fitting = [conversion for conversion in CONVERSIONS if _plain(conversion.unit) == unit]
    special = [each for each in fitting if each.of != ("",) and any(word in named for word in each.of)]
    return special[:1] + [each for each in fitting if each.of == ("",)]


def unit_hints(read: Callable[[Codebook], Registry], codebook: Codebook, names: Iterable[str]) -> dict[str, Hint]:
    """Read a registry once more with the bounds of these features taken away, and return what explains its numbers."""
    asked = set(names)
    wanted = [
        feature
        for feature in codebook.features
        if feature.name in asked and feature.kind == "numeric" and conversions_of(feature)
    ]
    if not wanted:
        return {}
    wide = {"low": -math.inf, "high": math.inf, "decimals": 6}
    features = [feature.model_copy(update=wide) if feature in wanted else feature for feature in codebook.features]
    patients = read(codebook.model_copy(update={"features": tuple(features)})).patients
    records = [record for patient in patients for record in patient.records]
    hints = {}
    for feature in wanted:
        texts = (record.values.get(feature.name) for record in records)
        numbers = (number_of(text) for text in texts if text is not None)
        if (found := hint(feature, (number for number in numbers if number is not None))) is not None:
            hints[feature.name] = found
    return hints


def _within(feature: Feature, numbers: Iterable[float]) -> int:
    assert feature.low is not None and feature.high is not None
    return sum(feature.low <= number <= feature.high for number in numbers)


def _plain(unit: str) -> str:
    """Write the ways to spell a unit alike."""
    text = re.sub(r"\s|degrees?|deg|°", "", unit.lower()).replace("μ", "u").replace("µ", "u")
    return {"celsius": "c", "fahrenheit": "f"}.get(text, text)
