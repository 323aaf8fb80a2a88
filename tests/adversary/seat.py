"""The coordinator's seat of a real federation, taken by somebody else: tasks of their choice, and what comes back.

The seat is a ServerApp of one's own that `flwr run` submits: it carries bytes between files and the sites, so that a
test makes every task, and sees every reply and when it came.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from bench.deployment import Deployment
from bench.waiting import until
from client.node.computing import is_of_records
from client.privacy.chain import LEDGER, ledger_folder
from common.messages.frames import read_reply_frame, task_frame
from common.messages.kinds import Refusal, Reply, Task

_APP = """
import pathlib, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import ServerApp

FOLDER = pathlib.Path({folder!r})
app = ServerApp()

@app.main()
def main(grid, context):
    asked, looks = {{}}, 0
    (FOLDER / "seated").touch()
    while not (FOLDER / "left").exists():
        looks += 1
        for path in sorted(FOLDER.glob("*.ask")):
            _, node, kind = path.stem.split("-")
            content = RecordDict({{"task.0": ConfigRecord({{"frame": path.read_bytes()}})}})
            (number,) = grid.push_messages([Message(content, int(node), kind)])
            asked[number] = path, time.monotonic()
            path.unlink()
        for reply in grid.pull_messages(list(asked)) if asked and looks % 5 == 0 else ():
            path, since = asked.pop(reply.metadata.reply_to_message_id)
            path.with_suffix(".seconds").write_text(str(time.monotonic() - since))
            frame = reply.content["reply.0"]["frame"] if reply.has_content() else b""
            path.with_suffix(".part").write_bytes(frame)
            path.with_suffix(".part").rename(path.with_suffix(".reply"))
        time.sleep(0.05)
"""

_SILENT = "nothing may leave for this attempt"


def ledger_lines(site: Path) -> int:
    """Count the lines of a site's ledger, as they are on the disk."""
    path = ledger_folder(site) / LEDGER
    return path.read_bytes().count(b"\n") if path.exists() else 0


@dataclass(frozen=True)
class Told:
    """What came of a task: a reply with its bytes, None where the site was silent, and after how many seconds."""

    reply: Reply | None
    frame: bytes
    seconds: float

    @property
    def outcome(self) -> str:
        """Its kind, and the number of a refusal: all that a coordinator could tell apart without looking at a sum."""
        if self.reply is None:
            return "silence"
        return f"E{self.reply.code}" if isinstance(self.reply, Refusal) else type(self.reply).__name__


