"""Who is expected and who is online: node numbers of the SuperLink, under the names of their sites.

In a federation `nodes.json` says which node is which site, and a node that does not stand there is nobody. A simulation
has no such file: each of its nodes is expected, as node-<number>.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flwr.serverapp import Grid

from common.errors import Code, FedReasonError
from common.logs import logger
from server.services.heard import last_contact

_log = logger("server")
_LOOK_SECONDS = 1.0
_MARGIN_SECONDS = 1.0


@dataclass(frozen=True)
class Presence:
    """A site that is online: its node, its start, and until when it counts as such without a sign of life (Unix time).

    `start` is another one where the node starts anew, or was lost for so long that Flower took it for dead.
    """

    node: int
    start: str
    until: float

    @property
    def reachable(self) -> bool:
        """Whether Flower will take the node for alive in the next moment, too."""
        return time.time() < self.until - _MARGIN_SECONDS


class Attendance:
    """The sites of a run, as they come and go.

    Parameters
    ----------
    grid
        Flower's view of the nodes.
    sites
        Sites that the run's configuration counts on.
    nodes_file
        `nodes.json` of the federation, None in a simulation. It is read again and again: a site may be revoked, or
        come back with new keys as another node.
    members
        Sites of the run's roster; one that is admitted later takes part in the next run.
    """

    def __init__(self, grid: Grid, sites: int, nodes_file: Path | None = None, members: Collection[str] = ()) -> None:
        self._grid, self._sites, self._file, self._members = grid, sites, nodes_file, members
        self._looked = float("-inf")
        self.expected: tuple[str, ...] = ()
        self.online: dict[str, Presence] = {}
        self.contact: dict[str, datetime] = {}

    @property
    def count(self) -> int:
        """Sites that can take part at all."""
        return self._sites if self._file is None else len(self.expected)

    def reachable(self, name: str) -> Presence | None:
        """Return where a site is, None while it is away."""
        presence = self.online.get(name)
        return presence if presence is not None and presence.reachable else None

    @property
    def missing(self) -> list[str]:
        """Expected sites that are not online."""
        return [name for name in self.expected if name not in self.online]

    @property
    def complete(self) -> bool:
        """Whether every expected site is online."""
        return len(self.online) >= self.count

    def look(self) -> None:
        """See who is online, at most once a second; each change is a line in the log.

        Raises
        ------
        FedReasonError
            Where `nodes.json` cannot be read.
        """
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        before = self.online
        nodes = list(self._grid.get_nodes())
        present = {
            node.node_id: Presence(node.node_id, f"{node.node_id} {node.last_activated_at}", node.online_until)
            for node in nodes
        }
        names = {node: f"node-{node}" for node in sorted(present)} if self._file is None else self._names(self._file)
        unseen = set(self.expected) if self._file is None else set()
        self.expected = tuple(sorted({*names.values(), *unseen}))
        self.online = {names[node]: presence for node, presence in present.items() if node in names}
        for name in sorted(self.online.keys() ^ before.keys()):
            _log.info("%s is %s", name, "online" if name in self.online else "offline")
        for node in nodes:
            if node.node_id in names:
                heard = last_contact(node.online_until, node.heartbeat_interval, online=True)
                self.contact[names[node.node_id]] = heard or datetime.now(UTC)
        self._looked = time.monotonic()

    def _names(self, path: Path) -> dict[int, str]:
        try:
            names = json.loads(path.read_text(encoding="utf-8"))
            return {int(node): site for node, site in names.items() if site in self._members}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError):
            raise FedReasonError(
                Code.FEDERATION_MISSING,
                f"{path} is not readable.",
                "Start the coordinator anew by `python -m server up`: it writes the file from the roster.",
            ) from None
