"""Split the rows of one table over sites: unlike each other by Dirichlet, or by columns that tell the site.

Equal arguments give equal sites, whatever the machine; the rows of a site keep the order of the table.
"""

from __future__ import annotations

import math
import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from common.errors import Code, FedReasonError

Row = dict[str, str]

_NOT_IN_A_NAME = re.compile(r"[^A-Za-z0-9._]+")


def dirichlet_sites(
    rows: Sequence[Row], columns: Sequence[str], sites: int, alpha: float, seed: int
) -> dict[str, list[Row]]:
    """Split every stratum over the sites in proportions drawn from Dirichlet(alpha) (Hsu et al., arXiv 1909.06335).

    A stratum is one combination of the levels of `columns`. A column of which most filled cells are numbers, more than
    two different ones, has the levels "up to the median", "above the median" and "no number"; any other column has its
    own texts as levels. A small alpha gives sites that see few strata, a large one sites that are alike.

    Returns
    -------
    dict
        Rows by site, "site1" to "site<n>" in that order; every row at exactly one site, no site empty.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE where `sites` or `alpha` is not positive or a site would be empty, REGISTRY_COLUMN for an absent
        column.
    """
    if sites < 1 or not 0 < alpha < math.inf:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"A split over {sites} sites with alpha {alpha} is not possible.",
            "Both must be greater than 0.",
        )
    strata: dict[tuple[str, ...], list[int]] = defaultdict(list)
    for index, stratum in enumerate(zip(*(_levels(rows, column) for column in columns), strict=True)):
        strata[stratum].append(index)
    if not columns:
        strata[()] = list(range(len(rows)))
    random = np.random.default_rng(seed % 2**64)  # of a seed below 0 it takes none
    members: list[list[int]] = [[] for _ in range(sites)]
    for stratum in sorted(strata):
        shuffled = random.permutation(strata[stratum])
        shares = random.dirichlet([alpha] * sites)
        edges = np.round(np.cumsum(shares)[:-1] * len(shuffled)).astype(int)
        for member, part in zip(members, np.split(shuffled, edges), strict=True):
            member.extend(part.tolist())
    empty = sum(not member for member in members)
    if empty:
        raise FedReasonError(
            Code.CONFIG_VALUE,
            f"{len(rows):,} rows over {sites} sites with alpha {alpha} and seed {seed} leave {empty} of them empty.",
            "Take fewer sites, a larger alpha or another seed.",
        )
    return {f"site{number}": [rows[i] for i in sorted(member)] for number, member in enumerate(members, start=1)}


def column_sites(rows: Sequence[Row], *columns: str) -> dict[str, list[Row]]:
    """Split by the texts of columns, as where they tell hospital and unit; sites in the order of their names.

    A site is named by its texts, with "-" for what no site's name may hold and "unknown" where nothing is left.

    Raises
    ------
    FedReasonError
        REGISTRY_COLUMN for an absent column, CONFIG_VALUE where different texts would make the same name.
    """
    texts: dict[str, tuple[str, ...]] = {}
    sites: dict[str, list[Row]] = defaultdict(list)
    for row, cells in zip(rows, zip(*(_cells(rows, column) for column in columns), strict=True), strict=True):
        name = "-".join(_NOT_IN_A_NAME.sub("-", cell).strip("-._") or "unknown" for cell in cells)
        if texts.setdefault(name, cells) != cells:
            raise FedReasonError(
                Code.CONFIG_VALUE,
                f"Different texts of {', '.join(columns)} make the same name of a site.",
                "A name keeps letters from A to Z, digits, points and hyphens: write the texts apart by these.",
            )
        sites[name].append(row)
    return {name: sites[name] for name in sorted(sites)}


def whole_patients(
    rows: Sequence[Row], patient: str, split: Callable[[Sequence[Row]], dict[str, list[Row]]]
) -> dict[str, list[Row]]:
    """Split the first row of every patient; the other rows follow it, so that nobody is at two sites.

    Raises
    ------
    FedReasonError
        REGISTRY_COLUMN without the column `patient`, and what `split` refuses.
    """
    patients = _cells(rows, patient)
    first = dict(zip(reversed(patients), reversed(rows), strict=True))
    split_first = split([first[name] for name in dict.fromkeys(patients)])
    home = {row[patient].strip(): site for site, part in split_first.items() for row in part}
    sites: dict[str, list[Row]] = {site: [] for site in split_first}
    for name, row in zip(patients, rows, strict=True):
        sites[home[name]].append(row)
    return sites


def _cells(rows: Sequence[Row], column: str) -> list[str]:
    if any(column not in row for row in rows):
        raise FedReasonError(
            Code.REGISTRY_COLUMN, f"The table to split has no column {column}.", "Name a column that every row has."
        )
    return [row[column].strip() for row in rows]


def _levels(rows: Sequence[Row], column: str) -> list[str]:
    cells = _cells(rows, column)
    numbers = [_number(cell) for cell in cells]
    found = [number for number in numbers if number is not None]
    if len(set(found)) <= 2 or 2 * len(found) <= sum(cell != "" for cell in cells):
        return cells
    median = statistics.median(found)
    return ["no number" if number is None else "up to" if number <= median else "above" for number in numbers]


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
