"""Notepad of Windows puts a byte order mark before what it saves: files are read as without, and signed as they are."""

from __future__ import annotations

import codecs
import hashlib
from pathlib import Path

import pytest

from client.policy.policy import read_policy
from client.site.config import load_site
from client.site.kit import accept_roster, accepted_roster, coordinator_fingerprint
from common.config import load_config
from common.errors import Code
from server.dashboard.bearer import token_of
from server.provisioning.federation import Federation
from server.services.admission import admit
from tests.federations import initiated, joined, made, refused
from tests.paths import ROOT
from tests.small import small_config

MARK = codecs.BOM_UTF8


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path).federation


def marked(path: Path) -> Path:
    """Save a file as Notepad does."""
    path.write_bytes(MARK + path.read_bytes())
    return path


def test_a_run_a_site_a_policy_and_a_federation_are_read_as_without(federation: Federation, tmp_path: Path) -> None:
    run, kit = tmp_path / "demo.toml", federation.folder.parent / "amc"
    run.write_bytes((ROOT / "configs" / "demo.toml").read_bytes())
    before = load_config(run)[0].sha256, load_site(kit), read_policy(kit).policy, federation
    for path in (
        run,
        kit / "site.toml",
        kit / "policy.toml",
        kit / "codebook.toml",
        federation.folder / "federation.toml",
    ):
        marked(path)
    after = load_config(run)[0].sha256, load_site(kit), read_policy(kit).policy, Federation.open(federation.folder)
    assert after == before


def test_a_policy_is_hashed_as_it_is(federation: Federation) -> None:
    path = marked(federation.folder.parent / "amc" / "policy.toml")
    assert read_policy(path.parent).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_slip_of_the_pen_behind_it_is_told_with_its_line(federation: Federation) -> None:
    path = federation.folder.parent / "amc" / "policy.toml"
    path.write_bytes(MARK + b"metrics = 3\n")
    assert "line 1, metrics" in refused(Code.CONFIG_VALUE, lambda: read_policy(path.parent)).found


def test_signed_files_are_taken_with_it_and_passed_on_without(federation: Federation) -> None:
    kit = federation.folder.parent / "amc"
    for name in ("kit.json", "coordinator.pub"):
        marked(kit / name)
    amc, snubh = initiated(federation, "amc"), initiated(federation, "snubh")
    assert coordinator_fingerprint(amc) == coordinator_fingerprint(snubh)
    admit(federation, [marked(amc / "request.json"), snubh / "request.json"])
    marked(federation.roster_file)
    for folder in (amc, snubh):
        accept_roster(folder, federation.roster_file)
        assert accepted_roster(folder) == federation.roster() and (folder / "roster.json").read_bytes()[:3] != MARK
    run = small_config(Path("none"))
    text, _ = federation.roster_of(run)
    assert text is not None and text.startswith("{")


def test_a_mark_hides_no_change(federation: Federation) -> None:
    (amc,) = joined(federation, "amc")
    federation.roster_file.write_bytes(
        MARK + federation.roster_file.read_bytes().replace(b'"version": 1', b'"version": 2')
    )
    refused(Code.ROSTER_SIGNATURE, lambda: accept_roster(amc, federation.roster_file))


def test_a_token_is_the_same(tmp_path: Path) -> None:
    token = token_of(tmp_path)
    marked(tmp_path / "dashboard-token")
    assert token_of(tmp_path) == token
