"""The unmasked sum is the plain sum of the survivors, bit for bit, whoever is lost and whenever."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Code
from common.identity.roster import Roster
from common.secagg.messages import Advertisement, Masked
from common.secagg.server import Server
from common.secagg.statement import advertisement_holds
from common.secagg.terms import Limits, Noise, Terms, fewest_survivors, share_sigma, threshold
from tests.common.secagg.cohort import SIZE, TERMS, Cohort, refused, sent
from tests.examples import examples

COHORTS = (3, 5, 10, 20, 50, 100)


@pytest.fixture
def checked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have one site check an advertisement for all of a cohort: else most of the time goes into the same signatures."""
    found: dict[tuple[Advertisement, bytes], bool] = {}

    def holds(told: Advertisement, session: bytes, roster: Roster) -> bool:
        if (told, session) not in found:
            found[told, session] = advertisement_holds(told, session, roster)
        return found[told, session]

    monkeypatch.setattr("common.secagg.site.advertisement_holds", holds)


@pytest.mark.long
@pytest.mark.usefixtures("checked_once")
@pytest.mark.parametrize(("count", "exchange"), [*product(COHORTS[:-1], (2, 3, 4, 5)), (COHORTS[-1], 4)])
def test_as_many_as_the_threshold_allows_are_lost_at_any_exchange(count: int, exchange: int) -> None:
    cohort = Cohort(count)
    spare = count - threshold(count)
    lost = [*cohort.keys][1 : 1 + spare]
    total = cohort.run({exchange: lost})
    assert np.array_equal(total, cohort.expected())
    assert len(cohort.server.survivors) == (count if exchange > 3 else count - spare)


