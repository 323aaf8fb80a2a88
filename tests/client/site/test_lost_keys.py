"""Private keys that are lost: the steps of E701, word for word, and all else of the site is as it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from client.__main__ import app
from client.inspection import unread
from client.inspection.check import check_site
from client.privacy.budget import open_ledger
from client.site.config import load_site
from client.site.kit import rotate
from client.training.workplace import Workplace
from common.errors import Code
from server.provisioning.federation import Federation
from server.services.admission import admit
from tests.federations import refused
from tests.hospitals import federation_of, machine
from tests.paths import ROOT
from tests.privacy_checks.ledger import CAP, release

STAYS = ("excluded.txt", "site.toml", "policy.toml", "ledger.json", "keys/split", "state/ledger/ledger.jsonl")


@pytest.fixture
def world() -> Iterator[Path]:
    with machine() as folder:
        yield folder


@pytest.fixture
def amc(world: Path) -> Path:
    return federation_of(world, "amc", "snubh")[0]


def steps() -> list[list[str]]:
    """Return the command lines of E701, in order."""
    section = re.split(r"^## ", (ROOT / "docs" / "errors.md").read_text(), flags=re.MULTILINE)
    (text,) = (one for one in section if one.startswith("E701 "))
    return [line.split() for line in re.findall(r"`python -m client ([^`]*)`", text)]


@pytest.mark.long
@pytest.mark.parametrize("gone", [("signing", "node"), ("signing", "node", "signing.pub", "node.pub")])
def test_who_follows_the_steps_has_the_ledger_and_the_opt_outs_of_before(
    world: Path, amc: Path, gone: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for often in ("_QUESTIONS", "_TRIED"):  # whether questions answer themselves is another test's
        monkeypatch.setattr(unread, often, 20)
    everyone = {patient.id for patient in Workplace(amc).patients}
    out = sorted(everyone)[0]
    (amc / "excluded.txt").write_text(f"{out}\n")
    open_ledger(amc, load_site(amc)).charge(release(1), cap=CAP)
    before = {name: (amc / name).read_bytes() for name in STAYS}
    for name in gone:
        (amc / "keys" / name).unlink()
    assert "--lost" in refused(Code.KEY_MISSING, lambda: rotate(amc)).fix

    federation = Federation.open(world / "kits" / "coordinator")
    made, accepted = steps()
    said = {"NAME": str(amc), "roster.json": str(federation.roster_file)}
    done = CliRunner().invoke(app, [said.get(word, word) for word in made])
    assert done.exit_code == 0 and done.output.count("SHA256:") == 2
    refused(Code.REQUEST_BAD, lambda: admit(federation, [amc / "request.json"]))
    admit(federation, [amc / "request.json"], replace=True)
    done = CliRunner().invoke(app, [said.get(word, word) for word in accepted], input="y\n")
    assert done.exit_code == 0, done.output

    assert {name: (amc / name).read_bytes() for name in STAYS} == before
    lines = check_site(amc, load_site(amc), None, lambda line: None).lines
    assert {line.name: line.code for line in lines if line.code} == {"coordinator": int(Code.SERVER_UNREACHABLE)}
    assert {patient.id for patient in Workplace(amc).patients} == everyone - {out}
    ledger = open_ledger(amc, load_site(amc))
    assert ledger.charge(release(2), cap=CAP).sequence == 2
    ledger.verify()


def test_a_site_that_has_neither_its_public_key_nor_a_roster_is_told_so_and_nothing_is_made(amc: Path) -> None:
    shutil.rmtree(amc / "keys")
    (amc / "roster.json").unlink()
    assert "signing.pub" in refused(Code.KEY_MISSING, lambda: rotate(amc, lost=True)).found
    assert not (amc / "keys").exists()
