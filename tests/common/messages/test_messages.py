"""Messages survive the trip through Flower's records byte by byte, and nothing unexpected travels."""

from __future__ import annotations

import gc
import json
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from safetensors.numpy import save

from common.errors import Code, FedReasonError
from common.messages.frames import reply_frame
from common.messages.kinds import Contribution, Evaluation, Layout, Refusal, Reply, Task, payload_bytes
from common.messages.parts import reply_of, task_parts
from common.messages.parts import task_of as task_from
from common.messages.records import PIECE_BYTES, read_reply, read_task, reply_record, salted, task_record
from server.rounds.contents import salting
from tests.common.messages.records import parts
from tests.small import small_config
from tests.whole_site import run_of, task_of


def run_task() -> Task:
    return task_of(run_of(privacy=None))


TOTAL = np.array([-(2**62), -1, 0, 2**62], dtype=np.int64)


@pytest.mark.parametrize(
    "reply",
    [
        Layout("north", 7, "0" * 64),
        Contribution("north", 3, 1, TOTAL, {"reward": 2.5, "rollouts": 4}),
        Contribution("north", 3, 1, TOTAL, None),
        Evaluation("north", 3, {"age": {"asked": 2, "free": 1, "forced": 2}}),
        Evaluation("north", 3, None),
        Refusal("north", 301),
    ],
)
def test_a_reply_comes_back_as_it_was_sent(reply: Reply) -> None:
    again = read_reply(reply_record(reply))
    assert type(again) is type(reply)
    for name, value in vars(reply).items():
        assert np.array_equal(getattr(again, name), value) if name == "total" else getattr(again, name) == value


def test_a_task_comes_back_as_it_was_sent(small_model: Path) -> None:
    task = Task(small_config(small_model), 4, 2, np.array([0.1, -0.0, 1e-30], dtype=np.float32))
    again = read_task(task_record(task))
    assert again.config == task.config
    assert again.config.sha256 == task.config.sha256
    assert (again.round, again.attempt) == (4, 2)
    assert again.adapter is not None
    assert again.adapter.tobytes() == task.adapter.tobytes()  # type: ignore[union-attr]


def record_of(frame: bytes, *, name: str = "reply.0") -> RecordDict:
    return RecordDict({name: ConfigRecord({"frame": frame})})


def frame_of(head: object) -> bytes:
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "big") + text + save({})


def nested(text: bytes) -> bytes:
    return len(text).to_bytes(8, "big") + text + save({})


def tensor_of(dtype: str) -> bytes:
    head = json.dumps({"adapter": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2]}}).encode()
    return (2).to_bytes(8, "big") + b"{}" + len(head).to_bytes(8, "little") + head + b"\0\0"


WHOLE = reply_frame(Contribution("a", 1, 0, TOTAL, None))


@pytest.mark.parametrize(
    "record",
    [
        RecordDict({}),
        record_of(WHOLE, name="task.0"),
        record_of(WHOLE, name="reply.1"),
        record_of(WHOLE[:-1]),
        record_of(WHOLE[:20]),
        record_of(b""),
        record_of(b"\xff" * 40),
        record_of(frame_of({"kind": "secret"})),
        record_of(frame_of({"kind": "layout", "site": "a"})),
        record_of(frame_of([1, 2])),
        record_of(frame_of({"kind": "contribution", "site": "a", "round": 1, "attempt": 0, "counts": "{"})),
        record_of(nested(b"[" * 200_000)),
        record_of(nested(b'{"kind":' * 200_000)),
        record_of(tensor_of("F8_E4M3")),
        RecordDict({"reply.0": ConfigRecord({"frame": 7})}),
        RecordDict({"reply.0": ConfigRecord({"bytes": WHOLE})}),
        RecordDict({"reply.0": MetricRecord({"frame": 7})}),
        RecordDict({"reply.0": ArrayRecord([TOTAL])}),
    ],
)
def test_a_record_of_another_form_is_refused(record: RecordDict) -> None:
    with pytest.raises(FedReasonError) as refusal:
        read_reply(record)
    assert refusal.value.code == Code.RUN_REPLY


