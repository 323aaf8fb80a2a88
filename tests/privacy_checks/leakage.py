"""Nothing of a record is in what leaves a site, is logged, told in an error or written down in the clear."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np

from client.grpo.entry import Entry
from client.node.handlers import HANDLERS, answer
from client.privacy.spared import Spared
from client.registry import delimited
from client.registry import load as registry_load
from client.registry.table import Table
from client.site.exclusions import EXCLUSIONS_FILE, read_exclusions
from client.site.opened import open_registry
from client.training import contribution as contributions
from client.training.log import TrainingLog, read_log
from client.training.requests import contribute, evaluate
from client.training.workplace import Workplace
from common.codebook import OTHER, Codebook, Feature
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.logs import logger
from common.messages.frames import read_reply_frame, reply_frame
from common.messages.kinds import Contribution, Evaluation, Refusal, Reply, Task
from common.questions import prompt
from common.questions.question import Patient, QuestionMaker
from common.stream import Stream
from server.reports.report import write_run_report
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from tests.privacy_checks import Check
from tests.privacy_checks.isolation import model_folder
from tests.sentinels import (
    DATE,
    MARKER,
    NUMBERS,
    OUTSIDE,
    REGISTRY,
    codebook,
    found_below,
    hashes,
    hits,
    rows,
    site_of,
)
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
STRICT = {"metrics": "noised", "base_models": ["*"], "privacy": {"min_sites": 1, "min_answer_every": 0.0}}
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


def run_of(sites: int, privacy: Mapping[str, object] | None, **federation: object) -> RunConfig:
    """Return a run of two rounds over the sentinels."""
    return small_config(
        model_folder(),
        name="sentinels",
        questions={"view": "full", "codebook_sha256": codebook().sha256},
        federation={"sites": sites, "rounds": 2, "sampling_rate": 0.5, "quorum": sites, **federation},
        evaluation={"every": 1, "per_patient": 1},
        privacy=privacy,
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


# --- Registries that are refused ---


def _doubled(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[2]]) + "\n")


def _blank(path: Path) -> None:
    path.write_text(re.sub(rf"^{MARKER}\w+", "", path.read_text(), count=1, flags=re.MULTILINE))


def _headless(path: Path) -> None:
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


def _wider(path: Path) -> None:
    path.write_text(path.read_text().rstrip("\n") + f",{MARKER}\n")


def _unquoted(path: Path) -> None:
    path.write_text(path.read_text().replace(f"{MARKER} mmol", f'"{MARKER} mmol', 1))


def _not_utf8(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(MARKER.encode(), MARKER.encode() + b"\xff", 3))


def _of_no_use(path: Path) -> None:
    text = path.read_text()
    for value in NUMBERS.values():
        text = text.replace(f"{value:.6f}", MARKER)
    path.write_text(re.sub(r",[rgby],", f",{MARKER},", text))


BREAKS: dict[str, tuple[Callable[[Path], None], Code | None]] = {
    "a patient twice": (_doubled, Code.REGISTRY_DUPLICATE_PATIENT),
    "no identifier": (_blank, Code.REGISTRY_DUPLICATE_PATIENT),
    "no header": (_headless, Code.REGISTRY_COLUMN),
    "a row too wide": (_wider, Code.REGISTRY_TORN),
    "a quote too many": (_unquoted, Code.REGISTRY_TORN),
    "not UTF-8": (_not_utf8, Code.REGISTRY_ENCODING),
    "no usable value": (_of_no_use, Code.REGISTRY_UNUSABLE),
    "as it should be": (lambda path: None, None),
}
"""What is wrong with a registry, and the refusal."""


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
            error = _error_of(lambda: read_exclusions(Path(folder)))
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

    Nothing else differs: the same name, run and randomness, and a clock that ticks alike. In the heads only the hashes
    of the ledger are not compared, which under privacy are new at every release.
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
    config = run_of(1, privacy, sampling_rate=0.3)
    refused = config.model_copy(update={"grpo": config.grpo.model_copy(update={"max_prompt_tokens": 10**6})})
    ticks = itertools.count()
    with TemporaryDirectory() as folder, overheard(), patch("time.monotonic", lambda: 0.25 * next(ticks)):
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


# --- Mutations ---


def _telling_refusal(name: str, error: Exception) -> Refusal:
    return Refusal(f"{name}: {error}", int(Code.RUN_FAILED))


def _logged_traceback(name: str, error: Exception) -> Refusal:
    logger("site").exception("%s: unexpected", name)
    return Refusal(name, int(Code.RUN_FAILED))


def _logged_failure(_: Spared, compute: Callable[[], Any], works: Callable[[], None]) -> Any:
    try:
        return compute()
    except Exception:
        logger("site").exception("a computation failed")


def _of_errors(privacy: Mapping[str, object] | None) -> dict[str, dict[str, object]]:
    """Return what tells the text of an error: a refusal's, or that of a private run's patient who counts as zero."""
    if privacy is not None:
        return {
            "str(error) in the log": {"client.privacy.spared.place_of": str},
            "a traceback in the log": {"client.privacy.spared.Spared.__call__": _logged_failure},
        }
    return {
        "str(error) in a refusal": {"client.node.handlers._unexpected": _telling_refusal},
        "str(error) in the log": {"client.node.handlers.place_of": str},
        "a traceback in the log": {"client.node.handlers._unexpected": _logged_traceback},
    }


_prompt_tokens = prompt.prompt_tokens


def _logged_prompt(question: Any, tokenizer: Any) -> list[int]:
    logger("site").debug("asking %s", prompt.prompt_text(question, tokenizer))
    return _prompt_tokens(question, tokenizer)


def _logged_hash(maker: QuestionMaker, patient: Patient) -> list[str]:
    """Log a pseudonym."""
    logger("site").debug("patient %s", hashlib.sha256(patient.id.encode()).hexdigest())
    return [item for item in maker.weights if patient.values.get(maker.feature_of(item).name, OTHER) != OTHER]


_shown = Feature.shown


def _logged_cell(feature: Feature, raw: str) -> str | None:
    text = _shown(feature, raw)
    if text in (None, OTHER):
        logger("site").debug("%s: %s is not in the codebook", feature.name, raw)
    return text


_positions = registry_load._positions


def _named_columns(table: Table, book: Codebook, ignored: Sequence[str]) -> Mapping[str, int]:
    """Tell the columns that are there: without a header, a patient."""
    try:
        return _positions(table, book, ignored)
    except FedReasonError as error:
        raise FedReasonError(error.code, f"{table.name} has {', '.join(table.columns)}.", error.fix) from None


_rows_of = delimited._rows


def _quoted_bytes(path: Path, encoding: str, *header: int) -> Iterator[Any]:
    try:
        path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FedReasonError(Code.REGISTRY_ENCODING, f"{path}: {error!r}.", "Export it again.") from None
    yield from _rows_of(path, encoding, *header)


_logged_sum = contributions._logged_sum


def _named_in_log(
    engine: Any, maker: Any, patients: Sequence[Patient], task: Task, step: int, adapter: Any, log: TrainingLog
) -> Any:
    """Write whose step it was into the log of training."""
    done = _logged_sum(engine, maker, patients, task, step, adapter, log)
    for patient in patients[:1]:
        log.write(Entry(patient.id, task.round, step, task.attempt, 1, 1, 0, 1))
    return done


def _with_line(site: Workplace, task: Task) -> Contribution:
    """Send the line of the step from the log of training."""
    sent = contribute(site, task)
    return replace(sent, counts=asdict(read_log(site.folder, task.config.name)[-1]))


def _with_patients(site: Workplace, task: Task) -> Contribution:
    """Send how many patients were drawn from."""
    return replace(contribute(site, task), counts={"patients": len(site.training(task.config))})


def _with_rows(site: Workplace, task: Task) -> Contribution:
    """Send a row for each patient."""
    contribution = contribute(site, task)
    return replace(contribution, total=np.tile(contribution.total, len(site.training(task.config))))


def _with_asked(site: Workplace, task: Task) -> Evaluation:
    """Send how many questions were asked."""
    asked = len(site.questions(task.config))
    return replace(evaluate(site, task), counts={"all": {"asked": asked, "free": 0, "forced": 0}})


CHECKS = [
    Check(
        f"leakage: {name}",
        partial(check_run, privacy, {}),
        {
            **{name: partial(check_run, privacy, changes) for name, changes in _of_errors(privacy).items()},
            "a prompt in the log at DEBUG": partial(
                check_run, privacy, {"client.grpo.rollout.prompt_tokens": _logged_prompt}
            ),
            "an identifier's hash in the log at DEBUG": partial(
                check_run, privacy, {"common.questions.question.QuestionMaker.items": _logged_hash}
            ),
            "an identifier in a line of the training log": partial(
                check_run, privacy, {"client.training.contribution._logged_sum": _named_in_log}
            ),
        },
    )
    for name, privacy in {"a run": None, "a private run": PRIVACY}.items()
] + [
    Check(
        "leakage: refused registries",
        partial(check_registries, {}),
        {
            "a cell in the log at DEBUG": partial(check_registries, {"common.codebook.Feature.shown": _logged_cell}),
            "the columns that are there in the error": partial(
                check_registries, {"client.registry.load._positions": _named_columns}
            ),
            "repr(error) in the error": partial(check_registries, {"client.registry.delimited._rows": _quoted_bytes}),
        },
    )
]
CHECKS += [
    Check(
        f"leakage: number of patients, {name}",
        partial(check_numbers, privacy, HANDLERS),
        {
            "patients in a contribution": partial(check_numbers, privacy, {**HANDLERS, "train": _with_patients}),
            "a line of the training log in a contribution": partial(
                check_numbers, privacy, {**HANDLERS, "train": _with_line}
            ),
            "a row for each patient": partial(check_numbers, privacy, {**HANDLERS, "train": _with_rows}),
            "questions in the metrics": partial(check_numbers, privacy, {**HANDLERS, "evaluate": _with_asked}),
        },
    )
    for name, privacy in {"a run": None, "a private run": PRIVACY}.items()
]
