"""A site's connection to the SuperLink: the one file of a site that uses what Flower calls its own (flwr 1.41).

It speaks the SuperNode's side of the Fleet API and owns the loop that Flower's SuperNode would run. It asks for
messages and never for the bundle, so that no code of the coordinator is downloaded, let alone unpacked or imported; a
message in hand is bytes that can be kept on disk; and after a crash the node goes on under its old number, where a
second activation would be refused for a minute.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.error import ApiErrorCode, FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from common.errors import Code, FedReasonError
from common.flower import BEAT_EVERY, FAREWELL_SECONDS, HEARTBEAT_SECONDS

_OBJECT_SECONDS = 300.0
_AT_ONCE = 4
_LENGTH = 8
_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


class Lost(Exception):
    """The SuperLink cannot be reached for now; the same call may succeed later."""


class RunEnded(Exception):
    """The run that a message belongs to no longer runs."""


@dataclass(frozen=True)
class Parcel:
    """A message as it travels: its header, and the objects that hold its content with their tree."""

    header: bytes
    tree: bytes
    objects: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        """Pack for the disk."""
        return b"".join(len(part).to_bytes(_LENGTH, "big") + part for part in (self.header, self.tree, *self.objects))

    @classmethod
    def of(cls, content: bytes) -> Parcel:
        """Unpack what `to_bytes` made; ValueError where it is torn, or its header cannot be read."""
        parts, at = [], 0
        while at < len(content):
            start = at + _LENGTH
            at = start + int.from_bytes(content[at:start], "big")
            parts.append(content[start:at])
        if at != len(content) or len(parts) < 2:
            raise ValueError("torn parcel")
        try:
            ProtoMessage.FromString(parts[0])
        except Exception as error:  # what a library of protobuf raises depends on the library
            raise ValueError("damaged header") from error
        return cls(parts[0], parts[1], tuple(parts[2:]))

    @property
    def contents(self) -> dict[str, bytes]:
        """The objects by their names."""
        return {get_object_id(content): content for content in self.objects}

    @property
    def message(self) -> Message:
        """The message with its content."""
        header = ProtoMessage.FromString(self.header)
        message = inflate_object_from_contents(header.metadata.message_id, self.contents)
        assert isinstance(message, Message)
        message.metadata.__dict__["_message_id"] = header.metadata.message_id
        return message

    @property
    def run(self) -> int:
        """Flower's number of the run."""
        return int(ProtoMessage.FromString(self.header).metadata.run_id)


@dataclass(frozen=True)
class _Claimed:
    """A message that the SuperLink has given out, and those of its parts that are here."""

    header: ProtoMessage
    tree: ObjectTree
    parts: dict[str, bytes] = field(default_factory=dict)

    @property
    def missing(self) -> list[str]:
        """Names of the parts that are not here yet."""
        return sorted({part.object_id for part in iterate_object_tree(self.tree)} - self.parts.keys())


def reply_parcel(message: Message, content: RecordDict) -> Parcel:
    """Pack the reply to a message."""
    reply = Message(content, reply_to=message)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        tree = get_object_tree(reply).SerializeToString()
        objects = tuple(thing.deflate() for thing in get_all_nested_objects(reply).values())
    return Parcel(message_to_proto(remove_content_from_message(reply)).SerializeToString(), tree, objects)


def kept_number(path: Path) -> int | None:
    """Return the number that a node had before; one that cannot be read is as none, and the SuperLink tells it anew."""
    try:
        number = int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    return number if 0 < number < 2**64 else None


