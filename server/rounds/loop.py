"""The round loop: ask the sites, add their integers one reply at a time, step, checkpoint.

It knows nothing of how messages travel: an exchange yields replies, over Flower's Grid or in one process.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from common.arrays import Floats, Integers, Vector, adapter_sha256, zero_adapter
from common.collapse import collapse
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.lattice import LARGEST, add, from_lattice, within
from common.logs import logger
from common.messages.heads import Gathered
from common.messages.kinds import Contribution, Evaluation, Layout, Refusal, Reply, Task, payload_bytes
from common.processes import loading
from server.rounds.exchange import Exchange
from server.rounds.guard import Guard
from server.rounds.refusals import all_told, remedy, told
from server.rounds.secure import SecureSum, secure_sum
from server.rounds.shares import mean_reward, possible
from server.rounds.stages import Timed
from server.rounds.store import Checkpoint, EvaluationRow, RoundRow, RunStore, StagesRow

_log = logger("server")


@dataclass
class RoundSum:
    """Running sum of one round; a part with a value beyond `largest` is of no site that keeps to the run."""

    total: Integers
    largest: int = int(LARGEST)
    sites: list[str] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    bytes_up: int = 0
    bytes_down: int = 0

    def take(self, reply: Reply, task: Task) -> None:
        """Add one reply; one that is refused, late or of another shape is left out with its number."""
        self.bytes_up += payload_bytes(reply)
        if isinstance(reply, Refusal):
            self._leave_out(reply.site, reply.code)
        elif (
            not isinstance(reply, Contribution)
            or not _answers(reply, task)
            or reply.total.shape != self.total.shape
            or reply.site in self.sites
        ):
            self._leave_out(reply.site, int(Code.RUN_REPLY))
        else:
            try:
                self.total = add(self.total, within(reply.total, self.largest))
            except FedReasonError as error:
                self._leave_out(reply.site, int(error.code))
                return
            self.sites.append(reply.site)
            self.counts.update(reply.counts or {})

    def _leave_out(self, site: str, code: int) -> None:
        _log.warning("left out of the round: %s", told(site, code))
        self.refused[site] = code


def _answers(reply: Contribution, task: Task) -> bool:
    """Whether a reply is of this round; in a private run also one that a site was asked for anew (`Asked.attempt`)."""
    later = task.config.privacy is not None and reply.attempt > task.attempt
    return reply.round == task.round and (later or reply.attempt == task.attempt)


@dataclass(frozen=True)
class Progress:
    """What is told after each round."""

    round: int
    rounds: int
    seconds: float
    sites: int
    reward: float | None
    bytes_up: int
    bytes_down: int
    collapse: tuple[str, ...] = ()


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
    if at is not None and at.round == federation.rounds:
        return at.adapter
    exchange = timed = Timed(exchange)
    ledgers = Gathered(None if exchange.roster is None else exchange.roster.sites)
    layout = agreed_layout(config, exchange, ledgers)
    size = layout.size
    adapter = zero_adapter(size) if at is None else at.adapter
    if adapter.size != size:
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"The run's adapter has {adapter.size} parameters, the sites would now train {size}.",
            "Every site needs the base model files and the version of fedreason that the run was started with.",
        )
    # It needs torch: a question before a run does not, nor does one that waits for its sites.
    with loading():
        from common.model.optimizer import Optimizer

    optimizer = Optimizer(config.optimizer, adapter, federation.rounds)
    guard = None if config.guard is None else Guard(config, exchange, store, ledgers)
    if at is None:
        evaluate(config, exchange, store, 0, 0, adapter, ledgers)
        at = Checkpoint(0, adapter, {})
        if guard is not None:
            guard.look(0, adapter, {})
        store.record(StagesRow(round=0, stages=timed.taken()))
        store.save(at)
    elif federation.protocol == "fedsgd":
        optimizer.restore(at.optimizer)
    if guard is not None:
        guard.resumed(at)
    redone, faults = at.redone, dict[str, int]()
    for number in range(at.round + 1, federation.rounds + 1):
        started = time.monotonic()
        attempt = 0 if config.privacy is None else redone.get(number, 0)
        task = Task(config, number, attempt, adapter, ledgers=ledgers.seen())
        gathered = (
            secure_sum(task, exchange, layout, store, ledgers, faults)
            if config.secure
            else gather(task, exchange, size, config.quorum, ledgers)
        )
        require_quorum(config, len(gathered.sites), gathered.refused, exchange, "contributed")
        mean = from_lattice(gathered.total, config.unit) / config.divisor
        if federation.protocol == "fedsgd":
            optimizer.step(mean, number)
            adapter = optimizer.adapter
        else:
            adapter = (adapter.astype(np.float64) + mean).astype(np.float32)
        seconds, bytes_down = time.monotonic() - started, gathered.bytes_down or _sent(task, exchange)
        store.record(round_row(number, seconds, gathered, bytes_down, adapter, mean))
        every = config.evaluation.every
        if number == federation.rounds or (every and number % every == 0):
            evaluate(config, exchange, store, number, attempt, adapter, ledgers)
        after = Checkpoint(number, adapter, optimizer.state() if federation.protocol == "fedsgd" else {}, redone)
        looked = guard is not None and guard.due(number, adapter)
        if guard is not None and looked:
            guard.look(number, adapter, redone)
        store.record(StagesRow(round=number, stages=timed.taken()))
        store.save(after)
        if looked:
            store.save(after, good=True)
        reward = mean_reward(gathered.counts)
        sites, bytes_up = len(gathered.sites), gathered.bytes_up
        collapsed = collapse([row.counts for row in store.rounds() if row.counts]) or (guard.collapse if guard else ())
        report(Progress(number, federation.rounds, seconds, sites, reward, bytes_up, bytes_down, collapsed))
    return adapter


def agreed_layout(config: RunConfig, exchange: Exchange, ledgers: Gathered) -> Layout:
    """Return the number of trained parameters and their hash, which all sites must agree on.

    Raises
    ------
    FedReasonError
        Where sites differ, or too few answer.
    """
    layouts: list[Layout] = []
    refused: dict[str, int] = {}
    for reply in exchange.layouts(Task(config, 0, 0, None), lambda: len(layouts) >= config.quorum):
        if isinstance(reply, Layout):
            layouts.append(reply)
            ledgers.take(reply.site, reply.ledgers)
        else:
            refused[reply.site] = reply.code if isinstance(reply, Refusal) else int(Code.RUN_REPLY)
            _log.warning("%s", told(reply.site, refused[reply.site]))
        if len(refused) > exchange.expected - config.quorum:
            break
    if len({(layout.size, layout.sha256) for layout in layouts}) > 1:
        raise FedReasonError(
            Code.MODEL_ADAPTER,
            f"The sites' adapters differ: {', '.join(f'{x.site} {x.size} ({x.sha256[:8]})' for x in layouts)}.",
            "Every site needs the same base model files and version of fedreason.",
        )
    require_quorum(config, len(layouts), refused, exchange, "answered")
    return layouts[0]


def gather(task: Task, exchange: Exchange, size: int, quorum: int, ledgers: Gathered) -> RoundSum:
    """Add up one round's replies as they come, until there are enough or there cannot be."""
    gathered = RoundSum(np.zeros(size, dtype=np.int64), largest_part(task.config))
    for reply in exchange.contributions(task, lambda: len(gathered.sites) >= quorum):
        gathered.take(reply, task)
        if isinstance(reply, Contribution):
            ledgers.take(reply.site, reply.ledgers)
        if len(gathered.refused.keys() - gathered.sites) > exchange.expected - quorum:
            break
    return gathered


