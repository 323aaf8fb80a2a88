"""`check` says who else on the machine can read the records or change what the site goes by."""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from pathlib import Path
from tempfile import gettempdir
from typing import NamedTuple

import pytest

from client.inspection import access
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
def test_what_others_can_change_is_named(site: Path, name: str) -> None:
    (site / name).chmod(0o602)
    assert told(site) == [f"others can change {site / name}: chmod go-w {site / name}"]


@gives_away
def test_what_a_group_can_change_is_named(site: Path) -> None:
    os.chown(site / "site.toml", -1, NAMELESS)
    (site / "site.toml").chmod(0o660)
    assert told(site) == [f"others can change {site / 'site.toml'}: chmod go-w {site / 'site.toml'}"]


@gives_away
def test_of_somebody_else_s_file_no_command_is_told_that_could_end_the_site_s_own_right(site: Path) -> None:
    path = site / "records.csv"
    os.chown(path, NOBODY, NAMELESS)
    path.chmod(0o640)
    (line,) = told(site)
    assert line.startswith(f"the group {NAMELESS} can read {path}: have ") and "chmod" not in line


def test_a_command_names_a_path_with_a_blank_as_one(site: Path) -> None:
    path = site / "our records.csv"
    path.write_text("")
    path.chmod(0o604)
    (site / "site.toml").write_text('name = "amc"\n[registry]\npath = "our records.csv"\n')
    assert told(site) == [f"everybody on this machine can read {path}: chmod o-rwx '{path}'"]


class User(NamedTuple):
    pw_name: str
    pw_uid: int
    pw_gid: int


class Group(NamedTuple):
    gr_name: str
    gr_gid: int
    gr_mem: list[str]


@pytest.mark.parametrize(
    ("group", "owners", "shared"),
    [
        (1001, {1001}, False),  # kim's own
        (1002, {1001, 1002}, False),  # the site's own group, of a file that an export wrote
        (1002, {1001}, True),
        (1003, {1003}, True),  # lee has let kim in
        (2000, {1001}, True),  # a group that was made for several
        (4000, {1001}, True),  # nobody knows it
    ],
)
def test_whose_group_is_shared(monkeypatch: pytest.MonkeyPatch, group: int, owners: set[int], shared: bool) -> None:
    users = {user.pw_uid: user for user in (User("kim", 1001, 1001), User("site", 1002, 1002), User("lee", 1003, 1003))}
    groups = [Group("kim", 1001, []), Group("site", 1002, []), Group("lee", 1003, ["kim"]), Group("all", 2000, [])]
    monkeypatch.setattr(access.grp, "getgrgid", {each.gr_gid: each for each in groups}.__getitem__)
    monkeypatch.setattr(access.pwd, "getpwnam", {each.pw_name: each for each in users.values()}.__getitem__)
    monkeypatch.setattr(access.pwd, "getpwall", lambda: list(users.values()))
    monkeypatch.setattr(access, "user_name", lambda uid: users[uid].pw_name if uid else "root")
    assert access._shared(group, owners) is shared


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
        (
            user
            for user in users
            if user.pw_uid != 0
            and [each.pw_name for each in users if each.pw_gid == user.pw_gid] == [user.pw_name]
            and Group(user.pw_name, user.pw_gid, [])
            in [(each.gr_name, each.gr_gid, each.gr_mem) for each in grp.getgrall()]
        ),
        None,
    )
    if alone is None:
        pytest.skip("no user of this machine has a group alone")
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
