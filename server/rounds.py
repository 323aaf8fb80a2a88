"""The round loop: ask the sites, add their integers one reply at a time, step, checkpoint.

It knows nothing of how messages travel: an exchange yields replies, over Flower's Grid or in one process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from common.arrays import Floats, Integers, Vector, adapter_sha256
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.lattice import add, from_lattice
from common.logs import logger
from common.messages import Contribution, Evaluation, Layout, Refusal, Reply, Task, payload_bytes
from common.optimizer import Optimizer
from server.store import Checkpoint, EvaluationRow, RoundRow, RunStore, zero_adapter

_log = logger("server")


class Exchange(Protocol):
    """Carries a task to every site and yields what comes back, as it comes."""

    def layouts(self, task: Task) -> Iterator[Reply]:
        """Ask which parameters each site would train."""
        ...

    def contributions(self, task: Task) -> Iterator[Reply]:
        """Ask for each site's part of a round."""
        ...

    def evaluations(self, task: Task) -> Iterator[Reply]:
        """Ask for each site's held-out counts."""
        ...


@dataclass
class RoundSum:
    """Running sum of one round."""

    total: Integers
    sites: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0

    def take(self, reply: Reply, task: Task) -> None:
        """Add one reply; one that is refused, late or of another shape is left out with its number."""
        self.bytes_up += payload_bytes(reply)
        if isinstance(reply, Refusal):
            self._leave_out(reply.site, reply.code)
        elif (
            not isinstance(reply, Contribution)
            or (reply.round, reply.attempt) != (task.round, task.attempt)
            or reply.total.shape != self.total.shape
            or reply.site in self.sites
        ):
            self._leave_out(reply.site, int(Code.RUN_REPLY))
        else:
            try:
                self.total = add(self.total, reply.total)
            except FedReasonError as error:
                self._leave_out(reply.site, int(error.code))
                return
            self.sites.append(reply.site)
            self.counts.update(reply.counts or {})

    def _leave_out(self, site: str, code: int) -> None:
        _log.warning("round without %s: it refused or failed with E%d", site, code)
        self.refused[site] = code


@dataclass(frozen=True)
class Progress:
    """What is told after each round."""

    round: int
    rounds: int
    seconds: float
    sites: int
    reward: float | None


def run_rounds(
    config: RunConfig, exchange: Exchange, store: RunStore, report: Callable[[Progress], None] = lambda progress: None
) -> Vector:
    """Run or resume a federation and return its adapter.

    Raises
    ------
    FedReasonError
        Where fewer sites than the quorum take part; what was done is kept, and a second start goes on from there.
    """
    federation = config.federation
    at = store.load()
    size = agreed_size(config, exchange) if at is None else at.adapter.size
    adapter = zero_adapter(size) if at is None else at.adapter
    optimizer = Optimizer(config.optimizer, adapter, federation.rounds)
    if at is None:
        evaluate(config, exchange, store, 0, adapter)
        store.save(Checkpoint(0, adapter, {}))
    elif federation.protocol == "fedsgd":
        optimizer.restore(at.optimizer)
    for number in range((at.round if at else 0) + 1, federation.rounds + 1):
        started = time.monotonic()
        task = Task(config, number, 0, adapter)
        gathered = gather(task, exchange, size)
        require_quorum(config, gathered)
        mean = from_lattice(gathered.total, config.lattice.bits) / config.divisor
        if federation.protocol == "fedsgd":
            optimizer.step(mean, number)
            adapter = optimizer.adapter
        else:
            adapter = (adapter.astype(np.float64) + mean).astype(np.float32)
        seconds = time.monotonic() - started
        store.record(round_row(number, seconds, gathered, task, adapter, mean))
        every = config.evaluation.every
        if number == federation.rounds or (every and number % every == 0):
            evaluate(config, exchange, store, number, adapter)
        store.save(Checkpoint(number, adapter, optimizer.state() if federation.protocol == "fedsgd" else {}))
        rollouts = gathered.counts["rollouts"]
        reward = gathered.counts["reward"] / rollouts if rollouts else None
        report(Progress(number, federation.rounds, seconds, len(gathered.sites), reward))
    return adapter


def agreed_size(config: RunConfig, exchange: Exchange) -> int:
    """Return the number of trained parameters, which all sites must agree on.

    Raises
    ------
    FedReasonError
        Where sites differ, or too few answer.
    """
    layouts: list[Layout] = []
    for reply in exchange.layouts(Task(config, 0, 0, None)):
        if isinstance(reply, Layout):
            layouts.append(reply)
        elif isinstance(reply, Refusal):
            _log.warning("%s will not take part: E%d", reply.site, reply.code)
    if len({(layout.size, layout.sha256) for layout in layouts}) > 1:
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"The sites' adapters differ: {', '.join(f'{x.site} {x.size} ({x.sha256[:8]})' for x in layouts)}.",
            "Every site needs the same base model files and version of fedreason.",
        )
    if len(layouts) < config.quorum:
        raise _no_quorum(config, len(layouts), "answered")
    return layouts[0].size


def gather(task: Task, exchange: Exchange, size: int) -> RoundSum:
    """Add up one round's replies as they come."""
    gathered = RoundSum(np.zeros(size, dtype=np.int64))
    for reply in exchange.contributions(task):
        gathered.take(reply, task)
    return gathered


def require_quorum(config: RunConfig, gathered: RoundSum) -> None:
    """Stop the run where too few sites contributed."""
    if len(gathered.sites) < config.quorum:
        reasons = ", ".join(f"{site} E{code}" for site, code in sorted(gathered.refused.items()))
        raise _no_quorum(config, len(gathered.sites), f"contributed ({reasons})" if reasons else "contributed")


def _no_quorum(config: RunConfig, count: int, did: str) -> FedReasonError:
    return FedReasonError(
        Code.RUN_QUORUM,
        f"{count} of {config.federation.sites} sites {did}; the quorum is {config.quorum}.",
        "Bring the sites back and start the run again: it goes on from its last round.",
    )


def evaluate(config: RunConfig, exchange: Exchange, store: RunStore, number: int, adapter: Vector) -> None:
    """Ask for held-out counts and record those that sites let out."""
    for reply in exchange.evaluations(Task(config, number, 0, adapter)):
        if isinstance(reply, Evaluation) and reply.counts is not None:
            store.record(EvaluationRow(round=number, site=reply.site, counts=reply.counts))


def round_row(number: int, seconds: float, gathered: RoundSum, task: Task, adapter: Vector, mean: Floats) -> RoundRow:
    """Return the row of a finished round."""
    return RoundRow(
        round=number,
        seconds=seconds,
        sites=sorted(gathered.sites),
        refused=gathered.refused,
        bytes_up=gathered.bytes_up,
        bytes_down=payload_bytes(task) * (len(gathered.sites) + len(gathered.refused)),
        counts=dict(gathered.counts) or None,
        gradient_norm=float(np.sqrt(np.square(mean).sum())),
        adapter_sha256=adapter_sha256(adapter),
    )
