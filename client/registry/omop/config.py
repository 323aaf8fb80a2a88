"""The part of site.toml that turns an OMOP CDM into one row a visit: which visits count, and a concept set a column."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from common.toml import Strict

FIXED = (
    "person_id",
    "visit_occurrence_id",
    "age",
    "gender",
    "race",
    "ethnicity",
    "visit",
    "admitted_from",
    "length_of_stay",
    "discharged_to",
    "died",
)
"""Columns of every visit, whatever site.toml asks for."""

Identifier = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$", max_length=63)]
Concept = Annotated[int, Field(gt=0, lt=2**31)]


class OmopColumn(Strict):
    """A column of the registry: what the records of one domain say of a concept set during the visit.

    It is yes or no; for a measurement its number, or with `coded` the concept that it is answered with. `descendants`
    adds what concept_ancestor lists below the concepts. Records that start `hours` after the visit or later do not
    count, and neither do numbers in another `unit`, which is a concept too.
    """

    name: Identifier
    domain: Literal["condition", "drug", "procedure", "device", "observation", "measurement"]
    concepts: tuple[Concept, ...] = Field(min_length=1)
    descendants: bool = False
    hours: int | None = Field(default=None, ge=1, le=24 * 366)
    value: Literal["first", "last", "min", "max"] | None = None
    unit: Concept | None = None
    coded: bool = False

    @model_validator(mode="after")
    def _fits_its_domain(self) -> Self:
        if self.domain != "measurement":
            if self.value is not None or self.unit is not None or self.coded:
                raise ValueError("value, unit and coded belong to the domain measurement")
        elif self.value is None:
            raise ValueError("a measurement needs value: first, last, min or max")
        elif self.coded and (self.unit is not None or self.value in ("min", "max")):
            raise ValueError("a coded measurement has no unit, and value first or last")
        return self


class OmopConfig(Strict):
    """Where the CDM is and what is read of it; no `visits` (visit concepts) means all of them.

    `vocabulary` is the schema of concept and concept_ancestor, where they stand apart.
    """

    schema_: Identifier = Field(alias="schema")
    vocabulary: Identifier | None = None
    visits: tuple[Concept, ...] = ()
    columns: tuple[OmopColumn, ...] = ()

    @model_validator(mode="after")
    def _one_column_each(self) -> Self:
        counts = Counter([*FIXED, *(column.name for column in self.columns)])
        twice = [name for name, count in counts.items() if count > 1]
        if twice:
            raise ValueError(f"more than one column {', '.join(twice)}; {', '.join(FIXED)} are always there")
        return self
