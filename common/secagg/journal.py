"""What a site must have on its disk before a message of a session leaves, so that no session is ever answered twice.

It holds no key: a process that died cannot go on with its session, and with the journal no other can begin it again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, NamedTuple, Protocol

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
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


class Tally(NamedTuple):
    """Of one round: the last attempt that was answered, and how many of its sums were begun."""

    attempt: int
    begun: int = 0


_ALL = 2**53
"""As an attempt: none of the round is answered again."""


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Entry:
    """The last session of one run.

    Attributes
    ----------
    session
        Its id, in hexadecimal.
    round, attempt
        Which one it is.
    turn
        The last message that may have left.
    cohort, threshold
        As this site saw and computed them.
    agreed
        Hash of the statement that it signed.
    inputs
        Hashes of the sums, but for zeros, that it masked in the attempts at this round since it was last begun.
    rounds
        By round: no attempt up to the one that stands there is answered again. A run that is taken back does earlier
        rounds once more, as their next attempts.
    """

    session: str
    round: int
    attempt: int
    turn: Turn = "advertised"
    cohort: tuple[str, ...] = ()
    threshold: int = 0
    agreed: str | None = None
    inputs: tuple[str, ...] = ()
    rounds: dict[int, Tally] = Field(default_factory=dict)

    def tallies(self) -> dict[int, Tally]:
        """Return `rounds`; an entry by a version before knows nothing of earlier ones, and none is answered again."""
        if self.rounds:
            return dict(self.rounds)
        return dict.fromkeys(range(self.round), Tally(_ALL)) | {self.round: Tally(self.attempt, len(self.inputs))}


_RUNS: TypeAdapter[dict[str, Entry]] = TypeAdapter(dict[str, Entry])


class Journal:
    """One session's line in the store."""

    def __init__(self, store: Store, session: Session) -> None:
        self._store, self._session = store, session
        self._last: Entry | None = None

    def open(self, most: int) -> None:
        """Write that this session is answered.

        Parameters
        ----------
        most
            Sums of one round that are begun.

        Raises
        ------
        FedReasonError
            SECAGG_REPLAYED where it, or a later attempt at its round, was answered before; SECAGG_COHORT where so many
            of the round's sums were begun.
        """
        session = self._session
        runs = self._runs()
        before = runs.get(session.run)
        rounds = {} if before is None else before.tallies()
        answered = rounds.get(session.round, Tally(-1))
        if session.attempt <= answered.attempt:
            raise _replayed(
                f"Attempt {session.attempt + 1} at round {session.round} of {session.run} was asked for, and this site "
                "has answered it, or one after it"
            )
        if answered.begun >= most:
            raise FedReasonError(
                Code.SECAGG_COHORT,
                f"{answered.begun} sums of round {session.round} of {session.run} were begun, and this site begins "
                f"{most}.",
                "Find out why the round does not end; no message changes this limit.",
            )
        rounds[session.round] = answered._replace(attempt=session.attempt)
        inputs = before.inputs if before is not None and before.round == session.round else ()
        self._write(runs, Entry(session.id.hex(), session.round, session.attempt, inputs=inputs, rounds=rounds))

    def turn(
        self, turn: Turn, *, cohort: tuple[str, ...] | None = None, threshold: int = 0, agreed: str | None = None
    ) -> None:
        """Write which message leaves next, and what is now fixed."""
        runs, last = self._mine()
        changed = replace(last, turn=turn)
        if turn == "masked":
            answered = last.rounds[last.round]
            rounds = {**last.rounds, last.round: answered._replace(begun=answered.begun + 1)}
            changed = replace(changed, rounds=rounds)
        if cohort is not None:
            changed = replace(changed, cohort=cohort, threshold=threshold)
        if agreed is not None:
            changed = replace(changed, agreed=agreed)
        self._write(runs, changed)

    def mask(self, digest: str | None) -> None:
        """Write the hash of a sum before it is masked; None for zeros, which may come again.

        Raises
        ------
        FedReasonError
            SECAGG_REPLAYED where an earlier attempt masked the same: two survivor sets would subtract.
        """
        runs, last = self._mine()
        if digest in last.inputs:
            raise _replayed("The sum is the one that this site masked in an earlier attempt at this round")
        self._write(runs, replace(last, inputs=last.inputs if digest is None else (*last.inputs, digest)))

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
