"""The coordinator's hand on the SuperLink: which keys it knows, which runs it carries.

Flower never takes back a key that was unregistered, and does not say which key a node has: `superlink/keys.json` does.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import tomli_w
from filelock import FileLock, Timeout

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from server.provisioning.federation import Federation
from server.services.flower import CONNECTION, FlowerRefusal, app_folder, failed, flwr, prepare
from server.services.flower import superlink_answers as superlink_answers

_LOCK_SECONDS = 60.0
_KEY_IN_USE, _NO_RUN, _RUN_FINISHED = 23, 16, 18
"""Flower's own numbers for its refusals."""


@dataclass(frozen=True)
class Node:
    """A site's key at the SuperLink; `site` is None for a key that is not ours."""

    node_id: int
    site: str | None
    status: str

    @property
    def online(self) -> bool:
        """Whether the SuperLink has heard from the site within the last minute."""
        return self.status == "online"


@dataclass(frozen=True)
class FlowerRun:
    """How Flower sees a run: status "pending", "starting", "running" or "finished", and then with which outcome."""

    run_id: int
    status: str
    outcome: str
    details: str

    @property
    def finished(self) -> bool:
        """Whether nothing works on the run any more."""
        return self.status == "finished"


def nodes(federation: Federation) -> list[Node]:
    """Return the keys that the SuperLink knows and that were not taken back."""
    try:
        listed = flwr(federation, "supernode", "list", CONNECTION)["nodes"]
    except FlowerRefusal as refusal:
        raise failed("list its nodes", refusal) from None
    names = _read(federation.nodes_file)
    return [
        Node(
            node_id=int(node["node-id"]),
            site=names.get(int(node["node-id"])),
            status=node["status"],
        )
        for node in listed
        if node["status"] != "unregistered"
    ]


def register(federation: Federation, site: str) -> int:
    """Make an admitted site's key known to the SuperLink and return the number of its node.

    Raises
    ------
    FedReasonError
        KEY_MISSING where the key file is gone, SERVICE_FAILED where the SuperLink refuses.
    """
    try:
        return _register(federation, site)
    except FlowerRefusal as refusal:
        raise failed(f"register {site}", refusal) from None


def _register(federation: Federation, site: str) -> int:
    path = federation.node_key(site)
    if not path.exists():
        raise FedReasonError(Code.KEY_MISSING, f"{path} does not exist.", "Admit the site's request once more.")
    return int(flwr(federation, "supernode", "register", str(path), CONNECTION, "--name", site)["node-id"])


def unregister(federation: Federation, node_id: int) -> None:
    """Take a node's key back: Flower never takes that key again."""
    try:
        flwr(federation, "supernode", "unregister", str(node_id), CONNECTION)
    except FlowerRefusal as refusal:
        raise failed(f"unregister node {node_id}", refusal) from None


def sync_nodes(federation: Federation) -> list[str]:
    """Make the SuperLink know the keys of the roster and no others; return a line for each change.

    `nodes.json` says afterwards which node is which site.

    Raises
    ------
    FedReasonError
        COORDINATOR_DOWN, SERVICE_FAILED; ROSTER_SIGNATURE where the roster is not the coordinator's.
    """
    private_folder(federation.superlink)
    try:
        with FileLock(federation.superlink / "nodes.lock", timeout=_LOCK_SECONDS, mode=0o600):
            return _sync(federation)
    except Timeout:
        raise FedReasonError(
            Code.RUN_LOCKED, "Another command is registering sites.", "Wait for it, then repeat this one."
        ) from None


