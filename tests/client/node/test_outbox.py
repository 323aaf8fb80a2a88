"""The outbox: no message leaves that is not on the disk, and whatever a crash leaves behind is told and goes on."""

from __future__ import annotations

import hashlib
import io
import json
import signal
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from client.node.listing import archived, table
from client.node.outbox import LOG, Outbox, contents, read_entries, read_outbox
from tests.small_disk import needs_small_disk, on_small_disk

LINE = {"state": "sending", "number": 1, "time": "2026-03-10T08:00:00+00:00", "kind": "layout", "run": "trial"}
LINE |= {"round": 0, "bytes": 3, "sha256": hashlib.sha256(b"one").hexdigest(), "code": None, "sent": None}


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_message_is_on_the_disk_before_it_leaves_and_marked_when_it_arrived(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, 20)
    entry = outbox.record("contribution", "trial", 3, b"sums")
    assert [line["state"] for line in lines(tmp_path)] == ["sending"]
    assert contents(tmp_path, entry.number) == b"sums"
    assert (entry.number, entry.kind, entry.run, entry.round, entry.bytes) == (1, "contribution", "trial", 3, 4)
    assert entry.sha256 == hashlib.sha256(b"sums").hexdigest()
    assert entry.sent is None
    done = outbox.sent(entry)
    assert done.sent
    assert outbox.entries() == read_entries(tmp_path) == [done]


def test_a_message_in_chunks_is_the_same_message(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, 20)
    whole = outbox.record("contribution", "trial", 1, b"one two")
    parts = outbox.record("contribution", "trial", 1, iter([b"one", b" ", b"two"]))
    assert (whole.bytes, whole.sha256) == (parts.bytes, parts.sha256)
    assert contents(tmp_path, parts.number) == b"one two"


def test_a_refusal_is_written_down_with_its_number(tmp_path: Path) -> None:
    Outbox(tmp_path, 20).record("refusal", "trial", 2, b"E832", 832)
    assert read_entries(tmp_path)[0].code == 832


