"""The roster at a site: shown, accepted and pinned, and never taken back."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client.site.keys import own_keys
from client.site.kit import (
    accept_roster,
    accepted_roster,
    offered_roster,
    receive_roster,
    require_roster,
    show_roster,
)
from common.errors import Code
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    new_signing_key,
    save_key,
    sign,
    write_private,
)
from common.identity.roster import Roster, read_roster, sign_roster
from server.provisioning.federation import Federation
from server.services.admission import admit, revoke
from tests.federations import (
    command,
    initiated,
    joined,
    made,
    refused,
    requested,
    require_private,
)


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path).federation


def test_a_site_shows_every_peers_fingerprints_and_pins_what_it_accepts(federation: Federation) -> None:
    amc = initiated(federation, "amc")
    refused(Code.ROSTER_MISSING, lambda: accepted_roster(amc))
    refused(Code.ROSTER_MISSING, lambda: show_roster(amc))
    admit(federation, [amc / "request.json"])
    assert [(row.site, row.change) for row in show_roster(amc, federation.roster_file)] == [("amc", "new")]
    accept_roster(amc, federation.roster_file)
    admit(federation, [initiated(federation, "snubh") / "request.json"])
    rows = show_roster(amc, federation.roster_file)
    assert [(row.site, row.change) for row in rows] == [("amc", "same"), ("snubh", "new")]
    assert rows[1].fingerprints.signing == fingerprint(own_keys(amc.with_name("snubh")).signing)
    assert accepted_roster(amc).version == 1
    done = command("client", "roster", "accept", "--site", amc, "--yes", federation.roster_file)
    assert done.returncode == 0, done.stderr
    assert accepted_roster(amc).sha256 == read_roster(federation.roster_file, federation.signer).sha256
    revoke(federation, ["snubh"])
    assert [(r.site, r.change) for r in show_roster(amc, federation.roster_file)] == [
        ("amc", "same"),
        ("snubh", "removed"),
    ]
    require_private(amc)


def test_a_roster_that_comes_with_a_task_only_waits(federation: Federation) -> None:
    amc = initiated(federation, "amc")
    admit(federation, [amc / "request.json"])
    text = federation.roster_file.read_text()
    roster = read_roster(text, federation.signer)
    refused(Code.ROSTER_MISSING, lambda: require_roster(amc, roster.sha256, text))
    assert offered_roster(amc) == roster
    accept_roster(amc, sha256=roster.sha256)
    assert not (amc / "roster.pending.json").exists()
    assert require_roster(amc, roster.sha256, text) == roster
    assert require_roster(amc, roster.sha256) == roster
    admit(federation, [initiated(federation, "snubh") / "request.json"])
    newer = federation.roster_file.read_text()
    sha256 = read_roster(newer, federation.signer).sha256
    for wrong in (sha256, None, "0" * 64):
        refused(Code.ROSTER_CHANGED, lambda wrong=wrong: require_roster(amc, wrong))
    assert not (amc / "roster.pending.json").exists()
    refused(Code.ROSTER_CHANGED, lambda: require_roster(amc, sha256, newer))
    assert accepted_roster(amc) == roster
    assert [row.change for row in show_roster(amc)] == ["same", "new"]
    assert accept_roster(amc).roster.version == 2
    refused(Code.ROSTER_CHANGED, lambda: receive_roster(amc, text))
    require_private(amc)


def test_only_the_roster_that_was_shown_is_accepted(federation: Federation) -> None:
    amc = initiated(federation, "amc")
    admit(federation, [amc / "request.json"])
    shown = offered_roster(amc, federation.roster_file)
    admit(federation, [initiated(federation, "snubh") / "request.json"])
    refused(Code.ROSTER_CHANGED, lambda: accept_roster(amc, federation.roster_file, sha256=shown.sha256))
    refused(Code.ROSTER_MISSING, lambda: accepted_roster(amc))


def resigned(coordinator: Federation, key_path: Path | None = None, **changes: object) -> str:
    """Sign the current roster with changes, by the coordinator's key or another."""
    roster = coordinator.roster()
    assert roster is not None
    changed = Roster.model_validate({**roster.model_dump(), **changes})
    return sign_roster(changed, load_signing_key(key_path or coordinator.signing_key))


