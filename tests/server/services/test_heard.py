"""Last contact and task of each site, read from a state database with Flower's own tables."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL, HEARTBEAT_PATIENCE
from flwr.supercore.state.schema.corestate_models import FlwrBase
from flwr.supercore.state.schema.linkstate_models import LinkStateBase
from flwr.supercore.state.schema.objectstore_models import ObjectStoreBase
from sqlalchemy import create_engine, insert, update

from common.flower import BEAT_EVERY, FAREWELL_SECONDS, HEARTBEAT_SECONDS, PATIENCE
from server.provisioning.federation import Federation
from server.reports.status import site_tasks
from server.rounds.standing import Standing
from server.services.chores import Watch
from server.services.heard import answers, errands, heard, last_contact

NODES = {1: "amc", 2**64 - 5: "snubh", 7: "coast"}
RUN = 2**64 - 9


def signed(number: int) -> int:
    return number - 2**64 if number >= 2**63 else number


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    """A federation whose SuperLink left a state: amc beats, snubh died, coast said goodbye."""
    (tmp_path / "nodes.json").write_text(json.dumps({str(node): site for node, site in NODES.items()}))
    tables, now = LinkStateBase.metadata.tables, time.time()
    rows = [
        (1, "online", now - 4 + 60, 30.0),
        (2**64 - 5, "online", now - 45 + 60, 30.0),
        (7, "offline", now - 300, 10.0),
    ]
    messages = [("m1", 1, now - 31, datetime.fromtimestamp(now - 30, UTC).isoformat()), ("m2", 2**64 - 5, now - 20, "")]
    with create_engine(f"sqlite:///{tmp_path / 'state.db'}").begin() as link:
        LinkStateBase.metadata.create_all(link)
        ObjectStoreBase.metadata.create_all(link)
        FlwrBase.metadata.create_all(link)
        for node, status, until, interval in rows:
            link.execute(
                insert(tables["node"]).values(
                    node_id=signed(node),
                    status=status,
                    online_until=until,
                    heartbeat_interval=interval,
                    last_activated_at=datetime.fromtimestamp(now - 900, UTC).isoformat(),
                )
            )
        for name, node, created, delivered in messages:
            link.execute(
                insert(tables["message_ins"]).values(
                    message_id=name,
                    run_id=signed(RUN),
                    dst_node_id=signed(node),
                    created_at=created,
                    delivered_at=delivered,
                    message_type="train",
                    ttl=900.0,
                )
            )
    return cast(Federation, SimpleNamespace(superlink=tmp_path, nodes_file=tmp_path / "nodes.json"))


def age(moment: datetime | None) -> float:
    assert moment is not None
    return (datetime.now(UTC) - moment).total_seconds()


def test_our_numbers_are_flowers() -> None:
    assert (PATIENCE, FAREWELL_SECONDS) == (HEARTBEAT_PATIENCE, HEARTBEAT_MIN_INTERVAL)
    assert HEARTBEAT_SECONDS not in (FAREWELL_SECONDS, BEAT_EVERY)


def test_up_tells_once_who_is_there_who_fell_silent_and_who_went(federation: Federation) -> None:
    told: list[str] = []
    watch = Watch(federation, told.append)
    watch.look()
    watch.look()
    assert told[0] == "amc is online." and told[1].startswith("snubh is silent: no sign of life since ")
    assert len(told) == 2, "coast said goodbye before this coordinator came"
    changes = {"amc": ("offline", time.time() - 1), "coast": ("online", time.time() + 60)}
    node = LinkStateBase.metadata.tables["node"]
    with create_engine(f"sqlite:///{federation.superlink / 'state.db'}").begin() as link:
        for number, site in NODES.items():
            if site in changes:
                status, until = changes[site]
                values = {"status": status, "online_until": until, "heartbeat_interval": 30.0}
                link.execute(update(node).where(node.c.node_id == signed(number)).values(**values))
    watch.look()
    assert told[2:] == ["amc is offline.", "coast is online."]
    (federation.superlink / "state.db").unlink()
    watch.look()
    assert len(told) == 4, "where nothing can be read nobody came or went"


def test_each_site_has_its_own_last_contact(federation: Federation) -> None:
    found = heard(federation)
    assert found is not None
    assert 3 <= age(found["amc"].contact) < 20
    assert 44 <= age(found["snubh"].contact) < 60, "Flower still counts it as online"
    assert [found[site].online for site in ("amc", "snubh", "coast")] == [True, True, False]
    assert 299 <= age(found["coast"].contact) < 330, "a goodbye is the last contact itself"


def test_a_state_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    nothing: Any = SimpleNamespace(superlink=tmp_path, nodes_file=tmp_path / "nodes.json")
    assert heard(nothing) is None
    assert not (tmp_path / "state.db").exists()
    (tmp_path / "state.db").write_bytes(b"x" * 5000)
    assert heard(nothing) is None
    assert errands(nothing, 1) == {}
    assert answers(nothing, 1) is None


def test_an_answer_waits_once_it_is_whole_and_until_it_is_fetched(federation: Federation) -> None:
    assert answers(federation, RUN) == (set(), {"m1", "m2"})
    replies, objects = LinkStateBase.metadata.tables["message_res"], ObjectStoreBase.metadata.tables
    sessions = FlwrBase.metadata.tables
    with create_engine(f"sqlite:///{federation.superlink / 'state.db'}").begin() as link:
        for asked, delivered in (("m1", ""), ("m2", datetime.now(UTC).isoformat()), ("m3", ""), ("m4", "")):
            values = {"message_id": f"to {asked}", "reply_to_message_id": asked, "delivered_at": delivered}
            link.execute(insert(replies).values(run_id=signed(RUN), **values))
            for name, here in ((f"to {asked}", 1), (f"record of {asked}", 1), (f"part of {asked}", int(asked != "m3"))):
                link.execute(insert(objects["objects"]).values(object_id=name, is_available=here, ref_count=0))
            for above, below in ((f"to {asked}", f"record of {asked}"), (f"record of {asked}", f"part of {asked}")):
                link.execute(insert(objects["object_children"]).values(parent_id=above, child_id=below))
        for asked, missing in (("m1", 0), ("m4", 2)):
            session = {"session_id": asked, "run_id": signed(RUN), "pending_count": missing}
            link.execute(insert(sessions["object_push_sessions"]).values(expires_at=datetime.now(UTC), **session))
            root = {"session_id": asked, "root_object_id": f"to {asked}"}
            link.execute(insert(sessions["object_push_session_roots"]).values(**root))
    assert answers(federation, RUN) == ({"m1"}, {"m1", "m2"})
    assert answers(federation, RUN + 1) == (set(), set()), "another run's"
    with create_engine(f"sqlite:///{federation.superlink / 'state.db'}").begin() as link:
        sent = LinkStateBase.metadata.tables["message_ins"]
        link.execute(update(sent).where(sent.c.message_id == "m1").values(ttl=1.0))
    assert answers(federation, RUN) == ({"m1"}, {"m2"}), "one that has expired"


def test_of_a_site_s_messages_the_one_that_it_fetched_is_what_it_does(federation: Federation) -> None:
    sent = LinkStateBase.metadata.tables["message_ins"]
    probe = {"message_id": "m9", "message_type": "query", "created_at": time.time(), "delivered_at": "", "ttl": 900.0}
    with create_engine(f"sqlite:///{federation.superlink / 'state.db'}").begin() as link:
        for node in (1, 2**64 - 5):
            values = probe | {"message_id": f"probe {node}"}
            link.execute(insert(sent).values(run_id=signed(RUN), dst_node_id=signed(node), **values))
    found = errands(federation, RUN)
    assert found["amc"].kind != "query" and found["amc"].fetched is not None
    assert found["snubh"].kind == "query", "of what it has not fetched the last"


def test_heartbeats_without_an_interval_say_nothing() -> None:
    assert last_contact(1e301, 1e300, online=True) is None
    assert last_contact(0.0, 0.0, online=True) is None


def test_a_site_has_not_fetched_works_has_answered_or_refuses(federation: Federation) -> None:
    now = datetime.now(UTC)
    standing = Standing(
        state="running",
        exchange="train",
        round=3,
        since=now,
        waiting_for=("amc", "snubh"),
        refused={"west": 832},
        asked={"amc": now - timedelta(seconds=31)},
        answered={"coast": 31.0},
    )
    found = site_tasks("trial", standing, errands(federation, RUN))
    assert {site: task.progress for site, task in found.items()} == {
        "amc": "working",
        "snubh": "not fetched",
        "coast": "answered",
        "west": "refused",
    }
    assert 29 <= age(found["amc"].since) < 60
    assert {site for site, task in found.items() if task.waited_for} == {"amc", "snubh"}
    assert site_tasks("trial", standing.model_copy(update={"state": "finished"}), {}) == {}
