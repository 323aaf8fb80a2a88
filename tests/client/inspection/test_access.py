"""`check` says who else on the machine can read the records or change what the site goes by."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import gettempdir

import pytest

from client.inspection.access import exposed
from client.site.config import load_site

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no modes here")


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
    assert told(site) == [f"everybody can replace what is in {site.parent}: chmod o-w {site.parent}"]
    site.parent.chmod(0o1777)
    assert told(site) == []