@pytest.mark.usefixtures("checked_once")
@pytest.mark.parametrize("count", [*COHORTS[:-1], pytest.param(COHORTS[-1], marks=pytest.mark.long)])
def test_those_lost_before_they_advertised_are_not_of_the_cohort(count: int) -> None:
    cohort = Cohort(count)
    lost = [*cohort.keys][: count // 3 if count > 3 else 0]
    assert np.array_equal(cohort.run({1: lost}), cohort.expected())


@examples(30)
@given(st.data(), st.integers(4, 12))
def test_losses_spread_over_the_exchanges_leave_the_sum_exact(data: st.DataObject, count: int) -> None:
    cohort = Cohort(count)
    names = data.draw(st.permutations(sorted(cohort.keys)))[: count - threshold(count)]
    lost: dict[int, list[str]] = {}
    for name in names:
        lost.setdefault(data.draw(st.integers(2, 5)), []).append(name)
    gone: set[str] = set()
    for number in range(1, 6):
        gone |= set(lost.get(number, ()))
        cohort.exchange(gone)
    assert np.array_equal(cohort.server.total(), cohort.expected())


@pytest.mark.parametrize("exchange", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [3, 5, 10])
def test_one_more_lost_than_the_threshold_allows_ends_the_session(count: int, exchange: int) -> None:
    cohort = Cohort(count)
    lost = [*cohort.keys][: count - threshold(count) + 1]
    refusal = refused(Code.SECAGG_INCOMPLETE, lambda: cohort.run({exchange: lost}))
    assert f"takes {threshold(count)}" in refusal.found
    refused(Code.SECAGG_TURN, cohort.server.proceed)
    refused(Code.SECAGG_TURN, cohort.server.total)


def test_a_whole_session_over_the_wire_gives_the_same_sum() -> None:
    cohort = Cohort(5)
    for exchange in range(5):
        messages = cohort.server.proceed()
        for name, message in messages.items():
            if exchange < 3 or name != "site-002":
                cohort.server.take(sent(cohort.sites[name].take(sent(message))))
    assert np.array_equal(cohort.server.total(threads=2), cohort.expected())


@pytest.mark.parametrize(("bits", "largest"), [(32, 2**28), (64, 2**60)])
def test_both_lattices_hold_the_largest_sums_and_refuse_what_could_wrap(bits: int, largest: int) -> None:
    terms = Terms(size=4, bits=bits)  # type: ignore[arg-type]
    cohort = Cohort(5, terms=terms)
    most = (2 ** (bits - 1) - 1) // 5
    assert most > largest
    cohort.vectors = {name: np.array([most, -most, 0, 1]) for name in cohort.keys}
    assert np.array_equal(cohort.run(), [5 * most, -5 * most, 0, 5])
    cohort = Cohort(5, terms=terms).until(2)
    cohort.vectors["site-000"] = np.array([0, 0, 0, -most - 1])
    refused(Code.LATTICE_RANGE, cohort.exchange)


def test_a_private_sum_beyond_the_range_is_brought_to_its_edge_and_never_refused() -> None:
    cohort = Cohort(5, terms=Terms(size=3, bits=32, noise=Noise(10, 1, 1)))
    edge = (2**31 - 1) // 5
    cohort.vectors = {name: np.zeros(3, dtype=np.int64) for name in cohort.keys}
    cohort.vectors["site-000"] = np.array([2**62, -(2**62), 7])
    assert np.array_equal(cohort.run(), [edge, -edge, 7])


def test_every_site_shares_the_noise_by_those_who_shared_keys_and_not_by_the_cohort() -> None:
    noise = Noise(sigma_units=11_000, colluders=2, dropouts=2)
    cohort = Cohort(10, terms=replace(TERMS, noise=noise))
    cohort.run({2: ["site-004"]})
    expected = share_sigma(11_000, sites=9, colluders=2, dropouts=2)
    assert set(cohort.shares.values()) == {expected}
    assert len(cohort.shares) == 9
    assert 5 * expected**2 >= 11_000**2 > 5 * (expected - 1) ** 2


def test_fewer_than_k_less_d_survivors_are_not_unmasked_though_they_are_more_than_t() -> None:
    cohort = Cohort(10, terms=replace(TERMS, noise=Noise(11_000, 1, 1)))
    assert fewest_survivors(cohort.terms, cohort=10, sharers=10) == 9 > threshold(10)
    refused(Code.SECAGG_INCOMPLETE, lambda: cohort.run({3: ["site-000", "site-001"]}))
    cohort = Cohort(10, terms=cohort.terms)
    assert np.array_equal(cohort.run({3: ["site-000"]}), cohort.expected())


def test_the_result_does_not_depend_on_the_number_of_threads() -> None:
    size = 200_003
    for threads in (1, 2, 5):
        cohort = Cohort(4, terms=Terms(size=size, bits=32))
        for exchange in range(5):
            cohort.exchange(["site-001"] if exchange == 2 else ())
        assert np.array_equal(cohort.server.total(threads=threads), cohort.expected())


def test_masked_sums_are_added_as_they_come_and_not_kept() -> None:
    size = 500_000

    def peak(count: int) -> int:
        cohort = Cohort(count, terms=Terms(size=size, bits=32))
        cohort.vectors = {}
        server = cohort.server
        for _ in range(2):
            cohort.exchange()
        server.proceed()
        tracemalloc.start()
        for name in cohort.keys:
            server.take(Masked(cohort.session.id, name, np.ones(size, dtype=np.uint32)))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    few, many = peak(4), peak(16)
    assert many < 1.1 * few + 100_000


@pytest.mark.parametrize("shape", [SIZE - 1, SIZE, (SIZE, 1)])
def test_a_masked_sum_of_another_length_or_lattice_is_refused_and_its_site_lost(shape: int | tuple[int, int]) -> None:
    cohort = Cohort(5).until(2)
    messages = cohort.server.proceed()
    words: Any = np.zeros(shape, dtype=np.uint64 if shape == SIZE else np.uint32)
    bad = Masked(cohort.session.id, "site-000", words)
    assert "site-000" in refused(Code.RUN_REPLY, lambda: cohort.server.take(bad)).found
    cohort.deliver(messages, lost=["site-000"])
    cohort.until(2)
    assert np.array_equal(cohort.server.total(), cohort.expected())


def test_a_site_whose_own_sum_has_another_length_ends_its_session() -> None:
    cohort = Cohort(5).until(2)
    cohort.vectors["site-000"] = np.zeros(SIZE + 1, dtype=np.int64)
    refused(Code.MODEL_ADAPTER, cohort.exchange)
    assert cohort.sites["site-000"].awaits is None


def test_the_coordinator_waits_for_nobody_that_is_lost() -> None:
    cohort = Cohort(5)
    messages = cohort.server.proceed()
    assert cohort.server.waiting == set(messages)
    for name in ("site-000", "site-001"):
        cohort.server.take(cohort.sites[name].take(messages[name]))
    cohort.server.lose("site-002")
    assert cohort.server.waiting == {"site-003", "site-004"}
    late = cohort.sites["site-002"].take(messages["site-002"])
    refused(Code.SECAGG_TURN, lambda: cohort.server.take(late))


def test_a_cohort_smaller_than_the_coordinator_asks_for_ends_the_session() -> None:
    cohort = Cohort(5)
    server = Server(session=cohort.session, terms=TERMS, roster=cohort.roster, invited=cohort.keys, fewest=4)
    cohort.server = server
    cohort.exchange(["site-000"])
    cohort.exchange()
    cohort.server = Server(session=cohort.session, terms=TERMS, roster=cohort.roster, invited=cohort.keys, fewest=5)
    cohort.server.proceed()
    refused(Code.SECAGG_INCOMPLETE, cohort.server.proceed)


@given(st.integers(3, 200))
def test_the_threshold_is_more_than_two_thirds(count: int) -> None:
    assert 3 * (threshold(count) - 1) <= 2 * count < 3 * threshold(count)
    assert threshold(count) <= count


def test_the_default_limits_ask_for_five_sites() -> None:
    refused(Code.SECAGG_COHORT, lambda: Cohort(4, limits=Limits()).until(2))
    Cohort(5, limits=Limits()).run()
