"""How long a round of a run will take: from rounds that were measured where there are any, else from the sites' probes.

A round waits for its slowest site, and costs a little beyond that site's own work: messages, sums, a checkpoint. A
secure sum takes five exchanges; a private answer leaves when a multiple of `privacy.answer_every` has passed.
"""

from __future__ import annotations

import json
import math
import sqlite3
import statistics
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from common.config import RunConfig
from common.errors import FedReasonError
from server.rounds.claim import claim_of

ROUND_SECONDS = 0.8
"""What a round takes beyond its slowest site's own work, on loopback (`python -m bench.round`)."""
EXCHANGES = 5
"""Of a secure sum, in place of one."""
_LATEST, _FEWEST = 30, 3
_LARGEST_RATIO = 2.0
"""Between the patients of a measured round and of the one to come: further off a fresh probe says more."""


@dataclass(frozen=True)
class Pace:
    """Seconds of a round; `rounds` of the run `run` were measured, none where sites' probes are all there is."""

    seconds: float
    rounds: int = 0
    run: str | None = None

    @property
    def rough(self) -> bool:
        """Whether no such round was ever measured."""
        return self.rounds == 0


@dataclass(frozen=True)
class Measured:
    """A run, and what its rounds took in seconds when every site contributed."""

    config: RunConfig
    seconds: tuple[float, ...]


def groups_per_round(config: RunConfig) -> float:
    """Return how many groups a site of average size samples in a round, from the public constants alone."""
    federation = config.federation
    patients = federation.population / federation.sites * federation.sampling_rate
    return patients * config.questions.per_patient * federation.local_steps


def groups_of_the_slowest(config: RunConfig) -> float:
    """Return how many groups the site samples that has most in a round, all being of average size.

    Each patient is drawn by a coin. The largest of n about normal numbers lies about as far out as the quantile at
    (n - 3/8) / (n + 1/4) (Blom 1958).
    """
    federation = config.federation
    patients = federation.population / federation.sites * federation.sampling_rate
    spread = math.sqrt(patients * (1 - federation.sampling_rate))
    highest = statistics.NormalDist().inv_cdf((federation.sites - 0.375) / (federation.sites + 0.25))
    return (patients + highest * spread) * config.questions.per_patient * federation.local_steps


def pace(config: RunConfig, seconds_per_group: Iterable[float], measured: Iterable[Measured]) -> Pace | None:
    """Return what a round of a run will take, None where nothing is known.

    Parameters
    ----------
    config
        The run.
    seconds_per_group
        What each site that would take part said.
    measured
        Runs whose rounds may be compared, the best first; see `comparable`.
    """
    for one in measured:
        ratio = groups_of_the_slowest(config) / groups_of_the_slowest(one.config)
        if len(one.seconds) >= _FEWEST and 1 / _LARGEST_RATIO <= ratio <= _LARGEST_RATIO:
            latest = one.seconds[-_LATEST:]
            typical = statistics.median(latest)
            own = max(0.0, typical - _overhead(config))
            seconds = typical - own + own * ratio
            return Pace(seconds, len(latest), one.config.name)
    slowest = max(seconds_per_group, default=None)
    return None if slowest is None else Pace(_overhead(config) + _told_after(slowest, config))


def _overhead(config: RunConfig) -> float:
    return ROUND_SECONDS * (EXCHANGES if config.secure else 1)


def _told_after(seconds_per_group: float, config: RunConfig) -> float:
    """Return after how many seconds the answer of the slowest site leaves."""
    work = seconds_per_group * groups_of_the_slowest(config)
    every = 0.0 if config.privacy is None else config.privacy.answer_every
    return work if every == 0 else max(1, math.ceil(work / every)) * every


def comparable(runs: Path, config: RunConfig) -> Iterator[Measured]:
    """Yield the runs of a federation that ask the same work of a group: this very run first, then the latest."""
    found = [(folder, other) for folder in runs.glob("*/") if (other := _config_of(folder)) and _same(other, config)]
    for folder, other in sorted(found, key=lambda pair: (pair[1].name != config.name, -pair[0].stat().st_mtime)):
        yield Measured(other, _seconds(folder))


def _same(one: RunConfig, other: RunConfig) -> bool:
    return _work(one) == _work(other)


def _work(config: RunConfig) -> tuple[object, ...]:
    """Return what the time of a group depends on, beside the machine."""
    questions, federation = config.questions, config.federation
    asked = questions.codebook_sha256, questions.view, questions.per_patient, questions.weights
    return (
        config.model,
        config.adapter,
        config.grpo,
        asked,
        None if config.privacy is None else config.privacy.answer_every,
        federation.protocol,
        federation.aggregation,
        federation.sites,
    )


def _config_of(folder: Path) -> RunConfig | None:
    try:
        return RunConfig.model_validate(claim_of(folder)["config"])
    except (FedReasonError, OSError, LookupError, ValidationError):
        return None


def _seconds(folder: Path) -> tuple[float, ...]:
    """Read without disturbing a run that goes on; one that is no such file, or is damaged, has no rounds."""
    try:
        address = f"{(folder / 'rounds.sqlite').resolve().as_uri()}?mode=ro"
        with closing(sqlite3.connect(address, uri=True)) as connection:
            rows = connection.execute("SELECT seconds, refused FROM rounds ORDER BY round").fetchall()
        return tuple(float(seconds) for seconds, refused in rows if json.loads(refused or "{}") == {})
    except (sqlite3.Error, ValueError, TypeError):
        return ()
