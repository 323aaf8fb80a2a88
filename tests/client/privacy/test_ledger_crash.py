"""The ledger and crashes: a line is on the disk before its release, and what a crash cut short is mended or told."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.waiting import PATIENCE
from client.privacy.chain import LEDGER, MARK, ledger_folder
from client.privacy.ledger import Ledger
from client.site.anchor import ANCHOR
from tests.examples import examples
from tests.paths import ROOT
from tests.privacy_checks.ledger import CAP, filled, goes_on, path_of, put_back, release, site, verified


def watch_syncs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return a list that grows by name and size of all that is synced; "" is the new file of the mark or anchor."""
    synced: list[tuple[str, int]] = []
    sync = os.fsync

    def watched(descriptor: int) -> None:
        sync(descriptor)
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        name = "" if path.name.startswith((".mark.", ".ledger.json.")) else path.name
        synced.append((name, path.stat().st_size if path.is_file() else 0))

    monkeypatch.setattr(os, "fsync", watched)
    return synced


def test_a_line_is_on_the_disk_before_the_mark_and_both_before_the_release(
    amc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was synced last is what the files hold, in the order that a power failure must find them."""
    ledger, synced = filled(amc, 1), watch_syncs(monkeypatch)
    ledger.charge(release(2), cap=CAP)
    mark = (ledger_folder(amc) / MARK).stat().st_size
    assert synced[:3] == [(LEDGER, path_of(amc).stat().st_size), ("", mark), ("ledger", 0)]
    assert synced[3:] == [("", (amc / ANCHOR).stat().st_size), ("amc", 0)]


@pytest.mark.federation
def test_killed_at_200_random_moments_it_never_undercharges_and_goes_on() -> None:
    words = [sys.executable, "-m", "tests.client.privacy.killed_at_random"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr


@examples(60)
@given(st.data())
def test_a_line_that_a_crash_cut_short_anywhere_is_removed_and_told(data: st.DataObject) -> None:
    with site() as folder:
        first, second = list(histories_of_two(folder))
        cut = data.draw(st.integers(len(first[LEDGER]) + 1, len(second[LEDGER]) - 1))
        put_back(folder, second[LEDGER][:cut], first[MARK])
        assert len(verified(folder)) == 1
        assert path_of(folder).stat().st_size == cut
        ledger = Ledger.opened(folder)
        assert path_of(folder).read_bytes() == first[LEDGER]
        assert goes_on(ledger)


def histories_of_two(folder: Path) -> Iterator[dict[str, bytes]]:
    ledger = Ledger.opened(folder)
    for number in (1, 2):
        ledger.charge(release(number), cap=CAP)
        yield {name: (ledger_folder(folder) / name).read_bytes() for name in (LEDGER, MARK)}


def test_what_is_removed_is_told_in_the_log(amc: Path, caplog: pytest.LogCaptureFixture) -> None:
    first, second = histories_of_two(amc)
    put_back(amc, first[LEDGER] + second[LEDGER][-100:-50], first[MARK])
    with caplog.at_level(logging.WARNING):
        Ledger.opened(amc)
    assert "50 bytes of a line that a crash cut short are removed" in caplog.text


@pytest.mark.parametrize("damage", ["zeros", "holes", "nothing"])
def test_after_a_power_failure_a_last_line_that_the_mark_does_not_cover_may_be_anything(amc: Path, damage: str) -> None:
    """File systems may keep the length of a write that was not synced, without its content."""
    first, second = histories_of_two(amc)
    line = second[LEDGER][len(first[LEDGER]) :]
    torn = {"zeros": bytes(len(line)), "holes": bytes(500) + line[500:], "nothing": b""}[damage]
    put_back(amc, first[LEDGER] + torn, first[MARK])
    assert goes_on(Ledger.opened(amc))
    assert [entry.release.round for entry in verified(amc)] == [1, 3]


def test_a_whole_line_that_a_crash_left_without_its_mark_is_charged_and_synced(
    amc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = histories_of_two(amc)
    put_back(amc, second[LEDGER], first[MARK])
    synced = watch_syncs(monkeypatch)
    ledger = Ledger.opened(amc)
    assert [name for name, _ in synced] == ["state", "amc", LEDGER, "", "ledger", "", "amc"]
    assert ledger.head.sequence == 2
    assert (ledger_folder(amc) / MARK).read_bytes() == second[MARK]


def test_a_first_line_that_a_crash_left_without_its_mark_is_charged(amc: Path) -> None:
    filled(amc, 1)
    put_back(amc, path_of(amc).read_bytes(), None)
    assert goes_on(Ledger.opened(amc))


def test_what_a_crash_left_of_a_mark_is_cleared_away(amc: Path) -> None:
    filled(amc, 1)
    (ledger_folder(amc) / ".mark.abc").write_bytes(b"{")
    assert goes_on(Ledger.opened(amc))
    assert sorted(path.name for path in ledger_folder(amc).iterdir()) == [LEDGER, "lock", MARK]
