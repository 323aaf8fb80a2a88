"""Answers of sites: nothing that one node sends stands for another's answer, or ends the run for all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.serverapp import Grid

from common.errors import FedReasonError
from common.messages.kinds import Contribution
from common.messages.parts import reply_of
from common.messages.records import read_reply, reply_record
from server.rounds import sending
from tests.privacy_checks import Check, on_broken
from tests.superlink import SuperLink

HONEST = Contribution("north", 1, 0, np.zeros(4, dtype=np.int64), None)
FORGED = Contribution("north", 1, 0, np.full(4, 2**40), None)
_HEAD = {"kind": "contribution", "site": "north", "round": 1, "attempt": 0, "counts": None}


def reply_to(message: Message) -> Message:
    """Return the honest answer to a message, as its site sends it."""
    reply = Message(reply_record(HONEST), reply_to=message)
    vars(reply.metadata)["_message_id"] = reply.object_id
    return reply


def check_addressed() -> bool:
    """What a node sends the ServerApp in another's name is no answer, be the site's own there yet or not."""
    with TemporaryDirectory() as folder:
        link = SuperLink(Path(folder))
        link.push(link.message(FORGED, SUPERLINK_NODE_ID))
        if sending.pull(cast(Grid, link), link.asked) is not None:
            return False
        link.push(reply_to(link.parcel().message))
        link.push(link.message(replace(FORGED, round=2), SUPERLINK_NODE_ID))
        return _honest(sending.pull(cast(Grid, link), link.asked))


def check_broken() -> bool:
    """What makes no message takes no site's answer along."""
    with TemporaryDirectory() as folder:
        link = SuperLink(Path(folder))
        link.push(reply_to(link.parcel().message))
        link.push(link.message(FORGED, SUPERLINK_NODE_ID), reply_record(FORGED))
        sending.drain(cast(Grid, link))
        return _honest(sending.pull(cast(Grid, link), link.asked))


def check_types() -> bool:
    """A field of another type is refused where the reply is read."""
    for name, value in (("round", True), ("round", "1"), ("attempt", 0.5), ("site", 3)):
        try:
            reply_of(_HEAD | {name: value}, {"total": HONEST.total})
        except FedReasonError:
            continue
        return False
    return True


def _honest(found: Message | None) -> bool:
    if found is None:
        return False
    reply = read_reply(found.content)
    return isinstance(reply, Contribution) and not reply.total.any()


def _whatever_came(grid: Grid, number: str) -> Message | None:
    return next(iter(grid.pull_messages([number])), None)


CHECKS = [
    Check(
        "answers: of whom was asked alone",
        check_addressed,
        {
            "whatever came is the answer": lambda: on_broken(
                check_addressed, "server.rounds.sending.pull", _whatever_came
            )
        },
    ),
    Check(
        "answers: what makes no message",
        check_broken,
        {
            "not fetched before": lambda: on_broken(check_broken, "server.rounds.sending.drain", lambda grid: None),
        },
    ),
    Check(
        "answers: fields of their types",
        check_types,
        {"taken as they come": lambda: on_broken(check_types, "common.messages.parts._PLAIN", {})},  # type: ignore[arg-type]
    ),
]
