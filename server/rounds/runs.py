"""Runs as the coordinator handles them: handed to Flower, brought back when their ServerApp vanished, aborted.

The run itself lives in its folder: a run that is handed to Flower once more goes on from its last round. `run.json`
says which of Flower's runs is the present one.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.processes import held
from common.toml import Strict
from server.provisioning.federation import Federation
from server.rounds.claim import require_same
from server.rounds.standing import FILE as STANDING
from server.rounds.standing import Standing, read_standing
from server.services import control
from server.services.flower import require_superlink

RECORD = "run.json"
RESTARTS = 5
"""How often a ServerApp may vanish in one round before the run is stopped."""
_SUBMIT_SECONDS = 60.0
_END_SECONDS = 20.0
_GONE_SECONDS, _BOOT_SECONDS, _ASK_SECONDS = 3.0, 20.0, 10.0
_LONGEST_PAUSE = 120.0
_POLL_SECONDS = 0.2
_SILENT = "No heartbeat"
"""How Flower begins to say that it lost a ServerApp, or that a ServerApp lost it."""

Tell = Callable[[str], None]


class RunRecord(Strict):
    """Content of run.json: Flower's number of the run, and how often it was handed over again in `round`.

    `stated` is what `config` held when the run was started, as JSON, and `sha256` its hash; "" in a record by a version
    before.
    """

    run_id: int
    config: Path
    sha256: str = ""
    stated: str = ""
    submitted: datetime
    restarts: int = 0
    round: int = 0
    judged: int | None = None


def record_of(folder: Path) -> RunRecord | None:
    """Return a run's record, None where it was never handed to Flower from here."""
    try:
        return RunRecord.model_validate_json((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def run_folders(federation: Federation) -> list[Path]:
    """Folders of all runs, by name."""
    return sorted({path.parent for name in (STANDING, RECORD) for path in federation.runs.glob(f"*/{name}")})


def find_run(federation: Federation, name: str) -> Path:
    """Return the folder of a run.

    Raises
    ------
    FedReasonError
        RUN_UNKNOWN where there is none of that name.
    """
    known = {folder.name: folder for folder in run_folders(federation)}
    if name not in known:
        raise FedReasonError(
            Code.RUN_UNKNOWN,
            f"{federation.runs} holds no run {name}.",
            f"Its runs are {', '.join(known)}." if known else "None was started yet: python -m server run CONFIG",
        )
    return known[name]


def served(folder: Path) -> bool:
    """Whether a ServerApp works in a run folder."""
    return held(folder / ".lock")


@contextmanager
def _submitting(folder: Path, seconds: float = _SUBMIT_SECONDS) -> Iterator[None]:
    """Be the only one who hands this run over, or stops it."""
    private_folder(folder)
    try:
        with FileLock(folder / ".submit", timeout=seconds, mode=0o600):
            yield
    except Timeout:
        raise FedReasonError(
            Code.RUN_LOCKED, f"Another command is starting or stopping {folder.name}.", "Repeat it when that is done."
        ) from None


def start(federation: Federation, path: Path, config: RunConfig) -> bool:
    """Hand a run to Flower; one that goes on already is left alone. Return whether it was handed over.

    Raises
    ------
    FedReasonError
        RUN_OTHER_CONFIG where the folder holds a run of another configuration, RUN_CHECKPOINT where nothing says of
        which; COORDINATOR_DOWN, SERVICE_FAILED.
    """
    folder = federation.runs / config.name
    require_same(folder, config)
    with _submitting(folder):
        standing, record = read_standing(folder / STANDING), record_of(folder)
        if standing is not None and standing.state == "finished":
            return False
        patience = _END_SECONDS if standing is not None and standing.state == "stopped" else 0.0
        if not _within(patience, lambda: not served(folder) and not _under_way(federation, record)):
            return False
        record = RunRecord(
            run_id=0,
            config=path.resolve(),
            sha256=config.sha256,
            stated=config.model_dump_json(),
            submitted=datetime.now(UTC),
        )
        _submit(federation, folder, record, config)
        return True


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    """Whether something holds, now or within so many seconds: a program ends a moment after it says how its run did."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _under_way(federation: Federation, record: RunRecord | None) -> bool:
    """Whether Flower has yet to start the ServerApp, or believes that it runs."""
    found = None if record is None else control.run_status(federation, record.run_id)
    return found is not None and not found.finished


def _submit(federation: Federation, folder: Path, record: RunRecord, config: RunConfig | None = None) -> None:
    """Hand a run over and note its number; its standing is "waiting" until the ServerApp tells one."""
    path = folder / STANDING
    old, before = read_standing(path), path.read_bytes() if path.exists() else None
    fresh = Standing(since=record.submitted, rounds=config.federation.rounds if config else 0)
    if old is not None:
        fresh = fresh.model_copy(update={"round": old.round, "rounds": old.rounds, "contact": old.contact})
    _write_standing(folder, fresh)
    try:
        run_id = control.submit(federation, record.config, record.sha256, record.stated)
    except BaseException:
        if before is None:
            path.unlink()
        else:
            write_private(path, before)
        raise
    record = record.model_copy(update={"run_id": run_id})
    write_private(folder / RECORD, record.model_dump_json(indent=1).encode())


def _write_standing(folder: Path, standing: Standing) -> None:
    write_private(folder / STANDING, json.dumps(standing.model_dump(mode="json"), indent=1).encode())


def abort(federation: Federation, name: str) -> bool:
    """Stop a run everywhere; whether there was anything to stop.

    Raises
    ------
    FedReasonError
        RUN_UNKNOWN, COORDINATOR_DOWN; SERVICE_FAILED where its ServerApp does not end.
    """
    folder = find_run(federation, name)
    require_superlink(federation)
    with _submitting(folder):
        standing, record = read_standing(folder / STANDING), record_of(folder)
        if standing is not None and standing.ended:
            return False
        if record is not None:
            control.stop_run(federation, record.run_id)
        _await_end(folder, _END_SECONDS if record else 0.0)
        standing = read_standing(folder / STANDING) or Standing(since=datetime.now(UTC))
        if standing.state == "finished":
            return False
        _end(folder, standing, "aborted", Code.RUN_ABORTED, *_aborted(record))
    return True


def _aborted(record: RunRecord | None) -> tuple[str, str]:
    config = record.config if record else "CONFIG"
    return "The run was aborted by the coordinator.", f"To go on from its last round: python -m server run {config}"


def _await_end(folder: Path, seconds: float) -> None:
    """Wait until no ServerApp works on a run that Flower was told to stop."""
    if not _within(seconds, lambda: not served(folder)):
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"The ServerApp of {folder.name} does not end.",
            "If it was started by `flwr run`, stop it by `flwr stop` with the number that `flwr ls` shows; "
            "`python -m server stop` ends every one.",
        )


def _end(folder: Path, standing: Standing, state: str, code: int, found: str, fix: str) -> None:
    """Write how a run ended that can no longer tell it itself."""
    changes = {"state": state, "since": datetime.now(UTC), "waiting_for": (), "exchange": None}
    told = standing.model_dump() | changes | {"code": int(code), "found": found, "fix": fix}
    _write_standing(folder, Standing.model_validate(told))


class Reviver:
    """Hands runs to Flower again whose ServerApp vanished: killed, or lost with the services or the machine.

    Parameters
    ----------
    federation
        The federation, opened.
    tell
        Takes one line for each run that is brought back, or given up.
    only
        Folder of the one run to look after; None for all.
    """

    def __init__(self, federation: Federation, tell: Tell, only: Path | None = None) -> None:
        self._federation, self._tell, self._only = federation, tell, only
        self._gone: dict[Path, float] = {}

    def look(self) -> None:
        """Look at each run once; cheap while all is well. What goes wrong with one is raised after all others."""
        wrong: list[Exception] = []
        for folder in [self._only] if self._only else run_folders(self._federation):
            try:
                self._look(folder)
            except Exception as error:
                wrong.append(error)
        if wrong:
            raise wrong[0]

    def _look(self, folder: Path) -> None:
        standing, record = read_standing(folder / STANDING), record_of(folder)
        if standing is None or record is None or not self._unfinished(standing, record) or served(folder):
            self._gone.pop(folder, None)
            return
        now = time.monotonic()
        patience = _GONE_SECONDS if standing.since > record.submitted else _BOOT_SECONDS
        if now - self._gone.setdefault(folder, now) < patience:
            return
        self._gone[folder] = now + _ASK_SECONDS - patience
        try:
            with _submitting(folder, seconds=0):
                self._judge(folder)
        except FedReasonError as error:
            if error.code != Code.RUN_LOCKED:
                raise

    def _unfinished(self, standing: Standing, record: RunRecord) -> bool:
        """Whether a run ought to go on, as far as it tells itself."""
        if standing.alive:
            return True
        lost = standing.code == Code.COORDINATOR_DOWN
        unexplained = standing.code == Code.RUN_FAILED and record.run_id != record.judged
        return standing.state == "stopped" and (lost or unexplained)

    def _judge(self, folder: Path) -> None:
        """Ask Flower about a run that nobody works on, and bring it back, unless it ended as it should."""
        standing, record = read_standing(folder / STANDING), record_of(folder)
        if standing is None or record is None or not self._unfinished(standing, record) or served(folder):
            return
        found = control.run_status(self._federation, record.run_id)
        told = standing.since > record.submitted
        if found is not None and not found.finished and not told:
            return
        if found is not None and found.outcome == "stopped" and standing.code is None:
            _end(folder, standing, "aborted", Code.RUN_ABORTED, *_aborted(record))
            return
        if standing.code == Code.RUN_FAILED and not (found and found.details.startswith(_SILENT)):
            record = record.model_copy(update={"judged": record.run_id})  # Flower is asked about it once
            write_private(folder / RECORD, record.model_dump_json(indent=1).encode())
            return
        if found is not None and not told and found.details.startswith("ServerApp failed"):
            _end(folder, standing, "stopped", *reason(found.details))
            return
        self._bring_back(folder, standing, record, runs=found is not None and not found.finished)

    def _bring_back(self, folder: Path, standing: Standing, record: RunRecord, *, runs: bool) -> None:
        """Hand a run over anew, each time after a longer pause; Flower, where it believes that it `runs`, is told."""
        restarts = record.restarts if standing.round <= record.round else 0
        now = datetime.now(UTC)
        if restarts and 0 <= (now - record.submitted).total_seconds() < min(5.0 * 2**restarts, _LONGEST_PAUSE):
            return
        if runs:  # not sooner: what was stopped and is not brought back at once would look as if somebody aborted it
            control.stop_run(self._federation, record.run_id)
        if restarts >= RESTARTS:
            found = f"The ServerApp ended {restarts + 1} times in round {standing.round} without saying why."
            fix = "See superlink/superexec.log of the federation, then start the run again."
            _end(folder, standing, "stopped", Code.RUN_FAILED, found, fix)
            self._tell(f"{folder.name} is given up: {found}")
            return
        changes = {"submitted": now, "restarts": restarts + 1, "round": standing.round}
        _submit(self._federation, folder, record.model_copy(update=changes))
        self._tell(f"{folder.name}: its ServerApp vanished in round {standing.round}; started again from there.")


def refusal(code: int | None, found: str | None, fix: str | None) -> FedReasonError:
    """Return what stopped a run, as it was told."""
    known = Code(code) if code in set(Code) else Code.RUN_FAILED
    return FedReasonError(known, found or "The run was stopped.", fix or "See superlink/superexec.log.")


def reason(details: str) -> tuple[int, str, str]:
    """Return number, finding and remedy of a ServerApp that failed before it had a standing, from Flower's words."""
    text = details.partition("exception: ")[2] or details
    if numbered := re.match(r"E(\d+): (.*[.]) ([^.]*[.].*)", text, re.DOTALL):
        return int(numbered[1]), numbered[2], numbered[3]
    return int(Code.RUN_FAILED), "The run failed before its first round.", "See superlink/superexec.log."
