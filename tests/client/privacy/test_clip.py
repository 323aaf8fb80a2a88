"""The clip: the bound is exact whatever the gradient, and rounding has no bias but for a known shortening."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from client.privacy.clip import LARGEST_CLIP_UNITS, clipped, shortened, squared_norm
from client.privacy.keystream import Keystream
from common.arrays import Integers, Vector
from common.errors import Code, FedReasonError
from common.lattice import to_lattice
from common.stream import Stream
from tests.checked import mutated, passing
from tests.examples import examples
from tests.privacy_checks.clip import CHECKS, CLIP_UNITS, KINDS, per_patient

MUTATIONS = mutated(CHECKS)
UNITS = 11_000


def dense(norm: float, size: int) -> Vector:
    values = Stream.named("dense", size).uniforms(size) - 0.5
    return np.asarray(values * (norm / np.linalg.norm(values)), dtype=np.float32)


@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


@given(
    arrays(np.float32, st.integers(0, 300), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)),
    st.floats(1e-30, 1e30),
    st.one_of(st.integers(1, 50), st.integers(1, LARGEST_CLIP_UNITS)),
)
def test_every_finite_gradient_is_within_the_bound(gradient: Vector, clip_norm: float, units: int) -> None:
    before = gradient.copy()
    integers, unusable = clipped(gradient, clip_norm, units, Keystream())
    assert sum(value**2 for value in integers.tolist()) <= units**2
    assert integers.dtype == np.int64 and not unusable
    assert np.array_equal(gradient, before)


@examples(10)
@given(st.sampled_from([1, 2, 10, 100, 1000]), st.sampled_from([0.5, 0.99, 1.0, 1.01, 1e6]))
def test_the_bound_holds_where_rounding_outweighs_the_gradient(units: int, norm: float) -> None:
    integers, _ = clipped(dense(norm, 50_000), 1.0, units, Keystream())
    assert squared_norm(integers) <= units**2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_gradient_that_is_not_finite_becomes_zeros_and_is_told(bad: float) -> None:
    gradient = dense(1.0, 100)
    gradient[17] = bad
    integers, unusable = clipped(gradient, 1.0, UNITS, Keystream())
    assert unusable and integers.shape == (100,) and not integers.any()


def test_huge_finite_gradients_are_clipped_and_not_dropped() -> None:
    integers, unusable = clipped(np.full(1000, -3e38, dtype=np.float32), 1.0, UNITS, Keystream())
    assert not unusable and squared_norm(integers) > (0.99 * UNITS) ** 2 and integers.max() < 0


def test_wider_floats_are_taken_as_float32_where_they_would_overflow_or_vanish() -> None:
    assert clipped(np.full(10, 1e200), 1.0, UNITS, Keystream())[1]
    integers, unusable = clipped(np.full(10, 1e-200), 1e-30, UNITS, Keystream())
    assert not unusable and not integers.any()


def test_the_adversaries_are_what_they_are_called() -> None:
    patients = {name: kind(Stream.named(name)).astype(np.float32) for name, kind in KINDS.items()}
    with np.errstate(invalid="ignore"):
        unusable = {name for name, patient in patients.items() if not np.isfinite(patient.sum(axis=0)).all()}
    assert unusable == {"not a number", "infinite", "minus infinite"}
    contributions = dict(zip(patients, per_patient(list(patients.values())), strict=True))
    assert squared_norm(contributions["a spike far above"]) > (0.9 * CLIP_UNITS) ** 2
    assert not contributions["denormal"].any() and patients["denormal"].any()


@pytest.mark.parametrize("norm", [0.001, 0.5, 0.9])
def test_rounding_a_gradient_inside_the_bound_has_no_bias(norm: float) -> None:
    gradient, rounds = dense(norm, 2000), 2000
    exact = gradient.astype(np.float64) * UNITS
    random = Keystream()
    mean = sum(clipped(gradient, 1.0, UNITS, random)[0] for _ in range(rounds)) / rounds
    fractions = exact - np.floor(exact)
    deviation = np.sqrt(fractions * (1 - fractions) / rounds)
    assert np.all(np.abs(mean - exact) <= 6 * deviation + 6 / rounds)
    assert abs((mean - exact).sum()) <= 5 * np.sqrt((deviation**2).sum())


@pytest.mark.parametrize("size", [1_000, 100_000, 1_000_000])
@pytest.mark.parametrize("norm", [1.0, 30.0])
def test_the_bias_of_the_clip_is_the_shortening_that_the_docstring_states(size: int, norm: float) -> None:
    gradient, rounds = dense(norm, size), max(1, 1_000_000 // size)
    direction = gradient.astype(np.float64) / np.linalg.norm(gradient.astype(np.float64))
    random = Keystream()
    mean = sum(clipped(gradient, 1.0, UNITS, random)[0] for _ in range(rounds)) / rounds
    kept = np.dot(mean, direction) / UNITS
    stated = size / (12 * UNITS**2) + 3 * (1 + math.sqrt(size) / 2 / UNITS) / UNITS
    error = 5 * math.sqrt(1 / 4 / rounds) / UNITS
    assert 1 - 1.02 * stated - error <= kept <= 1 - 0.98 * stated + error
    beside = mean - np.dot(mean, direction) * direction
    assert np.linalg.norm(beside) <= 1.1 * math.sqrt(size / 6 / rounds)


def test_the_scale_is_that_of_the_whole_vector() -> None:
    gradient = np.array([3.0, 4.0], dtype=np.float32)
    integers, _ = clipped(gradient, 0.5, 2**20, Keystream())
    assert np.allclose(integers / 2**20, [0.6, 0.8], atol=1e-4)
    integers, _ = clipped(gradient, 50.0, 1000, Keystream())
    assert integers.tolist() in ([60, 80], [59, 80], [60, 79], [61, 80], [60, 81])


def test_rounding_is_fresh_at_every_call() -> None:
    gradient = dense(0.5, 10_000)
    assert not np.array_equal(clipped(gradient, 1, UNITS, Keystream())[0], clipped(gradient, 1, UNITS, Keystream())[0])
    again = [clipped(gradient, 1, UNITS, Keystream(bytes(32)))[0] for _ in range(2)]
    assert np.array_equal(*again)


@pytest.mark.parametrize(
    ("norm", "units"), [(0, 10), (1e-31, 10), (-1, 10), (math.nan, 10), (math.inf, 10), (1, 0), (1, 2**31)]
)
def test_an_unusable_bound_is_refused(norm: float, units: int) -> None:
    with pytest.raises(FedReasonError) as refusal:
        clipped(dense(1.0, 3), norm, units, Keystream())
    assert refusal.value.code == Code.DP_REFUSED


WHOLE = arrays(np.int64, st.integers(1, 300), elements=st.integers(-(2**61), 2**61)) | arrays(
    np.int64, 20_000, elements=st.integers(-(2**20), 2**20), fill=st.just(3)
)


@given(WHOLE, st.integers(1, 2**31 - 1) | st.integers(1, 2**62))
def test_integers_are_shortened_to_the_bound_exactly_and_left_alone_inside_it(whole: Integers, bound: int) -> None:
    before = sum(int(value) ** 2 for value in whole)
    short = shortened(whole, bound)
    squares = sum(int(value) ** 2 for value in short)
    assert squares <= bound**2
    assert np.all(np.abs(short) <= np.abs(whole)) and np.all(short * np.sign(whole) >= 0)
    if before <= bound**2:
        assert np.array_equal(short, whole)
    else:
        lost = math.sqrt(whole.size) + 2
        assert math.sqrt(squares) >= bound * (1 - 2.0**-19) - lost


def test_what_is_within_a_bound_of_many_units_stays_as_it_is() -> None:
    """A norm of 1 at the usual 40 bits is more units than 32 bits hold."""
    whole = to_lattice(np.array([0.003, 0.004, 0.01, -0.02]), 40)
    assert np.array_equal(shortened(whole, 2**40), whole)
    longer = shortened(1000 * whole, 2**40)
    assert np.abs(longer / 2**40 - np.array([3, 4, 10, -20]) / math.sqrt(525)).max() < 1e-6


def test_shortening_keeps_the_direction() -> None:
    whole = np.array([3 * 2**24, -4 * 2**24, 0], dtype=np.int64)
    assert np.abs(shortened(whole, 5 * 2**20) - np.array([3 * 2**20, -4 * 2**20, 0])).max() <= 1
