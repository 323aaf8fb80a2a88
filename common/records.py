"""Messages to and from Flower records: arrays as raw bytes, the rest as JSON and numbers; nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from numpy.typing import NDArray

from common.messages import Reply, Task
from common.parts import Parts, reply_of, reply_parts, task_of, task_parts


def task_record(task: Task) -> RecordDict:
    """Pack a task."""
    return _record("task", task_parts(task))


def read_task(record: RecordDict) -> Task:
    """Unpack a task."""
    return task_of(*_parts("task", record))


def reply_record(reply: Reply) -> RecordDict:
    """Pack a reply."""
    return _record("reply", reply_parts(reply))


def read_reply(record: RecordDict) -> Reply:
    """Unpack a reply.

    Raises
    ------
    FedReasonError
        Where the record is not one of the replies.
    """
    return reply_of(*_parts("reply", record))


def _record(name: str, parts: Parts) -> RecordDict:
    arrays = ArrayRecord({key: Array(array) for key, array in parts.arrays.items()})
    return RecordDict({name: ConfigRecord(dict(parts.head)), "arrays": arrays})


def _parts(name: str, record: RecordDict) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    head = dict(record.config_records[name]) if name in record.config_records else {}
    arrays: Mapping[str, Array] = record.array_records.get("arrays", {})
    return head, {key: array.numpy() for key, array in arrays.items()}
