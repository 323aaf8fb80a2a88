"""Checks of privacy.md with the mutations that must make each fail, importable by tests and by `bench.mutations`.

A check is a plain function of what it checks, so that a mutation is the same check on a broken function.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from unittest.mock import patch

import numpy as np

FALSE_ALARM = 1e-6
"""How often a statistical check may fail on a right function."""


@dataclass(frozen=True)
class Check:
    """A claim about the mechanism.

    Attributes
    ----------
    name
        What is checked.
    passes
        Run the check on what is built; True is expected.
    mutations
        Run the check on a broken function, by what is broken; False is expected of each.
    """

    name: str
    passes: Callable[[], bool]
    mutations: dict[str, Callable[[], bool]] = field(default_factory=dict)


def on_broken(check: Callable[[], bool], target: str, broken: Callable[..., object]) -> bool:
    """Run a check on code in which one name, `package.module.name`, is another."""
    with patch(target, broken):
        return check()


def unpredictable(draw: Callable[[], bytes]) -> bool:
    """Whether draws repeat neither from call to call, nor under NumPy's global seed, nor in two forks of a process."""
    draws = [draw(), draw()]
    state = np.random.get_state()
    try:
        for _ in range(2):
            np.random.seed(0)
            draws.append(draw())
    finally:
        np.random.set_state(state)
    draws += [_in_a_fork(draw), _in_a_fork(draw)]
    return len(set(draws)) == len(draws)


def _in_a_fork(draw: Callable[[], bytes]) -> bytes:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, draw())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        drawn = pipe.read()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return drawn
