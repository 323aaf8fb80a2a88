"""Messages survive the wire unchanged; what has another form is refused by number."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import PrivacyConfig
from common.errors import Code
from common.secagg.messages import Masked, Message, message_of, parts_of
from common.secagg.session import Session
from tests.common.secagg.cohort import Cohort, refused, roster_of, sent, session_of
from tests.privacy_checks.policy import run


def of_every_kind() -> dict[str, Message]:
    cohort = Cohort(3)
    messages: list[Message] = []
    for _ in range(5):
        asked = cohort.server.proceed()
        messages += [asked["site-000"], cohort.deliver(asked)["site-000"]]
    return {type(message).__name__: message for message in messages}


MESSAGES = of_every_kind()


def test_there_are_five_exchanges_of_two_messages() -> None:
    assert len(MESSAGES) == 10


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_is_the_same_after_the_wire(name: str) -> None:
    message = MESSAGES[name]
    got = sent(message)
    if isinstance(message, Masked):
        assert (got.session, got.site) == (message.session, message.site)
        assert np.array_equal(got.words, message.words) and got.words.dtype == message.words.dtype
    else:
        assert got == message


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message_that_lacks_or_adds_something_is_refused(name: str) -> None:
    parts = parts_of(MESSAGES[name])
    content: Any = parts.head["message"]
    for key in content:
        lacking = {**parts.head, "message": {other: content[other] for other in content if other != key}}
        refused(Code.RUN_REPLY, lambda lacking=lacking: message_of(lacking, parts.arrays))
    more = {**parts.head, "message": {**content, "threshold": 2}}
    refused(Code.RUN_REPLY, lambda: message_of(more, parts.arrays))
    refused(Code.RUN_REPLY, lambda: message_of({**parts.head, "kind": "task"}, parts.arrays))


def cut(value: Any) -> Any:
    """Return a message's content with every text one character shorter or one longer at its end."""
    if isinstance(value, dict):
        return {key: cut(one) for key, one in value.items()}
    if isinstance(value, list):
        return [cut(one) for one in value]
    return value[:-2]


@pytest.mark.parametrize("name", [name for name in MESSAGES if name != "Masked"])
def test_a_message_with_cut_values_is_refused(name: str) -> None:
    parts = parts_of(MESSAGES[name])
    spoilt = {**parts.head, "message": cut(parts.head["message"])}
    refused(Code.RUN_REPLY, lambda: message_of(spoilt, {}))


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"words": np.zeros(3, np.float32)},
        {"words": np.zeros(3, np.int64)},
        {"words": np.zeros((3, 1), np.uint32)},
        {"total": np.zeros(3, np.uint32)},
    ],
)
def test_a_masked_sum_of_another_kind_is_refused(arrays: dict[str, Any]) -> None:
    head = parts_of(MESSAGES["Masked"]).head
    refused(Code.RUN_REPLY, lambda: message_of(head, arrays))


def test_an_array_beside_a_message_that_has_none_is_refused() -> None:
    head = parts_of(MESSAGES["Opening"]).head
    refused(Code.RUN_REPLY, lambda: message_of(head, {"words": np.zeros(3, np.uint32)}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


@given(st.sampled_from(sorted(MESSAGES)), JSON)
def test_whatever_stands_in_a_message_is_refused_by_number(name: str, content: Any) -> None:
    head = {"kind": name.lower(), "message": content}
    refused(Code.RUN_REPLY, lambda: message_of(head, {}))


def test_a_masked_sum_has_four_bytes_a_parameter_and_little_else() -> None:
    parts = parts_of(MESSAGES["Masked"])
    assert parts.arrays["words"].itemsize == 4
    assert len(json.dumps(parts.head)) < 200


def test_a_session_is_that_of_the_run_the_round_the_model_and_the_roster() -> None:
    config, roster = run(), roster_of(5)
    session = Session.of(config, roster, round=1, attempt=1, model_sha256="a" * 64)
    others = [
        Session.of(config, roster, round=2, attempt=1, model_sha256="a" * 64),
        Session.of(config, roster, round=1, attempt=2, model_sha256="a" * 64),
        Session.of(config, roster, round=1, attempt=1, model_sha256="b" * 64),
        Session.of(run({"privacy": {"clip_norm": 0.4}}), roster, round=1, attempt=1, model_sha256="a" * 64),
        Session.of(run({"federation": {"rounds": 7}}), roster, round=1, attempt=1, model_sha256="a" * 64),
        Session.of(run({"privacy": None}), roster, round=1, attempt=1, model_sha256="a" * 64),
        Session.of(config, roster_of(4), round=1, attempt=1, model_sha256="a" * 64),
        Session.of(config.model_copy(update={"name": "other"}), roster, round=1, attempt=1, model_sha256="a" * 64),
    ]
    assert len({one.id for one in [session, *others]}) == 9
    assert session.id == Session.of(run(), roster, round=1, attempt=1, model_sha256="a" * 64).id
    assert isinstance(config.privacy, PrivacyConfig) and len(session.id) == 32


@pytest.mark.parametrize(
    "field", ["federation", "run", "run_sha256", "model_sha256", "privacy_sha256", "roster_sha256"]
)
def test_every_part_of_a_session_changes_its_id(field: str) -> None:
    roster = roster_of(3)
    assert session_of(roster, **{field: "x"}).id != session_of(roster).id
