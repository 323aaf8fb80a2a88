"""A new folder is there whole or not at all, takes nobody's place, and is as open as it is meant to be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from common.errors import Code, FedReasonError
from common.fresh import fresh_folder
from common.identity.keys import private_folder, write_private


def test_a_folder_takes_its_name_only_when_everything_is_in_it(tmp_path: Path) -> None:
    target = tmp_path / "kits"
    with pytest.raises(RuntimeError), fresh_folder(target) as new:
        write_private(new / "half", b"")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with fresh_folder(target) as new:
        write_private(new / "whole", b"")
        assert not target.exists()
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_folder_that_holds_anything_is_not_replaced(tmp_path: Path) -> None:
    target = tmp_path / "kits"
    target.mkdir()
    with fresh_folder(target) as new:
        write_private(new / "first", b"")
    with pytest.raises(FedReasonError) as caught, fresh_folder(target):
        raise AssertionError
    assert caught.value.code is Code.KIT_EXISTS
    late = tmp_path / "late"
    with pytest.raises(FedReasonError), fresh_folder(late) as new:
        write_private(new / "mine", b"")
        private_folder(late)
        write_private(late / "theirs", b"")
    assert [path.name for path in late.iterdir()] == ["theirs"]
    assert {path.name for path in tmp_path.iterdir()} == {"kits", "late"}


@pytest.mark.parametrize(("private", "modes"), [(True, (0o700, 0o700)), (False, (0o755, 0o755))])
def test_a_private_folder_is_its_owner_s_alone_and_another_as_open_as_any(
    tmp_path: Path, private: bool, modes: tuple[int, int]
) -> None:
    before = os.umask(0o022)
    try:
        with fresh_folder(tmp_path / "above" / "new", private=private):
            pass
    finally:
        os.umask(before)
    assert tuple(path.stat().st_mode & 0o777 for path in (tmp_path / "above", tmp_path / "above" / "new")) == modes


@pytest.mark.parametrize("linked", [False, True])
def test_an_empty_folder_gives_its_mode_to_the_one_that_takes_its_place(tmp_path: Path, linked: bool) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    target.chmod(0o750)
    if linked:
        (tmp_path / "link").symlink_to(target)
    with fresh_folder(tmp_path / "link" if linked else target, private=False) as new:
        (new / "all").touch()
    assert target.stat().st_mode & 0o777 == 0o750 and (target / "all").exists()
    assert not linked or (tmp_path / "link").is_symlink()


def test_the_folder_that_a_command_was_started_in_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for target in (Path(), Path("../here"), tmp_path / "here"):
        with pytest.raises(FedReasonError, match="started in") as caught, fresh_folder(target):
            raise AssertionError
        assert caught.value.code is Code.KIT_EXISTS
    assert list(tmp_path.iterdir()) == [tmp_path / "here"]
