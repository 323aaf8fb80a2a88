"""Messages are handed to the SuperLink and answers fetched from it, with what Flower leaves open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import UnexpectedObjectContentError
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from common.errors import Code, FedReasonError
from common.logs import logger, place_of
from common.messages.kinds import Refusal, Reply
from common.messages.records import read_reply
from server.provisioning.federation import Federation
from server.services.heard import unfetched

_log = logger("server")
_NO_MESSAGE = (
    AttributeError, LookupError, RecursionError, TypeError, ValueError, DecodeError, UnexpectedObjectContentError,
)  # fmt: skip
"""What Flower raises over objects that do not make a message."""
_ANYWAY_SECONDS = 5.0


class Answers:
    """Which answers are worth asking the SuperLink for: those that wait there, by its state on disk.

    Every question costs it work. All are asked for every few seconds nevertheless: that a message was
    lost or has expired, Flower says only then. So they are where the state cannot be read, as in a simulation.
    """

    def __init__(self, grid: Grid, federation: Federation | None) -> None:
        self._grid, self._federation = grid, federation
        self._asked = float("-inf")

    def waiting(self) -> set[str] | None:
        """Return the messages whose answers wait, None where any may have one."""
        if self._federation is None or time.monotonic() - self._asked > _ANYWAY_SECONDS:
            self._asked = time.monotonic()
            return None
        return unfetched(self._federation, self._grid.run.run_id)


def send(grid: Grid, messages: Sequence[Message]) -> set[str]:
    """Send messages and return the numbers of those that the SuperLink took.

    Flower sends a message's header, then its objects, and repeats what was not answered. An object that was stored
    before the SuperLink died is then refused, and Flower gives up, though the site may have the whole message: it is
    sent again, and a site that has both answers the second as it did the first.
    """
    try:
        return set(grid.push_messages(messages))
    except ObjectPushError:
        _log.warning("the SuperLink died while messages were sent; they are sent again")
        return set()


def pull(grid: Grid, number: str) -> Message | None:
    """Return the answer to a message, None where it is not there yet.

    Flower 1.41 gives out with it whatever any node addressed to the ServerApp, in whoever's name: what answers another
    message, or none, is left aside. So is what cannot be put together; where the answer was among it, the next look is
    told that it is gone.
    """
    answers = [message for message in _pulled(grid, [number]) if message.metadata.reply_to_message_id == number]
    return next(iter(answers), None)


def drain(grid: Grid) -> None:
    """Fetch what nodes addressed to the ServerApp before an answer is, which it could take along."""
    _pulled(grid, [])


def _pulled(grid: Grid, numbers: list[str]) -> list[Message]:
    try:
        pulled = list(grid.pull_messages(numbers))
    except _NO_MESSAGE as error:
        _log.warning("a node sent what makes no message: left aside (%s)", place_of(error))
        return []
    if strays := sum(message.metadata.reply_to_message_id not in numbers for message in pulled):
        _log.warning("%d messages came that answer none of ours: left aside", strays)
    return pulled


def read(message: Message, name: str, *, named: bool) -> Reply:
    """Read the answer of a node; where nodes have names, it must bear that of the node that was asked."""
    try:
        reply = read_reply(message.content)
    except FedReasonError as error:
        return Refusal(name, int(error.code))
    if not named:
        return reply
    if isinstance(reply, Refusal):
        return replace(reply, site=name)
    return reply if reply.site == name else Refusal(name, int(Code.SITE_IDENTITY))
