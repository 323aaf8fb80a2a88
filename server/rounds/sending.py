"""Messages are handed to the SuperLink; where it dies meanwhile they count as not sent, and are sent again."""

from __future__ import annotations

from collections.abc import Sequence

from flwr.app import Message
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_utils import ObjectPushError

from common.logs import logger

_log = logger("server")


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
