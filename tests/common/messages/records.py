"""What a message of Flower's is made of."""

from __future__ import annotations

from flwr.supercore.inflatable.inflatable_object import InflatableObject


def parts(record: InflatableObject) -> list[InflatableObject]:
    children = record.children or {}
    return [record, *(deep for child in children.values() for deep in parts(child))]
