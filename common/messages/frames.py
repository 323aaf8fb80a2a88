"""Messages as bytes, for the network, the pipe between a site's two processes and its disk; nothing is pickled.

A frame is the length of its head, the head as JSON, and the arrays as safetensors.
"""

from __future__ import annotations

import json

from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import Code, FedReasonError
from common.messages.kinds import Reply, Task
from common.messages.parts import Parts, reply_of, reply_parts, task_of, task_parts

_HEAD = 8
_DEEPEST = 32
"""Of lists and tables within one another in a head."""


def task_frame(task: Task) -> bytes:
    """Pack a task; equal tasks give equal bytes."""
    return _frame(task_parts(task))


def read_task_frame(frame: bytes) -> Task:
    """Unpack a task."""
    parts = _read(frame)
    return task_of(parts.head, parts.arrays)


def reply_frame(reply: Reply) -> bytes:
    """Pack a reply."""
    return _frame(reply_parts(reply))


def read_reply_frame(frame: bytes) -> Reply:
    """Unpack a reply."""
    parts = _read(frame)
    return reply_of(parts.head, parts.arrays)


def _frame(parts: Parts) -> bytes:
    head = json.dumps(parts.head, sort_keys=True).encode()
    return len(head).to_bytes(_HEAD, "big") + head + save(parts.arrays)


def _read(frame: bytes) -> Parts:
    """Split a frame.

    Raises
    ------
    FedReasonError
        RUN_REPLY where it is torn or none.
    """
    end = _HEAD + int.from_bytes(frame[:_HEAD], "big")
    try:
        head = dict(json.loads(frame[_HEAD:end]))
        _require_plain(head, _DEEPEST)
        return Parts(head, load(frame[end:]))
    except (TypeError, ValueError, KeyError, RecursionError, SafetensorError):
        raise FedReasonError(
            Code.RUN_REPLY,
            "A message is torn or of another form.",
            "It is asked for again; where that does not help, install the same version of fedreason everywhere.",
        ) from None


def _require_plain(value: object, left: int) -> None:
    """Refuse what could be read and not be written again: half a surrogate pair, or what takes more of the stack."""
    if isinstance(value, str):
        value.encode()
    elif isinstance(value, dict | list):
        if not left:
            raise ValueError("nested too deep")
        for each in (*value, *value.values()) if isinstance(value, dict) else value:
            _require_plain(each, left - 1)
