"""Where a value stands in a record that has several rows, in REDCap's own notation: `[event][field][instance]`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_ADDRESS = re.compile(r"(?:\[([a-z0-9_]+)\])?\[([a-z][a-z0-9_]*)\](?:\[([1-9][0-9]{0,5})\])?")


@dataclass(frozen=True)
class Address:
    """A column of the export at an event, in an instance of a repeating form or event; None means any."""

    column: str
    event: str | None = None
    instance: int | None = None

    @property
    def name(self) -> str:
        """Name of the feature; the column's own where any event and instance will do."""
        if self.event is None and self.instance is None:
            return self.column
        event = f"[{self.event}]" if self.event is not None else ""
        instance = f"[{self.instance}]" if self.instance is not None else ""
        return f"{event}[{self.column}]{instance}"


def address_of(name: str) -> Address | None:
    """Return the address that a feature's name writes; None where it is the name of a column."""
    parts = _ADDRESS.fullmatch(name)
    if parts is None or (parts[1] is None and parts[3] is None):
        return None
    return Address(parts[2], parts[1], int(parts[3]) if parts[3] else None)
