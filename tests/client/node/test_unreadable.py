"""What cannot be read is dropped, a message or a kept number: it would end the node, and again at every start."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.node.inbox import Inbox
from client.node.node import Node
from client.node.worker import Parcel, reply_parcel
from common.messages.kinds import Refusal
from common.messages.records import reply_record
from tests.superlink import SuperLink


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


@pytest.mark.parametrize("content", [b"", b"12a", b"\xff\xfe1\x00", b"-3", b"0", str(2**64).encode()])
def test_a_kept_number_that_cannot_be_read_is_as_none(tmp_path: Path, content: bytes) -> None:
    known: list[int | None] = []
    node = object.__new__(Node)
    fleet = SimpleNamespace(connect=lambda number, afresh: known.append(number) or 7)
    vars(node).update(_fleet=fleet, _number=tmp_path / "node.json", _inbox=Inbox(tmp_path / "inbox"))
    (tmp_path / "node.json").write_bytes(content)
    assert [node._connect(), node._connect()] == [7, 7] and known == [None, 7]


def test_an_answer_in_hand_that_cannot_be_read_is_as_none(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    node = object.__new__(Node)
    vars(node).update(_inbox=(inbox := Inbox(tmp_path / "inbox")))
    message = SuperLink(tmp_path).parcel().message
    whole = reply_parcel(message, reply_record(Refusal("east", 301)))
    inbox.keep_upload(whole.to_bytes())
    begun = node._begun()
    assert begun is not None and begun[1] == Refusal("east", 301)
    for torn in (
        replace(whole, objects=(b"x" + whole.objects[0][1:], *whole.objects[1:])).to_bytes(),
        replace(whole, header=b"\xff" * 9).to_bytes(),
        whole.to_bytes()[:-1],
    ):
        inbox.keep_upload(torn)
        caplog.clear()
        with caplog.at_level(logging.ERROR, logger="fedreason.site"):
            assert node._begun() is None
        assert "cannot be read and is dropped" in caplog.text
    with pytest.raises(ValueError):
        Parcel.of(replace(whole, header=b"\xff" * 9).to_bytes())


def test_what_a_killed_write_left_is_removed_and_what_is_kept_stays(tmp_path: Path) -> None:
    Inbox(tmp_path / "inbox").keep(b"in hand")
    (tmp_path / "inbox" / ".message.x1y2").write_bytes(b"half")
    assert Inbox(tmp_path / "inbox").kept() == b"in hand"
    assert [path.name for path in (tmp_path / "inbox").iterdir()] == ["message"]