@dataclass
class Seat:
    """Asks sites, and holds every answer against the promise: as many lines of the ledger as answers of records."""

    deployment: Deployment
    folder: Path
    frames: dict[str, dict[tuple[str, str, int, int], set[bytes]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    _count: int = 0

    def ask(self, name: str, kind: str, task: Task) -> Told:
        """Send a task to a site and wait for what comes of it."""
        site = self.deployment.hospitals / name
        node = next(number for number, known in self.deployment.nodes().items() if known == name)
        before, silent = ledger_lines(site), self._silences(name)
        self._count += 1
        path = self.folder / f"{self._count:04}-{node}-{kind}.ask"
        path.with_suffix(".new").write_bytes(task_frame(task))
        path.with_suffix(".new").rename(path)
        done = path.with_suffix(".reply")
        until(
            lambda: done.exists() or self._silences(name) > silent,
            lambda: f"{kind} of {name}: {self.deployment.log(name)[-3000:]}{self.deployment.log('seat')[-2000:]}",
        )
        told = self._read(done)
        self._judge(name, kind, task, told, ledger_lines(site) - before)
        return told

    def _silences(self, name: str) -> int:
        return self.deployment.log(name).count(_SILENT)

    @staticmethod
    def _read(done: Path) -> Told:
        if not done.exists():
            return Told(None, b"", 0.0)
        frame = done.read_bytes()
        assert frame, "Flower's own error, which no site sends"
        return Told(read_reply_frame(frame), frame, float(done.with_suffix(".seconds").read_text()))

    def _judge(self, name: str, kind: str, task: Task, told: Told, lines: int) -> None:
        """Hold the invariant against what was seen, whatever was asked."""
        if told.reply is None:
            assert lines in (0, 1)
            return
        if not is_of_records(told.reply):
            assert lines == 0, "what is of no record costs nothing, and nothing was charged before a refusal"
            return
        answers = self.frames[name]
        answers[kind, task.config.name, task.round, task.attempt].add(told.frame)
        assert all(len(frames) == 1 for frames in answers.values()), "two answers to one attempt"
        assert len(answers) <= ledger_lines(self.deployment.hospitals / name), "an answer that nobody was charged for"


@contextmanager
def seated(deployment: Deployment, folder: Path) -> Iterator[Seat]:
    """Take the seat: the services take a ServerApp of whoever holds the coordinator's account."""
    spool, bundle = folder / "spool", folder / "evil"
    for each in (spool, bundle):
        each.mkdir(parents=True)
    (bundle / "evil.py").write_text(_APP.format(folder=str(spool)))
    components = {"serverapp": "evil:app", "clientapp": "evil:app"}
    app = {"publisher": "evil", "fab-include": ["**/*.py"], "components": components}
    project = {"name": "evil", "version": "1.0.0"}
    (bundle / "pyproject.toml").write_text(tomli_w.dumps({"project": project, "tool": {"flwr": {"app": app}}}))
    flwr = Path(sys.executable).with_name("flwr")
    deployment.start("seat", flwr, "run", bundle, "prod", "--stream")
    until((spool / "seated").exists, lambda: deployment.log("seat") + deployment.log("up"))
    yield Seat(deployment, spool)
    (spool / "left").touch()


def hooked(path: Path, **behaviour: object) -> None:
    """Say how the processes of the sites behave from now on (`HOOK`)."""
    path.with_suffix(".new").write_text(json.dumps(behaviour))
    path.with_suffix(".new").rename(path)


HOOK = """
import json, os, pathlib, sys, time

def now():
    path = pathlib.Path(os.environ["HOOKED"])
    return json.loads(path.read_text()) if path.exists() else {}

def over(owner, name, instead):
    real = getattr(owner, name)
    setattr(owner, name, lambda *words, **more: instead(real, *words, **more))

def require_unit(real, *words):
    return None if now().get("any unit") else real(*words)

if "client.node.resident" in sys.orig_argv:
    from client.privacy.mechanism import Private
    from client.training import gate, workplace
    from common.questions.question import QuestionMaker

    def draw(real, maker, patient, *words):
        told = now()
        if patient.id == told.get("patient"):
            if told["does"] == "fails":
                raise ValueError(patient.id)
            time.sleep(told["does"])
        return real(maker, patient, *words)

    def spared(real, private, compute, works):
        return compute() if now().get("bare") else real(private, compute, works)

    def without_excluded(real, patients, *words, **more):
        return list(patients) if now().get("opted in") else real(patients, *words, **more)

    over(QuestionMaker, "draw", draw)
    over(Private, "spared", spared)
    over(gate, "require_unit", require_unit)
    over(workplace, "without_excluded", without_excluded)

if sys.orig_argv[1:4] == ["-m", "client", "--site"]:
    from client.node import preflight
    from client.node.running import Running
    from client.node.ticks import Ticks
    from client.node.worker import Fleet

    def require_running(real, *words):
        with open(os.environ["HOOKED"] + ".looks", "a") as looks:
            print("look", file=looks)
        return real(*words)

    Running.__init__.__defaults__ = (0.3,)
    over(Fleet, "require_running", require_running)
    over(preflight, "require_unit", require_unit)
    over(Ticks, "_hold", lambda real, *words: None if now().get("at once") else real(*words))
"""
"""What a site's processes run first: a patient at whom a computation fails or is slow, and guards that are removed.

A site that looks whether a run still runs does so soon, and each time is written down: the coordinator sees it.
"""
