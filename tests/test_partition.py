"""Every row of a table goes to exactly one site, the same one on every machine."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Code, FedReasonError
from simulation.partition import Row, column_sites, dirichlet_sites


def table(count: int) -> list[Row]:
    return [
        {"id": str(i), "age": str(20 + i * 7 % 60), "death": str(i % 3 // 2), "ward": f"w{i % 4}"} for i in range(count)
    ]


def spread(sites: dict[str, list[Row]], column: str, value: str) -> float:
    """Largest difference between sites in the share of rows with this value."""
    shares = [sum(row[column] == value for row in rows) / len(rows) for rows in sites.values()]
    return max(shares) - min(shares)


@given(
    count=st.integers(0, 60),
    sites=st.integers(1, 6),
    alpha=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**32),
    columns=st.lists(st.sampled_from(["age", "death", "ward"]), unique=True),
)
def test_every_row_is_at_exactly_one_site_in_the_order_of_the_table(
    count: int, sites: int, alpha: float, seed: int, columns: list[str]
) -> None:
    rows = table(count)
    try:
        split = dirichlet_sites(rows, columns, sites, alpha, seed)
    except FedReasonError as error:
        assert error.code == Code.CONFIG_VALUE and "empty" in error.found
        return
    assert list(split) == [f"site{i}" for i in range(1, sites + 1)]
    assert all(split.values())
    assert sorted((row["id"] for part in split.values() for row in part), key=int) == [row["id"] for row in rows]
    for part in split.values():
        assert [int(row["id"]) for row in part] == sorted(int(row["id"]) for row in part)


def test_the_split_depends_on_the_seed_alone() -> None:
    rows = table(500)
    assert dirichlet_sites(rows, ["death", "age"], 3, 0.5, 1) == dirichlet_sites(rows, ["death", "age"], 3, 0.5, 1)
    assert dirichlet_sites(rows, ["death", "age"], 3, 0.5, 1) != dirichlet_sites(rows, ["death", "age"], 3, 0.5, 2)


def test_the_split_is_the_one_it_was() -> None:
    split = dirichlet_sites(table(500), ["death", "age", "ward"], 5, 0.5, 7)
    assert [(len(rows), rows[0]["id"], rows[-1]["id"]) for rows in split.values()] == [
        (67, "4", "492"),
        (111, "0", "490"),
        (160, "6", "493"),
        (60, "11", "496"),
        (102, "2", "499"),
    ]


def test_a_small_alpha_makes_sites_unlike_and_a_large_one_alike() -> None:
    rows = table(2000)
    assert spread(dirichlet_sites(rows, ["death"], 4, 0.3, 0), "death", "1") > 0.3
    assert spread(dirichlet_sites(rows, ["death"], 4, 1e4, 0), "death", "1") < 0.05


def test_only_the_named_columns_differ_between_sites() -> None:
    split = dirichlet_sites(table(4000), ["death"], 4, 0.5, 3)
    assert spread({name: rows for name, rows in split.items() if len(rows) > 200}, "ward", "w0") < 0.1


def test_a_numeric_column_is_cut_at_its_median_and_blanks_are_a_level_of_their_own() -> None:
    rows = [{"x": str(i)} for i in range(100)] + [{"x": ""}] * 10 + [{"x": "NA"}] * 10
    tiny = 1e-9  # every stratum then goes to one site as a whole
    for seed in range(20):
        try:
            split = dirichlet_sites(rows, ["x"], 2, tiny, seed)
        except FedReasonError:
            continue  # all three strata to the same site
        for part in split.values():
            counts = Counter("none" if row["x"] in ("", "NA") else int(row["x"]) <= 49 for row in part)
            assert set(counts.values()) <= {20, 50}


def test_a_column_of_two_codes_keeps_them_apart() -> None:
    rows = [{"x": "1"}] * 90 + [{"x": "0"}] * 10
    parts = [dirichlet_sites(rows, ["x"], 2, 1e-9, seed) for seed in range(20) if _possible(rows, seed)]
    assert parts and all({len(rows) for rows in split.values()} == {90, 10} for split in parts)


def _possible(rows: list[Row], seed: int) -> bool:
    try:
        dirichlet_sites(rows, ["x"], 2, 1e-9, seed)
    except FedReasonError:
        return False
    return True


@pytest.mark.parametrize(
    ("sites", "alpha"), [(0, 1.0), (-1, 1.0), (2, 0.0), (2, -1.0), (2, float("nan")), (2, float("inf"))]
)
def test_an_impossible_split_is_refused(sites: int, alpha: float) -> None:
    with pytest.raises(FedReasonError) as caught:
        dirichlet_sites(table(10), ["death"], sites, alpha, 0)
    assert caught.value.code == Code.CONFIG_VALUE


def test_more_sites_than_rows_are_refused() -> None:
    with pytest.raises(FedReasonError, match="leave 4 of them empty") as caught:
        dirichlet_sites(table(1), ["death"], 5, 1.0, 0)
    assert caught.value.code == Code.CONFIG_VALUE


def test_a_column_splits_into_its_values_in_the_order_of_their_names() -> None:
    rows = table(9)
    split = column_sites(rows[::-1], "ward")
    assert list(split) == ["w0", "w1", "w2", "w3"]
    assert [row["id"] for row in split["w1"]] == ["5", "1"]


def test_a_row_without_site_is_refused_by_count() -> None:
    with pytest.raises(FedReasonError, match="blank in 2 of 5 rows") as caught:
        column_sites([*table(3), {"ward": " "}, {"ward": ""}], "ward")
    assert caught.value.code == Code.REGISTRY_UNUSABLE


def test_an_absent_column_is_refused() -> None:
    with pytest.raises(FedReasonError) as caught:
        column_sites(table(3), "hospital")
    assert caught.value.code == Code.REGISTRY_COLUMN
    with pytest.raises(FedReasonError) as caught:
        dirichlet_sites(table(3), ["hospital"], 2, 1.0, 0)
    assert caught.value.code == Code.REGISTRY_COLUMN
