"""What a refusal tells the coordinator: a number, and of the registry that it cannot be opened, no more."""

from __future__ import annotations

from common.errors import Code, FedReasonError

_REGISTRY = range(301, 400)


def number_of(error: FedReasonError) -> int:
    """Return the number that travels. Which of E301 to E399 it was could tell of a record: the site's log says it."""
    return int(Code.SITE_CLOSED if error.code in _REGISTRY else error.code)