@pytest.mark.parametrize(
    "counts",
    [["a"], {"reward": "9"}, {"reward": {"x": 1}}, 7, "{}"]
    + [{"reward": value} for value in (10**13, -(10**400), float("inf"), float("nan"), 1e13)],
)
def test_counts_of_another_form_are_refused(counts: object) -> None:
    head = {"kind": "contribution", "site": "a", "round": 1, "attempt": 0}
    read = {"total": TOTAL}
    assert reply_of(head | {"counts": {"reward": 9}}, read)
    with pytest.raises(FedReasonError) as refusal:
        reply_of(head | {"counts": counts}, read)
    assert refusal.value.code == Code.RUN_REPLY


@pytest.mark.parametrize("value", [10**13, -(10**400), 1.5, True])
def test_counts_of_an_evaluation_are_whole_and_no_larger_than_any_can_be(value: object) -> None:
    head = {"kind": "evaluation", "site": "a", "round": 1}
    assert reply_of(head | {"counts": {"age": {"asked": -3}}}, {})
    with pytest.raises(FedReasonError) as refusal:
        reply_of(head | {"counts": {"age": {"asked": value}}}, {})
    assert refusal.value.code == Code.RUN_REPLY


HEADS: list[dict[str, object]] = [
    {"kind": "layout", "site": "a", "size": 7, "sha256": "ab" * 32},
    {"kind": "contribution", "site": "a", "round": 1, "attempt": 0, "counts": None},
    {"kind": "step", "site": "a", "round": 1, "attempt": 0, "message": {}},
    {"kind": "evaluation", "site": "a", "round": 1, "counts": None},
    {"kind": "estimate", "site": "a", "seconds_per_group": 0.5, "size": 7},
    {"kind": "refusal", "site": "a", "code": 832, "progress": [3, 9]},
]
NONE_OF_THEM = [[], {}, [1], True, -1, 10**400, float("nan"), float("inf"), -1.0]
TEXTS = ("site", "sha256")


@pytest.mark.parametrize(
    ("head", "name"), [(head, name) for head in HEADS for name in head if name not in ("kind", "counts")]
)
def test_a_field_of_another_type_is_refused_where_it_is_read_for_later_it_would_end_the_run(
    head: dict[str, object], name: str
) -> None:
    whole = reply_of(head, {"total": TOTAL})
    assert vars(whole)[name] == (tuple(head[name]) if isinstance(head[name], list) else head[name])  # type: ignore[arg-type]
    for value in (*NONE_OF_THEM, 3 if name in TEXTS else "x"):
        if name == "message" and value == {}:
            continue
        with pytest.raises(FedReasonError) as refusal:
            reply_of(head | {name: value}, {"total": TOTAL})
        assert refusal.value.code == Code.RUN_REPLY


@pytest.mark.parametrize("name", ["round", "attempt"])
@pytest.mark.parametrize("value", [True, False, -1, 1.0, "1", None, 2**53])
def test_a_task_whose_numbers_are_none_is_refused(small_model: Path, name: str, value: object) -> None:
    """What the ledger would take for 1 the outbox would not."""
    head = task_parts(Task(small_config(small_model), 1, 0, None)).head
    with pytest.raises(FedReasonError) as refusal:
        task_from(head | {name: value}, {})
    assert refusal.value.code == Code.RUN_REPLY


@pytest.mark.parametrize("text", ["\ud800", "\x1b[2J", "a" * 63, "A" * 64])
def test_of_a_site_s_layout_only_a_hash_is_read(text: str) -> None:
    head = {"kind": "layout", "site": "a", "size": 7, "sha256": text}
    with pytest.raises(FedReasonError):
        reply_of(head, {})


@pytest.mark.parametrize("head", [{"site": "\ud800"}, {"counts": {"\udfff": 1}}, {"message": [{"x": "\ud800"}]}])
def test_text_that_no_file_can_hold_is_refused(head: dict[str, object]) -> None:
    text = json.dumps({"kind": "step", "site": "a", "round": 1, "attempt": 0, "message": {}} | head).encode()
    with pytest.raises(FedReasonError) as refusal:
        read_reply(record_of(len(text).to_bytes(8, "big") + text + save({})))
    assert refusal.value.code == Code.RUN_REPLY


