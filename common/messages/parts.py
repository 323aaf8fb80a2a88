"""Messages taken apart: a head of plain values and one array at most, which frames.py carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from common.arrays import adapter_of
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.heads import read_heads, read_seen
from common.messages.kinds import Contribution, Estimate, Evaluation, Layout, Refusal, Reply, Step, Task

_REPLIES: dict[str, type] = {
    kind.__name__.lower(): kind for kind in (Layout, Contribution, Step, Evaluation, Estimate, Refusal)
}
_MOST = 10**12
"""Of a count: with more it is none, and sums of a few would leave what a float holds."""
_Whole = Annotated[int, Field(ge=-_MOST, le=_MOST)]
_Real = Annotated[float, Field(ge=-_MOST, le=_MOST, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=0, lt=2**53, strict=True)]
_PLAIN: dict[str, TypeAdapter[Any]] = {
    "site": TypeAdapter(str),
    "sha256": TypeAdapter(Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]),
    "round": TypeAdapter(_Count),
    "attempt": TypeAdapter(_Count),
    "size": TypeAdapter(_Count),
    "code": TypeAdapter(_Count),
    "seconds_per_group": TypeAdapter(Annotated[float, Field(ge=0, le=_MOST, allow_inf_nan=False)]),
    "message": TypeAdapter(dict[str, Any]),
    "progress": TypeAdapter(tuple[_Count, _Count] | None),
}
"""What a field is, in whichever reply it stands: one of another type would end the run and not name its site."""
_COUNTS: dict[type, TypeAdapter[Any]] = {
    Contribution: TypeAdapter(dict[str, _Whole | _Real] | None),
    Step: TypeAdapter(dict[str, _Whole | _Real] | None),
    Evaluation: TypeAdapter(dict[str, dict[str, _Whole]] | None),
}


@dataclass(frozen=True)
class Parts:
    """A message's head and its arrays by name."""

    head: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def task_parts(task: Task) -> Parts:
    """Take a task apart."""
    head: dict[str, Any] = {
        "config": task.config.model_dump_json(),
        "round": task.round,
        "attempt": task.attempt,
    }
    others = ("roster_sha256", "roster", "ledgers", "step", "public")
    head |= {name: value for name in others if (value := getattr(task, name))}
    return Parts(head, {} if task.adapter is None else {"adapter": np.ascontiguousarray(task.adapter)})


def task_of(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Task:
    """Put a task together.

    Raises
    ------
    FedReasonError
        Where the parts are not those of a task.
    """
    try:
        return Task(
            config=RunConfig.model_validate_json(str(head["config"])),
            round=_PLAIN["round"].validate_python(head["round"]),
            attempt=_PLAIN["attempt"].validate_python(head["attempt"]),
            adapter=adapter_of(arrays["adapter"]) if "adapter" in arrays else None,
            roster_sha256=str(head["roster_sha256"]) if "roster_sha256" in head else None,
            roster=str(head["roster"]) if "roster" in head else None,
            ledgers=read_seen(head.get("ledgers", {})),
            step=None if "step" not in head else dict(head["step"]),
            public=head.get("public") is True,
        )
    except (KeyError, TypeError, ValueError):
        raise FedReasonError(
            Code.RUN_REPLY,
            "The coordinator sent a task of another form.",
            "Install the same version of fedreason everywhere.",
        ) from None


def reply_parts(reply: Reply) -> Parts:
    """Take a reply apart."""
    values = dict(vars(reply))
    arrays = {name: array for name in ("total", "words") if (array := values.pop(name, None)) is not None}
    return Parts({"kind": type(reply).__name__.lower(), **values}, arrays)


def reply_of(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Reply:
    """Put a reply together.

    Raises
    ------
    FedReasonError
        Where the parts are not those of a reply.
    """
    try:
        values: dict[str, Any] = dict(head)
        kind = _REPLIES[str(values.pop("kind"))]
        if "counts" in values:
            values["counts"] = _COUNTS[kind].validate_python(values["counts"], strict=True)
        if "ledgers" in values:
            values["ledgers"] = read_heads(values["ledgers"])
        for name in values.keys() & _PLAIN.keys():
            values[name] = _PLAIN[name].validate_python(values[name], strict=None if name == "progress" else True)
        if kind is Contribution:
            total = arrays["total"]
            if total.dtype != np.int64 or total.ndim != 1:
                raise TypeError
            values["total"] = total
        if kind is Step:
            values["words"] = arrays.get("words")
        reply: Reply = kind(**values)
    except (KeyError, TypeError, ValueError):
        raise FedReasonError(
            Code.RUN_REPLY, "A site sent a reply of another form.", "Install the same version of fedreason everywhere."
        ) from None
    return reply
