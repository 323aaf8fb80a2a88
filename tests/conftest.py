"""Shared set-up: one thread, a small model on disk, a profile for laws; what is heavy is imported where it is used."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from itertools import count, zip_longest
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
# A thread that waits for another sleeps: the embedded model is made by two, and where a core is busy with other tests,
# one that spins would take more of the processor than the work itself. Bits do not depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Nothing is compiled here: a process begins without Inductor.
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from hypothesis import HealthCheck, settings

from common.processes import loading

# A law holds on a slow machine too; where all is checked (.ci/run), it is tried on the same examples each time.
settings.register_profile(
    "laws",
    deadline=None,
    suppress_health_check=(HealthCheck.too_slow,),
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
# `make test-fast` tries it on fewer.
settings.register_profile("few", settings.get_profile("laws"), max_examples=20)
settings.load_profile("laws")
LONGEST = ("slow", "deploy", "federation", "model")
"""Marks of tests, the longest first."""


def pytest_configure() -> None:
    """Heed ctrl-C: a shell has its background jobs ignore it, and so would all that they start."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Leave what stays until the end, libraries and tests, to no collector, which would look at all of it each time."""
    with loading():
        return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what works a model, and order the files.

    Those that take longest begin, that no core waits at the end for the other; a deployment, which waits a lot, runs
    beside files that compute.
    """
    ranks: dict[Path, int] = {}
    deployed = {item.path for item in items if item.get_closest_marker("deploy")}
    for item in items:
        if "small_model" in getattr(item, "fixturenames", ()):
            item.add_marker("model")
        if "browser" in getattr(item, "fixturenames", ()):
            item.add_marker("browser")
        rank = next((place for place, mark in enumerate(LONGEST) if item.get_closest_marker(mark)), len(LONGEST))
        ranks[item.path] = min(rank, ranks.get(item.path, rank))
    files = sorted(ranks, key=lambda path: ranks[path])
    sides = [[path for path in files if path in deployed], [path for path in files if path not in deployed]]
    order = [path for pair in zip_longest(*sides) for path in pair if path is not None]
    places = {path: place for place, path in enumerate(order)}
    items.sort(key=lambda item: places[item.path])


@pytest.fixture(autouse=True, scope="session")
def _hashes_cost_little() -> Iterator[None]:
    """Let a password's hash take little memory in this process; commands of their own take what people have."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("common.web.accounts._KIB", 256)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_power_is_cut() -> Iterator[None]:
    """Have nothing in this process wait for the disk: whatever a test kills, what was written to a file stays there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", os.fstat)
        yield


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for each test that asks, which is there once something is written to it."""
    folder = tmp_path_factory.mktemp("machines")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_machine(machines: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the sites of a test know nothing of another's."""
    monkeypatch.setenv("FEDREASON_STATE", str(next(machines)))


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """Leave no handler behind that writes to what a test captured, and let the next test hear."""
    yield
    logging.getLogger("fedreason").handlers.clear()
    logging.getLogger("fedreason").propagate = True


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a small Llama and its tokenizer: real, and trained for a few steps to box a letter."""
    from tests.small import make_small_model

    return make_small_model(tmp_path_factory.mktemp("model"))
