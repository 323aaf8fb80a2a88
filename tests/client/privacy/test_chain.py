"""Whoever changes a byte of the ledger, puts an older one back or signs with another key is found out."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.privacy.chain import KIND, LEDGER, MARK, compare_heads, ledger_folder, mark_of, read_chain
from client.privacy.entry import Entry, parsed, spent
from client.privacy.ledger import Ledger
from client.site.keys import use_next_keys
from common.accounting import ORDERS
from common.errors import Code
from common.identity.keys import load_signing_key, new_node_key, new_signing_key, save_key, signature
from common.messages.heads import START, Head
from tests.examples import examples
from tests.privacy_checks.ledger import (
    CAP,
    filled,
    flipped,
    found,
    goes_on,
    histories,
    new_site,
    path_of,
    put_back,
    refused,
    release,
    site,
    verified,
)


@pytest.fixture
def amc() -> Iterator[Path]:
    with site() as folder:
        yield folder


def forged(folder: Path, entry: Entry, *, signed: bool = True) -> None:
    """Put an entry that its owner signed, however wrong it is, and the mark for it, in place of the last line."""
    if signed:
        key = load_signing_key(folder / "keys" / "signing")
        entry = replace(entry, signature=signature(entry.document, key, kind=KIND))
    lines = path_of(folder).read_bytes().splitlines()[:-1]
    put_back(folder, b"".join(line + b"\n" for line in [*lines, entry.line]), mark_of(entry.head))


@pytest.mark.long
def test_a_bit_flipped_in_any_byte_of_a_small_ledger_is_found_and_its_line_named(amc: Path) -> None:
    filled(amc, 2)
    files = {name: (ledger_folder(amc) / name).read_bytes() for name in (LEDGER, MARK)}
    ends = len(files[LEDGER].splitlines()[0]) + 1
    signed = files[LEDGER].rindex(b'==","steps"')
    every = [(place, place % 7) for place in range(len(files[LEDGER]))]
    for place, bit in [*every, *((signed - 1, bit) for bit in range(8))]:
        put_back(amc, flipped(files[LEDGER], place, bit), files[MARK])
        told = refused(partial(verified, amc), Code.LEDGER_DAMAGED)
        assert f"ledger.jsonl, line {1 if place < ends else 2}:" in told
        assert found(partial(read_chain, ledger_folder(amc)))
    for place in range(len(files[MARK])):
        put_back(amc, files[LEDGER], flipped(files[MARK], place, place % 7))
        assert found(partial(read_chain, ledger_folder(amc)))


@examples(200)
@given(st.data())
def test_any_other_change_is_found(data: st.DataObject) -> None:
    with site() as folder:
        filled(folder, 3)
        content, mark = path_of(folder).read_bytes(), (ledger_folder(folder) / MARK).read_bytes()
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, min(len(content), start + 40)) | st.just(len(content)))
        fresh = data.draw(st.binary(max_size=20) | st.sampled_from([content, content[:start], b"\n"]))
        changed = content[:start] + fresh + content[end:]
        put_back(folder, changed, mark)
        if changed == content:
            Ledger.opened(folder)
        elif changed.startswith(content) and b"\n" not in changed[len(content) : -1]:
            Ledger.opened(folder)
            assert path_of(folder).read_bytes() == content
        else:
            assert found(partial(Ledger.opened, folder))
            assert path_of(folder).read_bytes() == changed


def test_a_damaged_ledger_is_not_charged_even_by_a_process_that_has_read_it(amc: Path) -> None:
    ledger = filled(amc, 3)
    content = path_of(amc).read_bytes()
    path_of(amc).write_bytes(flipped(content, 30, 1))
    refused(lambda: ledger.charge(release(4), cap=CAP), Code.LEDGER_DAMAGED)
    path_of(amc).write_bytes(content)
    assert ledger.charge(release(4), cap=CAP).sequence == 4


def test_a_ledger_rolled_back_under_a_running_process_is_noticed(amc: Path) -> None:
    older, latest, _ = histories(amc)
    put_back(amc, latest[LEDGER], latest[MARK])
    ledger = Ledger.opened(amc)
    put_back(amc, older[LEDGER], latest[MARK])
    refused(lambda: ledger.charge(release(4), cap=CAP), Code.LEDGER_ROLLED_BACK)
    put_back(amc, latest[LEDGER], latest[MARK])
    assert ledger.charge(release(4), cap=CAP).sequence == 4
    (ledger_folder(amc) / MARK).write_bytes(older[MARK])
    refused(lambda: ledger.charge(release(5), cap=CAP), Code.LEDGER_ROLLED_BACK)


def test_a_mark_that_was_removed_or_put_back_is_noticed(amc: Path) -> None:
    older, latest, _ = histories(amc)
    for mark in (None, older[MARK]):
        assert "one of them was put back" in refused(
            partial(Ledger.opened, put_back(amc, latest[LEDGER], mark)), Code.LEDGER_ROLLED_BACK
        )


@pytest.mark.parametrize(
    "wrong, why",
    [
        ({"rdp": (0,) * len(ORDERS)}, "its RDP is not the sum"),
        ({"rdp_sum": (1,) * len(ORDERS)}, "its RDP is not the sum"),
        ({"total_variation_sum": 0.0}, "its total variation is not the sum"),
        ({"epsilon": 0.1}, "its epsilon is less"),
        ({"epsilon": -1.0}, "its epsilon is no number"),
        ({"retry": True}, "wrongly whether it is a retry"),
        ({"sequence": 3}, "it has the number 3"),
        ({"previous": "0" * 64}, "does not follow the line before"),
        ({"key": "SHA256:nobody"}, "signed by SHA256:nobody"),
    ],
)
def test_a_wrong_line_is_found_though_its_owner_signed_it(amc: Path, wrong: dict[str, object], why: str) -> None:
    last = filled(amc, 2).entries()[-1]
    forged(amc, replace(last, **wrong))
    assert why in refused(partial(Ledger.opened, amc), Code.LEDGER_DAMAGED)


def test_a_signature_of_another_key_or_over_something_else_is_found(amc: Path) -> None:
    last = filled(amc, 2).entries()[-1]
    changed = replace(last, release=replace(last.release, policy_sha256="c" * 64))
    forged(amc, changed, signed=False)
    assert "line 2: its signature does not hold" in refused(partial(Ledger.opened, amc), Code.LEDGER_DAMAGED)
    stranger = replace(last, signature=signature(last.document, new_signing_key(), kind=KIND))
    forged(amc, stranger, signed=False)
    refused(partial(Ledger.opened, amc), Code.LEDGER_DAMAGED)
    forged(amc, replace(last, signature=signature(last.document, load_signing_key(amc / "keys" / "signing"), kind="x")),
           signed=False)  # fmt: skip
    refused(partial(Ledger.opened, amc), Code.LEDGER_DAMAGED)
    forged(amc, last)
    assert goes_on(Ledger.opened(amc))


def test_the_ledger_of_another_site_is_refused(amc: Path) -> None:
    filled(amc, 2)
    with site() as berlin:
        shutil.copytree(ledger_folder(amc), ledger_folder(berlin))
        assert "is signed by SHA256:" in refused(partial(Ledger.opened, berlin), Code.LEDGER_DAMAGED)


@pytest.mark.parametrize("what", ["cheaper", "noisier", "epsilon"])
def test_recomputing_finds_a_release_that_was_charged_too_little(amc: Path, what: str) -> None:
    last = filled(amc, 2).entries()[-1]
    half = tuple(value // 2 for value in last.rdp)
    total = tuple(a - b + c for a, b, c in zip(last.rdp_sum, last.rdp, half, strict=True))
    wrong = {
        "cheaper": replace(last, rdp=half, rdp_sum=total),
        "noisier": replace(last, release=replace(last.release, sigma_units=22_000)),
        "epsilon": replace(last, epsilon=last.epsilon * 0.99),
    }[what]
    wrong = replace(wrong, epsilon=max(spent(wrong), last.epsilon * 0.99)) if what == "cheaper" else wrong
    forged(amc, wrong)
    ledger = Ledger.opened(amc)
    ledger.verify()
    told = refused(lambda: ledger.verify(costs=True), Code.LEDGER_DAMAGED)
    assert "line 2: the epsilon" in told if what == "epsilon" else "line 2: the RDP of its mechanism" in told


def rotate(folder: Path) -> None:
    save_key(folder / "keys" / "next" / "signing", new_signing_key())
    save_key(folder / "keys" / "next" / "node", new_node_key())
    use_next_keys(folder)


def test_lines_of_former_keys_hold_when_keys_are_rotated_also_under_a_running_process(amc: Path) -> None:
    save_key(amc / "keys" / "node", new_node_key())
    running = filled(amc, 2)
    for number in (3, 4):
        rotate(amc)
        running.charge(release(number), cap=CAP)
    assert Ledger.opened(amc).charge(release(5), cap=CAP).sequence == 5
    entries = verified(amc)
    keys = [entry.key for entry in entries]
    assert len(set(keys)) == 3
    assert keys[0] == keys[1] and keys[3] == keys[4]
    for private in amc.glob("keys/old-*/signing"):
        private.unlink()
    assert verified(amc) == entries
    next(amc.glob("keys/old-*/signing.pub")).unlink()
    assert "in no signing.pub" in refused(partial(verified, amc), Code.LEDGER_DAMAGED)


def test_lines_of_former_keys_hold_where_the_clock_was_set_back_between_two_rotations(
    amc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_key(amc / "keys" / "node", new_node_key())
    filled(amc, 1)
    for number, year in enumerate((2031, 2026, 2026, 2032), start=2):
        clock = SimpleNamespace(now=lambda zone, year=year: datetime(year, 1, 1, tzinfo=zone))
        with monkeypatch.context() as set_back:
            set_back.setattr("client.site.keys.datetime", clock)
            rotate(amc)
        Ledger.opened(amc).charge(release(number), cap=CAP)
    assert len({entry.key for entry in verified(amc)}) == 5


def test_a_key_that_was_replaced_signs_no_more(amc: Path) -> None:
    save_key(amc / "keys" / "node", new_node_key())
    filled(amc, 1)
    former = load_signing_key(amc / "keys" / "signing")
    old = verified(amc)[0].key
    rotate(amc)
    last = [filled(amc, number) for number in (1, 2)][-1].entries()[-1]
    stolen = replace(last, key=old)
    forged(amc, replace(stolen, signature=signature(stolen.document, former, kind=KIND)), signed=False)
    assert "a key that an earlier line had replaced" in refused(partial(Ledger.opened, amc), Code.LEDGER_DAMAGED)


def test_keys_whose_rotation_was_interrupted_at_any_file_still_verify_and_sign(amc: Path) -> None:
    save_key(amc / "keys" / "node", new_node_key())
    filled(amc, 1)
    keys, aside = amc / "keys", amc / "keys" / "old-1"
    save_key(keys / "next" / "signing", new_signing_key())
    aside.mkdir()
    (keys / "signing").rename(aside / "signing")
    (keys / "next" / "signing").rename(keys / "signing")
    assert goes_on(Ledger.opened(amc))
    (keys / "signing.pub").rename(aside / "signing.pub")
    (keys / "next" / "signing.pub").rename(keys / "signing.pub")
    assert goes_on(Ledger.opened(amc))
    assert len({entry.key for entry in verified(amc)}) == 2


def test_without_a_signing_key_nothing_is_charged(tmp_path: Path) -> None:
    refused(lambda: Ledger.opened(tmp_path), Code.KEY_MISSING)
    folder = new_site(tmp_path / "amc")
    ledger = filled(folder, 1)
    (folder / "keys" / "signing").chmod(0o644)
    refused(lambda: ledger.charge(release(2), cap=CAP), Code.KEY_PERMISSIONS)
    assert len(verified(folder)) == 1


def test_heads_that_others_saw_are_compared_with_every_line() -> None:
    own = [START, Head(1, "a" * 64), Head(2, "b" * 64)]
    compare_heads(own, {})
    compare_heads(own, {"berlin": own[2], "oslo": own[1], "paris": START})
    told = refused(
        lambda: compare_heads(own, {"berlin": Head(3, "c" * 64), "oslo": Head(1, "c" * 64), "paris": own[2]}),
        Code.LEDGER_ROLLED_BACK,
    )
    assert "berlin saw line 3, oslo saw another line 1" in told
    assert "paris" not in told
    for odd in (Head(-1, "b" * 64), Head(-9, "b" * 64), Head(0, "c" * 64)):
        refused(partial(compare_heads, own, {"berlin": odd}), Code.LEDGER_ROLLED_BACK)


def test_a_line_reads_back_as_the_entry_it_was_and_nothing_else_reads(amc: Path) -> None:
    entry = filled(amc, 1).entries()[0]
    assert parsed(entry.line) == entry
    for other in (
        b"",
        b"{}",
        b"[]",
        b"null",
        b"NaN",
        b"[" * 100_000,
        entry.line.replace(b'"mu":1', b'"mu": 1'),
        entry.line.replace(b'"mu":1', b'"mu":1.0'),
        entry.line.replace(b'"mu":1', b'"mu":0'),
        entry.line.replace(b'"mu":1', b'"more":1,"mu":1'),
        entry.line.replace(b'"orders":[1.1,', b'"orders":['),
        b"\xff\xfe" + entry.line,
    ):
        with pytest.raises(ValueError, match="as the ledger writes"):
            parsed(other)
