"""A site in order, and a coordinator that answers it over TLS."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from client.site.keys import own_keys
from common import synthetic
from common.identity.keys import new_node_key, new_signing_key, private_folder, public_text, save_key, write_private
from common.identity.roster import Member, Roster, sign_roster
from tests.tls import Authority, Listener, coordinator, make_authority, server_context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return make_authority(tmp_path / "authority")


@pytest.fixture
def server(authority: Authority) -> Iterator[Listener]:
    with coordinator(server_context(authority)) as listener:
        yield listener


@pytest.fixture
def folder(tmp_path: Path, authority: Authority) -> Path:
    """A site in order: its own keys, on an accepted roster."""
    folder, signer = tmp_path / "amc", new_signing_key()
    private_folder(folder)
    save_key(folder / "keys" / "signing", new_signing_key())
    save_key(folder / "keys" / "node", new_node_key())
    write_private(folder / "coordinator.pub", public_text(signer).encode())
    keys = own_keys(folder)
    member = Member(site="amc", signing_key=keys.signing, node_key=keys.node, admitted=date(2026, 1, 1))
    roster = Roster(federation="sepsis", version=3, issued=datetime(2026, 1, 1, tzinfo=UTC), members=(member,))
    write_private(folder / "roster.json", sign_roster(roster, signer).encode())
    shutil.copy(authority.path, folder / "ca.crt")
    (folder / "policy.toml").touch()
    (folder / "excluded.txt").touch()
    (folder / "codebook.toml").write_text(synthetic.codebook().to_toml())
    (folder / "registry.csv").write_text("patient_id\n")
    return folder
