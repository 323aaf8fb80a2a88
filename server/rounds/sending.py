"""Messages are handed to the SuperLink and answers fetched from it, with what Flower leaves open.

The one file of the coordinator that imports what Flower calls its own (flwr 1.41): two exceptions that its grid raises.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

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
from server.services.heard import answers

_log = logger("server")
_NO_MESSAGE = (
    AttributeError, LookupError, RecursionError, TypeError, ValueError, DecodeError, UnexpectedObjectContentError,
)  # fmt: skip
"""What Flower raises over objects that do not make a message."""
_ANSWER_SECONDS, _STRAY_SECONDS = 30.0, 2.0
_Found = TypeVar("_Found")


class Answers:
    """Answers that wait at the SuperLink, by its state on disk, and are fetched from it.

    One of which parts are missing is left there: Flower would wait for them for minutes, in which no other is heard,
    and takes none any more from a site that died over them and sends them anew. A message that the SuperLink does not
    know any more, which was lost or has expired, is asked for: then Flower says so. Where the state cannot be read, as
    in a simulation, all are asked for at every look.
    """

    def __init__(self, grid: Grid, federation: Federation | None) -> None:
        self._grid, self._federation = grid, federation
        self._under_way: dict[str, Future[Message | None]] = {}

    def waiting(self, numbers: Collection[str]) -> set[str]:
        """Return those of these messages whose answers are worth asking for; all others are forgotten."""
        self._under_way = {number: found for number, found in self._under_way.items() if number in numbers}
        found = answers(self._federation, self._grid.run.run_id) if self._federation and numbers else None
        if found is None:
            return set(numbers)
        whole, open_ones = found
        return {one for one in numbers if one in whole or one in self._under_way or one not in open_ones}

    def under_way(self, number: str) -> bool:
        """Whether the answer to a message is being fetched, and what came with it is not here yet."""
        return number in self._under_way

    def fetch(self, number: str) -> Message | None:
        """Return the answer to a message, None where it is not there yet.

        What comes with it may have parts missing: then it is waited for aside, and a later look has it.
        """
        under_way = self._under_way.pop(number, None)
        if under_way is None:
            under_way = _aside(lambda: pull(self._grid, number), _ANSWER_SECONDS)
        if under_way.done():
            return under_way.result()
        self._under_way[number] = under_way
        return None


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
    """Fetch what nodes addressed to the ServerApp before an answer is, which it could take along.

    What has parts missing is waited for aside; nothing of it is kept.
    """
    strays = _aside(lambda: _pulled(grid, []), _STRAY_SECONDS)
    if strays.done():
        strays.result()
    else:
        _log.warning("a node sends a message that nobody asked for and keeps its parts back: not waited for")


def _aside(work: Callable[[], _Found], seconds: float) -> Future[_Found]:
    """Do it in a thread that may outlive this one's patience, which waits for it so long."""
    found: Future[_Found] = Future()

    def do() -> None:
        try:
            found.set_result(work())
        except Exception as error:
            found.set_exception(error)

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    thread.join(seconds)
    return found


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
