"""Integers on the lattice: exact sums in any order, refusals instead of wrap-around."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.errors import Code, FedReasonError
from common.lattice import add, from_lattice, to_lattice

vectors = arrays(np.float64, 5, elements=st.floats(-1e6, 1e6))


@given(st.lists(vectors, min_size=1, max_size=8), st.randoms())
def test_a_sum_does_not_depend_on_order_or_grouping(parts: list[np.ndarray], random: Random) -> None:
    integers = [to_lattice(part, 40) for part in parts]
    forward = integers[0]
    for part in integers[1:]:
        forward = add(forward, part)
    random.shuffle(integers)
    cut = random.randint(0, len(integers))
    zero = np.zeros(5, dtype=np.int64)
    groups = [zero, zero]
    for i, part in enumerate(integers):
        groups[i < cut] = add(groups[i < cut], part)
    assert np.array_equal(forward, add(groups[0], groups[1]))


@given(vectors)
def test_rounding_is_off_by_half_a_unit_at_most(vector: np.ndarray) -> None:
    back = from_lattice(to_lattice(vector, 40), 2.0**-40)
    assert np.all(np.abs(back - vector) <= 2.0**-41)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 2.0**23, -(2.0**30)])
def test_a_value_outside_the_lattice_is_refused(bad: float) -> None:
    with pytest.raises(FedReasonError) as refusal:
        to_lattice(np.array([0.0, bad]), 40)
    assert refusal.value.code == Code.LATTICE_RANGE


@pytest.mark.parametrize("sign", [1, -1])
def test_an_overflowing_sum_is_refused_not_wrapped(sign: int) -> None:
    half = np.array([0, sign * 2**62], dtype=np.int64)
    with pytest.raises(FedReasonError) as refusal:
        add(add(half, half // 2), half)
    assert refusal.value.code == Code.LATTICE_RANGE


def test_the_largest_sum_that_fits_is_exact() -> None:
    total = add(np.array([2**62], dtype=np.int64), np.array([2**62 - 1], dtype=np.int64))
    assert total[0] == 2**63 - 1
