"""`check` says who else on the machine can read the records or change what the site goes by."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from tempfile import gettempdir

import pytest

from client.inspection.access import exposed
from client.site.config import load_site

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no modes here")
gives_away = pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root gives a file to a group")
NAMELESS, OTHER, NOBODY = 54_321, 54_322, 65_533
"""Groups and a user that this machine knows no names of."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a site folder of which nothing is open to others, below folders that let everybody in."""
    folder = tmp_path / "open" / "amc"
    folder.mkdir(parents=True)
    for parent in (*folder.parents, folder):
        if parent.is_relative_to(gettempdir()) and parent.stat().st_uid == os.getuid() and parent != Path(gettempdir()):
            parent.chmod(0o755)
    (folder / "site.toml").write_text('name = "amc"\n[registry]\npath = "records.csv"\n')
    for name in ("records.csv", "policy.toml", "codebook.toml", "excluded.txt"):
        (folder / name).write_text("")
    (folder / "state").mkdir(mode=0o700)
    for path in folder.iterdir():
        path.chmod(0o700 if path.is_dir() else 0o600)
    return folder


def told(folder: Path) -> list[str]:
    return exposed(folder, load_site(folder))


def test_nothing_is_said_of_a_site_that_is_its_own(site: Path) -> None:
    assert told(site) == []


@pytest.mark.parametrize("name", ["records.csv", "excluded.txt", "state"])
def test_records_that_everybody_can_read_are_named_with_what_ends_it(site: Path, name: str) -> None:
    path = site / name
    path.chmod(path.stat().st_mode | 0o004)
    (line,) = told(site)
    assert line == f"everybody on this machine can read {path}: chmod o-rwx {path}"
    site.chmod(0o700)  # nobody else comes as far as the file
    assert told(site) == []


@pytest.mark.parametrize("name", ["site.toml", "policy.toml", "codebook.toml", "records.csv", "excluded.txt"])
@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_what_others_can_change_is_named(site: Path, name: str, mode: int) -> None:
    (site / name).chmod(mode)
    assert told(site) == [f"others can change {site / name}: chmod go-w {site / name}"]


def test_a_folder_in_which_everybody_can_put_another_file_is_named_unless_it_is_sticky(site: Path) -> None:
    site.parent.chmod(0o777)
    assert told(site) == [f"everybody on this machine can replace what is in {site.parent}: chmod o-w {site.parent}"]
    site.parent.chmod(0o1777)
    assert told(site) == []


@gives_away
@pytest.mark.parametrize("name", ["records.csv", "excluded.txt", "state"])
def test_records_that_a_group_can_read_are_named_with_what_ends_it(site: Path, name: str) -> None:
    path = site / name
    os.chown(path, -1, NAMELESS)
    path.chmod(path.stat().st_mode | 0o040)
    assert told(site) == [f"the group {NAMELESS} can read {path}: chmod go-rwx {path}"]
    path.chmod(path.stat().st_mode & ~0o077)
    assert told(site) == []


@gives_away
@pytest.mark.parametrize("record", [0o640, 0o644, 0o604, 0o600])
@pytest.mark.parametrize("folder", [0o755, 0o750, 0o710, 0o705, 0o701, 0o700])
@pytest.mark.parametrize("group", [NAMELESS, OTHER])
def test_who_is_said_to_read_a_record_can_read_it_and_nobody_else(
    site: Path, record: int, folder: int, group: int
) -> None:
    path = site / "records.csv"
    os.chown(path, -1, NAMELESS)
    path.chmod(record)
    os.chown(site, -1, group)
    site.chmod(folder)
    reads = [groups for groups in ([], [NAMELESS], [OTHER], [NAMELESS, OTHER]) if _reads(path, groups)]
    found = [line.partition(" can read ")[0] for line in told(site)]
    if [] in reads:
        assert found == ["everybody on this machine"]
    elif reads:
        assert found == [" and ".join(f"the group {number}" for number in reads[0])]
    else:
        assert found == []


def _reads(path: Path, groups: list[int]) -> bool:
    """Whether the kernel lets somebody of these groups read a file."""
    command = ["/usr/bin/env", "cat", str(path)]
    tried = subprocess.run(
        command, cwd="/", user=NOBODY, group=NOBODY, extra_groups=groups, capture_output=True, check=False
    )
    return tried.returncode == 0


@gives_away
def test_a_group_that_has_the_owner_alone_is_nobody_else(site: Path) -> None:
    path, users = site / "records.csv", pwd.getpwall()
    alone = next(
        user
        for user in users
        if user.pw_uid != 0
        and [each.pw_name for each in users if each.pw_gid == user.pw_gid] == [user.pw_name]
        and any(
            each.gr_gid == user.pw_gid and (each.gr_name, each.gr_mem) == (user.pw_name, []) for each in grp.getgrall()
        )
    )
    path.chmod(0o640)
    os.chown(path, alone.pw_uid, alone.pw_gid)
    assert told(site) == []
    os.chown(path, 0, alone.pw_gid)
    assert told(site) == [f"the group {alone.pw_name} can read {path}: chmod go-rwx {path}"]


@gives_away
def test_a_folder_in_which_a_group_can_put_another_file_is_named_unless_it_is_sticky(site: Path) -> None:
    os.chown(site.parent, -1, NAMELESS)
    site.parent.chmod(0o775)
    assert told(site) == [f"the group {NAMELESS} can replace what is in {site.parent}: chmod go-w {site.parent}"]
    site.parent.chmod(0o1775)
    assert told(site) == []
