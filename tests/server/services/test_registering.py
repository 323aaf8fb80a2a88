"""Who is on the roster is registered with the SuperLink; what is wrong with one site keeps no other from it."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from common.errors import Code, FedReasonError
from server.provisioning.federation import Federation
from server.services import control
from server.services.flower import FlowerRefusal

IN_USE = 23


class Superlink:
    """The nodes that a SuperLink knows, by number: of which site each is."""

    def __init__(self, nodes: dict[int, str], wrong: dict[str, Exception]) -> None:
        self.nodes, self.wrong = nodes, wrong
        self._numbers = count(10)

    def register(self, federation: Federation, site: str) -> int:
        if site in self.wrong:
            raise self.wrong[site]
        number = next(self._numbers)
        self.nodes[number] = site
        return number


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    sites = ("amc", "berlin", "west")
    members = [SimpleNamespace(site=site, node_key=f"key of {site}") for site in sites]
    made = SimpleNamespace(
        superlink=tmp_path / "superlink",
        nodes_file=tmp_path / "nodes.json",
        roster=lambda: SimpleNamespace(members=members),
    )
    return cast(Federation, made)


def connect(monkeypatch: pytest.MonkeyPatch, link: Superlink) -> None:
    def listed(_: Federation) -> list[SimpleNamespace]:
        return [SimpleNamespace(node_id=number) for number in link.nodes]

    monkeypatch.setattr(control, "nodes", listed)
    monkeypatch.setattr(control, "_register", link.register)
    monkeypatch.setattr(control, "unregister", lambda _, number: link.nodes.pop(number))


@pytest.mark.parametrize(
    "wrong",
    [
        FedReasonError(Code.KEY_MISSING, "It is gone.", "Look."),
        FlowerRefusal(None, "no answer that can be read"),
        FlowerRefusal(IN_USE, "in use"),
    ],
)
def test_a_site_that_cannot_be_registered_keeps_no_other_from_it_and_no_revoked_one_on(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, wrong: Exception
) -> None:
    link = Superlink({1: "revoked", 2: "of nobody knows whom"}, {"berlin": wrong})
    connect(monkeypatch, link)
    federation.superlink.mkdir()
    (federation.superlink / "keys.json").write_text(json.dumps({"1": "key of revoked"}))
    for _ in range(2):
        with pytest.raises(FedReasonError):
            control.sync_nodes(federation)
        assert sorted(link.nodes.values()) == ["amc", "of nobody knows whom", "west"]
    link.wrong.clear()
    assert "berlin is registered" in control.sync_nodes(federation)
    assert sorted(link.nodes.values()) == ["amc", "berlin", "west"]
    assert sorted(json.loads(federation.nodes_file.read_text()).values()) == ["amc", "berlin", "west"]


def test_where_the_superlink_is_away_nobody_is_asked_for_again(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = FedReasonError(Code.COORDINATOR_DOWN, "It is away.", "Start it.")
    link = Superlink({}, {"amc": away})
    connect(monkeypatch, link)
    with pytest.raises(FedReasonError, match="It is away"):
        control.sync_nodes(federation)
    assert link.nodes == {}