def _sync(federation: Federation) -> list[str]:
    roster = federation.roster()
    wanted = {member.node_key: member.site for member in roster.members} if roster else {}
    listed = [node.node_id for node in nodes(federation)]
    keys = {node: key for node, key in _read(_keys_file(federation)).items() if node in listed}
    lines, refused = [], []
    wrong: list[FedReasonError] = []
    for key, site in wanted.items():
        if key in keys.values():
            continue
        try:
            keys[_register(federation, site)] = key
        except FlowerRefusal as refusal:
            if refusal.number == _KEY_IN_USE:
                refused.append(site)
            else:
                wrong.append(failed(f"register {site}", refusal))
            continue
        except FedReasonError as error:
            if error.code is Code.COORDINATOR_DOWN:
                raise
            wrong.append(error)
            continue
        _save(federation, keys, wanted)
        lines.append(f"{site} is registered")
    if refused:
        found = f"The SuperLink knows the key of {', '.join(refused)} by a number that {federation.nodes_file} lacks."
        fix = (
            "Stop the coordinator, move superlink/state.db* away and start it again: it registers every site anew, "
            "and runs go on from their last round."
        )
        wrong.append(FedReasonError(Code.SERVICE_FAILED, found, fix))
    names = _read(federation.nodes_file)
    for node in listed:
        if node not in keys and wrong:
            continue  # it may be that of a site that was refused, and the SuperLink takes a key once
        if keys.get(node) not in wanted:
            unregister(federation, node)
            keys.pop(node, None)
            lines.append(f"{names.get(node, f'unknown node {node}')} is no longer registered")
    _save(federation, keys, wanted)
    if wrong:
        raise wrong[0]
    return lines


def _keys_file(federation: Federation) -> Path:
    return federation.superlink / "keys.json"


def _save(federation: Federation, keys: dict[int, str], wanted: dict[str, str]) -> None:
    """Write which key each node has, and from it which site each node is."""
    names = {node: wanted[key] for node, key in keys.items() if key in wanted}
    for path, table in ((_keys_file(federation), keys), (federation.nodes_file, names)):
        content = json.dumps({str(node): value for node, value in sorted(table.items())}, indent=1).encode()
        if not path.exists() or path.read_bytes() != content:
            write_private(path, content)


def _read(path: Path) -> dict[int, str]:
    """Read a table by node number; one that is missing or damaged is empty, and written anew."""
    try:
        return {int(node): str(value) for node, value in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def submit(federation: Federation, config: Path, sha256: str, stated: str, *, ask: bool = False) -> int:
    """Hand a run to the SuperLink and return its number; with `ask` only the question before a run.

    Parameters
    ----------
    stated
        The configuration as JSON, since the services need not see the file: it may lie in a home or in /tmp. Where it
        is "", the file is read once more.
    sha256
        Of the run: where the file states another one by the time it is read, nothing begins.
    """
    private_folder(federation.runs)
    values = {
        "config": str(config.resolve()),
        "runs": str(federation.runs),
        "federation": str(federation.folder),
        "sha256": sha256,
        "stated": stated,
        "ask": ask,
    }
    prepare(federation)
    with tempfile.NamedTemporaryFile("wb", suffix=".toml", dir=federation.superlink) as file:
        file.write(tomli_w.dumps(values).encode())
        file.flush()
        try:
            answer = flwr(federation, "run", str(app_folder(federation)), CONNECTION, "--run-config", file.name)
        except FlowerRefusal as refusal:
            raise failed("take the run", refusal) from None
    return int(answer["run-id"])


def run_status(federation: Federation, run_id: int) -> FlowerRun | None:
    """Return how Flower sees a run, None where this SuperLink does not know it."""
    try:
        found = flwr(federation, "ls", CONNECTION, "--run-id", str(run_id))["runs"][0]
    except FlowerRefusal as refusal:
        if refusal.number == _NO_RUN:
            return None
        raise failed(f"tell about run {run_id}", refusal) from None
    status, _, outcome = str(found["status"]).partition(":")
    return FlowerRun(run_id, status, outcome, str(found["status-details"]))


def stop_run(federation: Federation, run_id: int) -> bool:
    """Have Flower stop a run; whether there was anything to stop."""
    try:
        flwr(federation, "stop", str(run_id), CONNECTION)
    except FlowerRefusal as refusal:
        if refusal.number in (_NO_RUN, _RUN_FINISHED):
            return False
        raise failed(f"stop run {run_id}", refusal) from None
    return True
