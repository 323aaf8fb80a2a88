"""What a site must have on its disk before a message of a session leaves, so that no session is ever answered twice.

It holds no key: a process that died cannot go on with its session, and with the journal no other can begin it again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, Protocol

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from common.errors import Code, FedReasonError
from common.secagg.session import Session

Turn = Literal["advertised", "shared", "masked", "consented", "revealed"]


class Store(Protocol):
    """Where the journal is kept; one process at a time."""

    def read(self) -> bytes | None:
        """Return what was written last; None where nothing ever was."""
        ...

    def write(self, content: bytes) -> None:
        """Replace it; on the disk (fsync) when this returns, or nothing has changed and this raises."""
        ...


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Entry:
    """The last session of one run.

    Attributes
    ----------
    session
        Its id, in hexadecimal.
    round, attempt
        Nothing at or before these is answered again.
    turn
        The last message that may have left.
    cohort, threshold
        As this site saw and computed them.
    agreed
        Hash of the statement that it signed.
    inputs
        Hashes of the sums that it masked in the attempts at this round.
    """

    session: str
    round: int
    attempt: int
    turn: Turn = "advertised"
    cohort: tuple[str, ...] = ()
    threshold: int = 0
    agreed: str | None = None
    inputs: tuple[str, ...] = ()


_RUNS: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])


class Journal:
    """One session's line in the store."""

    def __init__(self, store: Store, session: Session) -> None:
        self._store, self._session = store, session
        self._last: Entry | None = None

    def open(self) -> None:
        """Write that this session is answered.

        Raises
        ------
        FedReasonError
            SECAGG_REPLAYED where it, or a later one of the run, was answered before.
        """
        session = self._session
        runs = self._runs()
        before = runs.get(session.run)
        if before is not None and (session.round, session.attempt) <= (before.round, before.attempt):
            raise _replayed(
                f"Round {session.round}, attempt {session.attempt} of {session.run} was asked for, and this site has"
                f" answered round {before.round}, attempt {before.attempt}"
            )
        inputs = before.inputs if before is not None and before.round == session.round else ()
        self._write(runs, Entry(session.id.hex(), session.round, session.attempt, inputs=inputs))

    def turn(
        self, turn: Turn, *, cohort: tuple[str, ...] | None = None, threshold: int = 0, agreed: str | None = None
    ) -> None:
        """Write which message leaves next, and what is now fixed."""
        runs, last = self._mine()
        changed = replace(last, turn=turn)
        if cohort is not None:
            changed = replace(changed, cohort=cohort, threshold=threshold)
        if agreed is not None:
            changed = replace(changed, agreed=agreed)
        self._write(runs, changed)

    def mask(self, digest: str) -> None:
        """Write the hash of a sum before it is masked.

        Raises
        ------
        FedReasonError
            SECAGG_REPLAYED where an earlier attempt masked the same: two survivor sets would subtract.
        """
        runs, last = self._mine()
        if digest in last.inputs:
            raise _replayed("The sum is the one that this site masked in an earlier attempt at this round")
        self._write(runs, replace(last, inputs=(*last.inputs, digest)))

    def _mine(self) -> tuple[dict[str, Entry], Entry]:
        """Return the journal and this session's line, which must be as it was left."""
        runs = self._runs()
        last = self._last
        if last is None or runs.get(self._session.run) != last:
            raise _replayed("The journal is not as this session left it: it was put back, or two processes share it")
        return runs, last

    def _runs(self) -> dict[str, Entry]:
        content = self._store.read()
        try:
            return {} if content is None else _RUNS.validate_json(content)
        except ValidationError:
            raise _replayed("The journal of secure aggregation cannot be read") from None

    def _write(self, runs: dict[str, Entry], entry: Entry) -> None:
        self._store.write(_RUNS.dump_json({**runs, self._session.run: entry}))
        self._last = entry


def _replayed(what: str) -> FedReasonError:
    return FedReasonError(
        Code.SECAGG_REPLAYED, f"{what}.", "Nothing was sent. The coordinator asks for the round as a new attempt."
    )
