"""Nothing of a record is in what leaves a site, is logged, told in an error or written down in the clear."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from client.grpo.energy import PROCESSOR, Counter, Meter
from client.node.handlers import HANDLERS, answer
from client.site.exclusions import EXCLUSIONS_FILE, read_exclusions
from client.site.opened import open_registry
from client.training.workplace import Workplace
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.messages.frames import read_reply_frame, reply_frame
from common.messages.kinds import Refusal, Reply, Task
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from server.reports.export import export_adapter
from server.reports.report import write_run_report
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.broken.leaks import (
    logged_cell,
    logged_hash,
    logged_prompt,
    named_columns,
    named_in_log,
    of_errors,
    quoted_bytes,
    with_asked,
    with_energy,
    with_line,
    with_patients,
    with_rows,
)
from tests.broken.registries import BREAKS
from tests.privacy_checks import Check
from tests.privacy_checks.isolation import model_folder
from tests.sentinels import DATE, MARKER, OUTSIDE, REGISTRY, codebook, found_below, hashes, hits, rows, site_of
from tests.small import small_config

Handlers = Mapping[str, Callable[[Workplace, Task], Reply]]
PRIVACY = {
    "clip_norm": 0.5,
    "noise_multiplier": 4.0,
    "delta": 1e-5,
    "metrics_noise_multiplier": 20.0,
    "metrics_questions": 2,
    "answer_every": 0.0,
}
STRICT = {
    "metrics": "noised",
    "base_models": ["*"],
    "patient": {"column": "case"},
    "privacy": {"min_sites": 1, "min_answer_every": 0.0},
}
UNPRIVATE = {"metrics": "none", "base_models": ["*"], "privacy": {"min_sites": 1, "required": False}}


# --- A federation of this process, all that leaves it kept ---


class Listening(LocalExchange):
    """Sites that answer as at a hospital: refusals travel, replies are bytes; all of them are kept."""

    def __init__(self, sites: Sequence[Workplace], sent: list[bytes]) -> None:
        super().__init__(sites)
        self._sent = sent

    def _ask(self, kind: str, task: Task) -> Iterator[Reply]:
        for site in self._sites:
            self._sent.append(reply_frame(answer(site.folder, HANDLERS[kind], task)))
            yield read_reply_frame(self._sent[-1])

    def layouts(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask by message."""
        return self._ask("query", task)

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask by message."""
        return self._ask("train", task)

    def evaluations(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Ask by message."""
        return self._ask("evaluate", task)


@contextlib.contextmanager
def overheard() -> Iterator[io.StringIO]:
    """Keep what any logger says at DEBUG, what is printed, and the tracebacks in it."""
    heard = io.StringIO()
    ours, root = logging.getLogger("fedreason"), logging.getLogger()
    before = [(each, each.level, each.propagate, each.handlers) for each in (ours, root)]
    ours.handlers, root.handlers, ours.propagate = [], [logging.StreamHandler(heard)], True
    for each in (ours, root):
        each.setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(heard), contextlib.redirect_stderr(heard):
            yield heard
    finally:
        for each, level, propagate, handlers in before:
            each.setLevel(level)
            each.propagate, each.handlers = propagate, handlers


def run_of(
    sites: int,
    privacy: Mapping[str, object] | None,
    lattice: Mapping[str, object] | None = None,
    **federation: object,
) -> RunConfig:
    """Return a run of two rounds over the sentinels."""
    return small_config(
        model_folder(),
        name="sentinels",
        questions={"view": "full", "codebook_sha256": codebook().sha256},
        federation={"sites": sites, "rounds": 2, "sampling_rate": 0.5, "quorum": sites, **federation},
        evaluation={"every": 1, "per_patient": 1},
        privacy=privacy,
        lattice=dict(lattice or {}),
    )


_draw = QuestionMaker.draw


def _stumbling(site: str, asked: list[str]) -> Callable[..., Any]:
    """Return a question maker that fails at a site's patients at every third, with all of the record in its text."""
    mine = {row["case"] for row in rows(site, 99)}

    def draw(maker: QuestionMaker, patient: Patient, count: int, stream: Stream) -> Any:
        if patient.id in mine:
            asked.append(patient.id)
            if len(asked) % 3 == 0:
                raise ValueError(f"could not convert {patient.id}: {dict(patient.values)} {OUTSIDE} {DATE}")
        return _draw(maker, patient, count, stream)

    return draw


