"""Messages to and from Flower records: a frame in pieces, each a record of bytes; nothing is pickled.

Flower moves every record as objects of their own, one request each. A frame needs one record where an array with its
names would need four: of a short round most of the time is requests.
"""

from __future__ import annotations

import secrets

from flwr.app import ConfigRecord, RecordDict

from common.errors import Code, FedReasonError
from common.messages.frames import read_reply_frame, read_task_frame, reply_frame, task_frame
from common.messages.kinds import Reply, Task

PIECE_BYTES = 5_000_000
"""Largest piece, as Flower cuts arrays: the proxy in front of the SuperLink lets nothing larger than 6 MB through."""
_FRAME, _SALT = "frame", "salt"


def task_record(task: Task) -> RecordDict:
    """Pack a task."""
    return _record("task", task_frame(task))


def read_task(record: RecordDict) -> Task:
    """Unpack a task.

    Raises
    ------
    FedReasonError
        RUN_REPLY where the record is no task.
    """
    return read_task_frame(_frame("task", record))


def reply_record(reply: Reply) -> RecordDict:
    """Pack a reply, salted."""
    return salted(_record("reply", reply_frame(reply)))


def read_reply(record: RecordDict) -> Reply:
    """Unpack a reply.

    Raises
    ------
    FedReasonError
        RUN_REPLY where the record is not one of the replies.
    """
    return read_reply_frame(_frame("reply", record))


def salted(record: RecordDict) -> RecordDict:
    """Return a record that Flower stores under names which nobody could know before.

    It names what it stores by hashes of the content. Who knows one that is not there yet could say of it that it has
    other parts, and what is then sent under that name is refused.
    """
    salt, pieces = secrets.token_bytes(16), {name: record[name][_FRAME] for name in record}
    return RecordDict(
        {name: ConfigRecord({_FRAME: piece, _SALT: salt}) for name, piece in pieces.items() if isinstance(piece, bytes)}
    )


def _record(name: str, frame: bytes) -> RecordDict:
    pieces = range(0, len(frame), PIECE_BYTES)
    return RecordDict(
        {
            f"{name}.{number}": ConfigRecord({_FRAME: frame[start : start + PIECE_BYTES]})
            for number, start in enumerate(pieces)
        }
    )


def _frame(name: str, record: RecordDict) -> bytes:
    # Not by `config_records`: such a view holds itself and the record, and the message stays till that is noticed.
    try:
        pieces = [record[f"{name}.{number}"][_FRAME] for number in range(len(record))]
        return b"".join(piece for piece in pieces if isinstance(piece, bytes))
    except KeyError:
        raise FedReasonError(
            Code.RUN_REPLY, f"A message is no {name}.", "Install the same version of fedreason everywhere."
        ) from None
