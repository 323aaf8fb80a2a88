"""What goes to the sites in an exchange: the same to all, or in a secure sum to each its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from flwr.app import RecordDict

from common.messages.kinds import Task
from common.messages.records import salted, task_record

ContentOf = Callable[[str, int], RecordDict]
"""Gives what to send to a node, by its name, in an attempt."""


def one_for_all(packed: RecordDict | None, task: Task) -> ContentOf:
    """Return what to ask each node for; a run without privacy has one attempt, the same bits whenever it is made.

    Parameters
    ----------
    packed
        The task, where it is packed already.
    """
    first = packed or task_record(task)
    once = task.config.privacy is None
    return lambda _, later: first if once or not later else task_record(replace(task, attempt=task.attempt + later))


def for_each(tasks: Mapping[str, Task], site_of: Callable[[str], str], roster_sha256: str | None) -> ContentOf:
    """Return what to send to each node in a secure sum; what is the same for two is packed once.

    Parameters
    ----------
    tasks
        By site.
    site_of
        Name of the site that a node is.
    """
    packed: dict[int, RecordDict] = {}

    def content(node: str, _: int) -> RecordDict:
        task = tasks[site_of(node)]
        if id(task) not in packed:
            packed[id(task)] = task_record(replace(task, roster_sha256=roster_sha256))
        return packed[id(task)]

    return content


def salting() -> Callable[[RecordDict], RecordDict]:
    """Return what salts a record for the messages that are sent together: once, so that it is uploaded once."""
    done: dict[int, tuple[RecordDict, RecordDict]] = {}

    def fresh(record: RecordDict) -> RecordDict:
        if id(record) not in done:
            done[id(record)] = (record, salted(record))  # kept, so that no other takes its place in memory
        return done[id(record)][1]

    return fresh
