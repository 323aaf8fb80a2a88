"""Processes that release until they are killed (-9) at random moments: what left is charged, and the next goes on.

A small process of its own forks them: to fork one that holds every library of the tests takes far longer.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path

from client.privacy.entry import cost
from client.privacy.ledger import Ledger
from tests.privacy_checks.ledger import CAP, in_a_child, release, site

_NUMBER = 4
"""Bytes of a number that a process sends."""


def killed_at_random(sites: int, times: int) -> None:
    """Kill a process of each site so often, each after none, one or two releases; AssertionError says what is wrong.

    Moments from the start would be those of a machine's speed.
    """
    cost(release(1))
    chance, sent = random.Random(), 0
    for _ in range(sites):
        with site() as folder:
            before = 0
            for _ in range(times):
                first = chance.randrange(3) * _NUMBER
                status, left = in_a_child(partial(_release_for_ever, folder), chance.uniform(0, 0.02), first)
                assert status == -9, f"a process ended by {status} before it was killed"
                numbers = [int.from_bytes(left[i : i + _NUMBER], "big") for i in range(0, len(left), _NUMBER)]
                ledger = Ledger.opened(folder)
                charged = [entry.sequence for entry in ledger.entries()]
                assert charged == list(range(1, len(charged) + 1)), f"charged out of order: {charged}"
                assert set(numbers) <= set(charged), f"{numbers} left, {charged} are charged"
                new = len(charged) - before
                assert new - len(numbers) in (0, 1), f"{new} are charged for {len(numbers)} that left"
                spent, sent = ledger.epsilon, sent + len(numbers)
                before = ledger.charge(release(1, sigma_units=440_000), cap=CAP).sequence
                assert ledger.epsilon > spent, f"the next release leaves epsilon at {ledger.epsilon}, from {spent}"
            ledger.verify(costs=True)
    assert sent > sites * times / 4, f"{sent} releases left: too few to show anything"


def _release_for_ever(folder: Path, send: Callable[[bytes], object]) -> None:
    ledger = Ledger.opened(folder)
    while True:
        entry = ledger.charge(release(ledger.head.sequence % 5, sigma_units=440_000), cap=CAP)
        send(entry.sequence.to_bytes(_NUMBER, "big"))


if __name__ == "__main__":
    killed_at_random(sites=20, times=10)
