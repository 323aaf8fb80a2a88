"""Every row of a table goes to exactly one site, the same one on every machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common import synthetic
from common.errors import Code, FedReasonError
from simulation.partition import Row, column_sites, dirichlet_sites, whole_patients
from simulation.prepare import synthetic_rows


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


def test_a_seed_below_nought_splits_as_well() -> None:
    one, other = (dirichlet_sites(table(200), ["death", "age"], 3, 0.5, seed) for seed in (-1, 1))
    assert one != other and sum(map(len, one.values())) == 200


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


def test_several_columns_split_into_their_combinations_under_names_that_a_site_may_have() -> None:
    beds = ["<100", "100 - 249", ">= 500", "<100", ""]
    rows = [{"id": str(i), "region": "West", "beds": text} for i, text in enumerate(beds)]
    split = column_sites(rows, "region", "beds")
    assert {name: [row["id"] for row in part] for name, part in split.items()} == {
        "West-100": ["0", "3"],
        "West-100-249": ["1"],
        "West-500": ["2"],
        "West-unknown": ["4"],
    }


@given(cells=st.lists(st.tuples(st.text(max_size=5), st.text(max_size=5)), min_size=1, max_size=20))
def test_a_name_of_a_site_is_one_that_a_roster_and_a_folder_take_or_none_is_made(cells: list[tuple[str, str]]) -> None:
    rows = [{"a": a, "b": b} for a, b in cells]
    try:
        split = column_sites(rows, "a", "b")
    except FedReasonError as error:
        assert error.code == Code.CONFIG_VALUE
        return
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in split)
    assert len(split) == len({(a.strip(), b.strip()) for a, b in cells})


@pytest.mark.parametrize("other", ["< 100", ">100", "100"])
def test_texts_that_would_share_a_name_are_refused_and_not_told(other: str) -> None:
    with pytest.raises(FedReasonError, match="beds make the same name") as caught:
        column_sites([{"beds": "<100"}, {"beds": other}], "beds")
    assert caught.value.code == Code.CONFIG_VALUE and "100" not in str(caught.value)


@given(patients=st.lists(st.integers(0, 8), min_size=1, max_size=40), seed=st.integers(0, 99))
def test_the_rows_of_a_patient_go_to_one_site_in_the_order_of_the_table(patients: list[int], seed: int) -> None:
    rows = [{"id": str(i), "patient": str(patient)} for i, patient in enumerate(patients)]

    def halves(firsts: Sequence[Row]) -> dict[str, list[Row]]:
        assert len(firsts) == len({row["patient"] for row in firsts})
        return dirichlet_sites(firsts, [], 1 + (len(firsts) > 4), 100.0, seed)

    split = whole_patients(rows, "patient", halves)
    assert sorted(int(row["id"]) for part in split.values() for row in part) == list(range(len(rows)))
    for part in split.values():
        assert [int(row["id"]) for row in part] == sorted(int(row["id"]) for row in part)
    assert sum(len({row["patient"] for row in part}) for part in split.values()) == len(set(patients))


def test_a_split_by_rows_would_put_a_patient_at_two_sites() -> None:
    rows = [{"patient": "p", "ward": "a"}, {"patient": "q", "ward": "b"}, {"patient": "p", "ward": "b"}]
    assert column_sites(rows, "ward")["b"] == [rows[1], rows[2]]
    split = whole_patients(rows, "patient", lambda firsts: column_sites(firsts, "ward"))
    assert split == {"a": [rows[0], rows[2]], "b": [rows[1]]}


def test_one_row_a_patient_is_split_as_rows_are() -> None:
    rows = table(200)
    by_rows = dirichlet_sites(rows, ["death"], 3, 0.5, 1)
    assert whole_patients(rows, "id", lambda firsts: dirichlet_sites(firsts, ["death"], 3, 0.5, 1)) == by_rows


def test_an_absent_column_is_refused() -> None:
    with pytest.raises(FedReasonError) as caught:
        column_sites(table(3), "hospital")
    assert caught.value.code == Code.REGISTRY_COLUMN
    with pytest.raises(FedReasonError) as caught:
        dirichlet_sites(table(3), ["hospital"], 2, 1.0, 0)
    assert caught.value.code == Code.REGISTRY_COLUMN


def test_a_numbered_synthetic_hospital_is_another_one_of_the_same_profile() -> None:
    first, second, again = (synthetic_rows(name, 30, 4) for name in ("north", "north-2", "north-2"))
    assert second == again and first == synthetic.registry("north", 30, 4)
    assert {row["patient_id"] for row in first}.isdisjoint(row["patient_id"] for row in second)
    assert {row["hospital_beds"] for row in first} == {row["hospital_beds"] for row in second}
    for name in ("north-1", "north-x", "nowhere-2"):
        with pytest.raises(FedReasonError) as refusal:
            synthetic_rows(name, 1, 4)
        assert refusal.value.code is Code.CONFIG_VALUE