def check_run(privacy: Mapping[str, object] | None, changes: Mapping[str, object]) -> bool:
    """No sentinel is in the messages, the log at DEBUG, the run folder with its report, or the sites' state.

    Three sites take part in two rounds. One fails with a record in the text of the error, one loses its registry.
    """
    policy = UNPRIVATE if privacy is None else STRICT
    config = run_of(3, privacy, quorum=1)
    counts = {"north": 9, "south": 9, "west": 9}
    sent: list[bytes] = []
    asked: list[str] = []
    with TemporaryDirectory() as name, overheard() as heard, contextlib.ExitStack() as stack:
        folder = Path(name)
        for target, changed in changes.items():
            stack.enter_context(patch(target, changed))
        stack.enter_context(patch.object(QuestionMaker, "draw", _stumbling("south", asked)))
        folders = [site_of(folder / "sites" / site, rows(site, count), policy) for site, count in counts.items()]
        sites = [Workplace(each) for each in folders]
        with RunStore.opened(folder / "run", config) as store:
            run_rounds(config, _Losing(sites, sent, folders[2] / REGISTRY), store)
            refused = [row.refused for row in store.rounds()]
        write_run_report(folder / "run")
        export_adapter(folder / "run", folder / "export")
        kinds = {type(read_reply_frame(frame)).__name__ for frame in sent}
        whole = kinds == {"Layout", "Contribution", "Evaluation", "Refusal"} and len(asked) > 2
        lost = [each.get("west") for each in refused] == [None, int(Code.SITE_CLOSED)]
        assert (whole and lost) or changes, f"the run was not as it should be: {kinds}, {refused}, {len(asked)} asked"
        more = hashes(counts)
        found = {
            "messages": [each for frame in sent for each in hits(frame, more)],
            "log": hits(heard.getvalue().encode(), more),
            **found_below(folder, more),
        }
    return not any(found.values())


class _Losing(Listening):
    """The registry of a site is removed after the first round."""

    def __init__(self, sites: Sequence[Workplace], sent: list[bytes], path: Path) -> None:
        super().__init__(sites, sent)
        self._path = path

    def contributions(self, task: Task, enough: Callable[[], bool]) -> Iterator[Reply]:
        """Remove it before the second."""
        if task.round == 2:
            self._path.unlink(missing_ok=True)
        return super().contributions(task, enough)


def check_registries(changes: Mapping[str, object]) -> bool:
    """No sentinel is in what is told of a broken registry or list of exclusions: log, error, traceback, refusal."""
    told: list[bytes] = []
    with overheard() as heard, contextlib.ExitStack() as stack:
        for target, changed in changes.items():
            stack.enter_context(patch(target, changed))
        for name, (spoil, code) in BREAKS.items():
            with TemporaryDirectory() as folder:
                site = site_of(Path(folder) / "north", rows("north", 5), STRICT)
                spoil(site / REGISTRY)
                error = _error_of(lambda site=site: open_registry(site))  # type: ignore[misc]
                assert (error and error.code) == code, name
                task = Task(run_of(3, PRIVACY), 1, 0, np.zeros(3, dtype=np.float32))
                told += [_told(error), reply_frame(answer(site, HANDLERS["train"], task))]
        with TemporaryDirectory() as folder:
            (Path(folder) / EXCLUSIONS_FILE).write_bytes(MARKER.encode() + b"\xff\n")
            error = _error_of(lambda: read_exclusions(Path(folder), column=None))
            assert error is not None
            told.append(_told(error))
    return not hits(heard.getvalue().encode() + b"\n".join(told))


def _error_of(act: Callable[[], object]) -> FedReasonError | None:
    try:
        act()
    except FedReasonError as error:
        return error
    return None


def _told(error: FedReasonError | None) -> bytes:
    """Return all that Python can say of an error."""
    return ("".join(traceback.format_exception(error)) + repr(error)).encode() if error else b""


# --- How many patients there are ---

FEW, MANY = 7, 61


def check_numbers(privacy: Mapping[str, object] | None, answers: Handlers) -> bool:
    """Messages of a site with 7 patients and of one with 61 have equal heads and sizes, and none of the numbers.

    Nothing else differs: the same name, run and randomness, and a clock that ticks alike. The counter of what the
    processor uses rises with the work done. In the heads only the hashes of the ledger are not compared, which under
    privacy are new at every release.
    """
    policy = {**(UNPRIVATE if privacy is None else STRICT), "metrics": "none"}
    few, many = (_messages(count, privacy, policy, answers) for count in (FEW, MANY))
    config = run_of(1, privacy)
    site = [Patient(row["case"], {}) for row in rows("north", MANY)[1:]]
    held_out = sum(
        Stream.named("split", config.federation.name, patient.id).uniform() < config.questions.held_out
        for patient in site
    )
    counted = {MANY, len(site), held_out, len(site) - held_out}
    counted |= {each * config.questions.per_patient for each in counted}
    return (
        [len(frame) for frame in few] == [len(frame) for frame in many]
        and [_head(frame) for frame in few] == [_head(frame) for frame in many]
        and not any(counted & _integers(json.loads(_head(frame))) for frame in many)
    )