def test_everything_is_its_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "outbox"
    Outbox(folder, 20).record("layout", "trial", 0, b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("keep", [0, 1, 3])
def test_contents_of_the_latest_messages_are_kept_and_the_log_of_all(tmp_path: Path, keep: int) -> None:
    outbox = Outbox(tmp_path, keep)
    for number in range(1, 8):
        entry = outbox.record("contribution", "trial", number, b"x" * number)
        assert contents(tmp_path, number) is not None
        outbox.sent(entry)
    kept = [number for number in range(1, 8) if contents(tmp_path, number) is not None]
    assert kept == list(range(8 - keep, 8))
    assert len(read_entries(tmp_path)) == 7


def test_numbers_go_on_after_a_restart(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        assert Outbox(tmp_path, 5).record("layout", "trial", 0, b"x").number == number
    outbox = Outbox(tmp_path, 5)
    assert (outbox.messages, outbox.bytes) == (3, 3)


@given(cut=st.integers(0, 600))
def test_a_log_cut_off_anywhere_loses_only_the_torn_line(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    folder = tmp_path_factory.mktemp("outbox")
    outbox = Outbox(folder, 5)
    outbox.sent(outbox.record("layout", "trial", 0, b"one"))
    outbox.sent(outbox.record("layout", "trial", 1, b"two"))
    log = (folder / LOG).read_bytes()[:cut]
    (folder / LOG).write_bytes(log)
    whole = log.count(b"\n")
    assert len(read_entries(folder)) == (whole + 1) // 2
    outbox = Outbox(folder, 5)
    assert outbox.record("layout", "trial", 2, b"three").number == (whole + 1) // 2 + 1
    assert all(isinstance(line, dict) for line in lines(folder))
    assert len(lines(folder)) == whole + 1


def test_a_damaged_line_is_told_and_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / LOG).write_bytes(b"\0\0\0\n[]\n" + json.dumps(LINE).encode() + b"\n")
    assert len(Outbox(tmp_path, 5).entries()) == 1
    assert "2 lines cannot be read" in caplog.text
    assert (tmp_path / LOG).read_bytes().startswith(b"\0\0\0\n[]\n")


def test_reading_while_a_line_is_being_written_changes_nothing(tmp_path: Path) -> None:
    torn = json.dumps(LINE).encode() + b'\n{"state":"sen'
    (tmp_path / LOG).write_bytes(torn)
    assert len(read_entries(tmp_path)) == 1
    assert (tmp_path / LOG).read_bytes() == torn


def test_a_large_log_is_set_aside_and_nothing_of_it_is_lost(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path, 2, largest_log=2000)
    for number in range(1, 31):
        entry = outbox.record("contribution", "trial", number, b"x")
        if number % 3:
            outbox.sent(entry)
    aside = sorted(path.name for path in tmp_path.glob("outbox-*.jsonl"))
    assert len(aside) > 2
    assert all((tmp_path / name).stat().st_size < 2600 for name in aside)
    entries = Outbox(tmp_path, 2).entries()
    assert [entry.number for entry in entries] == list(range(1, 31))
    assert [entry.number for entry in entries if entry.sent is None] == list(range(3, 31, 3))


def test_a_log_that_was_moved_to_an_archive_is_never_overwritten_there_and_what_is_left_says_so(
    tmp_path: Path,
) -> None:
    folder, archive = tmp_path / "outbox", tmp_path / "archive"
    archive.mkdir()
    sent, names = 0, list[str]()
    for _ in range(3):
        outbox = Outbox(folder, 2, largest_log=500)
        assert (outbox.messages, outbox.bytes) == (sent, 2 * sent)
        for _ in range(10):
            sent += 1
            assert outbox.record("contribution", "trial", sent, b"xx").number == sent
        names += [path.rename(archive / path.name).name for path in sorted(folder.glob("outbox-*.jsonl"))]
    assert len(names) > 5 and sorted(set(names)) == sorted(path.name for path in archive.iterdir())
    found = read_outbox(folder)
    first = found.entries[0].number
    assert found.archived == (first - 1, 2 * (first - 1)) and len(found.entries) == sent - first + 1 > 0
    assert f"all before number {first:,}" in archived(found)
    for path in archive.iterdir():
        path.rename(folder / path.name)
    assert [entry.number for entry in read_entries(folder)] == list(range(1, sent + 1))
    assert archived(read_outbox(folder)) == ""


def test_logs_that_an_earlier_version_set_aside_and_someone_moved_are_missed_too(tmp_path: Path) -> None:
    kept = [LINE | {"number": number, "sent": None} for number in (4, 5)]
    (tmp_path / "outbox-2.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (tmp_path / LOG).write_text(json.dumps(LINE | {"number": 6}) + "\n")
    assert read_outbox(tmp_path).archived == (3, 0)
    outbox = Outbox(tmp_path, 2, largest_log=10)
    assert outbox.record("layout", "trial", 1, b"x").number == 7
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {"outbox-2.jsonl", "outbox-6.jsonl", LOG}
    assert [entry.number for entry in read_entries(tmp_path)] == [4, 5, 6, 7]


SENDER = """
    import sys
    from pathlib import Path
    from client.node.outbox import Outbox
    outbox = Outbox(Path(sys.argv[1]), 3, largest_log=5000)
    while True:
        entry = outbox.record("contribution", "trial", 1, (bytes([7]) * 100_000 for _ in range(10)))
        print(entry.number, flush=True)
        outbox.sent(entry)
"""


@pytest.mark.long
@pytest.mark.parametrize("moment", range(4))
def test_killed_at_any_moment_every_message_that_could_have_left_is_in_the_log(tmp_path: Path, moment: int) -> None:
    left: list[int] = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SENDER), str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        left.append(int(process.stdout.readline()))
        time.sleep(0.013 * (moment + 1))
        process.send_signal(signal.SIGKILL)
        left += [int(line) for line in process.communicate()[0].splitlines()]
    outbox = Outbox(tmp_path, 3)
    entries = outbox.entries()
    assert [entry.number for entry in entries] == list(range(1, len(entries) + 1))
    assert set(left) <= {entry.number for entry in entries}
    last = contents(tmp_path, entries[-1].number)
    assert last is not None and len(last) == entries[-1].bytes == 1_000_000


FILLER = """
    from pathlib import Path
    from client.node.outbox import LOG, Outbox, contents
    from common.errors import Code, FedReasonError
    folder = Path("/mnt/outbox")
    outbox = Outbox(folder, 5)
    first = outbox.record("layout", "trial", 0, b"fits")

    def refused(content):
        before, number = (folder / LOG).read_bytes(), outbox.messages + 1
        try:
            outbox.record("contribution", "trial", 1, content)
        except FedReasonError as error:
            assert error.code is Code.DISK_FULL, error
        else:
            return False
        assert (folder / LOG).read_bytes() == before
        assert contents(folder, number) is None
        return True

    assert refused(b"x" * 200_000)
    assert refused(iter([b"x" * 20_000] * 10))
    ballast = fill()
    assert refused(b"x")
    while not refused(b""):
        pass                    # until the log needs room for its next line
    assert outbox.messages > 5
    size = 0
    while size != (size := (folder / LOG).stat().st_size):
        outbox.sent(first)      # does not stop the site, which has sent it
    ballast.truncate(0)
    outbox.record("contribution", "trial", 1, b"fits too")
    assert outbox.sent(first) == outbox.entries()[0]
"""


@needs_small_disk
def test_on_a_full_disk_no_message_leaves_and_the_log_stays_whole() -> None:
    assert "no space left" in on_small_disk(FILLER)


@pytest.fixture
def screen() -> Iterator[Console]:
    yield Console(file=io.StringIO(), width=160)


def test_the_table_shows_what_left(tmp_path: Path, screen: Console) -> None:
    outbox = Outbox(tmp_path, 5)
    outbox.sent(outbox.record("contribution", "trial", 12, b"x" * 1234))
    outbox.record("refusal", "trial", 13, b"E832", 832)
    screen.print(table(read_outbox(tmp_path)))
    assert isinstance(screen.file, io.StringIO)
    shown = screen.file.getvalue()
    for text in ("contribution", "trial", "12", "1,234", "refusal E832", "yes", "not known"):
        assert text in shown


@pytest.mark.parametrize("width", [60, 80, 160])
def test_the_table_cuts_nothing_off_where_it_is_narrow(tmp_path: Path, width: int) -> None:
    run = "sepsis-reasoning-2026-with-all-hospitals.second"
    outbox = Outbox(tmp_path, 5)
    entry = outbox.sent(outbox.record("contribution", run, 123, b"x" * 1_234_567))
    outbox.record("refusal", run, 124, b"E832", 832)
    screen = io.StringIO()
    Console(file=screen, width=width).print(table(read_outbox(tmp_path)))
    rows = [[cell.strip() for cell in line.strip("│┃").split("│")] for line in screen.getvalue().splitlines()]
    rows = [row for row in rows if len(row) == 8]
    first = "".join("".join(row[column] for row in rows) for column in range(8))
    for text in (run, "contribution", "1,234,567", entry.sha256[:16], entry.time[:10], entry.time[11:19], "123"):
        assert text in first, text
    assert "…" not in screen.getvalue()
    assert "every 10 seconds a heartbeat" in " ".join(screen.getvalue().split())
