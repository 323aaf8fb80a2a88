"""The officer's signature: a site that pinned a key uses no policy that this key did not sign, to the byte."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from client.node.preflight import checks
from client.policy.cli import policy_app, values
from client.policy.policy import load_policy, read_policy
from client.policy.signature import new_officer_key, pin_officer, pinned_officer, sign_policy
from client.registry.config import RegistryConfig
from client.site.config import SiteConfig
from common.errors import Code, FedReasonError
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    new_node_key,
    new_signing_key,
    public_text,
    read_public,
    save_key,
)
from tests.examples import examples
from tests.federations import joined, made
from tests.privacy_checks.policy import FORGERIES, forged_is_used, signed_site


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site folder with a policy that nobody signed."""
    folder = tmp_path / "amc"
    folder.mkdir(mode=0o700)
    (folder / "site.toml").write_text('name = "amc"\n[registry]\npath = "registry.csv"\n')
    (folder / "policy.toml").write_text('metrics = "none"\n\n[privacy]\nepsilon = 3.0\n')
    return folder


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def told(*words: object) -> Result:
    return CliRunner().invoke(policy_app, [str(word) for word in words])


def done(*words: object) -> str:
    result = told(*words)
    assert result.exit_code == 0, (result.output, result.exception)
    return str(result.stdout)


def refusal(*words: object) -> FedReasonError:
    error = told(*words).exception
    assert isinstance(error, FedReasonError)
    return error


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_officer_signs_on_one_machine_and_the_site_verifies_on_another(tmp_path: Path, site: Path) -> None:
    office = tmp_path / "office"
    office.mkdir()
    made = done("keygen", "--out", office / "officer")
    assert re.findall(r"SHA256:\S+", made) == [fingerprint(read_public(office / "officer.pub"))]
    assert done("trust", "--site", site, office / "officer.pub").split()[-1] == made.split()[-1]
    assert refusal("verify", "--site", site).code is Code.POLICY_SIGNATURE

    copy = office / "policy.toml"
    copy.write_bytes((site / "policy.toml").read_bytes())
    signed = done("sign", copy, "--key", office / "officer")
    assert re.search(r"^privacy.epsilon +3.0$", signed, re.MULTILINE)
    (site / "policy.toml.sig").write_bytes((office / "policy.toml.sig").read_bytes())

    shown = done("verify", "--site", site)
    assert re.search(r"^privacy.epsilon +3.0$", shown, re.MULTILINE)
    assert hashlib.sha256((site / "policy.toml").read_bytes()).hexdigest() in shown
    assert fingerprint(read_public(office / "officer.pub")) in shown
    assert shown == done("show", "--site", site)


def test_an_unsigned_policy_is_used_and_shown_as_such_but_never_verified(site: Path) -> None:
    assert read_policy(site).approval is None
    assert re.search(r"^signed +no$", done("show", "--site", site), re.MULTILINE)
    error = refusal("verify", "--site", site)
    assert error.code is Code.POLICY_SIGNATURE
    assert "officer.pub" in error.found


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_policy_is_not_used(forgery: str) -> None:
    assert not forged_is_used(load_policy, FORGERIES[forgery])


@examples(50)
@given(file=st.sampled_from(["policy.toml", "policy.toml.sig"]), place=st.integers(0), bit=st.integers(0, 7))
def test_no_bit_can_be_changed_but_those_that_say_nothing(
    tmp_path_factory: pytest.TempPathFactory, file: str, place: int, bit: int
) -> None:
    """The base64 of a signature ends in bits that stand for nothing."""
    folder = tmp_path_factory.mktemp("site")
    signed_site(folder)
    signed = read_policy(folder)
    content = bytearray((folder / file).read_bytes())
    content[place % len(content)] ^= 1 << bit
    (folder / file).write_bytes(content)
    try:
        assert read_policy(folder) == signed
        assert file == "policy.toml.sig"
    except FedReasonError as error:
        assert error.code is Code.POLICY_SIGNATURE


