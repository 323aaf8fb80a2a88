"""A site's status: what the node last wrote, judged by whether its process lives and the coordinator was heard."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer

from client.node import cli
from client.node.status import CONTACT_SECONDS, Record, SiteState, Status, health, read_status, status_lines
from client.site.kit import PENDING
from client.site.stage import Stage, _Teller
from common.errors import Code
from tests.small_disk import needs_small_disk, on_small_disk

NODE = """
    import sys, time
    from pathlib import Path
    from client.node.status import Status
    status = Status(Path(sys.argv[1]))
    status.contact()
    status.tell("connected", "ready")
    print("up", flush=True)
    time.sleep(60)
"""


def node(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(NODE), str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_a_site_that_never_ran_has_no_status_and_is_not_well(tmp_path: Path) -> None:
    assert read_status(tmp_path) is None
    assert not health(None).well
    assert status_lines("amc", None) == ["amc: it has never run"]


def test_a_site_is_well_while_its_process_lives_and_not_after_it_was_killed(tmp_path: Path) -> None:
    process = node(tmp_path)
    record = read_status(tmp_path)
    assert record is not None
    assert record.pid == process.pid
    assert health(record).well
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not health(record).well, "a zombie is no living process"
    process.communicate()
    assert not health(read_status(tmp_path)).well


def test_another_process_under_the_same_number_is_not_the_site(tmp_path: Path) -> None:
    status = Status(tmp_path)
    status.contact()
    status.tell("connected")
    record = read_status(tmp_path)
    assert record is not None
    assert health(record).well
    assert not health(record.model_copy(update={"mark": "before the machine was started again"})).well


@pytest.mark.parametrize(("state", "well"), [("connected", False), ("working", False), ("paused", True)])
def test_a_site_that_has_not_heard_from_the_coordinator_is_not_well_unless_it_is_paused(
    tmp_path: Path, state: str, well: bool
) -> None:
    status = Status(tmp_path)
    status.contact()
    status.tell(state)
    later = datetime.now(UTC) + timedelta(seconds=CONTACT_SECONDS + 5)
    assert health(status.record).well
    assert health(status.record, later).well is well


def test_a_refused_site_says_its_number(tmp_path: Path) -> None:
    Status(tmp_path).tell("refused", "the key is unknown", code=702)
    record = read_status(tmp_path)
    assert health(record) == (False, "refused (E702)")


@pytest.mark.parametrize(
    ("code", "well"),
    [
        (Code.SITE_PAUSED, True),
        (Code.MODEL_MAKING, True),
        (Code.POLICY_REFUSED, True),
        (Code.BUDGET_SPENT, True),
        (Code.CODEBOOK_CHANGED, True),
        (Code.SECAGG_TURN, True),
        (Code.ROSTER_CHANGED, False),
        (Code.EXCLUSIONS_UNKNOWN, False),
        (Code.POLICY_WEAKER, False),
        (Code.SITE_SILENCED, False),
        (Code.DISK_FULL, False),
    ],
)
def test_a_site_that_refuses_for_what_somebody_there_has_to_settle_is_not_well(
    tmp_path: Path, code: Code, well: bool
) -> None:
    status = Status(tmp_path)
    status.contact()
    status.answered(code)
    status.announce("connected", f"run trial, round 3: refusal sent (E{code.value})", code=code)
    told = health(read_status(tmp_path))
    assert told.well is well and (well or f"E{code.value}" in told.text)
    status.announce("reconnecting", "no answer")
    status.announce("connected", "ready")
    assert health(read_status(tmp_path)).well is well, "a lost poll settles nothing"
    status.answered(None)
    status.announce("connected", "run trial, round 4: step sent")
    assert health(read_status(tmp_path)).well


@pytest.mark.parametrize(
    ("code", "settled_by", "other"),
    [
        (Code.ROSTER_CHANGED, "roster.json", "state/attempts.jsonl"),
        (Code.SITE_SILENCED, "state/attempts.jsonl", "roster.json"),
    ],
)
def test_what_somebody_did_since_ends_it_until_the_next_answer(
    tmp_path: Path, code: Code, settled_by: str, other: str
) -> None:
    status = Status(tmp_path)
    status.contact()
    status.answered(code)
    status.tell("connected", "")
    later = time.time() + 5
    for name, well in ((other, False), (settled_by, True)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (later, later))
        assert health(read_status(tmp_path)).well is well


def test_a_newer_roster_that_nobody_has_accepted_is_told_with_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Status(tmp_path).contact()
    (tmp_path / "site.toml").touch()
    (tmp_path / PENDING).touch()
    for there in (True, False):
        with pytest.raises(typer.Exit) as ended:
            cli.status(str(tmp_path))
        assert ended.value.exit_code == 0
        assert ("roster accept --site" in capsys.readouterr().out) is there
        (tmp_path / PENDING).unlink(missing_ok=True)


def test_since_is_when_the_state_began_not_when_it_was_told_again(tmp_path: Path) -> None:
    status = Status(tmp_path)
    status.tell("connected", "ready")
    since = status.record.since
    status.tell("connected", "still ready")
    assert status.record.since == since
    status.tell("working", "round 2", run="trial", round=2)
    assert status.record.since > since
    assert read_status(tmp_path) == status.record
    assert status.state is SiteState.WORKING


def test_contacts_between_two_writes_cost_nothing(tmp_path: Path) -> None:
    status = Status(tmp_path)
    before = (tmp_path / "state" / "status.json").stat().st_mtime_ns
    for _ in range(100):
        status.contact()
    assert (tmp_path / "state" / "status.json").stat().st_mtime_ns == before
    status.sent(3, 4_000)
    record = read_status(tmp_path)
    assert record is not None
    assert (record.messages, record.bytes, record.contact) == (3, 4_000, status.record.contact)


def test_the_file_is_its_owners_alone_and_the_only_one(tmp_path: Path) -> None:
    Status(tmp_path).tell("connected")
    assert [path.name for path in (tmp_path / "state").iterdir()] == ["status.json"]
    assert stat.S_IMODE((tmp_path / "state" / "status.json").stat().st_mode) == 0o600


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from pathlib import Path
        from client.node.status import Status
        status = Status(Path(sys.argv[1]))
        print("up", flush=True)
        while True:
            status.tell("working", "x" * 5000)
            status.tell("connected", "")
    """)
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    seen = [read_status(tmp_path) for _ in range(300)]
    process.kill()
    process.communicate()
    assert None not in seen


