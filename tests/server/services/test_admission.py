"""Admission, revocation and rotation: which keys come onto the roster, and by whose word."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest

from bench.waiting import until
from client.site.keys import own_keys
from client.site.kit import (
    accept_roster,
    accepted_roster,
    rotate,
    show_roster,
)
from common.errors import Code
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    new_node_key,
    new_signing_key,
    public_text,
    write_private,
)
from common.identity.roster import Roster, read_roster, sign_roster
from common.messages.request import read_request, sign_request
from server.provisioning.deploy import render
from server.provisioning.federation import Federation
from server.services import admission
from server.services.admission import admit, restore_rosters, revoke, roster_lines
from server.services.control import nodes, superlink_answers
from tests.federations import command, contents, initiated, joined, made, refused, requested, require_private, rewritten
from tests.paths import ROOT


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path).federation


# --- admission ---


def test_admitted_sites_are_on_a_signed_roster_with_their_fingerprints(federation: Federation) -> None:
    folders = [initiated(federation, name) for name in ("snubh", "amc")]
    done = command(
        "server", "admit", *(folder / "request.json" for folder in folders), "--federation", federation.folder
    )
    assert done.returncode == 0, done.stderr
    roster = read_roster(federation.roster_file, federation.signer)
    assert (roster.version, roster.sites) == (1, ("amc", "snubh"))
    for folder in folders:
        keys = own_keys(folder)
        assert fingerprint(keys.signing) in done.stdout and fingerprint(keys.node) in done.stdout
        assert federation.node_key(folder.name).read_text().split()[:2] == keys.node.split()
    assert (federation.rosters / "1.json").read_bytes() == federation.roster_file.read_bytes()
    require_private(federation.folder)
    shown = command("server", "roster", "--federation", federation.folder)
    assert "version 1" in shown.stdout and federation.roster() == roster


def test_each_call_makes_one_version_and_the_same_request_again_none(federation: Federation) -> None:
    amc, snubh = (initiated(federation, name) / "request.json" for name in ("amc", "snubh"))
    assert "Not on the roster: amc, snubh" in roster_lines(federation)
    admit(federation, [amc, amc])
    assert "Not on the roster: snubh" in roster_lines(federation)
    before = federation.roster_file.read_bytes()
    again = admit(federation, [amc])
    assert again.changes == () and federation.roster_file.read_bytes() == before
    assert [row.site for row in admit(federation, [amc, snubh]).changes] == ["snubh"]
    roster = federation.roster()
    assert roster is not None and roster.version == 2


def test_what_an_interruption_left_undone_is_done_by_the_same_command(federation: Federation) -> None:
    (folder,) = joined(federation, "amc")
    federation.node_key("amc").unlink()
    write_private(federation.node_key("gone"), b"")
    admit(federation, [folder / "request.json"])
    assert [path.name for path in federation.nodes.iterdir()] == ["amc.pub"]


def altered(path: Path, **changes: object) -> Path:
    """Change a request after it was signed."""
    whole = json.loads(path.read_text())
    whole["document"] |= changes
    return rewritten(path, json.dumps(whole))


def test_a_request_that_was_changed_or_is_none_is_refused(federation: Federation) -> None:
    path = initiated(federation, "amc") / "request.json"
    for text in ("", "{}", path.read_text()[:-20], federation.folder.joinpath("federation.toml").read_text()):
        refused(Code.REQUEST_BAD, lambda text=text: admit(federation, [rewritten(path, text)]))
    for wrong in (path.with_name("absent.json"), path.parent, path.parent / "keys" / "signing"):
        refused(Code.REQUEST_BAD, lambda wrong=wrong: admit(federation, [wrong]))
    other = {"node_key": public_text(new_node_key()), "signing_key": public_text(new_signing_key()), "site": "snubh"}
    for name, value in other.items():
        refused(Code.REQUEST_BAD, lambda change={name: value}: admit(federation, [altered(path, **change)]))
    assert federation.roster() is None and not federation.roster_file.exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"federation": "other"}, "other"),
        ({"site": "smc"}, "smc"),
        ({"site": "../amc"}, "site"),
        ({"node_key": "ecdsa-sha2-nistp384 AAAA"}, "node_key"),
        ({"node_key": public_text(new_signing_key())}, "node_key"),
        ({"node_key": public_text(new_node_key()) + " comment"}, "node_key"),
        ({"made": "yesterday"}, "made"),
        ({"more": 1}, "more"),
    ],
    ids=["federation", "site", "path", "curve", "signing-key", "comment", "date", "more"],
)
def test_a_request_that_misstates_something_is_refused_and_told_what(
    federation: Federation, tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    path = requested(tmp_path / "request.json", **changes)
    assert says in str(refused(Code.REQUEST_BAD, lambda: admit(federation, [path])))
    admit(federation, [requested(tmp_path / "request.json")])


def test_no_two_sites_share_a_key(federation: Federation, tmp_path: Path) -> None:
    (amc,) = joined(federation, "amc")
    theirs = own_keys(amc)
    stolen = requested(tmp_path / "stolen.json", site="snubh", node_key=theirs.node)
    assert "amc's" in str(refused(Code.REQUEST_BAD, lambda: admit(federation, [stolen])))
    assert federation.node_key("snubh").exists() is False


def test_one_bad_request_keeps_all_out(federation: Federation, tmp_path: Path) -> None:
    good = initiated(federation, "amc") / "request.json"
    bad = requested(tmp_path / "bad.json", site="smc")
    before = contents(federation.folder)
    refused(Code.REQUEST_BAD, lambda: admit(federation, [good, bad]))
    assert {**contents(federation.folder), ".lock": b""} == {**before, ".lock": b""}


def test_two_requests_of_one_site_with_different_keys_are_refused(federation: Federation, tmp_path: Path) -> None:
    paths = [requested(tmp_path / name) for name in ("one.json", "two.json")]
    refused(Code.REQUEST_BAD, lambda: admit(federation, paths))
    refused(Code.REQUEST_BAD, lambda: admit(federation, paths, replace=True))


def test_other_keys_for_a_site_need_its_old_key_or_the_coordinators_word(
    federation: Federation, tmp_path: Path
) -> None:
    joined(federation, "amc")
    foreign = requested(tmp_path / "request.json")
    refused(Code.REQUEST_BAD, lambda: admit(federation, [foreign]))
    outcome = admit(federation, [foreign], replace=True)
    assert [(row.site, row.change) for row in outcome.changes] == [("amc", "changed")]
    assert federation.node_key("amc").read_text().split()[1] in foreign.read_text()


@pytest.mark.parametrize("leaves", [False, True])
def test_who_comes_or_goes_while_the_coordinator_starts_is_not_put_back(
    federation: Federation, monkeypatch: pytest.MonkeyPatch, leaves: bool
) -> None:
    """At the worst moment: when `up` has read the roster, and has yet to write which keys nginx lets through."""
    requests = [initiated(federation, name) / "request.json" for name in ("amc", "snubh")]
    admit(federation, requests if leaves else requests[:1])
    change = (lambda: revoke(federation, ["snubh"])) if leaves else (lambda: admit(federation, requests[1:]))
    other, read = threading.Thread(target=change), Federation.roster

    def disturbed(one: Federation) -> Roster | None:
        roster = read(one)
        if not other.ident:
            other.start()
            other.join(1.0)
        return roster

    with monkeypatch.context() as patch:
        patch.setattr(Federation, "roster", disturbed)
        folder = render(federation)
        other.join()
    assert len(list((folder / "nginx" / "admitted").glob("*/*"))) == (1 if leaves else 2)


# --- revocation ---


def test_a_revoked_site_is_off_the_roster_and_its_keys_do_not_come_back(federation: Federation) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    done = command("server", "revoke", "amc", "--federation", federation.folder)
    assert done.returncode == 0, done.stderr
    roster = federation.roster()
    assert roster is not None and (roster.version, roster.sites) == (2, ("snubh",))
    assert not federation.node_key("amc").exists()
    assert revoke(federation, ["amc"]).changes == ()
    for replace in (False, True):
        error = refused(
            Code.REQUEST_BAD, lambda replace=replace: admit(federation, [amc / "request.json"], replace=replace)
        )
        assert "version 1" in str(error)
    rotate(amc)
    admit(federation, [amc / "request.json"])
    assert accept_roster(amc, federation.roster_file).rotated
    assert accepted_roster(amc).version == 3
    rows = {row.site: row.change for row in show_roster(snubh, federation.roster_file)}
    assert rows == {"amc": "changed", "snubh": "same"}


def test_a_full_disk_keeps_no_revoked_key_at_the_door(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    joined(federation, "amc", "snubh")
    door = federation.deploy / "nginx" / "admitted"
    assert len(list(door.glob("*/*"))) == 2

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(admission, "write_private", full)
    assert "repeat this command" in str(refused(Code.DISK_FULL, lambda: revoke(federation, ["amc"])))
    (left,) = door.glob("*/*")
    monkeypatch.undo()
    revoke(federation, ["amc"])
    assert list(door.glob("*/*")) == [left]


def test_a_stranger_cannot_be_revoked(federation: Federation) -> None:
    joined(federation, "amc")
    refused(Code.REQUEST_BAD, lambda: revoke(federation, ["amc", "smc"]))
    roster = federation.roster()
    assert roster is not None and roster.sites == ("amc",)


# --- rotation ---


def test_rotated_keys_come_into_use_when_the_new_roster_is_accepted(federation: Federation) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    old = own_keys(amc)
    request = rotate(amc)
    assert own_keys(amc) == old
    refused(Code.KIT_EXISTS, lambda: rotate(amc))
    outcome = admit(federation, [amc / "request.json"])
    assert [(row.site, row.change) for row in outcome.changes] == [("amc", "changed")]
    accepted = accept_roster(amc, federation.roster_file)
    assert accepted.rotated and accepted.roster.version == 2
    assert own_keys(amc) == (request.signing_key, request.node_key) != old
    (aside,) = (amc / "keys").glob("old-*")
    assert {path.name for path in aside.iterdir()} == {"signing", "signing.pub", "node", "node.pub"}
    assert public_text(load_signing_key(aside / "signing")) == old.signing
    assert not (amc / "keys" / "next").exists()
    require_private(amc)
    assert not accept_roster(snubh, federation.roster_file).rotated
    assert not accept_roster(amc, federation.roster_file).rotated


def test_a_rotation_that_another_key_signed_is_refused(federation: Federation) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    rotate(amc)
    path = amc / "request.json"
    request = read_request(path)
    new = load_signing_key(amc / "keys" / "next" / "signing")
    forged = [
        request.model_copy(update={"handover": None}),
        request.handed_over(new),
        request.handed_over(load_signing_key(snubh / "keys" / "signing")),
        request.model_copy(update={"made": request.made + timedelta(days=1)}),
        request.model_copy(update={"node_key": public_text(new_node_key())}),
    ]
    for wrong in forged:
        refused(Code.REQUEST_BAD, lambda wrong=wrong: admit(federation, [rewritten(path, sign_request(wrong, new))]))
    admit(federation, [rewritten(path, sign_request(request, new))])


@pytest.mark.parametrize("moved", range(9))
def test_putting_new_keys_to_use_can_be_interrupted_anywhere(federation: Federation, moved: int) -> None:
    (amc,) = joined(federation, "amc")
    request = rotate(amc)
    admit(federation, [amc / "request.json"])
    keys, aside = amc / "keys", amc / "keys" / "old-interrupted"
    aside.mkdir(mode=0o700)
    steps = []
    for name in ("signing", "node", "signing.pub", "node.pub"):
        steps += [(keys / name, aside / name), (keys / "next" / name, keys / name)]
    for source, target in steps[:moved]:
        source.rename(target)
    assert accept_roster(amc, federation.roster_file).rotated
    assert own_keys(amc) == (request.signing_key, request.node_key)
    assert len(list(keys.glob("old-*/*"))) == 4


# --- an older backup ---


@pytest.mark.long
def test_a_backup_of_before_a_revocation_goes_on_from_the_roster_that_a_site_has(
    federation: Federation, tmp_path: Path
) -> None:
    amc, snubh = joined(federation, "amc", "snubh")
    backup = shutil.copytree(federation.folder, tmp_path / "backup")
    rotate(snubh)
    admit(federation, [snubh / "request.json"])
    revoke(federation, ["amc"])
    accept_roster(snubh, federation.roster_file)
    assert accepted_roster(snubh).version == 3

    shutil.rmtree(federation.folder)
    shutil.copytree(backup, federation.folder)
    fork = revoke(federation, ["amc"]).roster
    assert fork is not None and fork.version == 2, "what the guide says not to do"
    refused(Code.ROSTER_CHANGED, lambda: accept_roster(snubh, federation.roster_file))

    words = ["server", "roster", "--federation", federation.folder]
    for wrong, number in ((amc / "roster.json", "E712"), (amc / "request.json", "E713"), (amc / "none.json", "E711")):
        before = contents(federation.folder)
        done = command(*words, "--restore", wrong)
        assert done.returncode == 1 and done.stderr.startswith(number), done.stderr
        assert contents(federation.folder) == before
    done = command(*words, "--restore", amc / "roster.json", "--restore", snubh / "roster.json")
    assert done.returncode == 0 and "Roster version 3" in done.stdout, done.stderr
    assert federation.roster() == accepted_roster(snubh)
    assert [path.name for path in federation.nodes.iterdir()] == ["snubh.pub"]
    require_private(federation.folder)
    error = refused(Code.REQUEST_BAD, lambda: admit(federation, [amc / "request.json"]))
    assert "does not come back" in error.fix
    rotate(amc)
    admit(federation, [amc / "request.json"])
    assert accept_roster(snubh, federation.roster_file).roster.version == 4
    assert accept_roster(amc, federation.roster_file).roster.version == 4


def test_a_roster_that_another_federation_or_key_signed_is_not_taken_back(
    federation: Federation, tmp_path: Path
) -> None:
    (amc,) = joined(federation, "amc")
    (other,) = joined(made(tmp_path / "other", name="other").federation, "amc")
    before = contents(federation.folder)
    refused(Code.ROSTER_SIGNATURE, lambda: restore_rosters(federation, [amc / "roster.json", other / "roster.json"]))
    roster = federation.roster()
    assert roster is not None
    signed = sign_roster(roster.model_copy(update={"federation": "other"}), load_signing_key(federation.signing_key))
    refused(Code.ROSTER_CHANGED, lambda: restore_rosters(federation, [rewritten(amc / "roster.json", signed)]))
    assert contents(federation.folder) == before


# --- with a SuperLink ---


@pytest.mark.deploy
def test_the_superlink_knows_the_keys_of_the_roster_and_no_others(federation: Federation) -> None:
    amc, snubh = (initiated(federation, name) for name in ("amc", "snubh"))
    assert not admit(federation, [amc / "request.json"]).registered
    with subprocess.Popen(
        [sys.executable, "-m", "server", "up", "--federation", federation.folder],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as coordinator:
        try:
            until(lambda: known(federation) == ["amc"])
            assert admit(federation, [snubh / "request.json"]).registered
            assert known(federation) == ["amc", "snubh"]
            before = json.loads(federation.nodes_file.read_text())
            accept_roster(amc, federation.roster_file)
            rotate(amc)
            assert admit(federation, [amc / "request.json"]).registered
            after = json.loads(federation.nodes_file.read_text())
            assert {site for node, site in after.items() if node not in before} == {"amc"}
            assert known(federation) == ["amc", "snubh"]
            assert revoke(federation, ["snubh"]).registered
            assert known(federation) == ["amc"]
        finally:
            coordinator.terminate()


def known(federation: Federation) -> list[str]:
    """Sites whose keys the SuperLink takes, by its own word."""
    return sorted(node.site or "a stranger" for node in nodes(federation)) if superlink_answers(federation) else []
