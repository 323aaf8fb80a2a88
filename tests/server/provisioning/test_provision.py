"""Provisioning: what one command makes, who can read it, and what a site makes of its kit."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.waiting import PATIENCE
from client.policy.policy import load_policy
from client.site.config import load_site
from client.site.folders import find_site_folder
from client.site.keys import own_keys
from client.site.kit import (
    accept_roster,
    accepted_roster,
    coordinator_fingerprint,
)
from common.codebook import load_codebook
from common.errors import Code
from common.identity.keys import load_signing_key, sign, write_private
from common.identity.kit import SEALED, read_kit, to_be_read
from common.messages.request import read_request
from server.provisioning.federation import Federation, find_federation
from server.provisioning.provision import add_kit
from tests.federations import SUPPORT2, command, contents, initiated, joined, made, refused, require_private
from tests.paths import ROOT


@pytest.fixture
def federation(tmp_path: Path) -> Federation:
    return made(tmp_path).federation


# --- what provision makes ---


def test_one_command_makes_certificates_keys_and_kits_for_their_owner_alone(tmp_path: Path) -> None:
    words = ["--name", "sepsis", "--host", "coordinator.example", "--site", "amc", "--site", "snubh"]
    done = command("server", "provision", *words, "--out", tmp_path / "kits", umask=0)
    assert done.returncode == 0, done.stderr
    kits = tmp_path / "kits"
    assert {path.name for path in kits.iterdir()} == {"coordinator", "amc", "snubh"}
    assert set(contents(kits / "amc")) == {
        "site.toml",
        "policy.toml",
        "README.txt",
        "ca.crt",
        "codebook.toml",
        "coordinator.pub",
        "kit.json",
    }
    assert coordinator_fingerprint(kits / "amc") in done.stdout
    require_private(kits)
    config = Federation.open(kits / "coordinator").config
    assert (config.address, config.superlink_port, config.sites) == ("coordinator.example:9092", 9093, ("amc", "snubh"))


def test_no_private_key_is_in_a_kit(tmp_path: Path) -> None:
    provisioned = made(tmp_path)
    for kit in provisioned.kits:
        assert not [name for name, content in contents(kit).items() if b"PRIVATE" in content]
    assert sum(b"PRIVATE" in content for content in contents(provisioned.federation.folder).values()) == 3


def test_a_kits_files_are_read_by_the_site_as_they_come(tmp_path: Path) -> None:
    provisioned = made(tmp_path, codebook=SUPPORT2, port=443)
    for kit in provisioned.kits:
        site = load_site(kit)
        assert (site.name, site.federation, site.coordinator) == (kit.name, "sepsis", "coordinator.example:443")
        assert load_policy(kit).metrics == "none"
        assert site.codebook.read_bytes() == SUPPORT2.read_bytes()
        assert load_codebook(site.codebook).sha256 == load_codebook(SUPPORT2).sha256


def test_what_a_templates_comments_offer_is_accepted(federation: Federation) -> None:
    kit = federation.folder.parent / "amc"
    for name, load in (("site.toml", load_site), ("policy.toml", load_policy)):
        lines = (kit / name).read_text().splitlines()
        offered = [line.startswith("# [") or (line.startswith("# ") and " = " in line.split('"')[0]) for line in lines]
        assert any(offered) or name == "policy.toml"
        taken = [line.removeprefix("# ") if is_one else line for line, is_one in zip(lines, offered, strict=True)]
        write_private(kit / name, ("\n".join(taken) + "\n").encode())
        load(kit)


def test_ipv6_coordinators_are_written_with_brackets(tmp_path: Path) -> None:
    provisioned = made(tmp_path, hosts=["2001:db8::1"])
    assert load_site(provisioned.kits[0]).coordinator == "[2001:db8::1]:9092"


@pytest.mark.parametrize(
    "wrong",
    [
        {"sites": ["amc", "amc"]},
        {"sites": ["amc", "AMC"]},
        {"sites": ["coordinator"]},
        {"sites": []},
        {"sites": ["../amc"]},
        {"sites": [".."]},
        {"sites": ["a b"]},
        {"sites": ['a"\nmetrics = "plain']},
        {"sites": ["a" * 65]},
        {"name": ""},
        {"name": "a/b"},
        {"hosts": []},
        {"hosts": ["https://coordinator.example"]},
        {"hosts": ["coordinator.example:443"]},
        {"hosts": ["coordinator.example", "-x"]},
        {"port": 0},
        {"port": 70000},
        {"superlink_port": -1},
    ],
    ids=str,
)
def test_names_hosts_and_ports_that_cannot_be_are_refused_and_nothing_is_made(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    refused(Code.CONFIG_VALUE, lambda: made(tmp_path, **wrong))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_codebook_that_is_none_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    refused(Code.CODEBOOK_MISSING, lambda: made(tmp_path, codebook=tmp_path / "absent.toml"))
    draft = tmp_path / "draft.toml"
    draft.write_text(f"private = true\n{SUPPORT2.read_text()}")
    refused(Code.CODEBOOK_PRIVATE, lambda: made(tmp_path, codebook=draft))
    assert list(tmp_path.iterdir()) == [draft]


def test_a_second_provision_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    made(tmp_path)
    before = contents(tmp_path)
    refused(Code.KIT_EXISTS, lambda: made(tmp_path, sites=["other"]))
    assert contents(tmp_path) == before
    done = command(
        "server", "provision", "--name", "x", "--host", "h", "--site", "s", "--out", tmp_path / "kits", timeout=PATIENCE
    )
    assert done.returncode == 1 and "E722" in done.stderr


@pytest.mark.long
def test_killed_at_any_time_provision_leaves_a_whole_federation_or_none(tmp_path: Path) -> None:
    words = ["server", "provision", "--name", "f", "--host", "h", *(f"--site=s{i}" for i in range(40))]
    cut = 0
    for delay in (0.0, 0.01, 0.05, 0.2):
        out = tmp_path / f"kits{delay}"
        with subprocess.Popen(
            [sys.executable, "-m", *words, "--out", str(out)], cwd=ROOT, stdout=subprocess.DEVNULL
        ) as process:
            while not list(tmp_path.glob(f".{out.name}.*")) and not out.exists():
                assert process.poll() is None
            threading.Event().wait(delay)
            process.kill()
        cut += not out.exists()
        if out.exists():
            assert len(list(out.iterdir())) == 41 and len(contents(out / "s39")) == 7
    assert cut


def test_a_site_that_joins_later_gets_a_kit_of_its_own(federation: Federation) -> None:
    first = joined(federation, "amc")[0]
    kit = add_kit(federation, "smc")
    federation = find_federation(federation.folder)
    assert federation.config.sites == ("amc", "snubh", "smc")
    assert set(contents(kit)) == set(contents(kit.with_name("amc")))
    joined(federation, "smc")
    accept_roster(first, federation.roster_file)
    assert accepted_roster(first).sites == ("amc", "smc")
    refused(Code.KIT_EXISTS, lambda: add_kit(federation, "smc"))
    refused(Code.CONFIG_VALUE, lambda: add_kit(federation, "..", federation.folder.parent / "elsewhere"))


# --- the site's folder ---


def test_a_site_makes_its_own_keys_and_a_public_request(federation: Federation) -> None:
    folder = initiated(federation, "amc")
    require_private(folder)
    request = read_request(folder / "request.json")
    assert (request.site, request.federation) == ("amc", "sepsis")
    assert (request.signing_key, request.node_key) == own_keys(folder)
    assert "PRIVATE" not in (folder / "request.json").read_text()
    assert {path.name for path in (folder / "keys").iterdir()} == {
        *("signing", "signing.pub", "node", "node.pub", "split"),
    }
    other = initiated(federation, "snubh")
    assert not set(own_keys(folder)) & set(own_keys(other))


def test_a_second_init_is_refused_and_keys_stay(federation: Federation) -> None:
    folder = initiated(federation, "amc")
    before = contents(folder)
    refused(Code.KIT_EXISTS, lambda: initiated(federation, "amc"))
    assert contents(folder) == before


def test_what_was_edited_in_the_kit_is_carried_over(federation: Federation) -> None:
    kit = federation.folder.parent / "amc"
    text = (kit / "site.toml").read_text().replace('"registry.csv"', '"/data/sepsis.csv"')
    (kit / "site.toml").write_text(text)
    assert load_site(initiated(federation, "amc")).registry.path == Path("/data/sepsis.csv")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ca.crt", Code.ROSTER_SIGNATURE),
        ("codebook.toml", Code.ROSTER_SIGNATURE),
        ("kit.json", Code.ROSTER_SIGNATURE),
        ("coordinator.pub", Code.KEY_MISSING),
    ],
)
def test_a_kit_that_was_changed_or_is_not_whole_is_refused(federation: Federation, name: str, code: Code) -> None:
    path = federation.folder.parent / "amc" / name
    path.write_bytes(path.read_bytes().replace(b"a", b"b", 1) if name != "coordinator.pub" else b"ssh-ed25519 no")
    refused(code, lambda: initiated(federation, "amc"))
    path.unlink()
    assert name in str(refused(Code.CONFIG_MISSING, lambda: initiated(federation, "amc")))
    assert not (federation.folder.parent.parent / "sites" / "amc").exists()


def test_what_was_changed_in_a_kit_and_may_be_is_named_and_not_refused(federation: Federation, tmp_path: Path) -> None:
    kit, folder = federation.folder.parent / "amc", tmp_path / "sites" / "amc"
    assert to_be_read(kit) == []
    write_private(kit / "site.toml", (kit / "site.toml").read_bytes().replace(b"coordinator.example", b"other.example"))
    write_private(kit / "policy.toml", (kit / "policy.toml").read_bytes() + b"\n")
    done = command("client", "init", "--kit", kit, "--folder", folder)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "was changed since the coordinator made it" in line]
    assert [line.partition(" was")[0] for line in told] == [str(folder / "site.toml"), str(folder / "policy.toml")]
    assert "README" not in done.stderr


def test_a_kit_of_a_version_that_signed_less_is_read_and_said_to_be_so(federation: Federation) -> None:
    kit = federation.folder.parent / "amc"
    hashes = {name: hash for name, hash in read_kit(kit).sha256.items() if name in SEALED}
    older = {"federation": "sepsis", "site": "amc", "sha256": hashes}
    write_private(kit / "kit.json", sign(older, load_signing_key(federation.signing_key), kind="kit").encode())
    told = to_be_read(initiated(federation, "amc"))
    assert len(told) == 3 and all("may have been changed" in line for line in told)


def test_another_coordinators_key_in_the_kit_does_not_go_with_its_seal(tmp_path: Path, federation: Federation) -> None:
    other = made(tmp_path / "other").federation
    shutil.copy(other.folder.parent / "amc" / "coordinator.pub", federation.folder.parent / "amc")
    refused(Code.ROSTER_SIGNATURE, lambda: initiated(federation, "amc"))


def test_a_kit_says_for_whom_it_is(federation: Federation) -> None:
    kit = federation.folder.parent / "amc"
    (kit / "site.toml").write_text((kit / "site.toml").read_text().replace('name = "amc"', 'name = "snubh"'))
    refused(Code.CONFIG_VALUE, lambda: initiated(federation, "amc"))


def test_a_site_is_found_by_name_below_its_home_or_by_path(
    federation: Federation, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = initiated(federation, "amc")
    monkeypatch.setenv("FEDREASON_HOME", str(folder.parent))
    monkeypatch.chdir(federation.folder.parent)
    assert find_site_folder("amc") == folder
    assert find_site_folder(folder) == folder
    assert find_site_folder("./amc") == federation.folder.parent / "amc"
    assert find_site_folder("snubh") == federation.folder.parent / "snubh"
    assert "amc" in str(refused(Code.CONFIG_MISSING, lambda: find_site_folder("smc")))


def test_the_federation_is_found_by_option_variable_or_place(
    federation: Federation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FEDREASON_FEDERATION", raising=False)
    monkeypatch.chdir(tmp_path)
    assert find_federation().folder == federation.folder
    monkeypatch.chdir(federation.folder)
    assert find_federation().folder == federation.folder
    monkeypatch.chdir("/")
    refused(Code.FEDERATION_MISSING, find_federation)
    monkeypatch.setenv("FEDREASON_FEDERATION", str(federation.folder))
    assert find_federation().folder == federation.folder
    refused(Code.FEDERATION_MISSING, lambda: find_federation(tmp_path))
