"""A message that cannot be read is dropped: it would end the node, and again at every start."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from client.node.node import Node


class Torn:
    """As Flower's own Message, where it came with an error in place of content."""

    metadata = SimpleNamespace(message_type="train")

    @property
    def content(self) -> object:
        raise ValueError("the record of patient 4711")


def test_a_message_without_content_is_dropped_and_nothing_of_it_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR, logger="fedreason.site"):
        object.__new__(Node)._handle(SimpleNamespace(message=Torn(), run=7))  # type: ignore[arg-type]
    (record,) = caplog.records
    assert "a message of run 7 cannot be read and is dropped" in record.message and "4711" not in caplog.text
