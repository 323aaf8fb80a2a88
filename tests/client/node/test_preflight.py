"""Before a site connects: each thing that is wrong with its files is refused by number, and nothing is sent before."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from client.node.preflight import checks, preflight
from client.registry.config import RegistryConfig
from client.site.config import SiteConfig
from client.site.kit import own_keys
from common import synthetic
from common.errors import Code, FedReasonError
from common.identity.keys import new_node_key, new_signing_key, private_folder, public_text, save_key, write_private
from common.identity.roster import Member, Roster, sign_roster
from tests.small_disk import needs_small_disk, on_small_disk
from tests.tls import DAY, Authority, Listener, answering, coordinator, make_authority, server_context

Break = Callable[[Path], None]


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


def site(folder: Path, address: str | None) -> SiteConfig:
    registry = RegistryConfig(path=folder / "registry.csv")
    return SiteConfig(
        name="amc",
        federation="sepsis",
        coordinator=address,
        registry=registry,
        codebook=folder / "codebook.toml",
    )


def refused(folder: Path, config: SiteConfig) -> FedReasonError:
    started = time.monotonic()
    with pytest.raises(FedReasonError) as caught:
        preflight(folder, config)
    assert time.monotonic() - started < 5
    return caught.value


def test_a_site_in_order_passes_and_tells_what_was_seen(folder: Path, server: Listener) -> None:
    config = site(folder, server.address)
    preflight(folder, config)
    told = {check.name: check.run() for check in checks(folder, config)}
    assert told["keys"].count("SHA256:") == 2
    assert told["roster"] == "version 3, 1 sites"
    assert "metrics none" in told["policy"]
    assert server.address in told["coordinator"]
    assert [path.name for path in (folder / "state").iterdir()] == []


def other_keys(folder: Path) -> None:
    shutil.rmtree(folder / "keys")
    save_key(folder / "keys" / "signing", new_signing_key())
    save_key(folder / "keys" / "node", new_node_key())


def state_is_a_file(folder: Path) -> None:
    (folder / "state").touch()


@pytest.mark.parametrize(
    ("damage", "code", "told"),
    [
        (lambda f: shutil.rmtree(f / "keys"), Code.KEY_MISSING, "signing"),
        (lambda f: (f / "keys" / "node").unlink(), Code.KEY_MISSING, "node"),
        (lambda f: (f / "keys" / "node").write_text("no key"), Code.KEY_MISSING, "node"),
        (lambda f: (f / "keys" / "signing").chmod(0o640), Code.KEY_PERMISSIONS, "signing"),
        (lambda f: (f / "keys").chmod(0o755), Code.KEY_PERMISSIONS, "keys"),
        (lambda f: f.chmod(0o750), Code.KEY_PERMISSIONS, "amc"),
        (lambda f: (f / "roster.json").unlink(), Code.ROSTER_MISSING, "roster"),
        (lambda f: (f / "roster.json").write_text("{}"), Code.ROSTER_SIGNATURE, "roster"),
        (other_keys, Code.KEY_UNKNOWN, "other keys"),
        (lambda f: (f / "policy.toml").unlink(), Code.POLICY_MISSING, "policy.toml"),
        (lambda f: (f / "policy.toml").write_text("max_rounds = 0"), Code.CONFIG_VALUE, "line 1"),
        (lambda f: (f / "codebook.toml").unlink(), Code.CODEBOOK_MISSING, "codebook.toml"),
        (lambda f: (f / "registry.csv").unlink(), Code.REGISTRY_MISSING, "registry.csv"),
        (lambda f: (f / "excluded.txt").unlink(), Code.REGISTRY_MISSING, "excluded.txt"),
        (lambda f: (f / "ca.crt").unlink(), Code.KEY_MISSING, "ca.crt"),
        (state_is_a_file, Code.DISK_FULL, "state"),
    ],
)
def test_what_is_wrong_with_the_files_is_refused_before_anything_is_sent(
    folder: Path, server: Listener, damage: Break, code: Code, told: str
) -> None:
    damage(folder)
    error = refused(folder, site(folder, server.address))
    assert error.code is code
    assert told in error.found
    assert error.fix
    assert server.connections == 0


def test_a_site_that_the_roster_does_not_list_is_refused(folder: Path, server: Listener) -> None:
    config = site(folder, server.address).model_copy(update={"name": "snubh"})
    error = refused(folder, config)
    assert error.code is Code.KEY_UNKNOWN
    assert "snubh" in error.found


def test_a_site_without_a_coordinator_is_refused(folder: Path) -> None:
    error = refused(folder, site(folder, None))
    assert error.code is Code.CONFIG_VALUE
    assert "coordinator" in error.found


def test_the_way_to_the_coordinator_is_checked_last(folder: Path, authority: Authority) -> None:
    with coordinator(server_context(authority), answering(clock=DAY)) as server:
        assert refused(folder, site(folder, server.address)).code is Code.SERVER_CLOCK
    assert refused(folder, site(folder, server.address)).code is Code.SERVER_UNREACHABLE


def test_a_certificate_that_expires_soon_is_warned_of(
    folder: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with coordinator(server_context(authority, end=9.5 * DAY)) as server:
        preflight(folder, site(folder, server.address))
    assert "expires in 9 days" in caplog.text


@needs_small_disk
def test_a_full_disk_is_refused() -> None:
    on_small_disk("""
        from pathlib import Path
        from client.node.preflight import checks
        from client.site.config import RegistryConfig, SiteConfig
        from common.errors import Code, FedReasonError
        config = SiteConfig(name="amc", registry=RegistryConfig(path="registry.csv"))
        disk = next(check for check in checks(Path("/mnt"), config) if check.name == "disk")
        for _ in range(2):
            try:
                disk.run()
            except FedReasonError as error:
                assert error.code is Code.DISK_FULL, error
                assert "no space left" in error.found
            else:
                raise SystemExit("it has room")
            fill()
        assert list(Path("/mnt/state").iterdir()) == []
    """)


@needs_small_disk
def test_a_disk_that_cannot_be_written_is_refused() -> None:
    on_small_disk("""
        import subprocess
        from pathlib import Path
        from client.node.preflight import checks
        from client.site.config import RegistryConfig, SiteConfig
        from common.errors import Code, FedReasonError
        subprocess.run(["mount", "-o", "remount,ro", "/mnt"], check=True)
        config = SiteConfig(name="amc", registry=RegistryConfig(path="registry.csv"))
        disk = next(check for check in checks(Path("/mnt"), config) if check.name == "disk")
        try:
            disk.run()
        except FedReasonError as error:
            assert error.code is Code.DISK_FULL, error
            assert "EROFS" in error.found
        else:
            raise SystemExit("it was written")
    """)
