"""What travels between server and site, typed; records.py packs it.

Down: the run configuration, the round and the adapter. Up: an integer vector and, only where the site's policy says so,
counts. No number of patients, no text but the site's public name and the number of a refusal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from numpy.typing import NDArray

from common.arrays import Integers, Vector
from common.config import RunConfig
from common.messages.heads import Heads, Seen

Counts = dict[str, Any]


class Request(StrEnum):
    """What is asked of a site, as Flower's type of the message says it."""

    LAYOUT = "query"
    ESTIMATE = "query.ask"
    CONTRIBUTION = "train"
    SECURE = "train.secure"
    EVALUATION = "evaluate"


@dataclass(frozen=True)
class Task:
    """What the server asks for: a contribution or an evaluation at this adapter (None: only the layout).

    `roster_sha256` binds the task to the roster that the sites accepted (None: a simulation, which has none); `roster`
    is that signed document, sent with the questions that come before a run. `ledgers` is what the sites of a private
    run last saw of one another's ledgers. `step` is the coordinator's message in a secure sum. An evaluation may be
    that of the public questions (`public`), which are made from the codebook alone.
    """

    config: RunConfig
    round: int
    attempt: int
    adapter: Vector | None
    roster_sha256: str | None = None
    roster: str | None = None
    ledgers: Seen = field(default_factory=dict)
    step: dict[str, Any] | None = None
    public: bool = False


@dataclass(frozen=True)
class Layout:
    """A site's answer before the first round: how many parameters it would train, and a hash of them and their base.

    `ledgers`, here and below: the heads of its own ledger and of those it heard of, in a private run.
    """

    site: str
    size: int
    sha256: str
    ledgers: Heads = field(default_factory=dict)


@dataclass(frozen=True)
class Contribution:
    """A site's sum over its patients (fedsgd) or its adapter change (fedavg) in lattice units, int64."""

    site: str
    round: int
    attempt: int
    total: Integers
    counts: Counts | None
    ledgers: Heads = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """A site's message in a secure sum (`common.secagg.messages`): its head, and of a masked sum the residues."""

    site: str
    round: int
    attempt: int
    message: dict[str, Any]
    words: NDArray[Any] | None = None
    counts: Counts | None = None
    ledgers: Heads = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """A site's held-out counts, or None where its policy keeps them."""

    site: str
    round: int
    counts: Counts | None
    ledgers: Heads = field(default_factory=dict)


@dataclass(frozen=True)
class Estimate:
    """A site's answer before a run starts: it would take part, at so many seconds a group on a public example."""

    site: str
    seconds_per_group: float
    size: int


@dataclass(frozen=True)
class Refusal:
    """A site that will not or cannot: only the number travels.

    While the site makes its model, `progress` says after how many steps of how many; that is of no record.
    """

    site: str
    code: int
    progress: tuple[int, int] | None = None


Reply = Layout | Contribution | Step | Evaluation | Estimate | Refusal


def payload_bytes(message: Task | Reply) -> int:
    """Bytes of a message's content: arrays and text, without the transport's own framing."""
    if isinstance(message, Task):
        arrays = 0 if message.adapter is None else message.adapter.nbytes
        step = 0 if message.step is None else len(json.dumps(message.step))
        return arrays + len(message.config.model_dump_json()) + step
    if isinstance(message, Step):
        arrays = len(json.dumps(message.message)) + (0 if message.words is None else message.words.nbytes)
    else:
        arrays = message.total.nbytes if isinstance(message, Contribution) else 0
    counts = getattr(message, "counts", None)
    return arrays + (len(json.dumps(counts)) if counts else 0) + len(message.site)