def test_a_roster_of_another_signer_or_changed_on_its_way_is_refused(federation: Federation, tmp_path: Path) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    save_key(tmp_path / "mallory", new_signing_key())
    text = federation.roster_file.read_text()
    swapped = json.loads(text)
    members = swapped["document"]["members"]
    members[0]["signing_key"], members[1]["signing_key"] = members[1]["signing_key"], members[0]["signing_key"]
    forged = [
        resigned(federation, tmp_path / "mallory", version=2),
        resigned(federation, snubh / "keys" / "signing", version=2),
        json.dumps(swapped),
        text.replace('"version": 1', '"version": 2'),
        sign(json.loads(text)["document"], load_signing_key(federation.signing_key), kind="request"),
        sign({"version": 2}, load_signing_key(federation.signing_key), kind="roster"),
    ]
    for wrong in forged:
        assert wrong != text
        refused(Code.ROSTER_SIGNATURE, lambda wrong=wrong: receive_roster(amc, wrong))
        write_private(tmp_path / "roster.json", wrong.encode())
        refused(Code.ROSTER_SIGNATURE, lambda: accept_roster(amc, tmp_path / "roster.json"))
    assert not (amc / "roster.pending.json").exists() and accepted_roster(amc).version == 1
    write_private(amc / "roster.json", forged[0].encode())
    refused(Code.ROSTER_SIGNATURE, lambda: accepted_roster(amc))


def test_an_older_roster_another_of_the_same_version_or_federation_is_refused(
    federation: Federation, tmp_path: Path
) -> None:
    (amc,) = joined(federation, "amc")
    (snubh,) = joined(federation, "snubh")
    accept_roster(amc, federation.roster_file)
    refused(Code.ROSTER_CHANGED, lambda: accept_roster(amc, federation.rosters / "1.json"))
    split_view = resigned(federation, issued=datetime(2026, 1, 1, tzinfo=UTC))
    for wrong in (split_view, resigned(federation, version=3, federation="other")):
        write_private(tmp_path / "roster.json", wrong.encode())
        refused(Code.ROSTER_CHANGED, lambda: accept_roster(amc, tmp_path / "roster.json"))
        refused(Code.ROSTER_CHANGED, lambda wrong=wrong: receive_roster(amc, wrong))
    receive_roster(snubh, resigned(federation, version=5))
    refused(Code.ROSTER_CHANGED, lambda: receive_roster(snubh, resigned(federation, version=4)))
    assert offered_roster(snubh).version == 5


def test_a_roster_with_other_keys_for_this_site_or_without_it_is_not_accepted(
    federation: Federation, tmp_path: Path
) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    before = accepted_roster(amc)
    admit(federation, [requested(tmp_path / "request.json")], replace=True)
    error = refused(Code.ROSTER_CHANGED, lambda: accept_roster(amc, federation.roster_file))
    assert "other keys for amc" in str(error)
    revoke(federation, ["amc"])
    assert "lacks amc" in str(refused(Code.ROSTER_CHANGED, lambda: accept_roster(amc, federation.roster_file)))
    assert accepted_roster(amc) == before
    assert accept_roster(snubh, federation.roster_file).roster.version == 3


def test_a_roster_keeps_its_hash_through_file_and_message(federation: Federation) -> None:
    joined(federation, "amc", "snubh")
    roster = federation.roster()
    assert roster is not None
    assert read_roster(federation.roster_file.read_text(), federation.signer).sha256 == roster.sha256
    assert Roster.model_validate_json(roster.model_dump_json()).sha256 == roster.sha256
    assert roster.model_copy(update={"version": 2}).sha256 != roster.sha256