class Fleet:
    """The Fleet API of one SuperLink, as one node.

    Every method raises `Lost` where the network or the SuperLink is down, `RunEnded` where the run is over and
    `FedReasonError` where the SuperLink refuses this site.
    """

    def __init__(self, address: str, ca: Path, key: EllipticCurvePrivateKey) -> None:
        self._address, self._public_key = address, public_key_to_bytes(key.public_key())
        self._client = FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=str(ca),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )
        self._node: Node | None = None
        self._beating: threading.Thread | None = None
        self._closed = threading.Event()
        self._claimed: _Claimed | None = None
        self._at_once = _AT_ONCE
        self.contact = 0.0
        """Monotonic time at which the SuperLink last answered."""

    @property
    def node_id(self) -> int:
        """Number of this node."""
        assert self._node is not None
        return self._node.node_id

    def connect(self, known: int | None, *, afresh: bool = True) -> int:
        """Take up the node again under its `known` number, or activate it; heartbeats start. Returns the number.

        `afresh` lets the coordinator see a new start, so that it asks again for what may have been lost with the old
        one; not where the message in hand was kept.
        """
        self._claimed = None
        if known is not None and self._beats(Node(node_id=known)):
            self._node = Node(node_id=known)
            if afresh:
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=known))
        else:
            self._node = None
        if self._node is None or afresh:
            request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_SECONDS)
            self._node = Node(node_id=self._call(self._client.ActivateNode, request).node_id)
        if self._beating is None:
            self._beating = threading.Thread(target=self._beat, daemon=True, name="heartbeat")
            self._beating.start()
        return self._node.node_id

    def receive(self) -> Parcel | None:
        """Return the next message with its content, None where there is none.

        Flower gives a message out once: called again after `Lost`, it goes on with the parts that are still missing.
        """
        if self._claimed is None:
            response = self._call(self._client.PullMessages, PullMessagesRequest(node=self._node))
            if not response.messages_list:
                return None
            self._claimed = _Claimed(response.messages_list[0], response.message_object_trees[0])
        claimed = self._claimed
        try:
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(lambda name: self._pull(claimed, name), claimed.missing))
        except RunEnded:
            self._claimed = None
            raise
        self._claimed = None
        objects = tuple(content for _, content in sorted(claimed.parts.items()))
        return Parcel(claimed.header.SerializeToString(), claimed.tree.SerializeToString(), objects)

    def confirm(self, parcel: Parcel) -> None:
        """Say that a message is in safe hands: the SuperLink forgets its content."""
        name = ProtoMessage.FromString(parcel.header).metadata.message_id
        request = ConfirmMessageReceivedRequest(node=self._node, run_id=parcel.run, message_object_id=name)
        self._call(self._client.ConfirmMessageReceived, request)

    def require_running(self, run: int) -> None:
        """Raise `RunEnded` where the run does not run any more."""
        self._call(self._client.GetRun, GetRunRequest(node=self._node, run_id=run))

    def send(self, parcel: Parcel) -> None:
        """Send a reply; called again after `Lost` with the same parcel, it sends what the SuperLink still lacks.

        The header comes first and is answered by the names of missing objects: none where the reply has arrived. How
        long it took to compute, which Flower would like to know, is not told.
        """
        request = PushMessagesRequest(
            node=self._node,
            messages_list=[ProtoMessage.FromString(parcel.header)],
            message_object_trees=[ObjectTree.FromString(parcel.tree)],
            clientapp_runtime_list=[0.0],
        )
        response = self._call(self._client.PushMessages, request)
        contents = parcel.contents

        def push(name: str) -> None:
            part = PushObjectRequest(
                node=self._node,
                run_id=parcel.run,
                object_id=name,
                object_content=contents[name],
                session_id=response.session_id,
            )
            if not self._call(self._client.PushObject, part).stored:
                self._at_once = 1  # on a slow line none of several may arrive within the time that Flower waits for one
                raise Lost("the upload was cut")

        # All at once: the server sees the message now, and one that finds a part missing looks again a second later.
        with ThreadPoolExecutor(self._at_once) as pool:
            list(pool.map(push, sorted(response.objects_to_push)))

    def close(self) -> None:
        """Say goodbye, so that the coordinator knows at once; never raises."""
        self._closed.set()
        if self._node is not None:
            with contextlib.suppress(Lost, RunEnded, FedReasonError):
                self._beats(self._node, FAREWELL_SECONDS)
                self._call(self._client.DeactivateNode, DeactivateNodeRequest(node_id=self._node.node_id))
        self._client.close()

    def _pull(self, claimed: _Claimed, name: str) -> None:
        until, run = time.monotonic() + _OBJECT_SECONDS, claimed.header.metadata.run_id
        while True:
            response = self._call(
                self._client.PullObject, PullObjectRequest(node=self._node, run_id=run, object_id=name)
            )
            if response.object_found and response.object_available:
                claimed.parts[name] = response.object_content
                return
            if not response.object_found or time.monotonic() > until:
                raise RunEnded
            time.sleep(0.2)

    def _beats(self, node: Node, interval: float = HEARTBEAT_SECONDS) -> bool:
        request = SendNodeHeartbeatRequest(node=node, heartbeat_interval=interval)
        try:
            return bool(self._call(self._client.SendNodeHeartbeat, request).success)
        except FedReasonError as error:
            if error.code is Code.KEY_UNKNOWN:
                return False
            raise

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_EVERY):
            with contextlib.suppress(Lost, RunEnded, FedReasonError, RuntimeError):
                if self._node is not None:
                    self._beats(self._node)

    def _call(self, method: Callable[[_Request], _Answer], request: _Request) -> _Answer:
        try:
            answer = method(request)
        except httpx.TransportError as error:
            raise Lost(type(error).__name__) from None
        except httpx.HTTPStatusError as error:
            raise self._refusal(error.response) from None
        self.contact = time.monotonic()
        return answer

    def _refusal(self, response: httpx.Response) -> Exception:
        flower = FlowerError.from_json(response.text)
        code = flower.code if flower else None
        if code in (ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED, ApiErrorCode.FLEET_GET_RUN_FAILED):
            return RunEnded()
        if code == ApiErrorCode.FLEET_NODE_ACTIVATION_FAILED or response.status_code == httpx.codes.UNAUTHORIZED:
            return FedReasonError(
                Code.KEY_UNKNOWN,
                f"{self._address} does not know this site's key (keys/node.pub): it was not admitted, or was revoked.",
                "Ask the coordinator to admit request.json.",
            )
        if response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
            return Lost(str(response.status_code))
        return FedReasonError(
            Code.SERVER_UNREACHABLE,
            f"{self._address} answers a Fleet call with status {response.status_code}.",
            "Check with the coordinator that this is the address of the federation, and Flower 1.41 runs there.",
        )
