"""What would leak: each is put in the place of something of the product by a check of `leakage`, which must fail."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from client.privacy.spared import Spared
from client.registry import delimited
from client.registry import load as registry_load
from client.registry.table import Table
from client.training import contribution as contributions
from client.training.log import Entry, TrainingLog, read_log
from client.training.requests import contribute, evaluate
from client.training.workplace import Workplace
from common.codebook import Codebook
from common.errors import Code, FedReasonError
from common.feature import OTHER, Feature
from common.logs import logger
from common.messages.kinds import Contribution, Evaluation, Refusal, Task
from common.questions import prompt
from common.questions.question import Patient, QuestionMaker


def telling(error: Exception) -> FedReasonError:
    return FedReasonError(Code.RUN_FAILED, str(error), "")


def telling_refusal(name: str, error: FedReasonError) -> Refusal:
    return Refusal(f"{name}: {error}", int(error.code))


def logged_traceback(error: Exception) -> FedReasonError:
    logger("site").exception("unexpected")
    return FedReasonError(Code.RUN_FAILED, "", "")


_prompt_tokens = prompt.prompt_tokens


def logged_failure(_: Spared, compute: Callable[[], Any], works: Callable[[], None]) -> Any:
    """Log what a patient's failure in a private run says."""
    try:
        return compute()
    except Exception:
        logger("site").exception("a computation failed")


def of_errors(privacy: Mapping[str, object] | None) -> dict[str, dict[str, object]]:
    """Return what tells the text of an error: a refusal's, or that of a private run's patient who counts as zero."""
    if privacy is not None:
        return {
            "str(error) in the log": {"client.privacy.spared.place_of": str},
            "a traceback in the log": {"client.privacy.spared.Spared.__call__": logged_failure},
        }
    return {
        "str(error) in a refusal": {
            "client.node.handlers.unexpected": telling,
            "client.node.handlers.refusal": telling_refusal,
        },
        "str(error) in the log": {"common.cli.place_of": str},
        "a traceback in the log": {"client.node.handlers.unexpected": logged_traceback},
    }


def logged_prompt(question: Any, tokenizer: Any, words: Any) -> list[int]:
    logger("site").debug("asking %s", prompt.prompt_text(question, tokenizer, words))
    return _prompt_tokens(question, tokenizer, words)


def logged_hash(maker: QuestionMaker, patient: Patient) -> list[str]:
    """Log a pseudonym."""
    logger("site").debug("patient %s", hashlib.sha256(patient.id.encode()).hexdigest())
    return [item for item in maker.weights if patient.values.get(maker.feature_of(item).name, OTHER) != OTHER]


_shown = Feature.shown


def logged_cell(feature: Feature, raw: str) -> str | None:
    text = _shown(feature, raw)
    if text in (None, OTHER):
        logger("site").debug("%s: %s is not in the codebook", feature.name, raw)
    return text


_positions = registry_load._positions


def named_columns(table: Table, book: Codebook, ignored: Sequence[str]) -> Mapping[str, int]:
    """Tell the columns that are there: without a header, a patient."""
    try:
        return _positions(table, book, ignored)
    except FedReasonError as error:
        raise FedReasonError(error.code, f"{table.name} has {', '.join(table.columns)}.", error.fix) from None


_rows_of = delimited._rows


def quoted_bytes(path: Path, encoding: str, *header: int) -> Iterator[Any]:
    try:
        path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FedReasonError(Code.REGISTRY_ENCODING, f"{path}: {error!r}.", "Export it again.") from None
    yield from _rows_of(path, encoding, *header)


_logged_sum = contributions._logged_sum


def named_in_log(
    engine: Any,
    maker: Any,
    patients: Sequence[Patient],
    task: Task,
    step: int,
    adapter: Any,
    log: TrainingLog,
    *more: Any,
) -> Any:
    """Write whose step it was into the log of training."""
    done = _logged_sum(engine, maker, patients, task, step, adapter, log, *more)
    for patient in patients[:1]:
        log.write(Entry(patient.id, task.round, step, task.attempt, 1, 1, 0, 1))
    return done


def with_line(site: Workplace, task: Task) -> Contribution:
    """Send the line of the step from the log of training."""
    sent = contribute(site, task)
    return replace(sent, counts=asdict(read_log(site.folder, task.config.name)[-1]))


def with_energy(site: Workplace, task: Task) -> Contribution:
    """Send what the devices used in the step, to three digits."""
    sent, line = contribute(site, task), read_log(site.folder, task.config.name)[-1]
    return replace(sent, counts={"joules": float(f"{line.joules_processor or 0:.3g}")})


def with_patients(site: Workplace, task: Task) -> Contribution:
    """Send how many patients were drawn from."""
    return replace(contribute(site, task), counts={"patients": len(site.training(task.config))})


def with_rows(site: Workplace, task: Task) -> Contribution:
    """Send a row for each patient."""
    contribution = contribute(site, task)
    return replace(contribution, total=np.tile(contribution.total, len(site.training(task.config))))


def with_asked(site: Workplace, task: Task) -> Evaluation:
    """Send how many questions were asked."""
    asked = len(site.questions(task.config))
    return replace(evaluate(site, task), counts={"all": {"asked": asked, "free": 0, "forced": 0}})
