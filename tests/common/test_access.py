"""Folders are their owner's alone: anybody else is told whose they are and as whom to come back."""

from __future__ import annotations

import os
import pwd
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from client.node.status import Status, read_status
from client.site.folders import find_site_folder
from common.access import forbidden, is_there, user_name
from common.errors import Code
from common.identity.keys import private_folder, write_private
from common.toml import read_toml
from server.provisioning.federation import find_federation
from tests.federations import refused

OWNER, OTHER = 1, 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


@pytest.fixture
def theirs() -> Iterator[Path]:
    """A folder of user 1, in one that everybody may enter."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    folder = place / "theirs"
    private_folder(folder)
    for name in ("federation.toml", "site.toml"):
        write_private(folder / name, b"")
    Status(folder)
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    yield folder
    shutil.rmtree(place)


@contextmanager
def another_user() -> Iterator[None]:
    os.seteuid(OTHER)
    try:
        yield
    finally:
        os.seteuid(0)


@needs_root
@pytest.mark.parametrize(
    "look", [find_federation, find_site_folder, read_status, lambda folder: toml(folder / "site.toml")]
)
def test_another_user_is_told_whose_a_folder_is_and_as_whom_to_repeat(
    theirs: Path, look: Callable[[Path], object]
) -> None:
    with another_user():
        error = refused(Code.FILE_FORBIDDEN, lambda: look(theirs))
    assert f"{theirs} belongs to {user_name(OWNER)}" in error.found and user_name(OTHER) in error.found
    assert f"sudo -u {user_name(OWNER)}" in error.fix


@needs_root
def test_so_it_is_where_the_file_alone_is_closed(theirs: Path) -> None:
    theirs.chmod(0o755)
    with another_user():
        error = refused(Code.FILE_FORBIDDEN, lambda: toml(theirs / "site.toml"))
        assert is_there(theirs / "site.toml") and not is_there(theirs / "absent") and not is_there(theirs / "a" / "b")
    assert f"{theirs / 'site.toml'} belongs to {user_name(OWNER)}" in error.found


def test_a_file_of_ones_own_is_not_looked_for_at_another_user(tmp_path: Path) -> None:
    error = forbidden(PermissionError(13, "no", str(tmp_path / "mine")))
    assert error.code is Code.FILE_FORBIDDEN and "permissions" in error.fix and "sudo" not in error.fix


def test_a_user_without_a_name_is_told_by_number() -> None:
    unknown = next(number for number in range(50_000, 60_000) if number not in {one.pw_uid for one in pwd.getpwall()})
    assert user_name(unknown) == str(unknown)


def toml(path: Path) -> object:
    return read_toml(path, missing=Code.CONFIG_MISSING, syntax=Code.CONFIG_SYNTAX)
