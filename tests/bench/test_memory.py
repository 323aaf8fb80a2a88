"""The coordinator's memory does not grow with the sites, over the messages that Flower really hands over."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from bench.memory import FEWEST_SITES, Kind, peak_mib

_MEGABYTES = 8.0


def peak(kind: Kind, sites: int) -> float:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(peak_mib, kind, sites, _MEGABYTES).result()


@pytest.mark.federation
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", list(Kind))
def test_the_memory_of_a_round_does_not_grow_with_the_sites(kind: Kind) -> None:
    """Twelve more sites, whose messages would be 96 MB and more: less than two messages of room for chance."""
    few, many = peak(kind, FEWEST_SITES), peak(kind, FEWEST_SITES + 12)
    assert many - few < 2 * 2 * _MEGABYTES, (few, many)