def test_a_status_of_another_version_is_as_none(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "status.json").write_text('{"other": 1}')
    assert read_status(tmp_path) is None


def test_the_lines_say_what_a_person_wants_to_know() -> None:
    now = datetime.now(UTC)
    record = Record(
        state=SiteState.WORKING,
        text="train",
        since=now - timedelta(minutes=5),
        pid=os.getpid(),
        mark="",
        run="trial",
        round=3,
        contact=now - timedelta(seconds=4),
        messages=12,
        bytes=3_000_000,
        loads=1,
    )
    told = "\n".join(status_lines("amc", record, now))
    for text in ("amc", "working for 5 min", "run trial, round 3", "4 s ago", "12 messages", "3,000,000 bytes"):
        assert text in told


def test_the_stage_stands_in_the_status_and_is_shown_while_the_site_is_well(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "stage.json").write_text('{"stage": "training"}')
    status = Status(tmp_path)
    assert not (tmp_path / "state" / "stage.json").exists(), "an older version's file says nothing any more"
    assert (status.record.stage, status.record.stage_since) == ("waiting", None)
    status.contact()
    status.tell("working", "train")
    status.stage(Stage.MAKING_MODEL)
    began = status.record.stage_since
    status.stage(Stage.MAKING_MODEL)
    status.tell("working", "train, a while later")
    assert status.record.stage_since == began
    assert "making a model since" in "\n".join(status_lines("amc", read_status(tmp_path)))
    gone = status.record.model_copy(update={"mark": "another"})
    assert "making a model" not in "\n".join(status_lines("amc", gone))


def test_a_status_that_an_older_version_wrote_is_read(tmp_path: Path) -> None:
    status = Status(tmp_path)
    path = tmp_path / "state" / "status.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if not key.startswith("stage")}
    path.write_text(json.dumps(older))
    assert read_status(tmp_path) == status.record


def test_the_status_for_a_program_names_the_stage(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text("")
    Status(tmp_path).stage(Stage.TRAINING)
    done = subprocess.run(
        [sys.executable, "-m", "client", "status", "--site", str(tmp_path), "--json"], capture_output=True, text=True
    )
    told = json.loads(done.stdout)
    assert told["stage"] == "training" and datetime.fromisoformat(told["stage_since"]).tzinfo is not None


def test_turns_of_sampling_and_training_are_told_once_a_second_and_every_other_stage_at_once() -> None:
    told: list[Stage] = []
    teller = _Teller()
    teller.tell(Stage.LOADING)
    teller.listener = told.append
    for stage in (Stage.LOADING, Stage.LOADING, *3 * (Stage.SAMPLING, Stage.TRAINING), Stage.EVALUATING):
        teller.tell(stage)
    assert told == [Stage.LOADING, Stage.SAMPLING, Stage.EVALUATING]


@needs_small_disk
def test_a_full_disk_does_not_stop_the_node() -> None:
    logged = on_small_disk("""
        from pathlib import Path
        from client.node.status import Status, read_status
        folder = Path("/mnt")
        status = Status(folder)
        ballast = fill()
        status.tell("connected", "x" * 9000)
        status.tell("connected", "y" * 9000)
        assert read_status(folder).state == "starting"
        ballast.truncate(0)
        status.tell("connected", "z")
        assert read_status(folder) == status.record
    """)
    assert logged.count("no space left") == 1