def test_the_hash_is_of_the_bytes_of_the_file(site: Path) -> None:
    content = b'# for amc\r\nmetrics = "none"\r\n'
    (site / "policy.toml").write_bytes(content)
    assert read_policy(site).sha256 == hashlib.sha256(content).hexdigest()
    key = new_signing_key()
    save_key(site.parent / "officer", key)
    pin_officer(site, site.parent / "officer.pub")
    sign_policy(site / "policy.toml", content, key)
    assert read_policy(site).sha256 == hashlib.sha256(content).hexdigest()
    (site / "policy.toml").write_bytes(content.replace(b"\r\n", b"\n"))
    with pytest.raises(FedReasonError) as caught:
        read_policy(site)
    assert caught.value.code is Code.POLICY_SIGNATURE


def test_a_pinned_officer_is_replaced_only_when_told_to(tmp_path: Path, site: Path) -> None:
    for name in ("first", "second"):
        new_officer_key(tmp_path / name)
    done("trust", "--site", site, tmp_path / "first.pub")
    done("trust", "--site", site, tmp_path / "first.pub")
    error = refusal("trust", "--site", site, tmp_path / "second.pub")
    assert error.code is Code.KIT_EXISTS
    assert "--replace" in error.fix
    assert pinned_officer(site) == read_public(tmp_path / "first.pub")
    done("trust", "--site", site, tmp_path / "second.pub", "--replace")
    assert pinned_officer(site) == read_public(tmp_path / "second.pub")


def test_a_new_officer_s_pin_ends_the_old_one_s_signature(tmp_path: Path, site: Path) -> None:
    for name in ("old", "new"):
        new_officer_key(tmp_path / name)
    done("trust", "--site", site, tmp_path / "old.pub")
    done("sign", site / "policy.toml", "--key", tmp_path / "old")
    load_policy(site)
    done("trust", "--site", site, tmp_path / "new.pub", "--replace")
    with pytest.raises(FedReasonError):
        load_policy(site)
    done("sign", site / "policy.toml", "--key", tmp_path / "new")
    load_policy(site)


def private_half(folder: Path) -> Path:
    new_officer_key(folder / "officer")
    return folder / "officer"


def node_key(folder: Path) -> Path:
    save_key(folder / "keys" / "node", new_node_key())
    return folder / "keys" / "node.pub"


@pytest.mark.parametrize("file", [private_half, node_key, lambda folder: folder / "absent.pub"])
def test_what_is_no_officer_s_public_key_is_not_pinned(
    tmp_path: Path, site: Path, file: Callable[[Path], Path]
) -> None:
    assert refusal("trust", "--site", site, file(tmp_path)).code is Code.KEY_MISSING
    assert pinned_officer(site) is None


@pytest.mark.parametrize("content", ["", "ssh-ed25519 AAAA", public_text(new_node_key())])
def test_a_spoilt_pin_refuses_every_policy(site: Path, content: str) -> None:
    (site / "officer.pub").write_text(content)
    with pytest.raises(FedReasonError) as caught:
        load_policy(site)
    assert caught.value.code is Code.POLICY_SIGNATURE


def test_a_pin_that_leads_nowhere_is_not_the_absence_of_one(site: Path) -> None:
    (site / "officer.pub").symlink_to(site / "gone")
    with pytest.raises(FedReasonError) as caught:
        load_policy(site)
    assert caught.value.code is Code.POLICY_SIGNATURE


def test_a_policy_that_would_not_load_is_not_signed(tmp_path: Path) -> None:
    new_officer_key(tmp_path / "officer")
    (tmp_path / "policy.toml").write_text('metrics = "some"\n')
    assert refusal("sign", tmp_path / "policy.toml", "--key", tmp_path / "officer").code is Code.CONFIG_VALUE
    assert not (tmp_path / "policy.toml.sig").exists()


