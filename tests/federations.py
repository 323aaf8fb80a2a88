"""Federations on disk for tests: provisioned, with sites made from their kits."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from bench.deployment import free_port
from client.site.kit import (
    accept_roster,
    init_site,
)
from common.errors import Code, FedReasonError
from common.identity.keys import (
    new_node_key,
    new_signing_key,
    public_text,
    sign,
)
from server.provisioning.federation import Federation
from server.provisioning.provision import Provisioned, provision
from server.services.admission import admit
from tests.paths import ROOT

SUPPORT2 = ROOT / "configs" / "registries" / "support2.toml"
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def made(tmp_path: Path, sites: Sequence[str] = ("amc", "snubh"), **more: object) -> Provisioned:
    options: dict[str, object] = {"name": "sepsis", "hosts": ["coordinator.example", "10.0.0.7"], "sites": sites}
    return provision(**{**options, "out": tmp_path / "kits", "superlink_port": free_port(), **more})  # type: ignore[arg-type]


def joined(federation: Federation, *names: str) -> list[Path]:
    """Make the folders of sites from their kits, have them admitted, and have each accept the roster."""
    folders = [initiated(federation, name) for name in names]
    admit(federation, [folder / "request.json" for folder in folders])
    for folder in folders:
        accept_roster(folder, federation.roster_file)
    return folders


def initiated(federation: Federation, name: str) -> Path:
    folder = federation.folder.parent.parent / "sites" / name
    init_site(federation.folder.parent / name, folder)
    return folder


def refused(code: Code, act: Callable[[], object]) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        act()
    assert caught.value.code is code, str(caught.value)
    return caught.value


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def require_private(folder: Path) -> None:
    for path in [folder, *folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o700 if path.is_dir() else 0o600), path


def command(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,  # type: ignore[call-overload, no-any-return]
    )


def rewritten(path: Path, text: str) -> Path:
    changed = path.with_name("changed.json")
    changed.write_text(text)
    return changed


def requested(path: Path, **changes: object) -> Path:
    """Write a rightly signed request with chosen content."""
    key = new_signing_key()
    document: dict[str, object] = {
        "federation": "sepsis",
        "site": "amc",
        "signing_key": public_text(key),
        "node_key": public_text(new_node_key()),
        "made": "2026-01-01T00:00:00Z",
    }
    path.write_text(sign({**document, **changes}, key, kind="request"))
    return path
