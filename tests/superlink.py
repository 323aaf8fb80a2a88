"""Flower's own SuperLink, without its sockets: its handlers work on its database in a file, which outlives it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PullMessagesRequest, PushMessagesRequest
from flwr.proto.node_pb2 import Node as ProtoNode
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.server.superlink.linkstate import SqlLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import InflatableObject, get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers
from flwr.superlink.servicer.runtime import runtime_handlers

from client.node.worker import Parcel
from common.messages.kinds import Reply, Task
from common.messages.records import read_reply, reply_record, task_record
from tests.whole_site import run_of, task_of

TASK = task_of(run_of(privacy=None))


class SuperLink:
    """Flower's SuperLink as one site reaches it, with one run and one message in it."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "superlink.db")
        self.start()
        self.node = self.state.create_node("owner", "owner", b"key", 0)
        self.state.activate_node(self.node, 30.0)
        self.run = self.state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, str(TaskType.SERVER_APP))
        (info,) = self.state.get_run_info(run_ids=[self.run])
        self.state.claim_task(info.primary_task_id)
        self.state.activate_task(info.primary_task_id)
        self.asked = self._ask()

    def start(self) -> None:
        """Open the database, as a SuperLink does that is started (again)."""
        store = SqlObjectStore(self.path)
        store.initialize()
        self.state = SqlLinkState(self.path, NoOpFederationManager(), store)
        self.state.initialize()

    def _ask(self) -> str:
        message = self.message(TASK, self.node)
        session = self.state.start_session(self.run)
        stored, _ = self.state.store_message_and_object_tree(message, get_object_tree(message), session)
        assert stored
        self._store(message, session)
        return message.metadata.message_id

    def message(self, content: Task | Reply, to: int) -> Message:
        """Make a message as the SuperLink's own program does."""
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {"_run_id": self.run, "_node_id": SUPERLINK_NODE_ID, "_task_id": 1}.items():
                patch.setattr(TaskIdentity, name, value)
            record = task_record(content) if isinstance(content, Task) else reply_record(content)
            message = Message(record, to, "train")
        vars(message.metadata)["_message_id"] = message.object_id
        return message

    def _store(self, root: InflatableObject, session: str) -> None:
        for name, part in get_all_nested_objects(root).items():
            assert self.state.store_object(self.run, session, name, part.deflate())

    def push(self, message: Message, root: InflatableObject | None = None) -> None:
        """Take a message from a node, as the Fleet API does, whose header may say what it likes of who sent it.

        In place of the message any other object may follow the header, as its `root`.
        """
        self._store(root or message, self.push_head(message, root))

    def push_head(self, message: Message, root: InflatableObject | None = None) -> str:
        """Take the header of a message, from a node that dies before it sends a part."""
        header, root = message_to_proto(remove_content_from_message(message)), root or message
        header.metadata.message_id = root.object_id
        request = PushMessagesRequest(
            node=ProtoNode(node_id=self.node), messages_list=[header], message_object_trees=[get_object_tree(root)]
        )
        return str(fleet_handlers.push_messages(request, self.state).session_id)

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Give the program what `Grid.pull_messages` gives it."""
        request = PullAppMessagesRequest(message_ids=list(message_ids))
        response = runtime_handlers.pull_messages(request, self.state, SimpleNamespace(run_id=self.run))  # type: ignore[arg-type]
        return [self._whole(header.metadata.message_id) for header in response.messages_list]

    def _whole(self, name: str) -> Message:
        tree, contents = self.state.object_store.get_object_tree(name), {}
        todo = [tree]
        while todo:
            part = todo.pop()
            contents[part.object_id] = self.state.get_object(self.run, part.object_id) or b""
            todo += part.children
        assert all(contents.values()), "an object is missing"
        whole = cast(Message, inflate_object_from_contents(name, contents))
        vars(whole.metadata)["_message_id"] = name
        return whole

    def parcel(self) -> Parcel:
        """Give the message away as the site takes it in hand."""
        request = PullMessagesRequest(node=ProtoNode(node_id=self.node))
        response = fleet_handlers.pull_messages(request, self.state, self.state.object_store)
        (header,), (tree,) = response.messages_list, response.message_object_trees
        names, todo = set(), [tree]
        while todo:
            names.add((part := todo.pop()).object_id)
            todo += part.children
        contents = [self.state.get_object(self.run, name) for name in sorted(names)]
        return Parcel(header.SerializeToString(), tree.SerializeToString(), tuple(filter(None, contents)))

    def answers(self) -> list[Reply]:
        """Take the replies that arrived, each once, as the coordinator's program does; each must be whole."""
        found = []
        for reply in self.state.get_message_res({self.asked}, self.run):
            assert not reply.has_error(), reply.error
            found.append(read_reply(self._whole(reply.metadata.message_id).content))
        return found