def test_whatever_can_be_read_can_be_written_again(small_model: Path) -> None:
    """A site names a task by its bytes: one that could only be read would end it."""
    whole = Task(small_config(small_model), 1, 0, None)
    kept = 0
    for depth in (*range(1, 60), *range(60, 1100, 7), *range(960, 1000)):
        step: dict[str, object] = {}
        for _ in range(depth):
            step = {"x": step}
        head = task_parts(whole).head | {"step": step}
        try:
            text = json.dumps(head).encode()
        except RecursionError:
            continue
        try:
            read = read_task(record_of(len(text).to_bytes(8, "big") + text + save({}), name="task.0"))
        except FedReasonError as refusal:
            assert refusal.code == Code.RUN_REPLY
            continue
        assert task_record(read)
        kept += 1
    assert 20 < kept < 40


def test_a_large_message_travels_in_pieces_that_the_proxy_lets_through() -> None:
    reply = Contribution("a", 1, 0, np.arange(5_000_000, dtype=np.int64), None)
    record = reply_record(reply)
    assert [len(part["frame"]) for part in record.config_records.values()][:2] == [PIECE_BYTES, PIECE_BYTES]  # type: ignore[arg-type]
    again = read_reply(record)
    assert isinstance(again, Contribution) and np.array_equal(again.total, reply.total)
    del record["reply.1"]
    with pytest.raises(FedReasonError):
        read_reply(record)


def test_floats_in_place_of_integers_are_refused() -> None:
    record = reply_record(Contribution("a", 1, 0, TOTAL.astype(np.float64), None))  # type: ignore[arg-type]
    with pytest.raises(FedReasonError):
        read_reply(record)


def test_bytes_counted_are_close_to_bytes_sent(small_model: Path) -> None:
    task = Task(small_config(small_model), 4, 2, np.zeros(10_000, dtype=np.float32))
    reply = Contribution("a", 1, 0, np.zeros(10_000, dtype=np.int64), None)
    for counted, record in ((payload_bytes(task), task_record(task)), (payload_bytes(reply), reply_record(reply))):
        sent = sum(len(part.deflate()) for part in parts(record))
        assert abs(sent - counted) < 2_000


@pytest.mark.parametrize("read", [read_reply, read_task])
def test_a_message_that_was_read_is_gone_with_its_last_holder(read: Callable[[RecordDict], object]) -> None:
    """Without a search for cycles: at the coordinator every site's message would stay until there is one."""
    task = Task(small_config(Path("tiny")), 1, 0, np.ones(4, dtype=np.float32))
    record = reply_record(Contribution("north", 1, 0, TOTAL, None)) if read is read_reply else task_record(task)
    pieces = [weakref.ref(piece) for piece in record.values()]
    gc.disable()
    try:
        message = read(record)
        del record
        assert message and [piece() for piece in pieces] == [None]
    finally:
        gc.enable()


def names(record: RecordDict) -> set[str]:
    """Names under which Flower stores a record and its parts."""
    return set(get_all_nested_objects(record))


def test_nobody_knows_beforehand_under_which_names_a_message_is_stored() -> None:
    task, reply = task_record(run_task()), Refusal("north", 301)
    asked = [salted(task) for _ in range(3)]
    assert not set.intersection(*map(names, asked)) and not names(asked[0]) & names(asked[1])
    assert {read_task(record).config.sha256 for record in asked} == {run_task().config.sha256}
    assert not names(reply_record(reply)) & names(reply_record(reply))
    assert read_reply(reply_record(reply)) == reply


def test_what_is_sent_together_is_stored_once() -> None:
    fresh, one, two = salting(), task_record(run_task()), task_record(run_task())
    assert fresh(one) is fresh(one) and names(fresh(one)).isdisjoint(names(fresh(two)))
    assert names(salting()(one)).isdisjoint(names(fresh(one)))
