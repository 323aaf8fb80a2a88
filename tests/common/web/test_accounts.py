"""Accounts: a password opens its own account alone, the file holds no password and is for its owner alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from filelock import FileLock

from common.errors import Code, FedReasonError
from common.web import accounts as module
from common.web.accounts import Accounts

PASSWORD = "four plain random words"


def test_a_password_opens_its_own_account_and_no_other(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "in" / "accounts.json")
    accounts.add("kim", PASSWORD)
    accounts.add("lee", "another few random words")
    assert accounts.names() == ("kim", "lee")
    assert accounts.holds("kim", PASSWORD)
    assert not accounts.holds("lee", PASSWORD)
    assert not accounts.holds("nobody", PASSWORD)
    assert not accounts.holds("kim", PASSWORD + " ")
    assert not accounts.holds("kim", "")


def test_the_file_holds_no_password_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    Accounts(path).add("kim", PASSWORD)
    assert PASSWORD not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    with pytest.raises(FedReasonError) as refused:
        Accounts(path).names()
    assert refused.value.code is Code.KEY_PERMISSIONS


def test_a_removed_account_and_an_old_password_open_nothing(tmp_path: Path) -> None:
    accounts = Accounts(tmp_path / "accounts.json")
    accounts.add("kim", PASSWORD)
    accounts.add("kim", "a wholly new password")
    assert not accounts.holds("kim", PASSWORD)
    assert accounts.remove("kim")
    assert not accounts.remove("kim")
    assert not accounts.holds("kim", "a wholly new password")


def test_an_account_that_is_removed_while_anothers_password_is_hashed_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, hashed = Accounts(tmp_path / "accounts.json"), module._hashed
    accounts.add("kim", PASSWORD)

    def meanwhile(password: str) -> str:
        made = hashed(password)
        assert accounts.remove("kim")
        return made

    monkeypatch.setattr(module, "_hashed", meanwhile)
    accounts.add("lee", PASSWORD)
    assert accounts.names() == ("lee",)


def test_accounts_that_are_changed_at_once_are_all_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "accounts.json"
    Accounts(path).add("kim", PASSWORD)
    kept = Accounts(path).of("kim")
    monkeypatch.setattr(module, "_hashed", lambda _: kept)
    first, later = ([f"{word}{number}" for number in range(16)] for word in ("first", "later"))
    for name in first:
        Accounts(path).add(name, PASSWORD)
    with ThreadPoolExecutor(8) as together:
        added = [together.submit(Accounts(path).add, name, PASSWORD) for name in later]
        removed = [together.submit(Accounts(path).remove, name) for name in first]
    assert all(each.result() is None for each in added) and all(each.result() for each in removed)
    assert set(Accounts(path).names()) == {"kim", *later}
    assert {stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()} == {0o600}


def test_accounts_that_another_command_changes_are_left_alone_and_can_be_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOCK_SECONDS", 0)
    path = tmp_path / "accounts.json"
    accounts = Accounts(path)
    accounts.add("kim", PASSWORD)
    with FileLock(tmp_path / ".accounts.json.lock"):
        for change in (lambda: accounts.add("lee", PASSWORD), lambda: accounts.remove("kim")):
            with pytest.raises(FedReasonError) as refused:
                change()
            assert refused.value.code is Code.RUN_LOCKED and str(path) in str(refused.value)
        assert accounts.holds("kim", PASSWORD)
    assert accounts.names() == ("kim",)


@pytest.mark.parametrize(
    ("name", "password"),
    [
        ("Kim", PASSWORD),
        ("you", PASSWORD),
        ("", PASSWORD),
        ("<b>", PASSWORD),
        ("k" * 33, PASSWORD),
        ("kim\n", PASSWORD),
        ("kim", "short"),
        ("kim", "x" * 257),
    ],
)
def test_a_name_or_password_that_is_not_fit_is_refused_and_not_repeated(
    tmp_path: Path, name: str, password: str
) -> None:
    path = tmp_path / "accounts.json"
    with pytest.raises(FedReasonError) as refused:
        Accounts(path).add(name, password)
    assert refused.value.code is Code.PAGES_ACCOUNT
    assert password not in str(refused.value)
    assert not path.exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"kim": 3}', '{"kim": "plain text"}'])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "accounts.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(FedReasonError) as refused:
        Accounts(path).names()
    assert refused.value.code is Code.PAGES_ACCOUNT
    assert str(path) in str(refused.value)


def test_a_damaged_hash_is_refused_by_name_where_it_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "accounts.json"
    path.write_text('{"kim": "$argon2id$v=19$m=1,t=0,p=0$AAAA$AAAA"}')
    path.chmod(0o600)
    with pytest.raises(FedReasonError) as refused:
        Accounts(path).holds("kim", PASSWORD)
    assert refused.value.code is Code.PAGES_ACCOUNT and str(path) in str(refused.value)


def test_a_name_that_nobody_has_costs_the_hash_of_one_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts, asked = Accounts(tmp_path / "accounts.json"), []
    accounts.add("kim", PASSWORD)

    def verified(password: bytes, kept: str) -> None:
        asked.append((password, [len(part) if place > 3 else part for place, part in enumerate(kept.split("$"))]))
        Argon2id.verify_phc_encoded(password, kept)

    monkeypatch.setattr("common.web.accounts.Argon2id", SimpleNamespace(verify_phc_encoded=verified))
    assert accounts.holds("kim", PASSWORD)
    assert not accounts.holds("nobody", PASSWORD)
    assert len(asked) == 2 and asked[0] == asked[1]