def _messages(
    count: int, privacy: Mapping[str, object] | None, policy: Mapping[str, object], answers: Handlers
) -> list[bytes]:
    """Return what a site with so many patients answers to every question of a run, and to one it refuses."""
    # A small population: "query.ask" tries how long a round takes on as many made-up patients.
    config = run_of(1, privacy, sampling_rate=0.3, population=5)
    refused = config.model_copy(update={"grpo": config.grpo.model_copy(update={"max_prompt_tokens": 10**6})})
    ticks, used = itertools.count(), itertools.count()
    with (
        TemporaryDirectory() as folder,
        overheard(),
        patch("time.monotonic", lambda: 0.25 * next(ticks)),
        patch("client.grpo.log.meter", lambda _: Meter([Counter(PROCESSOR, "made up", lambda: float(next(used)))])),
    ):
        site = site_of(Path(folder) / "north", rows("north", count), policy)
        size = Workplace(site).engine(config).layout.size
        adapter = np.zeros(size, dtype=np.float32)
        asked = [("query", 0), ("query.ask", 0), ("evaluate", 0), ("train", 1), ("evaluate", 1)]
        replies = [answer(site, answers[kind], Task(config, number, 0, adapter)) for kind, number in asked]
        assert not any(isinstance(reply, Refusal) for reply in replies)
        replies.append(answer(site, answers["train"], Task(refused, 2, 0, adapter)))
        assert replies[-1] == Refusal("north", int(Code.POLICY_REFUSED))
    return [reply_frame(reply) for reply in replies]


def _head(frame: bytes) -> str:
    """Return the head of a frame, with the names and shapes of its arrays, and a # for each hash."""
    end = 8 + int.from_bytes(frame[:8], "big")
    arrays = frame[end + 8 : end + 8 + int.from_bytes(frame[end : end + 8], "little")]
    head = {"head": json.loads(frame[8:end]), "arrays": json.loads(arrays)}
    return re.sub(r"\b[0-9a-f]{64}\b", "#", json.dumps(head))


def _integers(value: object) -> set[int]:
    """Return every number in a head, in lists, tables and in the text of JSON too."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return _integers(json.loads(value))
        return set()
    if isinstance(value, Mapping):
        return set().union(*map(_integers, value.values()))
    if isinstance(value, Sequence):
        return set().union(*map(_integers, value))
    return {int(value)} if isinstance(value, int | float) and value == int(value) else set()


CHECKS = [
    Check(
        f"leakage: {name}",
        partial(check_run, privacy, {}),
        {
            **{name: partial(check_run, privacy, changes) for name, changes in of_errors(privacy).items()},
            "a prompt in the log at DEBUG": partial(
                check_run, privacy, {"client.grpo.rollout.prompt_tokens": logged_prompt}
            ),
            "an identifier's hash in the log at DEBUG": partial(
                check_run, privacy, {"common.questions.question.QuestionMaker.items": logged_hash}
            ),
            "an identifier in a line of the training log": partial(
                check_run, privacy, {"client.training.contribution._logged_sum": named_in_log}
            ),
        },
    )
    for name, privacy in {"a run": None, "a private run": PRIVACY}.items()
] + [
    Check(
        "leakage: refused registries",
        partial(check_registries, {}),
        {
            "a cell in the log at DEBUG": partial(check_registries, {"common.feature.Feature.shown": logged_cell}),
            "the columns that are there in the error": partial(
                check_registries, {"client.registry.load._positions": named_columns}
            ),
            "repr(error) in the error": partial(check_registries, {"client.registry.delimited._rows": quoted_bytes}),
        },
    )
]
CHECKS += [
    Check(
        f"leakage: number of patients, {name}",
        partial(check_numbers, privacy, HANDLERS),
        {
            "patients in a contribution": partial(check_numbers, privacy, {**HANDLERS, "train": with_patients}),
            "a line of the training log in a contribution": partial(
                check_numbers, privacy, {**HANDLERS, "train": with_line}
            ),
            "what the devices used in a contribution": partial(
                check_numbers, privacy, {**HANDLERS, "train": with_energy}
            ),
            "a row for each patient": partial(check_numbers, privacy, {**HANDLERS, "train": with_rows}),
            "questions in the metrics": partial(check_numbers, privacy, {**HANDLERS, "evaluate": with_asked}),
        },
    )
    for name, privacy in {"a run": None, "a private run": PRIVACY}.items()
]
