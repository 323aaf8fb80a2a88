"""Keys, signatures and private files: what OpenSSH agrees with, what is refused, and who can read what."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Code, FedReasonError
from common.fresh import fresh_folder
from common.identity.keys import (
    canonical,
    fingerprint,
    load_node_key,
    load_signing_key,
    new_node_key,
    new_signing_key,
    node_public_key,
    private_folder,
    public_text,
    read_public,
    save_key,
    sign,
    signing_public_key,
    verified,
    write_private,
)
from tests.paths import ROOT

needs_ssh_keygen = pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")

documents = st.dictionaries(
    st.text(max_size=5),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Whatever the umask lets others do, our files must not."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(code: Code, text: str, **options: str) -> FedReasonError:
    with pytest.raises(FedReasonError) as caught:
        verified(text, **{"kind": "roster", "where": "file", **options})
    assert caught.value.code is code
    return caught.value


@needs_ssh_keygen
def test_ssh_keygen_reads_both_keys_and_agrees_on_their_fingerprints(tmp_path: Path) -> None:
    for name, key in (("signing", new_signing_key()), ("node", new_node_key())):
        save_key(tmp_path / name, key, "amc")
        shown = subprocess.run(
            ["ssh-keygen", "-lf", tmp_path / f"{name}.pub"], capture_output=True, text=True, check=True
        )
        assert shown.stdout.split()[1:3] == [fingerprint(public_text(key)), "amc"]
        public = subprocess.run(["ssh-keygen", "-yf", tmp_path / name], capture_output=True, text=True, check=True)
        assert public.stdout.strip().split()[:2] == public_text(key).split()


def test_a_saved_key_is_the_key_that_is_loaded(tmp_path: Path) -> None:
    signing, node = new_signing_key(), new_node_key()
    save_key(tmp_path / "keys" / "signing", signing)
    save_key(tmp_path / "keys" / "node", node, "amc@sepsis")
    assert public_text(load_signing_key(tmp_path / "keys" / "signing")) == public_text(signing)
    assert public_text(load_node_key(tmp_path / "keys" / "node")) == public_text(node)
    assert read_public(tmp_path / "keys" / "node.pub") == public_text(node)
    assert (tmp_path / "keys" / "node.pub").read_text() == f"{public_text(node)} amc@sepsis\n"


@pytest.mark.usefixtures("open_umask")
def test_keys_files_and_folders_are_the_owners_alone_whatever_the_umask(tmp_path: Path) -> None:
    save_key(tmp_path / "above" / "keys" / "signing", new_signing_key())
    write_private(tmp_path / "above" / "roster.json", b"{}")
    with fresh_folder(tmp_path / "more" / "kit") as new:
        write_private(new / "site.toml", b"")
    for path in [*tmp_path.rglob("*")]:
        assert mode(path) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("umask", [0, 0o777])
def test_a_folder_that_others_could_enter_is_closed_and_a_closed_one_opened_for_its_owner(
    tmp_path: Path, umask: int
) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    before = os.umask(umask)
    try:
        for name in ("open", "new"):
            private_folder(tmp_path / name)
            write_private(tmp_path / name / "file", b"")
    finally:
        os.umask(before)
    assert [mode(tmp_path / name) for name in ("open", "new", "new/file")] == [0o700, 0o700, 0o600]


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    key = new_signing_key()
    save_key(tmp_path / "signing", key)
    with pytest.raises(FedReasonError) as caught:
        save_key(tmp_path / "signing", new_signing_key())
    assert caught.value.code is Code.KIT_EXISTS
    (tmp_path / "signing").rename(tmp_path / "away")
    with pytest.raises(FedReasonError):
        save_key(tmp_path / "signing", new_signing_key())
    assert read_public(tmp_path / "signing.pub") == public_text(key)


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o602])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, bits: int) -> None:
    save_key(tmp_path / "signing", new_signing_key())
    (tmp_path / "signing").chmod(bits)
    with pytest.raises(FedReasonError) as caught:
        load_signing_key(tmp_path / "signing")
    assert caught.value.code is Code.KEY_PERMISSIONS
    assert f"{bits:04o}" in str(caught.value)


def test_a_missing_damaged_or_other_key_is_refused_and_not_quoted(tmp_path: Path) -> None:
    save_key(tmp_path / "node", new_node_key())
    write_private(
        tmp_path / "damaged", b"-----BEGIN OPENSSH PRIVATE KEY-----\nc2VjcmV0\n-----END OPENSSH PRIVATE KEY-----\n"
    )
    for name in ("absent", "node", "damaged"):
        with pytest.raises(FedReasonError) as caught:
            load_signing_key(tmp_path / name)
        assert caught.value.code is Code.KEY_MISSING
        assert "c2Vj" not in str(caught.value)
    save_key(tmp_path / "signing", new_signing_key())
    with pytest.raises(FedReasonError):
        load_node_key(tmp_path / "signing")


def test_a_public_key_of_another_kind_is_no_public_key() -> None:
    for read, text in (
        (signing_public_key, public_text(new_node_key())),
        (node_public_key, public_text(new_signing_key())),
        (signing_public_key, "ssh-ed25519 AAAA"),
        (node_public_key, ""),
    ):
        with pytest.raises(ValueError):
            read(text)


@given(documents)
def test_a_signed_document_comes_back_as_it_was(document: dict[str, object]) -> None:
    key = new_signing_key()
    assert verified(sign(document, key, kind="roster"), kind="roster", signer=public_text(key), where="") == document


def test_the_order_of_keys_and_the_layout_of_the_file_are_not_signed() -> None:
    key = new_signing_key()
    text = sign({"a": 1, "b": [1, 2]}, key, kind="roster")
    whole = json.loads(text)
    whole["document"] = {"b": [1, 2], "a": 1}
    assert verified(json.dumps(whole), kind="roster", signer=public_text(key), where="") == {"a": 1, "b": [1, 2]}
    assert canonical({"b": "é", "a": 1}) == b'{"a":1,"b":"\\u00e9"}'


def test_a_changed_document_signature_or_signer_is_refused() -> None:
    key, other = new_signing_key(), new_signing_key()
    signer = public_text(key)
    text = sign({"version": 1}, key, kind="roster")
    refused(Code.ROSTER_SIGNATURE, text.replace('"version": 1', '"version": 2'), signer=signer)
    whole = json.loads(text)
    flipped = ("B" if whole["signature"][0] == "A" else "A") + whole["signature"][1:]
    refused(Code.ROSTER_SIGNATURE, json.dumps({**whole, "signature": flipped}), signer=signer)
    refused(Code.ROSTER_SIGNATURE, text, signer=public_text(other))
    imposed = sign({"version": 1}, other, kind="roster")
    assert fingerprint(signer) in str(refused(Code.ROSTER_SIGNATURE, imposed, signer=signer))
    claimed = json.dumps({**json.loads(imposed), "by": signer})
    refused(Code.ROSTER_SIGNATURE, claimed, signer=signer)


def test_a_signature_over_one_kind_of_document_is_none_over_another() -> None:
    key = new_signing_key()
    text = sign({"version": 1}, key, kind="request")
    refused(Code.ROSTER_SIGNATURE, text, signer=public_text(key))
    assert verified(text, kind="request", signer=public_text(key), where="")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "3",
        '{"document": 1, "signature": "", "by": ""}',
        '{"document": {}, "signature": null, "by": ""}',
        '{"document": {}, "signature": "?", "by": ""}',
        '{"document": {"a": NaN}, "signature": "", "by": ""}',
        '{"document": {}, "signature": "", "by": "", "more": 1}',
        "[" * 100_000,
    ],
    ids=range(10),
)
def test_what_is_no_signed_file_is_refused_with_the_number_asked_for(text: str) -> None:
    with pytest.raises(FedReasonError) as caught:
        verified(text, kind="x", signer=public_text(new_signing_key()), where="file", code=Code.REQUEST_BAD)
    assert caught.value.code is Code.REQUEST_BAD


def test_a_crash_leaves_the_old_content_or_the_new_never_part_of_it(tmp_path: Path) -> None:
    """A process that writes for ever is killed; what it leaves is whole, and for its owner alone."""
    path = tmp_path / "roster.json"
    program = (
        "import sys; from pathlib import Path; from common.identity.keys import write_private\n"
        "for i in range(10**9): write_private(Path(sys.argv[1]), str(i % 10).encode() * 100_000)\n"
    )
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", program, path], cwd=ROOT) as process:
            before = path.stat().st_mtime_ns if path.exists() else 0
            while not path.exists() or path.stat().st_mtime_ns == before:
                assert process.poll() is None
            process.kill()
        content = path.read_text()
        assert re.fullmatch(r"(\d)\1{99999}", content)
        assert mode(path) == 0o600