@pytest.mark.usefixtures("open_umask")
def test_the_officer_s_key_is_the_officer_s_alone_and_the_folder_around_it_is_left_alone(
    tmp_path: Path, site: Path
) -> None:
    desk = tmp_path / "desk"
    desk.mkdir(mode=0o755)
    new_officer_key(desk / "officer")
    assert sorted(path.name for path in desk.iterdir()) == ["officer", "officer.pub"]
    assert (mode(desk), mode(desk / "officer")) == (0o755, 0o600)
    assert public_text(load_signing_key(desk / "officer")) == read_public(desk / "officer.pub")
    new_officer_key(tmp_path / "new" / "place" / "officer")
    assert mode(tmp_path / "new" / "place") == 0o700
    pin_officer(site, desk / "officer.pub")
    assert mode(site / "officer.pub") == 0o600


@pytest.mark.parametrize("existing", ["officer", "officer.pub"])
def test_a_key_is_never_overwritten(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("kept")
    assert refusal("keygen", "--out", tmp_path / "officer").code is Code.KIT_EXISTS
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(existing, "kept")]


def test_a_key_that_others_can_read_signs_nothing(tmp_path: Path, site: Path) -> None:
    new_officer_key(tmp_path / "officer")
    (tmp_path / "officer").chmod(0o644)
    assert refusal("sign", site / "policy.toml", "--key", tmp_path / "officer").code is Code.KEY_PERMISSIONS
    assert not (site / "policy.toml.sig").exists()


def test_every_value_in_force_is_shown_what_is_left_out_too(site: Path) -> None:
    shown = values(load_policy(site))
    assert shown["privacy.required"] == "true" and shown["privacy.delta"] == "1e-05"
    assert shown["max_rounds"] == "1000" and shown["privacy.min_sites"] == "3; 5 if not private"
    (site / "policy.toml").write_text('metrics = "plain"\n')
    shown = values(load_policy(site))
    assert shown["privacy.required"] == "false" and shown["privacy.min_sites"] == "1"


def test_a_kit_cannot_bring_an_officer(tmp_path: Path) -> None:
    federation = made(tmp_path).federation
    kit = federation.folder.parent / "amc"
    new_officer_key(tmp_path / "officer")
    (kit / "officer.pub").write_bytes((tmp_path / "officer.pub").read_bytes())
    sign_policy(kit / "policy.toml", (kit / "policy.toml").read_bytes(), load_signing_key(tmp_path / "officer"))
    (folder,) = joined(federation, "amc")
    assert pinned_officer(folder) is None


def test_preflight_says_who_signed_and_warns_once_where_nobody_did(
    tmp_path: Path, site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = SiteConfig(name="amc", registry=RegistryConfig(path=site / "registry.csv"))
    (check,) = (check for check in checks(site, config) if check.name == "policy")
    with caplog.at_level(logging.WARNING, logger="fedreason"):
        assert check.run().endswith("signed no")
        assert [record.getMessage().count("not signed") for record in caplog.records] == [1]
        caplog.clear()
        load_policy(site)
        assert not caplog.records
        by = new_officer_key(tmp_path / "officer")
        pin_officer(site, tmp_path / "officer.pub")
        sign_policy(site / "policy.toml", (site / "policy.toml").read_bytes(), load_signing_key(tmp_path / "officer"))
        assert check.run().endswith(f"signed by {by}")
        assert not caplog.records


def test_the_policy_s_commands_answer_without_loading_anything_heavy(site: Path) -> None:
    program = (
        "import sys; from client.policy.cli import policy_app\n"
        f"policy_app(['show', '--site', {str(site)!r}], standalone_mode=False)\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "privacy.epsilon" in run.stdout
    assert not {name.split(".")[0] for name in run.stderr.split()} & {"torch", "flwr", "opacus", "numpy", "pandas"}
