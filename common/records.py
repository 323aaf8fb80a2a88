"""Messages to and from Flower records: arrays as raw bytes, the rest as JSON and numbers; nothing is pickled."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from pydantic import TypeAdapter

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages import Contribution, Estimate, Evaluation, Layout, Refusal, Reply, Task

_REPLIES: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Layout, Contribution, Evaluation, Estimate, Refusal)
}


_COUNTS: dict[type, TypeAdapter[Any]] = {
    Contribution: TypeAdapter(dict[str, int | float] | None),
    Evaluation: TypeAdapter(dict[str, dict[str, int]] | None),
}


def task_record(task: Task) -> RecordDict:
    """Pack a task."""
    head = ConfigRecord({"config": task.config.model_dump_json(), "round": task.round, "attempt": task.attempt})
    for name in ("roster_sha256", "roster"):
        if (value := getattr(task, name)) is not None:
            head[name] = value
    arrays = {} if task.adapter is None else {"adapter": Array(np.ascontiguousarray(task.adapter))}
    return RecordDict({"task": head, "arrays": ArrayRecord(arrays)})


def read_task(record: RecordDict) -> Task:
    """Unpack a task."""
    head = record.config_records["task"]
    arrays = record.array_records["arrays"]
    return Task(
        config=RunConfig.model_validate_json(str(head["config"])),
        round=_integer(head["round"]),
        attempt=_integer(head["attempt"]),
        adapter=arrays["adapter"].numpy().astype(np.float32) if "adapter" in arrays else None,
        roster_sha256=str(head["roster_sha256"]) if "roster_sha256" in head else None,
        roster=str(head["roster"]) if "roster" in head else None,
    )


def reply_record(reply: Reply) -> RecordDict:
    """Pack a reply."""
    values = dict(vars(reply))
    arrays = {"total": Array(values.pop("total"))} if "total" in values else {}
    if "counts" in values:
        values["counts"] = "" if values["counts"] is None else json.dumps(values["counts"], sort_keys=True)
    head = ConfigRecord({"kind": type(reply).__name__.lower(), **values})
    return RecordDict({"reply": head, "arrays": ArrayRecord(arrays)})


def read_reply(record: RecordDict) -> Reply:
    """Unpack a reply.

    Raises
    ------
    FedReasonError
        Where the record is not one of the replies.
    """
    try:
        values: dict[str, Any] = dict(record.config_records["reply"])
        kind = _REPLIES[str(values.pop("kind"))]
        if "counts" in values:
            counts = json.loads(values["counts"]) if values["counts"] else None
            values["counts"] = _COUNTS[kind].validate_python(counts, strict=True)
        if kind is Contribution:
            total = record.array_records["arrays"]["total"].numpy()
            if total.dtype != np.int64 or total.ndim != 1:
                raise TypeError
            values["total"] = total
        reply: Reply = kind(**values)
    except (KeyError, TypeError, ValueError):
        raise FedReasonError(
            Code.RUN_REPLY, "A site sent a reply of another form.", "Install the same version of fedreason everywhere."
        ) from None
    return reply


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"expected an integer, got {type(value).__name__}")
    return value