def largest_part(config: RunConfig) -> int:
    """Return the largest value of a site's part of a round, in lattice units.

    Where no patient counts for more than the run's clip norm it is that of the whole population.
    """
    clipped = config.privacy is not None or config.lattice.clip_norm is not None
    return config.most_units if clipped and config.federation.protocol == "fedsgd" else int(LARGEST)


def require_quorum(config: RunConfig, count: int, refused: dict[str, int], exchange: Exchange, did: str) -> None:
    """Stop the run where too few sites `did` what they were asked; what was done is kept."""
    if count >= config.quorum:
        return
    refused = dict.fromkeys(exchange.absent, int(Code.RUN_ABSENT)) | refused
    reasons = "".join(f" {line}." for line in all_told(refused))
    raise FedReasonError(
        Code.RUN_QUORUM,
        f"{count} of {config.federation.sites} sites {did}; the quorum is {config.quorum}.{reasons}",
        remedy(refused),
    )


def evaluate(
    config: RunConfig,
    exchange: Exchange,
    store: RunStore,
    number: int,
    attempt: int,
    adapter: Vector,
    ledgers: Gathered,
) -> None:
    """Ask for held-out counts and record those that sites let out; what can be none of a site's is left out."""
    task = Task(config, number, attempt, adapter, ledgers=ledgers.seen())
    for reply in exchange.evaluations(task, lambda: True):
        if not isinstance(reply, Evaluation):
            continue
        ledgers.take(reply.site, reply.ledgers)
        if reply.round != number or not possible(reply.counts or {}, config):
            _log.warning("left out of the evaluation: %s", told(reply.site, int(Code.RUN_REPLY)))
        elif reply.counts is not None:
            store.record(EvaluationRow(round=number, site=reply.site, counts=reply.counts))


def _sent(task: Task, exchange: Exchange) -> int:
    """Return how many bytes went to the sites, each time that one was asked."""
    return payload_bytes(task) * sum(exchange.asked.values())


def round_row(
    number: int, seconds: float, gathered: RoundSum | SecureSum, bytes_down: int, adapter: Vector, mean: Floats
) -> RoundRow:
    """Return the row of a finished round."""
    return RoundRow(
        round=number,
        seconds=seconds,
        sites=sorted(gathered.sites),
        refused=gathered.refused,
        bytes_up=gathered.bytes_up,
        bytes_down=bytes_down,
        counts=dict(gathered.counts) or None,
        gradient_norm=float(np.sqrt(np.square(mean).sum())),
        adapter_sha256=adapter_sha256(adapter),
    )
